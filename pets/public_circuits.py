"""Sums of shared and public numbers (protocol/DESIGN.md, section 6): a public plane costs no round.

As in `pets.circuits`, a circuit yields pairs to be ANDed. Public numbers are uint64 (planes, words), lowest bit first.
"""

from __future__ import annotations

import numpy as np

from pets.bits import Bits, Planes, concatenate
from pets.circuits import Circuit


def add_public(public: Planes, z: Bits) -> Circuit[Bits]:
    """e + z modulo 2^width with e public: a Kogge-Stone network, ceil(log2 width) rounds."""
    width = len(z)
    half_sum = propagate = z.plus(public)
    generate = z.times(public)
    distance = 1
    while distance < width:
        count = width - distance
        product = yield (
            concatenate([propagate[distance:], propagate[distance:]]),
            concatenate([generate[:count], propagate[:count]]),
        )
        generate = concatenate([generate[:distance], generate[distance:] ^ product[:count]])
        propagate = concatenate([propagate[:distance], product[count:]])
        distance *= 2
    return half_sum ^ generate.shift_planes(1)


def subtract_constant(public: Planes, value: int) -> Planes:
    """A public number less a constant, modulo 2^width, lane by lane. uint64 (planes, words)."""
    out = np.empty_like(public)
    borrow = np.zeros_like(public[0])
    for k, plane in enumerate(public):
        if value >> k & 1:
            out[k] = ~(plane ^ borrow)
            borrow = borrow | ~plane
        else:
            out[k] = plane ^ borrow
            borrow = borrow & ~plane
    return out
