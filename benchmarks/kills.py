"""Kills and freezes real node processes at moments spread over a query, and counts as `benchmarks.faults` does.

    python -m benchmarks.kills [--moments 4] [--json FILE]

Four nodes run as processes over TLS on loopback. While FR searches, one of them gets SIGKILL, or SIGSTOP and later
SIGCONT. Then every answer must be complete and right, or unreachable by name, the other holder's answer there, every
node idle, and the next query right. In the end all stop in order, and each log is verified when its node opens it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from benchmarks.faults import Tally
from nodes.operator.client import search
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.leaks import leaks, secrets_of
from tests.kit.processes import Processes, Searching, processes
from tests.kit.transports import over_asgi

PATIENCE = 3  # seconds
SIGNALS = {"sigkill": signal.SIGKILL, "sigstop": signal.SIGSTOP}


def try_signal(group: Processes, kind: str, party: str, wait: float, tally: Tally) -> None:
    """Signal a party `wait` seconds after a search began; then what must hold, and a search without a fault."""
    federation = group.federation
    wanted = request(federation.people.hit)
    expected = federation.expected(wanted)
    tally.tried[kind] += 1
    searching = Searching(federation)
    time.sleep(wait)
    process = group.running[party]
    process.send_signal(SIGNALS[kind])
    try:
        if party == FR and kind == "sigstop":  # its operator waits as long as it does
            time.sleep(2 * PATIENCE)
            process.send_signal(signal.SIGCONT)
        answers = searching.answers()
        for name, answer in (answers or {}).items():
            hurt = party in (name, EU, FR)
            assert answer == expected[name] or (hurt and answer.status == "unreachable"), (name, answer)
            tally.ended[f"{kind}: {answer.status}"] += 1
        if kind == "sigkill":
            process.wait()
            group.start(party)
        else:
            process.send_signal(signal.SIGCONT)
        group.until_clear()
        again = search(federation.folder(FR), wanted).answers
        assert again == expected, f"the next query: {again}"
    except AssertionError as error:
        tally.lost.append(f"{kind} {party} after {wait:.2f} s: {str(error)[:300]}")
        print("LOST", tally.lost[-1], file=sys.stderr, flush=True)
        process.send_signal(signal.SIGCONT)
        if process.poll() is not None:
            group.start(party)


def sweep(federation: Federation, moments: int, tally: Tally) -> None:
    """Everything."""
    with processes(federation) as group:
        started = time.perf_counter()
        search(federation.folder(FR), request(federation.people.hit))
        seconds = time.perf_counter() - started
        for kind, party, moment in product(SIGNALS, (FR, ES, DE, EU), range(moments)):
            try_signal(group, kind, party, seconds * (moment + 0.5) / moments, tally)
            print(f"{kind} {party}: {tally.summary()}", file=sys.stderr, flush=True)
        for name in list(group.running):
            if (status := group.stop(name)) != 0:
                tally.lost.append(f"{name} stopped with status {status}")

    wanted = request(federation.people.hit)
    assert over_asgi(federation)(wanted) == federation.expected(wanted)
    tally.leaked += leaks(federation, secrets_of(federation, federation.people.hit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=4, help="moments of a query at which each party is hit")
    parser.add_argument("--json", type=Path, help="add the report to this list")
    options = parser.parse_args()
    tally, started = Tally(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lineup-kills-") as folder:
        sweep(found(Path(folder), read_timeout_seconds=PATIENCE), options.moments, tally)
    tally.seconds = time.perf_counter() - started
    tally.report(options.json, moments=options.moments, patience_seconds=PATIENCE)


if __name__ == "__main__":
    main()
