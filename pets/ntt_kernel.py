"""The inner loops of `pets.ntt`.

Butterflies are Harvey's lazy ones (D. Harvey, "Faster arithmetic for number-theoretic transforms", 2014): for a
factor w its Shoup quotient w' = floor(w·2^32 / p) is stored beside it, and values stay below 4p < 2^32. Sixteen
polynomials are worked side by side, `[n][16]`, so that every stage, also the last ones, is plain 16-lane arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets.jit import kernel

LANES = 16
PARTS = 8  # of a buffer: one of 4096 rows is 256 KB, and an eighth of it fits the first-level cache

_WORD = ir.IntType(64)
_PAIRS = ir.VectorType(_WORD, LANES // 2)
_VALUES = ir.VectorType(ir.IntType(32), LANES)
_tools: Any = cgutils  # numba's helpers carry no types


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
def forward_rows(coefficients: Any, table: Any, primes: Any, out: Any) -> None:
    """int8 or int32 (count, n) to uint32 (count, 2, n) in NTT form, fully reduced. `table`: `pets.ntt.tables`."""
    count, n = coefficients.shape
    buffer = np.zeros(n * LANES, np.uint32)
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        for prime in range(2):
            p = primes[prime]
            p2, p4 = np.uint32(2 * p), np.uint32(4 * p)
            for tile in range(0, n, LANES):  # tiles of some cache lines are moved at a time
                for lane in range(lanes):
                    for k in range(tile, tile + LANES):
                        signed = np.int32(coefficients[first + lane, k])
                        # |signed| <= 2^31 < 4p, so this is below 4p
                        buffer[k * LANES + lane] = np.uint32(signed) + (p4 if signed < 0 else np.uint32(0))
            _forward_stages(buffer, table[prime], p, 1)
            for tile in range(0, n, LANES):
                for lane in range(lanes):
                    for k in range(tile, tile + LANES):
                        value = buffer[k * LANES + lane]
                        value = min(value, np.uint32(value - p2))
                        out[first + lane, prime, k] = min(value, np.uint32(value - p))


@kernel
def transform_columns(columns: Any, first: Any, last: Any, table: Any, primes: Any, out: Any) -> None:
    """Columns `first` (a multiple of LANES) to `last` of int8 or int32 (rows, d) to NTT form in uint32 (2, n, d)."""
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
def inverse_rows(residues: Any, table: Any, primes: Any, out: Any) -> None:
    """uint32 (count, 2, n) in NTT form to coefficients, fully reduced."""
    count, _, n = residues.shape
    buffer = np.zeros(n * LANES, np.uint32)
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        for prime in range(2):
            p = primes[prime]
            w, quotient = table[prime, 0, 0], np.uint64(table[prime, 0, 1])
            for tile in range(0, n, LANES):
                for lane in range(lanes):
                    for k in range(tile, tile + LANES):
                        buffer[k * LANES + lane] = residues[first + lane, prime, k]
            _inverse_stages(buffer, table[prime], p)
            for tile in range(0, n, LANES):
                for lane in range(lanes):
                    for k in range(tile, tile + LANES):
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
