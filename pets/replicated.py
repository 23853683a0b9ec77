"""The local steps of replicated sharing: input and AND. Who sends what to whom is `protocol.compute`'s business.

Key k_j is known to parties j-1 and j, so party i reads F(k_i) from `own` and F(k_{i+1}) from `following`. Both owners
of a key read it in the same order; a stream never rewinds, because a mask used twice would show the XOR of two bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pets.bits import PARTIES, Bits, Planes, party_bits
from pets.jit import kernel, short_kernel
from pets.prf import Keystream
from pets.threads import parallel_ranges

PARALLEL_WORDS = 32768  # below, a second thread costs more than it saves
SHORT_WORDS = 2048  # below, other queries had better wait than fight for the interpreter


@dataclass
class Masks:
    """The two pseudo-random streams of party `party`, for one purpose."""

    party: int
    own: Keystream
    following: Keystream


def share_input(masks: Masks, value: Planes) -> Bits:
    """Party i shares its own value v: x_{i+1} = F(k_{i+1}), x_i = v ^ x_{i+1}, x_{i+2} = 0. x_i goes to party i-1."""
    second = masks.following.words(*value.shape)
    return party_bits(masks.party, value ^ second, second)


def input_of_previous(masks: Masks, shape: tuple[int, int]) -> Bits:
    """What party i holds of the input of party i-1, without any message: (F(k_i), 0)."""
    return party_bits(masks.party, masks.own.words(*shape), np.zeros(shape, np.uint64))


def input_of_following(masks: Masks, received: Planes) -> Bits:
    """What party i holds of the input of party i+1: (0, what it received)."""
    return party_bits(masks.party, np.zeros_like(received), received)


def in_party_order(party: int, own: Bits, previous: Bits, following: Bits) -> tuple[Bits, Bits, Bits]:
    """The three inputs as (input of party 0, of 1, of 2)."""
    by_owner = {party: own, (party - 1) % PARTIES: previous, (party + 1) % PARTIES: following}
    return by_owner[0], by_owner[1], by_owner[2]


def and_local(masks: Masks, x: Bits, y: Bits, threads: int = 1) -> Bits:
    """z_i = x_i·y_i ^ x_i·y_{i+1} ^ x_{i+1}·y_i ^ F(k_i) ^ F(k_{i+1}), which goes to party i-1 (Araki et al., 2.3).

    Returned as the first part of the product; the second is z_{i+1}, to be filled in when it arrives.
    """
    planes, words = x.shape
    size = planes * words
    own, following = masks.own.words(size), masks.following.words(size)
    x_parts, y_parts = (np.ascontiguousarray(side.parts).reshape(2, size) for side in (x, y))
    product = np.empty((2, size), np.uint64)
    if size < SHORT_WORDS:
        _and(x_parts, y_parts, own, following, 0, size, product[0])
    else:
        parallel_ranges(
            lambda start, stop: _long_and(x_parts, y_parts, own, following, start, stop, product[0]),
            size,
            threads if size >= PARALLEL_WORDS else 1,
            grain=8,  # a cache line
        )
    return Bits(product.reshape(2, planes, words), x.ones)


@kernel
def _long_and(x: Planes, y: Planes, own: Planes, following: Planes, start: int, stop: int, product: Planes) -> None:
    _and(x, y, own, following, start, stop, product)


@short_kernel
def _and(x: Planes, y: Planes, own: Planes, following: Planes, start: int, stop: int, product: Planes) -> None:
    x0, x1, y0, y1 = x[0, start:stop], x[1, start:stop], y[0, start:stop], y[1, start:stop]
    mask, mask_of_following, z = own[start:stop], following[start:stop], product[start:stop]
    for word in range(len(z)):
        both = y0[word] ^ y1[word]
        z[word] = (x0[word] & both) ^ (x1[word] & y0[word]) ^ mask[word] ^ mask_of_following[word]
