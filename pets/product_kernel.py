"""The inner loops of `pets.product`: int8 rows times a public vector of small unsigned limbs.

Limbs have 7 bits, so that a product of a limb and a row's value has 15, and two of them fit 16 bits: one instruction
multiplies unsigned bytes by signed ones and adds neighbours (vpmaddubsw), another does all of it and adds to 32 bits
(vpdpbusd). Two signed limbs of 10 bits would want every row widened to 16 bits first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets.jit import kernel

LIMB_BITS = 7
LIMBS = 3
ROWS = 4  # worked at once: twelve sums hide the latency of their additions, and limbs are loaded a quarter as often
WIDTH = 64  # bytes; limbs are padded to a multiple of it with zeros: what follows a row in memory does not matter
PREFETCH = 4096  # bytes ahead: the hardware alone does not follow four short streams well
LINE = 64  # bytes of the cache
TILE = 64  # rows whose sums are reduced together

_WORD = ir.IntType(64)
_INT = ir.IntType(32)
_SHORT = ir.IntType(16)
_BYTE = ir.IntType(8)
_FOUR = ir.VectorType(_INT, ROWS)
_tools: Any = cgutils  # numba's helpers carry no types


@intrinsic
def _multiply_rows(_typing: Any, rows: Any, stride: Any, limbs: Any, width: Any, low: Any, high: Any) -> Any:
    """low[i] = Σ_j row_i[j]·(limb_0[j] + 2^7·limb_1[j]), high[i] = Σ_j row_i[j]·limb_2[j], for ROWS rows.

    All are addresses but two: rows lie `stride` bytes apart, and `width` bytes of each, a multiple of WIDTH, are read.
    Limbs: uint8 (3, width). Sums: int32, which hold d = 1024: 1024·128·127·129 < 2^31. Written in LLVM because no loop
    makes the compiler choose these instructions. Which there are is asked of the processor that numba compiles for,
    which need not be this one.
    """

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        rows, stride, limbs, width, low, high = args
        lanes, multiply_add = _best_instruction(context.codegen().magic_tuple()[2].split(","))
        vector, sums = ir.VectorType(_BYTE, 4 * lanes), ir.VectorType(_INT, lanes)
        totals = [[_tools.alloca_once_value(builder, sums([0] * lanes)) for _ in range(LIMBS)] for _ in range(ROWS)]
        with _tools.for_range_slice(builder, _WORD(0), width, _WORD(4 * lanes), _WORD) as (offset, _):
            place = builder.add(limbs, offset)
            parts = []
            for _ in range(LIMBS):
                parts.append(builder.load(builder.inttoptr(place, vector.as_pointer()), align=1))
                place = builder.add(place, width)
            place = builder.add(rows, offset)
            _prefetch(builder, builder.add(rows, builder.mul(offset, _WORD(ROWS))), 4 * lanes)
            for row in totals:
                values = builder.load(builder.inttoptr(place, vector.as_pointer()), align=1)
                for total, part in zip(row, parts, strict=True):
                    builder.store(multiply_add(builder, builder.load(total), part, values), total)
                place = builder.add(place, stride)
        shift = sums([LIMB_BITS] * lanes)
        firsts, lasts = [], []
        for row in totals:
            zero, one, two = (builder.load(total) for total in row)
            firsts.append(builder.add(zero, builder.shl(one, shift)))
            lasts.append(two)
        for address, four in ((low, firsts), (high, lasts)):
            builder.store(_add_lanes(builder, four), builder.inttoptr(address, _FOUR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 6), codegen


def _best_instruction(features: list[str]) -> tuple[int, Any]:
    """How many int32 a vector has, and what adds four byte products to each."""
    if "+avx512vnni" in features and "+avx512bw" in features:
        return 16, _dot_bytes("llvm.x86.avx512.vpdpbusd.512", 16)
    if "+avxvnni" in features:
        return 8, _dot_bytes("llvm.x86.avx512.vpdpbusd.256", 8)
    if "+avx512bw" in features:
        return 16, _add_pairs("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512", 16)
    if "+avx2" in features:
        return 8, _add_pairs("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd", 8)
    return 4, _plain_products


def _dot_bytes(name: str, lanes: int) -> Any:
    sums = ir.VectorType(_INT, lanes)

    def multiply_add(builder: Any, total: Any, limb: Any, values: Any) -> Any:
        function = _declare(builder, name, sums, [sums] * 3)
        return builder.call(function, [total, builder.bitcast(limb, sums), builder.bitcast(values, sums)])

    return multiply_add


def _add_pairs(bytes_name: str, shorts_name: str, lanes: int) -> Any:
    vector, shorts = ir.VectorType(_BYTE, 4 * lanes), ir.VectorType(_SHORT, 2 * lanes)
    sums = ir.VectorType(_INT, lanes)

    def multiply_add(builder: Any, total: Any, limb: Any, values: Any) -> Any:
        pairs = builder.call(_declare(builder, bytes_name, shorts, [vector] * 2), [limb, values])
        ones = shorts([1] * (2 * lanes))
        return builder.add(total, builder.call(_declare(builder, shorts_name, sums, [shorts] * 2), [pairs, ones]))

    return multiply_add


def _plain_products(builder: Any, total: Any, limb: Any, values: Any) -> Any:
    shorts = ir.VectorType(_SHORT, 16)
    products = builder.mul(builder.zext(limb, shorts), builder.sext(values, shorts))
    pairs = builder.add(_pick(builder, products, range(8)), _pick(builder, products, range(8, 16)))
    wide = builder.sext(pairs, ir.VectorType(_INT, 8))
    wide = builder.add(_pick(builder, wide, range(4)), _pick(builder, wide, range(4, 8)))
    return builder.add(total, wide)


def _add_lanes(builder: Any, four: list[Any]) -> Any:
    """One int32 (4,): the sum of all lanes of each of four vectors. Twice within quarters, then of the quarters."""
    lanes = four[0].type.count
    quarters = range(0, lanes, 4)
    while len(four) > 1:
        halves = []
        for a, b in zip(four[0::2], four[1::2], strict=True):
            even, odd = (
                _pick(builder, a, [at + q for q in quarters for at in (k, k + 2, lanes + k, lanes + k + 2)], b)
                for k in (0, 1)
            )
            halves.append(builder.add(even, odd))
        four = halves
    total = four[0]
    while lanes > 4:
        lanes //= 2
        total = builder.add(_pick(builder, total, range(lanes)), _pick(builder, total, range(lanes, 2 * lanes)))
    return total


def _pick(builder: Any, a: Any, lanes: Any, b: Any = None) -> Any:
    indices = list(lanes)
    return builder.shuffle_vector(a, a if b is None else b, ir.VectorType(_INT, len(indices))(indices))


def _prefetch(builder: Any, place: Any, width: int) -> None:
    """Bring ROWS·width bytes near that are PREFETCH bytes ahead, in the order in which they lie in memory."""
    function = _declare(builder, "llvm.prefetch.p0", ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
    for offset in range(0, ROWS * width, LINE):
        pointer = builder.inttoptr(builder.add(place, _WORD(PREFETCH + offset)), _BYTE.as_pointer())
        builder.call(function, [pointer, _INT(0), _INT(3), _INT(1)])  # to read, to keep, data


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return _tools.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


_multiply: Any = _multiply_rows


@kernel
def multiply_rows(rows: Any, limbs: Any, first: Any, last: Any, t: Any, out: Any) -> None:
    """out[i, r] = Σ_j rows[r, j]·u_i[j] mod t for rows `first` to `last`.

    `rows`: int8 (R, d), C order. `limbs`: uint8 (k, 3, width) of k vectors u. `out`: uint32 (k, R).
    """
    number, _, width = limbs.shape
    total, dim = rows.shape
    stride, step = np.uint64(dim), np.uint64(LIMBS * width)
    sums = np.empty((2, TILE), np.int32)
    low, high = np.uint64(sums[0].ctypes.data), np.uint64(sums[1].ctypes.data)
    # What stands behind the last rows is not ours to read: they are copied to where it is.
    safe = min(last, (total * dim - width) // dim + 1) // ROWS * ROWS if total * dim >= width else 0
    spare = np.zeros((TILE, width), np.int8)
    for tile in range(first, last, TILE):
        count = min(TILE, last - tile)
        source, pitch = np.uint64(rows.ctypes.data) + np.uint64(tile) * stride, stride
        if tile + TILE > safe:
            for i in range(count):
                for j in range(dim):
                    spare[i, j] = rows[tile + i, j]
            source, pitch = np.uint64(spare.ctypes.data), np.uint64(width)
        for i in range(number):
            part = np.uint64(limbs.ctypes.data) + np.uint64(i) * step
            place = source
            for group in range(0, count, ROWS):
                at = np.uint64(4 * group)
                _multiply(place, pitch, part, np.uint64(width), low + at, high + at)
                place += np.uint64(ROWS) * pitch
            _reduce(sums, t, out[i, tile : tile + count])


@kernel
def _reduce(sums: Any, t: Any, out: Any) -> None:
    """low + 2^14·high modulo t, which lies within 2^37 of 0, for t between 2^19 and 2^20."""
    shift = np.uint64(18)
    offset = np.uint64(t) << shift
    inverse = np.uint32((np.uint64(1) << np.uint64(50)) // np.uint64(t))
    modulus = np.uint32(t)
    low, high = sums[0], sums[1]
    for i in range(len(out)):
        value = np.uint64(np.int64(low[i]) + (np.int64(high[i]) << np.int64(2 * LIMB_BITS))) + offset
        quotient = (np.uint64(np.uint32(value >> shift)) * np.uint64(inverse)) >> np.uint64(32)  # at most 2 short
        rest = np.uint32(np.uint32(value) - np.uint32(quotient) * modulus)
        rest = min(rest, np.uint32(rest - modulus))
        out[i] = min(rest, np.uint32(rest - modulus))


@kernel
def share_products(
    values: Any, inverse: Any, shift: Any, masked: Any, offset: Any, first: Any, last: Any, out: Any
) -> None:
    """out = masked + ((values·inverse + half) >> shift) - offset, modulo 2^(64 - shift), for rows `first` to `last`."""
    half = np.uint64(1) << (shift - np.uint64(1))
    low = np.uint32((np.uint64(1) << (np.uint64(64) - shift)) - np.uint64(1))
    x, y, z = values[first:last], masked[first:last], out[first:last]
    for i in range(len(z)):
        share = np.uint32((np.uint64(x[i]) * inverse + half) >> shift)
        z[i] = np.uint32(np.uint32(share + y[i]) - offset) & low
