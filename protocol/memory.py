"""The in-memory transport: parties in one process that share nothing but frames of bytes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pets.errors import LineupError
from pets.threads import short_turns
from protocol.machine import Machine
from protocol.session import Session
from protocol.steps import Work, WorkResult
from protocol.work import passes, perform

Want = tuple[Machine, Session, Work]
Done = tuple[Machine, Session, Work, WorkResult]


@dataclass
class MemoryNetwork:
    """Carries frames between machines until nothing moves any more. Frames of one link arrive in order.

    Several queries may run at once: machines are told apart by query and name. `tap` sees, and may replace, drop or
    multiply, every frame (sender, receiver, frame): tests listen and attack through it. `traffic`: bytes per link.
    """

    machines: Sequence[Machine]
    threads: int = 1
    tap: Callable[[str, str, bytes], Iterable[bytes]] | None = None
    worked: Callable[[Work], None] | None = None  # told of each work that was done for a machine
    traffic: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[LineupError] = field(default_factory=list)

    def run(self, first: Mapping[bytes, Callable[[], None]] | None = None) -> None:
        """Deliver until all machines wait for something that will not come. Errors are kept in `failures`.

        `first`: what is done first in a query; its errors are raised.
        """
        queries: dict[bytes, dict[str, Machine]] = defaultdict(dict)
        for machine in self.machines:
            queries[machine.query][machine.name] = machine
        # Queries share nothing but the pass over the gallery, so each may have a thread of its own until then.
        with ThreadPoolExecutor(min(self.threads, len(queries) or 1)) as pool, short_turns():
            settle = map if len(queries) == 1 else pool.map
            scored: dict[bytes, list[Done]] = {}
            while True:
                begin, first = first or {}, None
                work = [(parties, scored.get(query, []), begin.get(query)) for query, parties in queries.items()]
                for traffic, failures in settle(self._settle, *zip(*work, strict=True)):
                    self.traffic.update(traffic)
                    self.failures += failures
                wanted = _taken(self.machines)
                if not wanted:
                    return
                scored = defaultdict(list)
                for done in self._score(wanted, self.threads):
                    scored[done[0].query].append(done)

    def run_or_raise(self, first: Mapping[bytes, Callable[[], None]] | None = None) -> None:
        """`run`, then raise the first error that any machine met."""
        self.run(first)
        if self.failures:
            raise self.failures[0]

    def _settle(
        self, parties: dict[str, Machine], scored: list[Done], first: Callable[[], None] | None
    ) -> tuple[Counter[tuple[str, str]], list[LineupError]]:
        """Hand over what was scored for one query, then deliver its frames until it wants a pass over the gallery."""
        traffic: Counter[tuple[str, str]] = Counter()
        failures: list[LineupError] = []
        if first is not None:
            first()
        for machine, session, want, result in scored:
            try:
                machine.supply(session, want, result)
            except LineupError as error:
                failures.append(error)
        self._deliver(parties, traffic, failures)
        return traffic, failures

    def _deliver(
        self, parties: dict[str, Machine], traffic: Counter[tuple[str, str]], failures: list[LineupError]
    ) -> None:
        while any(machine.outgoing for machine in parties.values()):
            for sender in parties.values():
                waiting, sender.outgoing = sender.outgoing, deque()
                for receiver, frame in waiting:
                    traffic[sender.name, receiver] += len(frame)
                    for delivered in (frame,) if self.tap is None else self.tap(sender.name, receiver, frame):
                        try:
                            parties[receiver].handle(delivered, sender.name)
                        except LineupError as error:
                            failures.append(error)

    def _score(self, wanted: list[Want], threads: int) -> list[Done]:
        """Score all that is wanted; queries that want the same blocks share the pass over the gallery."""
        results: list[Done] = []
        for same in passes(wanted, lambda want: want[2]):
            started = time.perf_counter()
            scored = perform([work for _, _, work in same], threads)
            each = (time.perf_counter() - started) / len(same)
            for (machine, session, asked), result in zip(same, scored, strict=True):
                machine.seconds[session.phase] += each
                results.append((machine, session, asked, result))
                if self.worked is not None:
                    self.worked(asked)
        return results


def _taken(machines: Iterable[Machine]) -> list[Want]:
    """What is to be scored, for sessions that are not over."""
    taken: list[Want] = []
    for machine in machines:
        wanted, machine.wanted = machine.wanted, deque()
        for session, want in wanted:
            if not session.state.over:
                taken.append((machine, session, want))
    return taken
