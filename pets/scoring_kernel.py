"""The inner loops of `pets.scoring`: long dot products of residues.

At every NTT point, prime and component a score is a dot product of d residues of the gallery and d of the probe.
`score_points` works four blocks against one probe, so that eight accumulators, the probe and the gallery fill sixteen
vector registers (AVX-512 has twice as many, and gains nothing from more blocks), and every residue that is loaded
serves several products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets.jit import kernel

TILE = 16  # points a tile: 16 results fill a cache line of the output
PADDING = 256  # words after a block: rows of four blocks that lie a multiple of 4 KB apart get in each other's way
PREFETCH = 2048  # bytes ahead: the hardware alone does not follow four short streams well
PRODUCTS_PER_FOLD = 16  # products of two residues that fit a uint64 beside a folded accumulator

# uint64 in a vector: 512 bits where the processor has them. Wrong on a wider or narrower one (numba can be told to
# compile for another) costs time only: LLVM splits vectors that are too long. numba's cache is keyed by the features.
MAX_LANES = 8
LANES = MAX_LANES if binding.get_host_cpu_features().get("avx512f") else 4

_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, LANES)
_LOW = ir.Constant(_VECTOR, [0xFFFFFFFF] * LANES)
_HALF = ir.Constant(_VECTOR, [32] * LANES)
_EIGHT_RESIDUES = ir.VectorType(_WORD, 4)
_tools: Any = cgutils  # numba's helpers carry no types


@intrinsic
def _load_word(_typing: Any, address: Any) -> Any:
    """The uint64 at an address."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

    return types.uint64(types.uint64), codegen


