"""Bit circuits over planes: comparison, and whether anything is set.

A circuit is a generator: it yields a pair of equally shaped `Bits` that are to be ANDed and is sent their product.
One yield is one round of messages. XOR, complement and moves are local. The same circuit runs on shares, where
each party drives it and exchanges messages at every yield, and on plain bits (`evaluate_plain`). Numbers are planes,
lowest bit first, modulo 2^width.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from pets.bits import Bits, concatenate, plain_bits

T = TypeVar("T")
Circuit = Generator[tuple[Bits, Bits], Bits, T]


def evaluate_plain(circuit: Circuit[T]) -> T:
    """Run a circuit on plain bits."""
    try:
        pair = next(circuit)
        while True:
            pair = circuit.send(plain_bits(pair[0].parts[0] & pair[1].parts[0]))
    except StopIteration as end:
        result: T = end.value
        return result


def carry_save(x: Bits, y: Bits, z: Bits) -> Circuit[tuple[Bits, Bits]]:
    """x + y + z = s + 2·c with s = x ^ y ^ z and c = majority = x ^ ((x ^ y) & (x ^ z)). Returns (s, c); one round.

    c has one plane less: the carry out of the top plane falls away modulo 2^width.
    """
    low = slice(0, len(x) - 1)
    x_y = x ^ y
    carry = x[low] ^ (yield x_y[low], (x ^ z)[low])
    return x_y ^ z, carry


def sign_of_sum(x: Bits, y: Bits, z: Bits) -> Circuit[Bits]:
    """The top bit of x + y + z: a carry-save layer, then a prefix tree for the carry into the top plane only.

    With width w: 2 + ceil(log2(w-2)) rounds. Returns one plane.
    """
    s, c = yield from carry_save(x, y, z)
    top = len(x) - 1
    # Addends s and 2c. Plane 0 of 2c is zero, so planes 1 … top-1 generate g = s & 2c and propagate p = s ^ 2c.
    left, right = s[1:top], c[0 : top - 1]
    propagate = left ^ right
    generate = yield left, right
    carry = yield from carry_into_top(generate, propagate)
    return s[top:] ^ c[top - 1 :] ^ carry


def carry_into_top(generate: Bits, propagate: Bits) -> Circuit[Bits]:
    """The carry out of the highest position; plane k is position k. A tree of ceil(log2 planes) rounds.

    Plane 0 of `propagate` is never read: a placeholder keeps the indices of both lists equal.
    """
    while len(generate) > 1:
        pairs = len(generate) // 2
        low, high = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
        # (g, p) of a pair is (g_hi ^ p_hi·g_lo, p_hi·p_lo); the lowest pair's p is never asked for.
        product = yield (
            concatenate([propagate[high], propagate[high][1:]]),
            concatenate([generate[low], propagate[low][1:]]),
        )
        merged = generate[high] ^ product[:pairs]
        spread = concatenate([propagate[0:1], product[pairs:]])
        if len(generate) % 2:
            merged = concatenate([merged, generate[2 * pairs :]])
            spread = concatenate([spread, propagate[2 * pairs :]])
        generate, propagate = merged, spread
    return generate


def adjacent_products(z: Bits) -> Circuit[Bits]:
    """z_0·z_1, z_2·z_3, … of the planes below the top one, which `pets.public_sum` asks for. One round.

    Returns floor((width - 1)/2) planes.
    """
    end = (len(z) - 1) // 2 * 2
    return (yield z[0:end:2], z[1:end:2])


def any_plane(x: Bits) -> Circuit[Bits]:
    """OR over all planes, lane by lane: one plane, ceil(log2 planes) rounds."""
    none = ~x
    while len(none) > 1:
        half = len(none) // 2
        product = yield none[:half], none[half : 2 * half]
        none = concatenate([product, none[2 * half :]])
    return ~none


def any_lane(x: Bits) -> Circuit[Bits]:
    """OR over all lanes of one plane; the answer stands in lane 0 of a single word, the other lanes mean nothing."""
    none = ~x
    while none.shape[1] > 1:
        words = none.shape[1]
        half = (words + 1) // 2
        # With an odd number of words the middle one meets itself, which changes nothing.
        none = yield none.words(0, half), none.words(words - half, words)
    lanes = 32
    while lanes:
        none = yield none, none.shift_lanes(lanes)
        lanes //= 2
    return ~none
