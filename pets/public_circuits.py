"""Circuits on shared bits and public ones: what a prepared query computes (protocol/DESIGN.md, section 9).

As in `pets.circuits`, a circuit yields pairs to be ANDed. A public plane costs nothing: its product with a shared bit
is local. Public numbers are uint64 (planes, words), lowest bit first.
"""

from __future__ import annotations

import numpy as np

from pets.bits import Bits, Planes, concatenate
from pets.circuits import Circuit

PAIRED = 22  # planes 0 … 21 of a 24-bit number go in pairs; plane 22 stands alone and plane 23 is the top


def times(bits: Bits, public: Planes) -> Bits:
    """The product with a public number of the same shape."""
    return Bits(bits.parts & public, bits.ones)


def plus(bits: Bits, public: Planes) -> Bits:
    """The XOR with a public number of the same shape."""
    return Bits(bits.parts ^ (public & bits.ones), bits.ones)


def subtract(x: Bits, y: Bits) -> Circuit[Bits]:
    """x - y modulo 2^width by a borrow that ripples: width - 1 rounds of one AND a lane; they are free offline."""
    planes = [x[0:1] ^ y[0:1]]
    borrow: Bits | None = None
    for k in range(1, len(x)):
        a, b = ~x[k - 1 : k], y[k - 1 : k]
        # The borrow is the majority of ~x, y and the borrow before: ((~x ^ c) & (y ^ c)) ^ c.
        borrow = (yield a, b) if borrow is None else borrow ^ (yield a ^ borrow, b ^ borrow)
        planes.append(x[k : k + 1] ^ y[k : k + 1] ^ borrow)
    return concatenate(planes)


def neighbour_products(z: Bits) -> Circuit[Bits]:
    """z_2k·z_2k+1 for planes 0 … 21: 11 planes, one round."""
    return (yield Bits(z.parts[:, 0:PAIRED:2], z.ones), Bits(z.parts[:, 1:PAIRED:2], z.ones))


def top_bit_of_public_sum(public: Planes, z: Bits, pairs: Bits) -> Circuit[Bits]:
    """The top bit of e + z with e public: four rounds, 18 ANDs a lane. `pairs`: `neighbour_products` of z.

    With p = e ^ z and g = e·z, generate and propagate of two neighbours are linear in z_0, z_1 and z_0·z_1:
    g = e_1·z_1 ^ e_1·e_0·z_0 ^ e_0·z_0·z_1 and p = e_1·e_0 ^ e_1·z_0 ^ e_0·z_1 ^ z_0·z_1.
    """
    low, high = slice(0, PAIRED, 2), slice(1, PAIRED, 2)
    e0, e1 = public[low], public[high]
    z0, z1 = Bits(z.parts[:, low], z.ones), Bits(z.parts[:, high], z.ones)
    generate = times(z1, e1) ^ times(z0, e1 & e0) ^ times(pairs, e0)
    propagate = plus(times(z0, e1) ^ times(z1, e0) ^ pairs, e1 & e0)
    last, top = public[PAIRED : PAIRED + 1], public[PAIRED + 1 :]
    generate = concatenate([generate, times(z[PAIRED : PAIRED + 1], last)])
    propagate = concatenate([propagate, plus(z[PAIRED : PAIRED + 1], last)])
    while len(generate) > 1:
        pairs_left = len(generate) // 2
        even, odd = slice(0, 2 * pairs_left, 2), slice(1, 2 * pairs_left, 2)
        # The lowest pair's propagate is never asked for.
        product = yield (
            concatenate([_every(propagate, odd), _every(propagate, odd)[1:]]),
            concatenate([_every(generate, even), _every(propagate, even)[1:]]),
        )
        rest = slice(2 * pairs_left, len(generate))
        generate = concatenate([_every(generate, odd) ^ product[:pairs_left], generate[rest]])
        propagate = concatenate([propagate[0:1], product[pairs_left:], propagate[rest]])
    return plus(z[PAIRED + 1 :] ^ generate, top)


def add_public(public: Planes, z: Bits) -> Circuit[Bits]:
    """e + z modulo 2^width with e public: a Kogge-Stone network, ceil(log2 width) rounds."""
    width = len(z)
    half_sum = propagate = plus(z, public)
    generate = times(z, public)
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


def _every(bits: Bits, planes: slice) -> Bits:
    return Bits(bits.parts[:, planes], bits.ones)
