"""The comparison with the threshold, on shares (protocol/DESIGN.md, section 5, "Compare")."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.bits import Bits
from pets.circuits import sign_of_sum
from pets.params import SHARE_BITS, Parameters
from pets.planes import to_planes
from pets.prf import Label
from protocol.compute import Ring, evaluate, share_inputs
from protocol.steps import Step

Shares = npt.NDArray[np.uint32]
SHARE_MASK = np.uint32(2**SHARE_BITS - 1)


def threshold_offset(theta: int, params: Parameters) -> int:
    """round((theta - 1/2)·2^K/t): what the holder takes off its share, so that a hit is a sum that is not negative."""
    doubled = (2 * theta - 1) << SHARE_BITS
    return (doubled + params.t) // (2 * params.t)


def fold_threshold(shares: Shares, theta: int, params: Parameters) -> Shares:
    """The holder's shares less the threshold, modulo 2^K."""
    return (shares - np.uint32(threshold_offset(theta, params))) & SHARE_MASK


def hit_bits(ring: Ring, shares: Shares, *purpose: Label) -> Step[Bits]:
    """One shared bit a row: 1 where the three shares add up to a number that is not negative modulo 2^K.

    `shares`: uint32 (rows,), rows a multiple of 64; the holder's with the threshold folded in. 7 rounds after the
    inputs, 13.25 bytes a row sent by each party.
    """
    masks = ring.masks("compare", *purpose)
    x, y, z = yield from share_inputs(ring, masks, to_planes(shares, SHARE_BITS, ring.threads))
    negative = yield from evaluate(ring, masks, sign_of_sum(x, y, z))
    return ~negative
