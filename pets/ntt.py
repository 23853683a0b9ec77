"""The negacyclic number-theoretic transform over Z_p[X]/(X^n + 1), for both primes at once.

Forward is Cooley-Tukey with the table W[bitrev(i)] = psi^i and output in bit-reversed order, inverse is
Gentleman-Sande (Longa and Naehrig, CANS 2016); psi is the smallest primitive 2n-th root of unity. This is the
order and the root that OpenFHE uses, so residues can be compared with its own word for word.

Butterflies are Harvey's lazy ones (D. Harvey, "Faster arithmetic for number-theoretic transforms", 2014): for a
factor w its Shoup quotient w' = floor(w·2^32 / p) is stored beside it, and values stay below 4p < 2^32. Eight
polynomials are worked side by side, `[n][8]`, so that every stage, also the last ones, is plain 8-lane arithmetic.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pets.errors import CryptoError
from pets.jit import kernel
from pets.params import Parameters
from pets.residues import Residues, check_shape, prime_row
from pets.threads import check_threads, parallel_ranges

LANES = 8


def forward(coefficients: npt.NDArray[Any], params: Parameters, threads: int = 1) -> Residues:
    """NTT form of polynomials with signed coefficients.

    `coefficients`: int8 or int32 (count, n), any values. Returns uint32 (count, 2, n), fully reduced.
    Raises `CryptoError` for another dtype or shape.
    """
    dtype = np.int8 if isinstance(coefficients, np.ndarray) and coefficients.dtype == np.int8 else np.int32
    check_shape(coefficients, (None, params.n), "coefficients", dtype)
    return _transform(_forward, np.ascontiguousarray(coefficients), params, threads)


def inverse(residues: Residues, params: Parameters, threads: int = 1) -> Residues:
    """Coefficients modulo each prime, fully reduced, of polynomials in NTT form; uint32 (count, 2, n) both.

    Raises `CryptoError` for another dtype or shape.
    """
    check_shape(residues, (None, 2, params.n), "residues")
    return _transform(_inverse, np.ascontiguousarray(residues), params, threads)


def forward_columns(columns: npt.NDArray[Any], out: Residues, params: Parameters, threads: int = 1) -> None:
    """NTT form of polynomials that stand in columns, written to `out` with the polynomials side by side.

    `columns`: int8 or int32 (rows, d), row i holding coefficient i of d polynomials, d a multiple of 8; coefficients
    from `rows` to n are zero. `out`: uint32 (2, n, d), C order. Raises `CryptoError` for another dtype or shape.
    """
    dtype = np.int8 if isinstance(columns, np.ndarray) and columns.dtype == np.int8 else np.int32
    check_shape(columns, (None, None), "columns", dtype)
    rows, dim = columns.shape
    check_shape(out, (2, params.n, dim), "out")
    if rows > params.n or dim % LANES or not out.flags.c_contiguous:
        raise CryptoError(f"cannot transform {rows} rows of {dim} columns at ring dimension {params.n}")
    check_threads(threads)
    source, table, primes = np.ascontiguousarray(columns), tables(params)[0], prime_row(params)
    # Sixteen columns at a time, so that threads never share a cache line of `out`.
    parallel_ranges(lambda i, j: _forward_columns(source, i, j, table, primes, out), dim, threads, grain=2 * LANES)


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
    table = tables(params)[work is _inverse]
    primes = prime_row(params)
    parallel_ranges(lambda i, j: work(source[i:j], table, primes, out[i:j]), len(source), threads, grain=LANES)
    return out


@kernel
def _forward_stages(buffer: Any, table: Any, p: Any, groups: Any) -> None:
    """In: values below 4p in natural order. Out: below 4p, bit-reversed order. Begins with the stage of `groups`."""
    n = len(buffer) // 8
    p2 = np.uint32(p + p)
    span = n * 8 // groups
    while groups < n:
        span >>= 1
        for i in range(groups):
            w, quotient = table[groups + i, 0], np.uint64(table[groups + i, 1])
            lower = buffer[2 * i * span : (2 * i + 1) * span]
            upper = buffer[(2 * i + 1) * span : (2 * i + 2) * span]
            for k in range(span):
                x = min(lower[k], np.uint32(lower[k] - p2))
                y = upper[k]
                high = np.uint32((np.uint64(y) * quotient) >> np.uint64(32))
                product = np.uint32(np.uint32(y * w) - np.uint32(high * p))
                lower[k] = np.uint32(x + product)
                upper[k] = np.uint32(x - product + p2)
        groups <<= 1


@kernel
def _inverse_stages(buffer: Any, table: Any, p: Any) -> None:
    """In: values below 2p in bit-reversed order. Out: below 2p, natural order, times n."""
    n = len(buffer) // 8
    p2 = np.uint32(p + p)
    span = 8
    groups = n >> 1
    while groups >= 1:
        for i in range(groups):
            w, quotient = table[groups + i, 0], np.uint64(table[groups + i, 1])
            lower = buffer[2 * i * span : (2 * i + 1) * span]
            upper = buffer[(2 * i + 1) * span : (2 * i + 2) * span]
            for k in range(span):
                x, y = lower[k], upper[k]
                total = np.uint32(x + y)
                lower[k] = min(total, np.uint32(total - p2))
                y = np.uint32(x - y + p2)
                high = np.uint32((np.uint64(y) * quotient) >> np.uint64(32))
                upper[k] = np.uint32(np.uint32(y * w) - np.uint32(high * p))
        span <<= 1
        groups >>= 1


@kernel
def _forward(coefficients: Any, table: Any, primes: Any, out: Any) -> None:
    count, n = coefficients.shape
    buffer = np.zeros(n * 8, np.uint32)
    for first in range(0, count, 8):
        lanes = min(8, count - first)
        for prime in range(2):
            p = primes[prime]
            p2, p4 = np.uint32(2 * p), np.uint32(4 * p)
            for lane in range(lanes):
                for k in range(n):
                    signed = np.int32(coefficients[first + lane, k])
                    # |signed| <= 2^31 < 4p, so this is below 4p
                    buffer[k * 8 + lane] = np.uint32(signed) + (p4 if signed < 0 else np.uint32(0))
            _forward_stages(buffer, table[prime], p, 1)
            for lane in range(lanes):
                for k in range(n):
                    value = buffer[k * 8 + lane]
                    value = min(value, np.uint32(value - p2))
                    out[first + lane, prime, k] = min(value, np.uint32(value - p))


@kernel
def _forward_columns(columns: Any, first: Any, last: Any, table: Any, primes: Any, out: Any) -> None:
    rows, _ = columns.shape
    n = out.shape[1]
    buffers = np.zeros((2, n * 8), np.uint32)
    width = 1
    while width < rows:
        width *= 2
    for column in range(first, last, 16):
        eights = min(16, last - column) // 8
        for prime in range(2):
            p = primes[prime]
            p2, p4 = np.uint32(2 * p), np.uint32(4 * p)
            for eight in range(eights):
                buffer = buffers[eight]
                for k in range(rows):
                    for lane in range(8):
                        signed = np.int32(columns[k, column + 8 * eight + lane])
                        buffer[k * 8 + lane] = np.uint32(signed) + (p4 if signed < 0 else np.uint32(0))
                buffer[rows * 8 : width * 8] = 0
                # A stage whose upper halves are zero only copies the lower ones: all such stages at once.
                for start in range(width * 8, n * 8, width * 8):
                    buffer[start : start + width * 8] = buffer[: width * 8]
                _forward_stages(buffer, table[prime], p, n // width)
            # Points lie multiples of 1 KB apart and share few cache sets: their lines are written whole, and once.
            for k in range(n):
                for eight in range(eights):
                    for lane in range(8):
                        value = buffers[eight, k * 8 + lane]
                        value = min(value, np.uint32(value - p2))
                        out[prime, k, column + 8 * eight + lane] = min(value, np.uint32(value - p))


@kernel
def _inverse(residues: Any, table: Any, primes: Any, out: Any) -> None:
    count, _, n = residues.shape
    buffer = np.zeros(n * 8, np.uint32)
    for first in range(0, count, 8):
        lanes = min(8, count - first)
        for prime in range(2):
            p = primes[prime]
            w, quotient = table[prime, 0, 0], np.uint64(table[prime, 0, 1])
            for lane in range(lanes):
                for k in range(n):
                    buffer[k * 8 + lane] = residues[first + lane, prime, k]
            _inverse_stages(buffer, table[prime], p)
            for lane in range(lanes):
                for k in range(n):
                    y = buffer[k * 8 + lane]
                    high = np.uint32((np.uint64(y) * quotient) >> np.uint64(32))
                    value = np.uint32(np.uint32(y * w) - np.uint32(high * p))
                    out[first + lane, prime, k] = min(value, np.uint32(value - p))
