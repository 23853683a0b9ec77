"""The sign of a public and a shared number, and what is prepared for it, with one kernel between two rounds of ANDs.

The circuits are `subtract` and `sign_of_public_sum` of `pets.circuits`, with the same operands in the same order. There
every XOR and every move is a pass over memory; here a kernel makes the operands of the next round from the product of
the last. The gates themselves are evaluated by whoever drives the circuit, as for any other. The products in between,
`pets.circuits.adjacent_products`, are a gate and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pets.bits import Bits, Planes
from pets.circuits import Circuit
from pets.errors import CryptoError
from pets.jit import kernel, read_only
from pets.threads import check_threads, parallel_ranges

PARALLEL_WORDS = 32768  # of all planes; below, a second thread costs more than it saves


def subtract(x: Bits, y: Bits, threads: int = 1) -> Circuit[Bits]:
    """x - y modulo 2^width by a ripple of borrows: width - 1 ANDs, the fewest there can be, in as many rounds."""
    check_threads(threads)
    width, words = x.shape
    differ, own = np.ascontiguousarray((x ^ y).parts), np.ascontiguousarray(y.parts)
    difference = np.empty_like(differ)
    difference[:, 0] = differ[:, 0]
    product = own[:, :1].copy()  # of a plane below the lowest: own ^ product is its borrow, zero
    for k in range(width - 1):
        left, right = np.empty((2, len(own), 1, words), np.uint64)
        _borrow(differ, own, x.ones, product, k, left, right, difference)
        product = np.ascontiguousarray((yield Bits(left, x.ones), Bits(right, x.ones)).parts)
    difference[:, width - 1] = differ[:, width - 1] ^ own[:, width - 2] ^ product[:, 0]
    return Bits(difference, x.ones)


def sign_of_public_sum(e: Planes, z: Bits, products: Bits, threads: int = 1) -> Circuit[Bits]:
    """The top bit of e + z, e public: a prefix tree whose lowest level is local.

    `e`: uint64 (width, words). `products`: `adjacent_products` of z. A position generates g = e·z and propagates
    p = e ^ z, and two of them together generate g_1 ^ p_1·g_0 and propagate p_1·p_0: linear in z_0, z_1 and z_0·z_1. So
    ceil(log2(pairs)) rounds are left, 4 with 18 planes at 24 bits. Returns one plane.

    Raises `CryptoError` for planes that do not belong together.
    """
    check_threads(threads)
    width, words = z.shape
    if e.shape != (width, words) or e.dtype != np.uint64 or products.shape != ((width - 1) // 2, words):
        raise CryptoError(
            f"a public number of {e.dtype} {e.shape} and products of {products.shape} do not fit planes of {z.shape}"
        )
    public = read_only(np.ascontiguousarray(e))
    shared, pairs = np.ascontiguousarray(z.parts), np.ascontiguousarray(products.parts)
    count = width // 2
    level = _Level(len(shared), count, words)
    level.fill(_first_level, public, shared, z.ones, pairs, threads=threads)
    while count > 1:
        product = yield Bits(level.left, z.ones), Bits(level.right, z.ones)
        last, count = level, (count + 1) // 2
        level = _Level(len(shared), count, words)
        level.fill(_next_level, np.ascontiguousarray(product.parts), last.kept, last.spare, threads=threads)
    return z[width - 1 :].plus(e[width - 1 :]) ^ Bits(level.kept, z.ones)


class _Level:
    """What one level of the tree of `count` entries leaves: operands of its ANDs, and what they are added to.

    Two neighbours become one entry: it generates g_1 ^ p_1·g_0 and propagates p_1·p_0; the lowest one's p is not asked
    for. `left`, `right`: uint64 (parts, 2·pairs - 1, words), the operands of all p_1·g_0, then of all p_1·p_0. `kept`:
    the g_1 of all pairs, then g of an entry without a neighbour, whose p is in `spare`.
    """

    def __init__(self, parts: int, count: int, words: int) -> None:
        pairs = count // 2
        self.left, self.right = (np.empty((parts, max(0, 2 * pairs - 1), words), np.uint64) for _ in range(2))
        self.kept = np.empty((parts, pairs + count % 2, words), np.uint64)
        self.spare = np.empty((parts, count % 2, words), np.uint64)

    def fill(self, work: Callable[..., object], *sources: Planes, threads: int) -> None:
        """Let a kernel fill all arrays, by ranges of words."""
        _, planes, words = self.kept.shape
        parallel_ranges(
            lambda start, stop: work(*sources, start, stop, self.left, self.right, self.kept, self.spare),
            words,
            threads if planes * words >= PARALLEL_WORDS else 1,
            grain=8,  # a cache line
        )


@kernel
def _borrow(differ: Any, own: Any, ones: Any, product: Any, k: Any, left: Any, right: Any, difference: Any) -> None:
    """Operands of the borrow out of plane k, and plane k of the difference, from the product of the plane below."""
    below = max(0, k - 1)
    for part in range(len(own)):
        one = ones[part, 0, 0]
        a, y, y_below, last = differ[part, k], own[part, k], own[part, below], product[part, 0]
        x_out, y_out, out = left[part, 0], right[part, 0], difference[part, k]
        for w in range(len(y)):
            borrow = y_below[w] ^ last[w]
            x_out[w] = a[w] ^ one
            y_out[w] = y[w] ^ borrow
            out[w] = a[w] ^ borrow


@kernel
def _first_level(
    e: Any, z: Any, ones: Any, products: Any, start: Any, stop: Any, left: Any, right: Any, kept: Any, spare: Any
) -> None:
    """Words `start` to `stop` of the entries of two neighbouring planes each."""
    parts, width, _ = z.shape
    for part in range(parts):
        one = ones[part, 0, 0]
        for i in range((width - 1) // 2):
            g, p, again = _places(i, width // 2, part, start, stop, left, right, kept, spare)
            e_low, e_high = e[2 * i, start:stop], e[2 * i + 1, start:stop]
            z_low, z_high = z[part, 2 * i, start:stop], z[part, 2 * i + 1, start:stop]
            both = products[part, i, start:stop]
            for w in range(len(g)):
                e_both = e_low[w] & e_high[w]
                g[w] = (z_high[w] & e_high[w]) ^ (z_low[w] & e_both) ^ (both[w] & e_low[w])
                p[w] = (z_high[w] & e_low[w]) ^ (z_low[w] & e_high[w]) ^ both[w] ^ (e_both & one)
                again[w] = p[w]
        if width % 2 == 0:
            g, p, again = _places(width // 2 - 1, width // 2, part, start, stop, left, right, kept, spare)
            e_last, z_last = e[width - 2, start:stop], z[part, width - 2, start:stop]
            for w in range(len(g)):
                g[w] = z_last[w] & e_last[w]
                p[w] = z_last[w] ^ (e_last[w] & one)
                again[w] = p[w]


@kernel
def _next_level(
    product: Any, g_high: Any, last: Any, start: Any, stop: Any, left: Any, right: Any, kept: Any, spare: Any
) -> None:
    """The same from the products of the level before, its `kept` and its `spare`."""
    parts, count, _ = g_high.shape
    pairs = (product.shape[1] + 1) // 2
    for part in range(parts):
        for i in range(count):
            g, p, again = _places(i, count, part, start, stop, left, right, kept, spare)
            g_1 = g_high[part, i, start:stop]
            if i < pairs:
                p_g = product[part, i, start:stop]
                for w in range(len(g)):
                    g[w] = g_1[w] ^ p_g[w]
            else:
                for w in range(len(g)):
                    g[w] = g_1[w]
            if i > 0:
                both = last[part, 0, start:stop] if i == pairs else product[part, pairs + i - 1, start:stop]
                for w in range(len(p)):
                    p[w] = both[w]
                    again[w] = both[w]


@kernel
def _places(
    i: Any, count: Any, part: Any, start: Any, stop: Any, left: Any, right: Any, kept: Any, spare: Any
) -> tuple[Any, Any, Any]:
    """Where entry i of `count` writes g, p, and p once more (the same place where once will do)."""
    k, pairs = i // 2, count // 2
    above = max(0, pairs + k - 1)
    if k == pairs:
        p = spare[part, 0, start:stop]
        return kept[part, k, start:stop], p, p
    if i % 2:
        return kept[part, k, start:stop], left[part, k, start:stop], left[part, above if k else k, start:stop]
    # Nobody asks for p of the lowest entry: entry 1 writes over it.
    p = right[part, above, start:stop] if k else left[part, 0, start:stop]
    return right[part, k, start:stop], p, p
