"""Ciphertexts in the order that the scoring kernel reads: residues of all d ciphertexts at one point side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets.jit import kernel

TILE = 16  # points and ciphertexts a tile: a cache line of either side
SIDE = 8  # of the squares that are transposed in registers

_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)
_VECTOR = ir.VectorType(_INDEX, SIDE)
_tools: Any = cgutils  # numba's helpers carry no types


@intrinsic
def _transpose_square(_typing: Any, source: Any, source_row: Any, target: Any, target_row: Any, largest: Any) -> Any:
    """A square of SIDE × SIDE uint32, from address to address, rows becoming columns; row lengths in bytes.

    Rounds of interleaving row i with row i + SIDE/2, in registers: left to itself, LLVM moves single words. The rows a
    tile further on are prefetched: no hardware prefetch follows rows that lie 64 KB apart. The SIDE values at `largest`
    are raised to what passes.
    """

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        source, source_row, target, target_row, largest = args
        byte = ir.IntType(8).as_pointer()
        signature = ir.FunctionType(ir.VoidType(), [byte, _INDEX, _INDEX, _INDEX])
        prefetch = _tools.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
        ahead = builder.mul(source_row, _WORD(TILE))
        place_of_largest = builder.inttoptr(largest, _VECTOR.as_pointer())
        most = builder.load(place_of_largest, align=4)
        rows = []
        for _ in range(SIDE):
            rows.append(builder.load(builder.inttoptr(source, _VECTOR.as_pointer()), align=4))
            most = builder.select(builder.icmp_unsigned(">", rows[-1], most), rows[-1], most)
            place = builder.inttoptr(builder.add(source, ahead), byte)
            builder.call(prefetch, [place, _INDEX(0), _INDEX(3), _INDEX(1)])  # to read, to keep, data
            source = builder.add(source, source_row)
        builder.store(most, place_of_largest, align=4)
        picks = [[i // 2 + i % 2 * SIDE for i in range(start, start + SIDE)] for start in (0, SIDE)]
        halves = [ir.Constant(_VECTOR, pick) for pick in picks]
        for _ in range(SIDE.bit_length() - 1):
            pairs = list(zip(rows[: SIDE // 2], rows[SIDE // 2 :], strict=True))
            rows = [builder.shuffle_vector(upper, lower, half) for upper, lower in pairs for half in halves]
        for row in rows:
            builder.store(row, builder.inttoptr(target, _VECTOR.as_pointer()), align=4)
            target = builder.add(target, target_row)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 5), codegen


_square: Any = _transpose_square


@kernel
def interleave(source: Any, first: Any, last: Any, out: Any, largest: Any) -> None:
    """(d, 2 comps, 2 primes, n) to (2 primes, n, 2 comps, d), points `first` to `last` (multiples of TILE).

    Both are uint32 in C order, d a multiple of SIDE. `largest`: uint32 (2 primes, n/TILE), gets the largest value of
    each tile of points, so that whoever must check the values need not read them again.
    """
    dim, _, _, n = source.shape
    source_row, out_row = np.uint64(16 * n), np.uint64(8 * dim)
    most = np.empty(SIDE, np.uint32)
    for prime in range(2):
        for start in range(first, last, TILE):
            most[:] = 0
            for comp in range(2):
                place = np.uint64(source.ctypes.data) + np.uint64(4 * ((comp * 2 + prime) * n + start))
                to = np.uint64(out.ctypes.data) + np.uint64(4 * ((prime * n + start) * 2 + comp) * dim)
                for tile in range(0, dim, TILE):
                    for j in range(tile, min(dim, tile + TILE), SIDE):
                        for k in range(0, TILE, SIDE):
                            square = place + np.uint64(j) * source_row + np.uint64(4 * k)
                            goal = to + np.uint64(k) * out_row + np.uint64(4 * j)
                            _square(square, source_row, goal, out_row, np.uint64(most.ctypes.data))
            largest[prime, start // TILE] = most.max()
