"""The cap: are there more hits than it allows? One bit, opened before anything else about the hits (DESIGN, 5, "Cap").

A hit bit is u ^ z, with u known to the holder (its two components) and z to both others. So the number of hits is
Σu + Σz - 2·Σu·z. The holder splits each u = r + w modulo 2^32: r is a stream it has in common with the requester, w
goes to the router. Requester and router then hold Σr·z and Σw·z, and the three hold numbers that add up to the count,
which stays among them: only whether cap - count is negative is computed, on shared bits, and opened.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.bits import Bits
from pets.circuits import sign_of_sum
from pets.counting import masked, sum_where
from pets.planes import to_planes
from pets.prf import Keystream
from protocol.compute import Ring, evaluate, share_inputs
from protocol.messages import CountShare
from protocol.opening import holders_component, lacking_component
from protocol.roles import Seat
from protocol.steps import Send, Step, receive
from protocol.wire import array, as_bytes

COUNT_BITS = 32  # a sum of three shares is read as a signed number: counts below 2^31 (`Joined.blocks`)


def count_share(ring: Ring, hits: Bits, rung: int, chunk: int) -> Step[int]:
    """This party's share of the number of hits in a chunk, modulo 2^32. `hits`: one plane."""
    if ring.seat == Seat.HOLDER:
        bits = np.ascontiguousarray(holders_component(hits))
        stream = _stream(ring.masks("count", rung, chunk).following, len(bits))
        yield Send(ring.names[Seat.ROUTER], CountShare(as_bytes(masked(bits, stream))))
        return sum_where(bits, None)
    bits = np.ascontiguousarray(lacking_component(ring, hits))
    if ring.seat == Seat.REQUESTER:
        stream = _stream(ring.masks("count", rung, chunk).own, len(bits))
        return sum_where(bits, None) - 2 * sum_where(bits, stream)
    message = yield from receive(ring.names[Seat.HOLDER], CountShare)
    return -2 * sum_where(bits, array(message.data, (64 * len(bits),), np.uint32, "count share"))


def cap_bit(ring: Ring, share: int, cap: int, rung: int) -> Step[Bits]:
    """Whether the count whose shares the three parties hold is at most `cap`: one bit, shared, in lane 0."""
    lanes = np.zeros(64, np.uint32)
    lanes[0] = ((cap if ring.seat == Seat.HOLDER else 0) - share) % 2**COUNT_BITS
    masks = ring.masks("cap", rung)
    x, y, z = yield from share_inputs(ring, masks, to_planes(lanes, COUNT_BITS))
    more = yield from evaluate(ring, masks, sign_of_sum(x, y, z))
    return ~more


def _stream(keystream: Keystream, words: int) -> npt.NDArray[np.uint32]:
    return keystream.words(32 * words).view("<u4")
