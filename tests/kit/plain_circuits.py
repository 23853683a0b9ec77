"""The circuits of `pets.public_sum` written plainly, one step at a time: what its fused kernels must equal."""

from __future__ import annotations

from pets.bits import Bits, Planes, concatenate
from pets.circuits import Circuit, carry_into_top


def subtract(x: Bits, y: Bits) -> Circuit[Bits]:
    """x - y modulo 2^width by a ripple of borrows: width - 1 ANDs, the fewest there can be, in as many rounds."""
    differ = x ^ y
    same = ~differ
    borrows = [x.constant(0, 1)]
    for k in range(len(x) - 1):
        own = y[k : k + 1]
        # The majority of ~x, y and the borrow, like in `carry_save`.
        borrows.append(own ^ (yield same[k : k + 1], own ^ borrows[-1]))
    return differ ^ concatenate(borrows)


def sign_of_public_sum(e: Planes, z: Bits, products: Bits) -> Circuit[Bits]:
    """The top bit of e + z, e public: a prefix tree whose lowest level is local.

    `e`: uint64 (width, words). `products`: `adjacent_products` of z. A position generates g = e·z and propagates
    p = e ^ z, and two of them together generate g_1 ^ p_1·g_0 and propagate p_1·p_0: linear in z_0, z_1 and z_0·z_1. So
    ceil(log2(pairs)) rounds are left, 4 with 18 planes at 24 bits. Returns one plane.
    """
    top = len(z) - 1
    end = top // 2 * 2
    low, high = slice(0, end, 2), slice(1, end, 2)
    e_low, e_high = e[low], e[high]
    generate = z[high].times(e_high) ^ z[low].times(e_low & e_high) ^ products.times(e_low)
    propagate = (z[high].times(e_low) ^ z[low].times(e_high) ^ products).plus(e_low & e_high)
    if top % 2:
        last = slice(end, top)
        generate = concatenate([generate, z[last].times(e[last])])
        propagate = concatenate([propagate, z[last].plus(e[last])])
    carry = yield from carry_into_top(generate, propagate)
    return z[top:].plus(e[top:]) ^ carry
