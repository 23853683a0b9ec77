"""Breaks a federation at every step and counts: faults tried, lost, leaked.

    python -m benchmarks.faults [--kinds kill,drop,…] [--parties FR,ES,DE,EU] [--every 8] [--burst 200] [--json FILE]

A fault is *lost* if anything does not hold afterwards: every answer complete and right, or refused or unreachable by
name; the other holder's answer there; every node clear and healthy; the next query right; every log whole when its node
starts again. It has *leaked* if a planted name, template, probe or reference stands in a log or an evidence file.

A kill is tried at every unit that a party says, in the preparation and in the search. Each other kind breaks every
`--every`-th unit of each link, in the one and in the other, beginning with another one than the kind before.
Connections are cut over TLS; all else happens over ASGI, because what is broken is the delivery, whatever carries it.
`benchmarks.kills` kills real processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import msgspec

from benchmarks.machine import describe
from nodes.service.operator_api import HolderAnswer, SearchReport, SearchRequest
from pets.errors import LineupError
from pets.threads import default_threads
from tests.kit.faults import DURING, HARMLESS, KINDS, Fault, Kind
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.leaks import Capture, captured_logs, leaks, secrets_of
from tests.kit.network import AsgiNetwork, Network, TlsNetwork, assert_clear, assert_healthy, assert_named, running

PATIENCE = 2  # seconds: what a sweep waits for a party that was killed; each kill costs it
LONG_PATIENCE = 6  # for everything else: a busy machine may be silent for longer than the above
LINKS = tuple((a, b) for a in (FR, ES, DE, EU) for b in (FR, ES, DE, EU) if a != b)
MAX_STEPS = 400


@dataclass
class Tally:
    """What a sweep found. `lost`, `leaked`: one line each."""

    tried: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """What another sweep found as well."""
        self.tried += other.tried
        self.ended += other.ended
        self.lost += other.lost
        self.leaked += other.leaked

    def summary(self) -> str:
        tried = ", ".join(f"{kind} {count}" for kind, count in sorted(self.tried.items()))
        return (
            f"faults tried {sum(self.tried.values())} ({tried}), "
            f"lost {len(self.lost)}, leaked {len(self.leaked)}, {self.seconds:.0f} s"
        )

    def report(self, path: Path | None, **settings: object) -> NoReturn:
        """Print everything, add it to a list in a JSON file, and end: status 0 only if nothing was lost or leaked."""
        print(self.summary())
        ends = sorted(f"{what}: {number}" for what, number in self.ended.items())
        print("\n".join((*ends, *self.lost, *self.leaked)))
        if path is not None:
            figures = {what: dict(value) if isinstance(value, Counter) else value for what, value in vars(self).items()}
            reports = json.loads(path.read_text()) if path.exists() else []
            reports.append(figures | settings | {"machine": describe(default_threads())})
            path.write_text(json.dumps(reports, indent=1) + "\n")
        raise SystemExit(1 if self.lost or self.leaked else 0)


async def try_fault(network: Network, fault: Fault, wanted: SearchRequest, tally: Tally) -> bool:
    """One search with one fault, then what must hold, then one search without. False if the step was never reached."""
    expected = network.federation.expected(wanted)
    network.break_next(fault)
    label = f"{fault.kind} {fault.sender}→{fault.receiver or 'any'} step {fault.step}"
    try:
        report = await asyncio.wait_for(network.search(wanted), 60)
        fired, network.fault = fault.fired, None
        if not fired:
            assert report.answers == expected, f"without a fault: {report.answers}"
            return False
        tally.tried[fault.kind] += 1
        await network.settle(20)
        assert_clear(network)
        assert_healthy(network)
        if fault.sender != FR or fault.receiver is not None:
            judge(fault, report, expected)
            for answer in report.answers.values():
                tally.ended[f"{fault.kind}: {answer.status}"] += 1
        if fault.kind == "kill":
            await network.start(fault.sender)
        hurt = fault.sender if fault.sender in wanted.holders else wanted.holders[0]
        again = await asyncio.wait_for(network.search(msgspec.structs.replace(wanted, holders=(hurt,))), 60)
        assert again.answers == {hurt: expected[hurt]}, f"the next query: {again.answers}"
        await network.settle(20)
    except (AssertionError, asyncio.TimeoutError) as error:
        waits = [(name, driver.awaited, driver.failed_peers) for name, driver in network.drivers]
        tally.lost.append(f"{label}: {type(error).__name__} {str(error)[:300]}; last waited for {waits}")
        print("LOST", tally.lost[-1], file=sys.stderr, flush=True)
        network.fault = None
        for name in (FR, ES, DE, EU):
            if name not in network.nodes:
                await network.start(name)
    return True


def judge(fault: Fault, report: SearchReport, expected: dict[str, HolderAnswer]) -> None:
    """Whether the answers may be what they are after this fault."""
    assert_named(report, expected)
    if fault.kind in HARMLESS:
        assert report.answers == expected, f"nothing was lost, and yet {report.answers}"
    if fault.receiver is None:
        for name, answer in report.answers.items():
            hurt = fault.sender in (name, EU)
            assert answer == expected[name] or (hurt and answer.status == "unreachable"), (name, answer)


async def sweep_party(
    network: Network, kind: Kind, party: str, steps: Sequence[int], wanted: SearchRequest, tally: Tally
) -> None:
    """Kill or restart a party just before each of the units it would send."""
    for step in steps:
        if not await try_fault(network, Fault(kind, party, step), wanted, tally):
            return


async def sweep_link(
    network: Network, kind: Kind, link: tuple[str, str], steps: Sequence[int], wanted: SearchRequest, tally: Tally
) -> None:
    """Break each delivery of a link: of preparations, then of searches."""
    for during in DURING:
        for step in steps:
            if not await try_fault(network, Fault(kind, link[0], step, link[1], during=during), wanted, tally):
                break


async def burst(network: Network, wanted: SearchRequest, count: int, quota: int, tally: Tally) -> None:
    """Searches at once against a holder's daily quota: exactly the quota passes, the others are refused by name.

    For the quota, or because one state has all the places that it may have.
    """
    reports = await asyncio.gather(*(network.search(wanted) for _ in range(count)))
    answers = [report.answers[name] for report in reports for name in wanted.holders]
    expected = network.federation.expected(wanted)[wanted.holders[0]]
    tally.tried["burst"] += count
    passed = sum(answer == expected for answer in answers)
    refused = sum(answer.status == "refused" and answer.reason in ("quota", "capacity") for answer in answers)
    tally.ended.update(f"burst: {answer.status} {answer.reason or ''}".strip() for answer in answers)
    if passed != quota or refused != count - quota:
        tally.lost.append(f"burst: {passed} passed with a quota of {quota}, {refused} were refused, of {count}")
    await network.settle(60)
    assert_clear(network)
    await restart_all(network, tally)  # so many at once must not have confused the logs


def find_leaks(federation: Federation, logs: Capture, network: Network, tally: Tally) -> None:
    """Look for planted data in all that was written."""
    metrics = b"".join(node.metrics.render() for node in network.nodes.values())
    secrets = secrets_of(federation, federation.people.hit)
    tally.leaked += leaks(federation, secrets, logs.text.encode() + metrics)


@dataclass(frozen=True)
class Lane:
    """One kind of fault at one party, in a federation of its own, so that lanes run side by side.

    Units `first`, `first` + `every`, …
    """

    kind: Kind
    party: str
    holders: tuple[str, ...]
    every: int
    first: int = 0

    def run(self) -> Tally:
        """Try every fault of the lane."""
        tally, started = Tally(), time.perf_counter()
        asyncio.run(self._sweep(tally))
        tally.seconds = time.perf_counter() - started
        return tally

    async def _sweep(self, tally: Tally) -> None:
        with tempfile.TemporaryDirectory(prefix="lineup-faults-") as folder, captured_logs() as logs:
            patience = PATIENCE if self.kind == "kill" else LONG_PATIENCE
            federation = found(Path(folder), read_timeout_seconds=patience)
            wanted = request(federation.people.hit, self.holders)
            async with running((TlsNetwork if self.kind == "cut" else AsgiNetwork)(federation)) as network:
                await network.search(wanted)
                steps = range(self.first, MAX_STEPS, self.every)
                if self.kind in ("kill", "restart"):
                    await sweep_party(network, self.kind, self.party, steps, wanted, tally)
                else:
                    asked = {FR, EU, *self.holders}
                    for link in [link for link in LINKS if link[0] == self.party and set(link) <= asked]:
                        await sweep_link(network, self.kind, link, steps, wanted, tally)
                find_leaks(federation, logs, network, tally)
                await restart_all(network, tally)


async def restart_all(network: Network, tally: Tally) -> None:
    """Start every node again: its logs are verified when they are opened."""
    try:
        for name in (FR, ES, DE, EU):
            await network.restart(name)
    except LineupError as error:
        tally.lost.append(f"a node does not start again: {type(error).__name__} {error}")


def sweep(lanes: Sequence[Lane], workers: int) -> Tally:
    """Run lanes, some side by side, each in a process."""
    total, started = Tally(), time.perf_counter()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running_lanes = {pool.submit(lane.run): lane for lane in lanes}
        for done in as_completed(running_lanes):
            lane, tally = running_lanes[done], done.result()
            total.add(tally)
            print(f"{lane.kind} {lane.party}: {tally.summary()}", file=sys.stderr, flush=True)
    total.seconds = time.perf_counter() - started
    return total


async def burst_alone(count: int, tally: Tally) -> None:
    """`burst` against a twentieth as quota."""
    with tempfile.TemporaryDirectory(prefix="lineup-burst-") as folder, captured_logs() as logs:
        quota = max(1, count // 20)
        federation = found(Path(folder), read_timeout_seconds=300, concurrent_queries=256)
        federation.configure(ES, quota_unidentified_per_day=quota)
        async with running(AsgiNetwork(federation)) as network:
            await burst(network, request(federation.people.hit, (ES,)), count, quota, tally)
            find_leaks(federation, logs, network, tally)


def units(kind: Kind, every: int, workers: int) -> list[tuple[int, int]]:
    """Which units of a party's lanes are broken: `every` and `first`. Kills mostly wait, so workers share a party's."""
    if kind == "kill":
        return [(workers, first) for first in range(workers)]
    return [(every, KINDS.index(kind) % every if kind in KINDS else 0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(("kill", "restart", *KINDS)))
    parser.add_argument("--parties", default="FR,ES,DE,EU")
    parser.add_argument("--holders", default="ES,DE", help="who is asked in the sweeps")
    parser.add_argument("--every", type=int, default=8, help="break every so many units; kills are tried at each")
    parser.add_argument("--burst", type=int, default=200, help="searches at once against a quota; 0 for none")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes side by side")
    parser.add_argument("--json", type=Path, help="add the report to this list")
    options = parser.parse_args()
    kinds, parties, holders = (value.split(",") for value in (options.kinds, options.parties, options.holders))
    lanes = [
        Lane(kind, party, tuple(holders), every, first)
        for kind in kinds
        for party in parties
        for every, first in units(kind, options.every, options.workers)
    ]
    tally = sweep(lanes, options.workers)
    if options.burst:
        started = time.perf_counter()
        asyncio.run(burst_alone(options.burst, tally))
        tally.seconds += time.perf_counter() - started
    tally.report(options.json, every=options.every, patience_seconds=[PATIENCE, LONG_PATIENCE])


if __name__ == "__main__":
    main()
