"""Units that come before the announcement of their query, as they may from all but the requester."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

from nodes.transport.send_queue import PeerRefused

UNITS = 128  # of one peer that may wait for one query
BYTES = 2**20  # a correct peer is not further ahead than its first small messages
QUERIES = 64  # of one peer

Part = tuple[int, list[bytes]]  # the number of the first unit, and units


@dataclass
class _Held:
    parts: list[Part] = field(default_factory=list)
    count: int = 0
    size: int = 0


class EarlyUnits:
    """What waits, by peer: whoever sends too much loses what it sent itself, and nothing of anybody else."""

    def __init__(self) -> None:
        self._held: dict[str, OrderedDict[bytes, _Held]] = defaultdict(OrderedDict)

    def keep(self, name: str, peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
        """Keep units for `take`. Raises `PeerRefused` (capacity), as `name`, if there are too many."""
        mine = self._held[peer]
        held = mine.get(query, _Held())
        count, size = held.count + len(units), held.size + sum(map(len, units))
        if count > UNITS or size > BYTES:
            raise PeerRefused(name, "capacity")
        mine[query] = held
        held.parts.append((offset, units))
        held.count, held.size = count, size
        while len(mine) > QUERIES:
            mine.popitem(last=False)

    def take(self, query: bytes) -> list[tuple[str, Part]]:
        """What waited for a query, by peer, in the order in which it came."""
        taken = ((peer, mine.pop(query, None)) for peer, mine in self._held.items())
        return [(peer, part) for peer, held in taken if held is not None for part in held.parts]
