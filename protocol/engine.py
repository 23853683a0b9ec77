"""Two engines behind one interface: the encrypted search with three parties in one process, and its plaintext twin."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, partial
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pets.allocator import unshared_memory
from pets.errors import ParameterError
from pets.params import Parameters
from protocol.announcing import Plan
from protocol.confirmation_block import Hit
from protocol.forks import Forks, possible
from protocol.gallery import Gallery
from protocol.local import LocalPreparation, LocalSearch, machines_of, prepare
from protocol.memory import MemoryNetwork
from protocol.outcome import SearchStatus, status_of
from protocol.party import Hook
from protocol.roles import Parties
from protocol.terms import Terms
from protocol.verdict import CONFIRM, EXHAUSTED
from protocol.work import RowsElsewhere

REQUESTER, ROUTER, HOLDER = "REQUESTER", "ROUTER", "HOLDER"
PARTIES = Parties(REQUESTER, ROUTER, (HOLDER,))
PLAIN_ROWS = 8192  # that the plaintext twin has as float32 at once
ROWS_A_PROBE = 65_536  # of larger galleries, passes cost more than Python's turns (benchmarks/notes.md)
BATCH = 16  # probes that are searched side by side; bounds memory at 100 MB a probe (d = 512)

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """How the search for one probe ended. `hits`: confirmed, by falling score, then row."""

    status: SearchStatus
    threshold_used: Decimal
    hits: tuple[Hit, ...] = ()


@dataclass
class Cost:
    """What searches cost: seconds by phase, bytes by (sender role, receiver role), of `prepared` preparations too.

    `forks_bytes`: memory that processes forked from this one had at most, beyond what they share with it.
    """

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    traffic: Counter[tuple[str, str]] = field(default_factory=Counter)
    prepared: Counter[tuple[str, str]] = field(default_factory=Counter)
    forks_bytes: int = 0


class Engine(Protocol):
    """Searches galleries. `probes`: quantised, int8 (n, d); one outcome each. `progress` is told the probes done."""

    name: str

    def search(
        self, gallery: Gallery, probes: npt.NDArray[np.int8], terms: Terms, progress: Progress | None = None
    ) -> list[Outcome]:
        """Search a gallery for every probe under the same terms."""
        ...


class PlainEngine:
    """The reference: s = Σ q_j·D[i][j], a hit iff s >= theta, nothing encrypted (protocol/DESIGN.md, section 4)."""

    name = "plain"

    def __init__(self) -> None:
        self.cost = Cost()

    def search(
        self, gallery: Gallery, probes: npt.NDArray[np.int8], terms: Terms, progress: Progress | None = None
    ) -> list[Outcome]:
        """As `Engine.search`."""
        outcomes = []
        for done, probe in enumerate(probes, start=1):
            started = time.perf_counter()
            scores = plain_scores(gallery.templates, probe)
            scored = time.perf_counter()
            outcomes.append(_climb(scores, terms))
            ended = time.perf_counter()
            for phase, seconds in (
                ("score", scored - started),
                ("compare", ended - scored),
                ("online", ended - started),
            ):
                self.cost.seconds[phase] += seconds
            if progress is not None:
                progress(done)
        return outcomes


def plain_scores(templates: npt.NDArray[np.int8], probe: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Integer scores, int32 (rows,). float32 is exact here: every partial sum stays below 1024·127² < 2^24."""
    scores = np.empty(len(templates), np.int32)
    query = probe.astype(np.float32)
    for start in range(0, len(templates), PLAIN_ROWS):
        scores[start : start + PLAIN_ROWS] = templates[start : start + PLAIN_ROWS].astype(np.float32) @ query
    return scores


def _climb(scores: npt.NDArray[np.int32], terms: Terms) -> Outcome:
    for rung, threshold in enumerate(terms.rungs):
        rows = np.flatnonzero(scores >= terms.theta(rung))
        if len(rows) <= terms.cap:
            hits = sorted((Hit(int(row), int(scores[row])) for row in rows), key=lambda hit: (-hit.score, hit.row))
            return Outcome(status_of(CONFIRM, len(hits)), threshold, tuple(hits))
    return Outcome(status_of(EXHAUSTED, 0), terms.rungs[-1])


