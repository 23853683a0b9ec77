"""Ours: requester, holders and router in one process, everything but the network."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import partial
from itertools import pairwise

from nodes.bench.engine import THRESHOLD, Clock, Costs, Rows
from nodes.bench.hops import CountedNetwork
from pets.params import preset as parameters
from protocol.announcing import Plan
from protocol.engine import REQUESTER, ROUTER, warm_up
from protocol.gallery import Gallery
from protocol.local import LocalPreparation, LocalSearch, machines_of, prepare
from protocol.machine import Machine
from protocol.memory import MemoryNetwork
from protocol.roles import Parties
from protocol.terms import Terms


class BlindLineup:
    """The whole query, confirmation included: one preparation a probe, made together.

    `holders`: galleries of one joint query, each a part of the rows that are enrolled; or the `galleries` themselves,
    and no `enrol`. `first`: number of each one's first row among those of all. `costs`: of the last preparation
    and search, by party and link. Holders count as one party: they are alike.
    """

    def __init__(
        self, dim: int, threads: int, preset: str, holders: int = 1, galleries: Sequence[Rows] | None = None
    ) -> None:
        self.params, self.threads = parameters(preset), threads
        self.terms = Terms(Decimal(str(THRESHOLD)), dim, self.params)
        names = tuple(f"HOLDER{at}" for at in range(1, (len(galleries) if galleries else holders) + 1))
        self.parties = Parties(REQUESTER, ROUTER, names)
        self.costs = Costs()
        self.made: list[LocalPreparation] = []
        warm_up(self.params)
        if galleries:
            self._hold(galleries)

    def enrol(self, templates: Rows) -> None:
        """As `Engine`: to each holder its part."""
        count = len(self.parties.holders)
        bounds = [len(templates) * at // count for at in range(count + 1)]
        self._hold([templates[start:end] for start, end in pairwise(bounds)])

    def _hold(self, galleries: Sequence[Rows]) -> None:
        self.first: dict[str, int] = {}
        self.galleries: dict[str, Gallery] = {}
        rows = 0
        for name, templates in zip(self.parties.holders, galleries, strict=True):
            self.first[name] = rows
            self.galleries[name] = Gallery.of(templates, self.params, threads=self.threads)
            rows += len(templates)

    def prepare(self, probes: int) -> None:
        """As `Engine`."""
        plan = Plan(self.params, self.terms.dim, self.terms.model)
        self.made, network = prepare(self.parties, self.galleries, plan, probes, self.threads)
        self.costs = Costs(offline_bytes=by_link(network.traffic), offline_seconds=by_party(network.machines))

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`. The clock gets the phases, and what is between them as "other"."""
        started = time.perf_counter()
        found, network = self._search(probes, MemoryNetwork)
        passed = time.perf_counter() - started
        self.costs.online_bytes, self.costs.online_seconds = by_link(network.traffic), by_party(network.machines)
        phases: dict[str, float] = defaultdict(float)
        for machine in network.machines:
            for phase, seconds in machine.seconds.items():
                phases[phase] += seconds
        # Phases of parties that work at the same time add up to more than the time that passes.
        share = passed / max(sum(phases.values()), passed)
        for phase, seconds in phases.items():
            clock.seconds[phase] += share * seconds
        clock.seconds["other"] += max(0.0, passed - share * sum(phases.values()))
        return found

    def hops(self, probe: Rows) -> int:
        """How many messages a search for int8 (dim,) waits for, one after the other, from its announcement on."""
        self.prepare(1)
        _, network = self._search(probe[None], CountedNetwork)
        assert isinstance(network, CountedNetwork)
        return network.hops

    def _search(self, probes: Rows, carrier: type[MemoryNetwork]) -> tuple[list[list[int]], MemoryNetwork]:
        each = max(1, self.threads // len(probes))
        searches = [LocalSearch.start(made, self.galleries, self.terms, each) for made in self.made]
        network = carrier(machines_of(searches), self.threads)
        network.run_or_raise()
        asking = [search.requester for search in searches]
        network.run_or_raise(
            {requester.query: partial(requester.submit, probe) for requester, probe in zip(asking, probes, strict=True)}
        )
        return [self._rows(search) for search in searches], network

    def _rows(self, search: LocalSearch) -> list[int]:
        results = {name: holder.result for name, holder in search.holders.items()}
        return sorted(
            self.first[name] + hit.row for name, result in results.items() if result is not None for hit in result.hits
        )


def role(name: str) -> str:
    """The party that a name stands for: "requester", "router" or "holder"."""
    return name.rstrip("0123456789").lower()


def by_link(traffic: Counter[tuple[str, str]]) -> dict[str, int]:
    """Bytes by link, as "requester to holder"; those of several holders together."""
    found: Counter[str] = Counter()
    for (sender, receiver), count in traffic.items():
        found[f"{role(sender)} to {role(receiver)}"] += count
    return dict(found)


def by_party(machines: Iterable[Machine]) -> dict[str, float]:
    """Seconds of computing by party, of several holders and queries together."""
    found: dict[str, float] = defaultdict(float)
    for machine in machines:
        found[role(machine.name)] += sum(machine.seconds.values())
    return dict(found)