@intrinsic
def _prefetch_line(_typing: Any, address: Any) -> Any:
    """Bring the cache line of an address near; any address will do."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.uint64), codegen


@intrinsic(prefer_literal=True)
def _dot_blocks(_typing: Any, blocks: Any, gallery: Any, stride: Any, probe: Any, dim: Any, fold: Any, to: Any) -> Any:
    """to[b][comp] = Σ_j gallery[b][j]·probe[comp][j], folded below 2^54, b counting `blocks` blocks.

    `gallery`, `probe` and `to` are addresses: of uint32 (d) of the first block (the others `stride` bytes on), of
    uint32 (2, d), and of uint64 (blocks, 2). Two residues are read as one uint64: even ones are the low halves, odd
    ones the high halves, and the product of two halves is one vpmuludq (umull on ARM). Written in LLVM because the
    accumulators must stay in registers and their lanes must not be added before a fold, which no loop can say that
    is left to the compiler to vectorise.
    """

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, gallery, stride, probe, dim, fold, to = args
        totals = [[_tools.alloca_once_value(builder, _VECTOR([0] * LANES)) for _ in range(2)] for _ in range(number)]
        every = [total for pair in totals for total in pair]
        folds = _VECTOR(ir.Undefined)
        for lane in range(LANES):
            folds = builder.insert_element(folds, fold, _INDEX(lane))
        row = builder.mul(dim, _WORD(4))

        def multiply_add(offset: Any, load: Any) -> None:
            place = builder.add(probe, offset)
            halves = [load(builder, place), load(builder, builder.add(place, row))]
            place = builder.add(gallery, offset)
            for pair in totals:
                even, odd = load(builder, place)
                _prefetch(builder, builder.add(place, _WORD(PREFETCH)))
                place = builder.add(place, stride)
                for total, (probe_even, probe_odd) in zip(pair, halves, strict=True):
                    value = builder.add(builder.load(total), builder.mul(even, probe_even))
                    builder.store(builder.add(value, builder.mul(odd, probe_odd)), total)

        def fold_totals() -> None:
            for total in every:
                value = builder.load(total)
                high = builder.mul(builder.lshr(value, _HALF), builder.and_(folds, _LOW))
                builder.store(builder.add(builder.and_(value, _LOW), high), total)

        width = _WORD(8 * LANES)
        step = _WORD(PRODUCTS_PER_FOLD // 2 * 8 * LANES)
        whole = builder.and_(row, _WORD(-8 * LANES))
        with _tools.for_range_slice(builder, _WORD(0), whole, step, _WORD) as (start, _):
            stop = builder.add(start, step)
            stop = builder.select(builder.icmp_unsigned("<", stop, whole), stop, whole)
            with _tools.for_range_slice(builder, start, stop, width, _WORD) as (offset, _):
                multiply_add(offset, _halves)
            fold_totals()
        with builder.if_then(builder.icmp_unsigned("<", whole, row)):  # eight residues are left for a wider vector
            multiply_add(whole, _last_halves)
            fold_totals()
        for total in every:
            value = builder.load(total)
            lanes = [builder.extract_element(value, _INDEX(lane)) for lane in range(LANES)]
            while len(lanes) > 1:
                lanes = [builder.add(*pair) for pair in zip(lanes[0::2], lanes[1::2], strict=True)]
            builder.store(lanes[0], builder.inttoptr(to, _WORD.as_pointer()))
            to = builder.add(to, _WORD(8))
        return context.get_dummy_value()

    number = blocks.literal_value
    return types.void(blocks, *[types.uint64] * 6), codegen


def _halves(builder: Any, address: Any, kind: Any = _VECTOR) -> tuple[Any, Any]:
    vector = builder.load(builder.inttoptr(address, kind.as_pointer()))
    vector.align = 4
    if kind is not _VECTOR:
        indices = ir.Constant(ir.VectorType(_INDEX, LANES), list(range(LANES)))
        vector = builder.shuffle_vector(vector, kind([0] * kind.count), indices)
    return builder.and_(vector, _LOW), builder.lshr(vector, _HALF)


def _last_halves(builder: Any, address: Any) -> tuple[Any, Any]:
    return _halves(builder, address, _EIGHT_RESIDUES)


def _prefetch(builder: Any, address: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [pointer, _INDEX, _INDEX, _INDEX])
    function = _tools.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    read, keep, data = _INDEX(0), _INDEX(3), _INDEX(1)
    builder.call(function, [builder.inttoptr(address, pointer), read, keep, data])


_load: Any = _load_word
_fetch: Any = _prefetch_line
_dot: Any = _dot_blocks


@kernel
def score_points(
    gallery: Any, dim: Any, probes: Any, first: Any, last: Any, run: Any, chunk: Any, primes: Any, folds: Any, out: Any
) -> None:
    """Points `first` to `last` (multiples of TILE) of all blocks.

    `gallery`: uint32 (blocks, 2·n·dim + PADDING). `probes`: uint64, the addresses of uint32 (2 primes, n, 2 comps, dim)
    each. `run`: points that are worked in one go, a divisor of TILE. `chunk`: blocks a pass. `out`: uint32 (probes,
    blocks, 2 comps, 2 primes, n).
    """
    blocks, pitch = gallery.shape
    number, n = len(probes), out.shape[-1]
    width, stride = np.uint64(dim), np.uint64(4 * pitch)
    row = width * np.uint64(4)
    origin = np.uint64(gallery.ctypes.data)
    packed = np.empty((run, number, dim), np.uint64)
    packed_at = np.uint64(packed.ctypes.data)
    sums = np.zeros((run, number, 8), np.uint64)
    sums_at = np.uint64(sums.ctypes.data)
    done = np.empty((TILE, number, chunk * 2), np.uint32)
    for prime in range(2):
        p, fold = np.uint64(primes[prime]), folds[prime]
        for tile in range(first, last, TILE):
            for base in range(0, blocks, chunk):
                count = min(chunk, blocks - base)
                for start in range(0, TILE, run):
                    point = np.uint64(prime * n + tile + start)
                    source = probes[0] + point * row * np.uint64(2)
                    if number > 1:
                        # Probes lie multiples of 4 KB apart and would push each other out of the cache.
                        _pack(probes, point, row, packed)
                        source = packed_at
                    for block in range(0, count, 4):
                        group = min(4, count - block)
                        probe, to = source, sums_at
                        rows = origin + np.uint64(base + block) * stride + point * row
                        for _ in range(run):
                            for _ in range(number):
                                if group == 4:
                                    _dot(4, rows, stride, probe, width, fold, to)
                                elif group == 3:
                                    _dot(3, rows, stride, probe, width, fold, to)
                                elif group == 2:
                                    _dot(2, rows, stride, probe, width, fold, to)
                                else:
                                    _dot(1, rows, stride, probe, width, fold, to)
                                probe += row * np.uint64(2)
                                to += np.uint64(64)
                            rows += row
                        _reduce(sums, fold, p, done[start : start + run, :, 2 * block : 2 * block + 8])
                for i in range(number):
                    for b in range(count):
                        for comp in range(2):
                            for k in range(TILE):
                                out[i, base + b, comp, prime, tile + k] = done[k, i, 2 * b + comp]


@kernel
def _pack(probes: Any, point: Any, row: Any, packed: Any) -> None:
    """Some points of all probes, one after the other: packed[k][i] is point `point + k` of probe i."""
    run, number, words = packed.shape
    ahead = np.uint64(run) * row * np.uint64(2)  # the points that come next
    for k in range(run):
        for i in range(number):
            place = probes[i] + (point + np.uint64(k)) * row * np.uint64(2)
            for j in range(0, words, 8):
                _fetch(place + ahead + np.uint64(8 * j))
                for word in range(j, j + 8):
                    packed[k, i, word] = _load(place + np.uint64(8 * word))


@kernel
def _reduce(sums: Any, fold: Any, p: Any, out: Any) -> None:
    """Sums of at most `MAX_LANES` folded lanes, (points, probes, 8), to below p."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    p2, p4 = p << np.uint64(1), p << np.uint64(2)
    points, number, _ = sums.shape
    for k in range(points):
        for i in range(number):
            for j in range(8):
                value = sums[k, i, j]
                value = (value & low) + (value >> half) * fold
                value = (value & low) + (value >> half) * fold  # below 8p: `pets.scoring` checks it for each prime
                value = min(value, value - p4)
                value = min(value, value - p2)
                out[k, i, j] = np.uint32(min(value, value - p))
