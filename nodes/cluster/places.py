"""On which machine each process of a cluster lies, and which machine the next one should have."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Places:
    """`threads`: processors that each process takes. Nothing here asks where a process lies: `move` says it.

    The first process of a range does the work. Its copy lies beside it, and is asked when the first is lost. Safe for
    use by many threads.
    """

    threads: int
    _machine: dict[int, str] = field(default_factory=dict)
    _first: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, number: int, processors: Mapping[str, int], beside: int | None = None) -> str | None:
        """A machine for process `number`, of those alive with their `processors`; None where none has room.

        For a first one, the machine that has most left of the firsts. For one `beside` another, the machine with most
        room but not the same, or, where only that one has room, the same.
        """
        with self._lock:
            machine = self._choose(processors, beside)
            self._machine[number] = machine or ""
            if beside is None:
                self._first.add(number)
            return machine

    def _choose(self, processors: Mapping[str, int], beside: int | None) -> str | None:
        room = self._room(processors)
        if beside is None:
            firsts = [self._machine.get(number) for number in self._first]
            return max(room, key=lambda one: processors[one] - self.threads * firsts.count(one), default=None)
        elsewhere = [machine for machine in room if machine != self._machine.get(beside)]
        return max(elsewhere or room, key=room.__getitem__, default=None)

    def apart(self, processors: Mapping[str, int], beside: int) -> bool:
        """Whether a machine other than that of `beside` has room for a process."""
        with self._lock:
            return bool(self._room(processors).keys() - {self._machine.get(beside)})

    def move(self, number: int, machine: str) -> None:
        """A process was begun elsewhere, or anew."""
        with self._lock:
            if number in self._machine:
                self._machine[number] = machine

    def drop(self, number: int) -> None:
        """A process was ended."""
        with self._lock:
            self._machine.pop(number, None)
            self._first.discard(number)

    def _room(self, processors: Mapping[str, int]) -> dict[str, int]:
        """What machines with room for a process have left."""
        taken = list(self._machine.values())
        room = {machine: count - self.threads * taken.count(machine) for machine, count in processors.items()}
        return {machine: left for machine, left in room.items() if left >= self.threads}
