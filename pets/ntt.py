"""The negacyclic number-theoretic transform over Z_p[X]/(X^n + 1), for both primes at once.

Forward is Cooley-Tukey with the table W[bitrev(i)] = psi^i and output in bit-reversed order, inverse is
Gentleman-Sande (Longa and Naehrig, CANS 2016); psi is the smallest primitive 2n-th root of unity. This is the
order and the root that OpenFHE uses, so residues can be compared with its own word for word.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pets.errors import CryptoError
from pets.jit import read_only
from pets.ntt_kernel import LANES, forward_rows, inverse_rows, transform_columns
from pets.params import Parameters
from pets.residues import Residues, check_shape, prime_row
from pets.threads import check_threads, parallel_ranges


def forward(coefficients: npt.NDArray[Any], params: Parameters, threads: int = 1) -> Residues:
    """NTT form of polynomials with signed coefficients.

    `coefficients`: int8 or int32 (count, n), any values. Returns uint32 (count, 2, n), fully reduced.
    Raises `CryptoError` for another dtype or shape.
    """
    dtype = np.int8 if isinstance(coefficients, np.ndarray) and coefficients.dtype == np.int8 else np.int32
    check_shape(coefficients, (None, params.n), "coefficients", dtype)
    return _transform(forward_rows, np.ascontiguousarray(coefficients), params, threads)


def inverse(residues: Residues, params: Parameters, threads: int = 1) -> Residues:
    """Coefficients modulo each prime, fully reduced, of polynomials in NTT form; uint32 (count, 2, n) both.

    Raises `CryptoError` for another dtype or shape.
    """
    check_shape(residues, (None, 2, params.n), "residues")
    return _transform(inverse_rows, np.ascontiguousarray(residues), params, threads)


def forward_columns(columns: npt.NDArray[Any], out: Residues, params: Parameters, threads: int = 1) -> None:
    """NTT form of polynomials that stand in columns, written to `out` with the polynomials side by side.

    `columns`: int8 or int32 (rows, d), row i holding coefficient i of d polynomials, d a multiple of 8; coefficients
    from `rows` to n are zero. `out`: uint32 (2, n, d), C order. Raises `CryptoError` for another dtype or shape.
    """
    dtype = np.int8 if isinstance(columns, np.ndarray) and columns.dtype == np.int8 else np.int32
    check_shape(columns, (None, None), "columns", dtype)
    rows, dim = columns.shape
    check_shape(out, (2, params.n, dim), "out")
    if rows > params.n or dim % 8 or not out.flags.c_contiguous:
        raise CryptoError(f"cannot transform {rows} rows of {dim} columns at ring dimension {params.n}")
    check_threads(threads)
    source, table, primes = read_only(np.ascontiguousarray(columns)), tables(params)[0], prime_row(params)
    # Whole groups of columns, so that threads never share a cache line of `out`.
    parallel_ranges(lambda i, j: transform_columns(source, i, j, table, primes, out), dim, threads, grain=LANES)


def psi(params: Parameters) -> tuple[int, int]:
    """The smallest primitive 2n-th root of unity modulo each prime."""
    return _root(params.n, params.primes[0]), _root(params.n, params.primes[1])


@lru_cache(maxsize=16)
def tables(params: Parameters) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Twiddle factors for the forward and the inverse transform, read-only uint32 (2 primes, n, 2) each.

    [..., i, 0] is the factor, [..., i, 1] its Shoup quotient. Entry 0, which no butterfly uses, holds 1/n in the
    inverse table.
    """
    both = []
    for sign in (1, -1):
        table = np.empty((2, params.n, 2), np.uint32)
        for prime, (p, root) in enumerate(zip(params.primes, psi(params), strict=True)):
            powers = [1] * params.n
            step = pow(root, sign, p)
            for i in range(1, params.n):
                powers[i] = powers[i - 1] * step % p
            if sign < 0:
                powers[0] = pow(params.n, -1, p)
            bits = params.n.bit_length() - 1
            for i, value in enumerate(powers):
                at = int(f"{i:0{bits}b}"[::-1], 2)
                table[prime, at] = value, (value << 32) // p
        table.setflags(write=False)
        both.append(table)
    return both[0], both[1]


@lru_cache(maxsize=16)
def _root(n: int, p: int) -> int:
    candidate = next(
        root for base in range(2, p) if pow(root := pow(base, (p - 1) // (2 * n), p), n, p) == p - 1
    )  # every primitive 2n-th root is an odd power of this one
    square, power, smallest = candidate * candidate % p, candidate, candidate
    for _ in range(n):
        power = power * square % p
        smallest = min(smallest, power)
    return smallest


def _transform(work: Any, source: npt.NDArray[Any], params: Parameters, threads: int) -> Residues:
    check_threads(threads)
    out = np.empty((len(source), 2, params.n), np.uint32)
    table = tables(params)[work is inverse_rows]
    primes = prime_row(params)
    parallel_ranges(lambda i, j: work(source[i:j], table, primes, out[i:j]), len(source), threads, grain=LANES)
    return out
