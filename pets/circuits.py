"""Bit circuits over planes: adders, comparison, squares, sums.

A circuit is a generator: it yields a pair of equally shaped `Bits` that are to be ANDed and is sent their product.
One yield is one round of messages. XOR, complement and moves are local. The same circuit runs on shares, where
each party drives it and exchanges messages at every yield, and on plain bits (`evaluate_plain`). Numbers are planes,
lowest bit first, modulo 2^width.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from pets.bits import Bits, concatenate, join_words, plain_bits

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


def together(first: Circuit[Bits], second: Circuit[Bits]) -> Circuit[tuple[Bits, Bits]]:
    """Run two circuits side by side: a round of both is one round. Returns both results."""
    running: list[Circuit[Bits] | None] = [first, second]
    results: list[Bits | None] = [None, None]
    wants: list[tuple[Bits, Bits] | None] = [None, None]
    answers: list[Bits | None] = [None, None]
    while True:
        for index, circuit in enumerate(running):
            if circuit is not None:
                try:
                    # The first send of a generator must be None, which is what `answers` begins with.
                    wants[index] = circuit.send(answers[index])  # type: ignore[arg-type]
                except StopIteration as end:
                    running[index], wants[index], results[index] = None, None, end.value
        asked = [want for want in wants if want is not None]
        if not asked:
            left, right = results
            assert left is not None
            assert right is not None
            return left, right
        product = yield (
            join_words([left.as_row() for left, _ in asked]),
            join_words([right.as_row() for _, right in asked]),
        )
        position = 0
        for index, want in enumerate(wants):
            if want is not None:
                planes, words = want[0].shape
                answers[index] = product.words(position, position + planes * words).reshape(planes, words)
                position += planes * words


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


def add(x: Bits, y: Bits) -> Circuit[Bits]:
    """x + y modulo 2^width by a Kogge-Stone prefix network: 1 + ceil(log2 width) rounds."""
    width = len(x)
    propagate = x ^ y
    generate = yield x, y
    half_sum = propagate
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


def add_three(x: Bits, y: Bits, z: Bits) -> Circuit[Bits]:
    """x + y + z modulo 2^width."""
    s, c = yield from carry_save(x, y, z)
    return (yield from add(s, concatenate([s.constant(0, 1), c])))


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


def squares_exceed(x: Bits, bound: int, width: int) -> Circuit[Bits]:
    """Lane 0 of a single word: whether Σ x² over all lanes is above `bound`; both below 2^(width-1).

    The sign of bound - Σ x². x is in two's complement: x = -2^m·x_m + Σ 2^i·x_i gives x² = Σ_i (4^i·x_i + Σ_{j>i} ±
    2^{i+j+1}·x_i·x_j), minus where j = m. One row for each i; carry-save layers shrink the rows to two, then the lanes
    are folded in half and the four rows shrunk to two again, so that only one carry ever ripples, at the end.
    """
    bits = len(x)
    pairs = [(i, j) for i in range(bits) for j in range(i + 1, bits)]
    products = yield concatenate([x[i : i + 1] for i, _ in pairs]), concatenate([x[j : j + 1] for _, j in pairs])
    zero = x.constant(0, 1)
    correction, lanes = 0, 64 * x.shape[1]
    rows = []
    for i in range(bits):
        planes = [zero] * width
        planes[2 * i] = x[i : i + 1]
        for index, (first, j) in enumerate(pairs):
            if first == i:
                product = products[index : index + 1]
                # -b·2^w = (~b)·2^w - 2^w, the constant once a lane.
                planes[i + j + 1] = ~product if j == bits - 1 else product
                correction -= (lanes << (i + j + 1)) if j == bits - 1 else 0
        rows.append(concatenate(planes))
    rows = yield from _two_rows(rows)
    while rows[0].shape[1] > 1:
        words = rows[0].shape[1]
        half = (words + 1) // 2
        folded = [piece for row in rows for piece in (row.words(0, half), row.words(half, words).pad_words(half))]
        rows = yield from _two_rows(folded)
    lanes = 32
    while lanes:
        rows = yield from _two_rows([piece for row in rows for piece in (row, row.shift_lanes(lanes))])
        lanes //= 2
    # ~r is -r - 1 modulo 2^width.
    room = rows[0].constant(bound + 2 - correction, width)
    return (yield from sign_of_sum(~rows[0], ~rows[1], room))


def _two_rows(rows: list[Bits]) -> Circuit[list[Bits]]:
    """Carry-save layers until two rows are left with the same sum: one round a layer, which takes three rows to two."""
    while len(rows) > 2:
        triples = len(rows) // 3
        x, y, z = (concatenate(rows[k : 3 * triples : 3]) for k in range(3))
        x_y = x ^ y
        carries = x ^ (yield x_y, x ^ z)
        sums = x_y ^ z
        width = len(rows[0])
        rest = rows[3 * triples :]
        for k in range(0, triples * width, width):
            rest += [sums[k : k + width], carries[k : k + width].shift_planes(1)]
        rows = rest
    return rows
