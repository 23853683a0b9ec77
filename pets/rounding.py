"""From additive shares modulo Q to rounded shares modulo 2^K (protocol/DESIGN.md, section 5, "Two shares")."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pets.jit import kernel
from pets.params import SHARE_BITS, Parameters
from pets.threads import parallel_ranges


def round_shares(coefficients: npt.NDArray[np.uint32], params: Parameters, threads: int = 1) -> npt.NDArray[np.uint32]:
    """round(v·2^K/Q) mod 2^K for each coefficient v.

    `coefficients`: uint32 (count, 2, m), residues below each prime, not in NTT form. Returns uint32 (count, m).
    The fraction v/Q is computed modulo 1 in units of 2^-64, which moves the result by less than 2^-8 before rounding.
    """
    count, _, width = coefficients.shape
    out = np.empty((count, width), np.uint32)
    constants = _constants(params)
    parallel_ranges(lambda start, stop: _round(coefficients[start:stop], constants, out[start:stop]), count, threads)
    return out


@lru_cache(maxsize=8)
def _constants(params: Parameters) -> npt.NDArray[np.uint64]:
    """For each prime: p, (Q/p)^-1 mod p, its Shoup quotient, round(2^64/p)."""
    rows = []
    for p in params.primes:
        inverse = pow(params.q // p, -1, p)
        rows.append([p, inverse, (inverse << 32) // p, (2**64 + p // 2) // p])
    return np.array(rows, np.uint64)


@kernel
def _round(values: npt.NDArray[np.uint32], constants: npt.NDArray[np.uint64], out: npt.NDArray[np.uint32]) -> None:
    # v/Q = x0/p0 + x1/p1 (mod 1) with x_i = v_i·(Q/p_i)^-1 mod p_i, so no 60-bit lift is needed, and the sum of two
    # 64-bit fractions wraps modulo 1 by itself.
    p0, i0, s0, r0 = constants[0]
    p1, i1, s1, r1 = constants[1]
    half = np.uint64(1) << np.uint64(63 - SHARE_BITS)
    count, _, width = values.shape
    for row in range(count):
        for k in range(width):
            v0 = np.uint64(values[row, 0, k])
            v1 = np.uint64(values[row, 1, k])
            x0 = v0 * i0 - ((v0 * s0) >> np.uint64(32)) * p0
            x1 = v1 * i1 - ((v1 * s1) >> np.uint64(32)) * p1
            x0 = min(x0, x0 - p0)
            x1 = min(x1, x1 - p1)
            fraction = x0 * r0 + x1 * r1
            out[row, k] = np.uint32((fraction + half) >> np.uint64(64 - SHARE_BITS))
