"""The in-memory transport: parties in one process that share nothing but frames of bytes."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pets.errors import LineupError
from pets.scoring import score_many
from protocol.machine import Machine, Score, Session


@dataclass
class MemoryNetwork:
    """Carries frames between machines until nothing moves any more. Frames of one link arrive in order.

    Several queries may run at once: machines are told apart by query and name. `tap` sees, and may replace, drop or
    multiply, every frame (sender, receiver, frame): tests listen and attack through it. `traffic`: bytes per link.
    """

    machines: Sequence[Machine]
    threads: int = 1
    tap: Callable[[str, str, bytes], Iterable[bytes]] | None = None
    traffic: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[LineupError] = field(default_factory=list)

    def run(self) -> None:
        """Deliver until all machines wait for something that will not come. Errors are kept in `failures`."""
        parties = {(machine.query, machine.name): machine for machine in self.machines}
        while True:
            while self._deliver(parties):
                pass
            wanted = [(machine, *want) for machine in self.machines for want in machine.scores_wanted()]
            if not wanted:
                return
            self._score(wanted)

    def run_or_raise(self) -> None:
        """`run`, then raise the first error that any machine met."""
        self.run()
        if self.failures:
            raise self.failures[0]

    def _deliver(self, parties: dict[tuple[bytes, str], Machine]) -> bool:
        moved = False
        for sender in self.machines:
            waiting, sender.outgoing = sender.outgoing, deque()
            for receiver, frame in waiting:
                self.traffic[sender.name, receiver] += len(frame)
                for delivered in (frame,) if self.tap is None else self.tap(sender.name, receiver, frame):
                    moved = True
                    try:
                        parties[sender.query, receiver].handle(delivered, sender.name)
                    except LineupError as error:
                        self.failures.append(error)
        return moved

    def _score(self, wanted: list[tuple[Machine, Session, Score]]) -> None:
        """Queries that want the same blocks share one pass over the gallery."""
        _, _, first = wanted[0]
        same = [
            (machine, session, want)
            for machine, session, want in wanted
            if want.gallery is first.gallery and (want.first, want.count) == (first.first, first.count)
        ]
        started = time.perf_counter()
        scored = score_many(first.gallery, [want.probe for _, _, want in same], first.first, first.count, self.threads)
        each = (time.perf_counter() - started) / len(same)
        for (machine, session, _), result in zip(same, scored, strict=True):
            machine.seconds[session.phase] += each
            try:
                machine.supply(session, result)
            except LineupError as error:
                self.failures.append(error)
