"""How long a line is in messages: what a search waits for when nothing but the distance counts."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from pets.errors import LineupError
from protocol.machine import Machine
from protocol.memory import MemoryNetwork


@dataclass
class CountedNetwork(MemoryNetwork):
    """Carries every frame in one unit of time, and takes none for computing. `hops`: units in all.

    Half a round-trip time a unit is therefore what distance adds to a search, at least.
    """

    at: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def hops(self) -> int:
        """When the last frame arrived."""
        return max(self.at.values(), default=0)

    def _deliver(
        self, parties: dict[str, Machine], traffic: Counter[tuple[str, str]], failures: list[LineupError]
    ) -> None:
        under_way: list[tuple[int, int, str, str, bytes]] = []
        sent = 0

        def send(machine: Machine) -> None:
            nonlocal sent
            waiting, machine.outgoing = machine.outgoing, deque()
            for receiver, frame in waiting:
                sent += 1  # frames of one link stay in order
                heapq.heappush(under_way, (self.at[machine.name] + 1, sent, machine.name, receiver, frame))

        for machine in parties.values():
            send(machine)
        while under_way:
            arrival, _, sender, receiver, frame = heapq.heappop(under_way)
            traffic[sender, receiver] += len(frame)
            self.at[receiver] = max(self.at[receiver], arrival)
            try:
                parties[receiver].handle(frame, sender)
            except LineupError as error:
                failures.append(error)
            send(parties[receiver])