class EncryptedEngine:
    """Requester, router and holder in one process, exchanging only messages: they prepare, then they search.

    Costs are counted in `cost`: seconds by phase with `offline` for preparations and `online` from the known probe to
    released hits, and bytes a link, those of preparations in `prepared` as well.
    """

    name = "encrypted"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.cost = Cost()

    def search(
        self, gallery: Gallery, probes: npt.NDArray[np.int8], terms: Terms, progress: Progress | None = None
    ) -> list[Outcome]:
        """As `Engine.search`. Probes may be shared out among processes (`protocol.forks`), and threads with them.

        Raises the first error of any party; nothing was released then.
        """
        processes = self._processes(gallery, len(probes))
        if processes > 1:
            warm_up(terms.params)  # or each process would compile
            started = time.perf_counter()
            with Forks(processes, partial(_serve, gallery, terms)) as forks:
                self.cost.seconds["offline"] += time.perf_counter() - started
                return self._batches(partial(self._search_in, forks, processes), probes, progress)
        return self._batches(partial(self._search_here, gallery, terms), probes, progress)

    def _processes(self, gallery: Gallery, probes: int) -> int:
        """How many to share out to. Each passes over the gallery by itself; threads of one process do so together."""
        together = min(probes, BATCH)
        if len(gallery.templates) > ROWS_A_PROBE * together or isinstance(gallery.templates, RowsElsewhere):
            return 1
        return min(self.threads, together) if possible() else 1

    def _batches(
        self,
        search: Callable[[npt.NDArray[np.int8]], list[Outcome]],
        probes: npt.NDArray[np.int8],
        progress: Progress | None,
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for start in range(0, len(probes), BATCH):
            outcomes += search(probes[start : start + BATCH])
            if progress is not None:
                progress(len(outcomes))
        return outcomes

    def _search_here(self, gallery: Gallery, terms: Terms, probes: npt.NDArray[np.int8]) -> list[Outcome]:
        made = self.prepare(gallery, Plan(terms.params, terms.dim, terms.model), len(probes))
        return self.search_prepared(gallery, probes, terms, made)

    def _search_in(self, forks: Forks, processes: int, probes: npt.NDArray[np.int8]) -> list[Outcome]:
        """All prepare, and only when all are ready do they search."""
        parts = np.array_split(probes, min(processes, len(probes)))
        threads = [len(part) for part in np.array_split(range(self.threads), len(parts))]
        started = time.perf_counter()
        forks.ask(list(zip(parts, threads, strict=True)))
        prepared = time.perf_counter()
        answers: list[tuple[list[Outcome], Cost]] = forks.ask(["search"] * len(parts))
        self.cost.seconds["offline"] += prepared - started
        self.cost.seconds["online"] += time.perf_counter() - prepared
        for _, cost in answers:
            self.cost.traffic.update(cost.traffic)
            self.cost.prepared.update(cost.prepared)
            for phase, seconds in cost.seconds.items():
                if phase not in ("offline", "online"):
                    self.cost.seconds[phase] += seconds
        self.cost.forks_bytes = max(self.cost.forks_bytes, sum(forks.ask(["memory"] * len(parts))))
        return [outcome for outcomes, _ in answers for outcome in outcomes]

    def prepare(
        self, gallery: Gallery, plan: Plan, count: int = 1, progress: Progress | None = None
    ) -> list[LocalPreparation]:
        """`count` preparations of a gallery. `progress` is told the rows done, of `count` times the gallery's."""
        started = time.perf_counter()
        made, network = prepare(PARTIES, {HOLDER: gallery}, plan, count, self.threads, progress)
        self.cost.seconds["offline"] += time.perf_counter() - started
        self.cost.traffic.update(network.traffic)
        self.cost.prepared.update(network.traffic)
        return made

    def search_prepared(
        self,
        gallery: Gallery,
        probes: npt.NDArray[np.int8],
        terms: Terms,
        preparations: Sequence[LocalPreparation],
        spend: Hook | None = None,
    ) -> list[Outcome]:
        """Search for each probe with a preparation of its own. Raises as `search` does.

        `spend` is called with a preparation's id before anything that depends on its probe leaves the requester.
        """
        if len(preparations) != len(probes):
            raise ParameterError(f"{len(preparations)} preparations for {len(probes)} probes: each serves one")
        started = time.perf_counter()
        # Several queries share the threads: each works on one, and only the pass over the gallery takes all.
        each = max(1, self.threads // len(probes))
        searches = [LocalSearch.start(made, {HOLDER: gallery}, terms, each, spend) for made in preparations]
        network = MemoryNetwork(machines_of(searches), self.threads)
        network.run_or_raise()
        asking = [search.requester for search in searches]
        network.run_or_raise(
            {requester.query: partial(requester.submit, probe) for requester, probe in zip(asking, probes, strict=True)}
        )
        self.cost.seconds["online"] += time.perf_counter() - started
        for machine in network.machines:
            for phase, seconds in machine.seconds.items():
                if phase != "offline":
                    self.cost.seconds[phase] += seconds
        self.cost.traffic.update(network.traffic)
        results = [search.holders[HOLDER].result for search in searches]
        return [Outcome(result.status, result.threshold_used, result.hits) for result in results if result is not None]


def _serve(gallery: Gallery, terms: Terms, asking: Connection) -> None:
    """Be a process that searches for some of the probes of each batch."""
    while True:
        probes, threads = asking.recv()
        engine = EncryptedEngine(threads)
        made = engine.prepare(gallery, Plan(terms.params, terms.dim, terms.model), len(probes))
        asking.send("prepared")
        asking.recv()
        asking.send((engine.search_prepared(gallery, probes, terms, made), engine.cost))
        asking.recv()
        asking.send(unshared_memory())  # reading that takes a moment, which is no part of the search


@cache
def warm_up(params: Parameters) -> None:
    """Run a tiny search, so that every kernel is compiled (or loaded from numba's cache) before it is needed.

    Once a process is enough: threads run the same kernels.
    """
    template = np.full((1, 8), 20, np.int8)
    EncryptedEngine(1).search(Gallery.of(template, params), template, Terms(Decimal("0.5"), 8, params))
