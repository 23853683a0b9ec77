"""The negacyclic number-theoretic transform over Z_p[X]/(X^n + 1), for both primes at once.

Forward is Cooley-Tukey with the table W[bitrev(i)] = psi^i and output in bit-reversed order, inverse is
Gentleman-Sande (Longa and Naehrig, CANS 2016); psi is the smallest primitive 2n-th root of unity. This is the
order and the root that OpenFHE uses, so residues can be compared with its own word for word.

Butterflies are Harvey's lazy ones (D. Harvey, "Faster arithmetic for number-theoretic transforms", 2014): for a
factor w its Shoup quotient w' = floor(w·2^32 / p) is stored beside it, and values stay below 4p < 2^32. Sixteen
polynomials are worked side by side, `[n][16]`, so that every stage, also the last ones, is plain 16-lane arithmetic.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets.errors import CryptoError
from pets.jit import kernel
from pets.params import Parameters
from pets.residues import Residues, check_shape, prime_row
from pets.threads import check_threads, parallel_ranges

LANES = 16
PARTS = 8  # of a buffer: one of 4096 rows is 256 KB, and an eighth of it fits the first-level cache

_WORD = ir.IntType(64)
_PAIRS = ir.VectorType(_WORD, LANES // 2)
_VALUES = ir.VectorType(ir.IntType(32), LANES)
_tools: Any = cgutils  # numba's helpers carry no types


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
    if rows > params.n or dim % 8 or not out.flags.c_contiguous:
        raise CryptoError(f"cannot transform {rows} rows of {dim} columns at ring dimension {params.n}")
    check_threads(threads)
    source, table, primes = np.ascontiguousarray(columns), tables(params)[0], prime_row(params)
    # Whole groups of columns, so that threads never share a cache line of `out`.
    parallel_ranges(lambda i, j: _forward_columns(source, i, j, table, primes, out), dim, threads, grain=LANES)


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


@intrinsic(prefer_literal=True)
def _loop_of_butterflies(_typing: Any, forward: Any, lower: Any, size: Any, w: Any, quotient: Any, p: Any) -> Any:
    """Butterflies of the `size` bytes at `lower` with the `size` bytes after them; all but `forward` are uint64.

        forward    x, y below 4p:  (x mod 2p) + y·w,  (x mod 2p) - y·w + 2p
        inverse    x, y below 2p:  (x + y) mod 2p,    (x - y + 2p)·w

    Values are multiplied as the halves of uint64, like in `pets.scoring_kernel`; the compiler, left to itself, widens
    and packs them again, which takes twice as long.
    """

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, lower, size, *factors = args
        low, half = _PAIRS([0xFFFFFFFF] * (LANES // 2)), _PAIRS([32] * (LANES // 2))
        splats = []
        for factor in factors:
            splat = builder.insert_element(_PAIRS(ir.Undefined), factor, ir.IntType(32)(0))
            splats.append(builder.shuffle_vector(splat, splat, ir.VectorType(ir.IntType(32), LANES // 2)([0] * 8)))
        modulus = builder.bitcast(builder.or_(splats[2], builder.shl(splats[2], half)), _VALUES)
        twice = builder.add(modulus, modulus)

        def reduce(value: Any) -> Any:
            less = builder.sub(value, twice)
            return builder.select(builder.icmp_unsigned("<", value, less), value, less)

        def product(value: Any) -> Any:
            w, quotient, p = (builder.and_(splat, low) for splat in splats)  # says that they have 32 bits
            pair = builder.bitcast(value, _PAIRS)
            rests = []
            for y in (builder.and_(pair, low), builder.lshr(pair, half)):
                high = builder.lshr(builder.mul(y, quotient), half)
                rests.append(builder.sub(builder.mul(y, w), builder.mul(high, p)))
            even, odd = rests
            return builder.bitcast(builder.or_(builder.and_(even, low), builder.shl(odd, half)), _VALUES)

        with _tools.for_range_slice(builder, _WORD(0), size, _WORD(4 * LANES), _WORD) as (offset, _):
            place = builder.add(lower, offset)
            at_x = builder.inttoptr(place, _VALUES.as_pointer())
            at_y = builder.inttoptr(builder.add(place, size), _VALUES.as_pointer())
            x, y = builder.load(at_x, align=4), builder.load(at_y, align=4)
            if forward.literal_value:
                x, y = reduce(x), product(y)
                total, difference = builder.add(x, y), builder.add(builder.sub(x, y), twice)
            else:
                total = reduce(builder.add(x, y))
                difference = product(builder.add(builder.sub(x, y), twice))
            builder.store(total, at_x, align=4)
            builder.store(difference, at_y, align=4)
        return context.get_dummy_value()

    return types.void(forward, *[types.uint64] * 5), codegen


_butterflies: Any = _loop_of_butterflies


@kernel
def _forward(coefficients: Any, table: Any, primes: Any, out: Any) -> None:
    count, n = coefficients.shape
    buffer = np.zeros(n * LANES, np.uint32)
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        for prime in range(2):
            p = primes[prime]
            p2, p4 = np.uint32(2 * p), np.uint32(4 * p)
            for lane in range(lanes):
                for k in range(n):
                    signed = np.int32(coefficients[first + lane, k])
                    # |signed| <= 2^31 < 4p, so this is below 4p
                    buffer[k * LANES + lane] = np.uint32(signed) + (p4 if signed < 0 else np.uint32(0))
            _forward_stages(buffer, table[prime], p, 1)
            for lane in range(lanes):
                for k in range(n):
                    value = buffer[k * LANES + lane]
                    value = min(value, np.uint32(value - p2))
                    out[first + lane, prime, k] = min(value, np.uint32(value - p))


@kernel
def _forward_columns(columns: Any, first: Any, last: Any, table: Any, primes: Any, out: Any) -> None:
    rows, _ = columns.shape
    n = out.shape[1]
    buffer = np.zeros(n * LANES, np.uint32)
    width = 1
    while width < rows:
        width *= 2
    for column in range(first, last, LANES):
        lanes = min(LANES, last - column)  # 8 or 16
        for prime in range(2):
            p = primes[prime]
            p2, p4 = np.uint32(2 * p), np.uint32(4 * p)
            for k in range(rows):
                row_in, row_to = columns[k, column : column + lanes], buffer[k * LANES : k * LANES + lanes]
                for lane in range(lanes):
                    signed = np.int32(row_in[lane])
                    row_to[lane] = np.uint32(signed) + (p4 if signed < 0 else np.uint32(0))
            buffer[rows * LANES : width * LANES] = 0
            # A stage whose upper halves are zero only copies the lower ones: all such stages at once.
            for start in range(width * LANES, n * LANES, width * LANES):
                buffer[start : start + width * LANES] = buffer[: width * LANES]
            _forward_stages(buffer, table[prime], p, n // width)
            # Points lie multiples of 1 KB apart and share few cache sets: their lines are written whole, and once.
            for k in range(n):
                row, to = buffer[k * LANES : k * LANES + lanes], out[prime, k, column : column + lanes]
                for lane in range(lanes):
                    value = row[lane]
                    value = min(value, np.uint32(value - p2))
                    to[lane] = min(value, np.uint32(value - p))


@kernel
def _inverse(residues: Any, table: Any, primes: Any, out: Any) -> None:
    count, _, n = residues.shape
    buffer = np.zeros(n * LANES, np.uint32)
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        for prime in range(2):
            p = primes[prime]
            w, quotient = table[prime, 0, 0], np.uint64(table[prime, 0, 1])
            for lane in range(lanes):
                for k in range(n):
                    buffer[k * LANES + lane] = residues[first + lane, prime, k]
            _inverse_stages(buffer, table[prime], p)
            for lane in range(lanes):
                for k in range(n):
                    y = buffer[k * LANES + lane]
                    high = np.uint32((np.uint64(y) * quotient) >> np.uint64(32))
                    value = np.uint32(np.uint32(y * w) - np.uint32(high * p))
                    out[first + lane, prime, k] = min(value, np.uint32(value - p))


@kernel
def _forward_stages(buffer: Any, table: Any, p: Any, groups: Any) -> None:
    """In: values below 4p in natural order. Out: below 4p, bit-reversed order. Begins with the stage of `groups`."""
    n = len(buffer) // LANES
    while groups < PARTS and groups < n:
        _forward_stage(buffer, table, p, groups, 0, groups)
        groups *= 2
    # From here on the parts do not meet any more: each goes through all stages while it is in the first-level cache.
    for part in range(PARTS):
        stage = groups
        while stage < n:
            _forward_stage(buffer, table, p, stage, stage // PARTS * part, stage // PARTS * (part + 1))
            stage *= 2


@kernel
def _forward_stage(buffer: Any, table: Any, p: Any, groups: Any, first: Any, last: Any) -> None:
    size = np.uint64(2 * len(buffer) // groups)  # bytes of half a group
    lower = np.uint64(buffer.ctypes.data) + np.uint64(2 * first) * size
    for i in range(first, last):
        _butterflies(True, lower, size, np.uint64(table[i + groups, 0]), np.uint64(table[i + groups, 1]), np.uint64(p))
        lower += np.uint64(2) * size


@kernel
def _inverse_stages(buffer: Any, table: Any, p: Any) -> None:
    """In: values below 2p in bit-reversed order. Out: below 2p, natural order, times n."""
    groups = len(buffer) // LANES // 2
    for part in range(PARTS):
        stage = groups
        while stage >= PARTS:
            _inverse_stage(buffer, table, p, stage, stage // PARTS * part, stage // PARTS * (part + 1))
            stage //= 2
    groups = PARTS // 2
    while groups >= 1:
        _inverse_stage(buffer, table, p, groups, 0, groups)
        groups //= 2


@kernel
def _inverse_stage(buffer: Any, table: Any, p: Any, groups: Any, first: Any, last: Any) -> None:
    size = np.uint64(2 * len(buffer) // groups)
    lower = np.uint64(buffer.ctypes.data) + np.uint64(2 * first) * size
    for i in range(first, last):
        _butterflies(False, lower, size, np.uint64(table[i + groups, 0]), np.uint64(table[i + groups, 1]), np.uint64(p))
        lower += np.uint64(2) * size
