"""Opening the hits to the holder through a sketch that holds at most the cap (protocol/DESIGN.md, section 6, "Open").

A hit bit is x_0 ^ x_1 ^ x_2. The holder (party 0) holds x_0 and x_1; requester and router both hold x_2.
"""

from __future__ import annotations

import numpy as np

from pets import sketch
from pets.bits import Bits, Planes
from protocol.compute import Ring
from protocol.errors import Disagreement
from protocol.messages import PowerSums
from protocol.roles import Seat
from protocol.steps import Send, Step, receive
from protocol.wire import array


def lacking_component(ring: Ring, hits: Bits) -> Planes:
    """x_2, as requester or router hold it. uint64 (words,)."""
    component: Planes = hits.parts[1 if ring.seat == Seat.REQUESTER else 0][0]
    return component


def holders_component(hits: Bits) -> Planes:
    """x_0 ^ x_1, as the holder has it. uint64 (words,)."""
    assert len(hits.parts) == 2
    component: Planes = hits.parts[0][0] ^ hits.parts[1][0]
    return component


class RunningSums:
    """Power sums over the chunks of one rung; a chunk's hit bits can be dropped once added."""

    def __init__(self, ring: Ring, cap: int) -> None:
        self._ring = ring
        self._cap = cap
        self._first = 0
        self.sums: sketch.PowerSums = np.zeros(cap + 2, np.uint32)

    def add(self, hits: Bits) -> None:
        """Add the next chunk: this party's part of its hit bits."""
        ring = self._ring
        part = holders_component(hits) if ring.seat == Seat.HOLDER else lacking_component(ring, hits)
        chunk = sketch.power_sums(np.ascontiguousarray(part), self._cap, ring.threads, self._first)
        self.sums = sketch.combine(self.sums, chunk)
        self._first += 64 * len(part)


def send_sums(ring: Ring, running: RunningSums) -> Step[None]:
    """Requester and router: the sums of x_2 go to the holder, cap + 2 words of 32 bits."""
    yield Send(ring.names[Seat.HOLDER], PowerSums(running.sums.astype("<u4").tobytes()))


def open_hits(ring: Ring, running: RunningSums, rows: int, cap: int) -> Step[tuple[int, ...]]:
    """The holder: row numbers of the hits, of which the count said that they are at most `cap`.

    Raises `SketchMismatch` when requester and router sent different sums, `Disagreement` when the sums hold more hits
    than the cap, or a row that the gallery has not: somebody lied.
    """
    received = []
    for index in (Seat.REQUESTER, Seat.ROUTER):
        message = yield from receive(ring.names[index], PowerSums)
        received.append(array(message.data, (cap + 2,), np.uint32, "power sums"))
    sketch.check_equal(received[0], received[1])
    if not rows:
        return ()
    hits = sketch.decode(sketch.combine(running.sums, received[0]), rows, cap)
    if hits is None:
        raise Disagreement(f"the count said at most {cap} hits, the sums hold others")
    return hits
