"""Who may still be found: a private bit a row, the holder's input to a search (protocol/DESIGN.md, section 6).

A preparation is made for rows as they were; whoever was forgotten since must not be found with it. So the hit bit of
a row is ANDed with a bit *live*, which is the holder's alone: x_1 is a stream of holder and requester, x_0 = live ^ x_1
goes to the router, x_2 is zero. It is sent in every search, also when all are live. Rows that fill up the last block
are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pets.bits import Bits, Planes
from pets.errors import GalleryError
from pets.planes import pack_bits
from protocol.compute import Ring, masked_bits
from protocol.errors import ConfirmationFailed
from protocol.messages import LiveRows
from protocol.roles import Seat
from protocol.steps import Send, Step, receive
from protocol.wire import array, as_bytes

Liveness = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Live:
    """The holder's bits, bool (rows,). `now`: whoever forgets clears it in place. `shared`: as this search took them.

    A row must be cleared before its template is overwritten: with another template than the one that was prepared, its
    score is random.
    """

    now: Liveness = field(repr=False)
    shared: Liveness = field(repr=False)

    @classmethod
    def of(cls, rows: int, live: Liveness | None) -> Live:
        """Of a gallery of so many rows; None: all are live. Raises `GalleryError` for bits that do not fit it."""
        if live is None:
            live = np.ones(rows, np.bool_)
        if live.dtype != np.bool_ or live.shape != (rows,):
            raise GalleryError(f"live must be bool ({rows},), a bit a row, got {live.dtype} {live.shape}")
        return cls(live, np.zeros(rows, np.bool_))

    def take(self, first: int, lanes: int) -> Planes:
        """The bits of `lanes` rows from `first`, as they are now: uint64 (1, lanes / 64)."""
        taken = self.shared[first : first + lanes]
        taken[:] = self.now[first : first + lanes]
        padded = np.zeros(lanes, np.uint8)
        padded[: len(taken)] = taken
        return pack_bits(padded)[None]

    def standing(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        """Those of some rows that are live, in this search and still."""
        return tuple(row for row in rows if self.shared[row] and self.now[row])

    def check_opened(self, rows: tuple[int, ...]) -> None:
        """Raise `ConfirmationFailed` for an opened row that was not live: somebody lied in the gates.

        After the confirmation and with its error, so that nobody learns by such a lie whether a row is live.
        """
        if not all(self.shared[row] for row in rows):
            raise ConfirmationFailed("a row was opened that is not live any more: somebody lied in the comparison")


def holder_shares_live(ring: Ring, live: Live, first: int, lanes: int, index: int) -> Step[Bits]:
    """The holder shares the bits of chunk `index`, of `lanes` rows from row `first`. Returns one plane."""
    bits = live.take(first, lanes)
    stream = ring.masks("live", index).following.words(*bits.shape)
    masked = bits ^ stream
    yield Send(ring.names[Seat.ROUTER], LiveRows(as_bytes(masked)))
    return masked_bits(ring, masked, stream, np.zeros_like(bits))


def key_owner_shares_live(ring: Ring, lanes: int, index: int) -> Step[Bits]:
    """The part of requester, who has it from the stream, and router, who is told. Raises `WrongSize`."""
    shape = (1, lanes // 64)
    zero = np.zeros(shape, np.uint64)
    if ring.seat == Seat.REQUESTER:
        return masked_bits(ring, zero, ring.masks("live", index).own.words(*shape), zero)
    message = yield from receive(ring.names[Seat.HOLDER], LiveRows)
    return masked_bits(ring, array(message.data, shape, np.uint64, "live rows"), zero, zero)
