"""The holder's part of the filter: every score of a block as one ciphertext, without a key (DESIGN, section 5, Score).

::

    p_j(X)  = Σ_i D[i][j]·X^i            column j of a block of n rows, in NTT form
    ct      = Σ_j p_j · ct_j             both components, both primes
    Dec(ct) = Σ_j q_j · p_j(X)           so coefficient i is the score of row i

In NTT form the sum is, at each of the n points, prime and component, a dot product of length d. The gallery keeps
the d residues of a point together, (blocks, 2 primes, n, d), and so does the probe: both are read in the order they
lie in memory, and one point's probe (4 KB at d = 512) stays in the first-level cache for many blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets import ntt
from pets.errors import CryptoError, GalleryError, ParameterError
from pets.jit import kernel
from pets.params import Parameters, check_dim
from pets.residues import Residues, check_residues, check_shape, prime_row
from pets.threads import check_threads, parallel_ranges

TILE = 16  # points a tile: 16 results fill a cache line of the output
PADDING = 256  # words after a block: rows of four blocks that lie multiples of 4 KB apart would share cache sets
PRODUCTS_PER_FOLD = 16  # products of two residues that fit a uint64 beside a folded accumulator


@dataclass(frozen=True, eq=False)
class EncodedGallery:
    """A gallery in NTT form, made by `encode_gallery`.

    `rows`: templates in it. `dim`: d. `data`: uint32 (blocks, 2·n·d + PADDING), a block being (2 primes, n, d) and
    the padding: 8·d bytes a row.
    """

    rows: int
    dim: int
    params: Parameters
    data: Residues

    @property
    def blocks(self) -> int:
        """Blocks of n rows; those beyond `rows` are zero."""
        return len(self.data)


@dataclass(frozen=True, eq=False)
class ScoringProbe:
    """An encrypted probe in the order the kernel reads it, made by `prepare_probe`: uint32 (2 primes, n, 2 comps, d)."""

    dim: int
    params: Parameters
    data: Residues


def encode_gallery(
    templates: npt.NDArray[Any],
    params: Parameters,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> EncodedGallery:
    """Turn quantised templates into blocks of polynomials.

    `templates`: int8 or int32 (rows, d), d a multiple of 8 up to 1024; no rows give no blocks. `progress` is called
    after each block with the number of rows done so far. Raises `GalleryError` for another dtype or shape.
    """
    if not isinstance(templates, np.ndarray) or templates.dtype not in (np.int8, np.int32) or templates.ndim != 2:
        got = f"{templates.dtype} {templates.shape}" if isinstance(templates, np.ndarray) else type(templates).__name__
        raise GalleryError(f"templates must be int8 or int32 shaped (rows, d), got {got}")
    check_threads(threads)
    rows, dim = templates.shape[0], check_dim(templates.shape[1])
    blocks = -(-rows // params.n)
    size = 2 * params.n * dim
    data = np.zeros((blocks, size + PADDING), np.uint32)
    for block in range(blocks):
        part = templates[block * params.n : (block + 1) * params.n]
        ntt.forward_columns(part, data[block, :size].reshape(2, params.n, dim), params, threads)
        if progress is not None:
            progress(min(rows, (block + 1) * params.n))
    return EncodedGallery(rows, dim, params, data)


def prepare_probe(ciphertexts: Residues, params: Parameters, threads: int = 1) -> ScoringProbe:
    """Put d ciphertexts, uint32 (d, 2 comps, 2 primes, n) in NTT form, in the order `score` reads them.

    Raises `CryptoError` for another dtype or shape and `ResidueOutOfRange` for a value not below its prime.
    """
    check_shape(ciphertexts, (None, 2, 2, params.n), "ciphertexts")
    check_threads(threads)
    dim = check_dim(len(ciphertexts))
    check_residues(ciphertexts, params, "ciphertexts")
    source = np.ascontiguousarray(ciphertexts)
    data = np.empty((2, params.n, 2, dim), np.uint32)
    parallel_ranges(lambda i, j: _interleave(source, i, j, data), params.n, threads, grain=16)
    return ScoringProbe(dim, params, data)


def score(
    gallery: EncodedGallery, probe: ScoringProbe, first_block: int = 0, count: int | None = None, threads: int = 1
) -> Residues:
    """Σ_j p_j·ct_j of `count` blocks from `first_block` (all that follow, if not given).

    Returns uint32 (count, 2 comps, 2 primes, n), NTT form, fully reduced: a ciphertext of the scores, NOT yet
    re-randomised. Raises `CryptoError` for a probe of another shape or ring, `ParameterError` for blocks that
    are not there.
    """
    out: Residues = score_many(gallery, [probe], first_block, count, threads)[0]
    return out


def score_many(
    gallery: EncodedGallery,
    probes: Sequence[ScoringProbe],
    first_block: int = 0,
    count: int | None = None,
    threads: int = 1,
) -> Residues:
    """Like `score` for several probes in one pass over the gallery.

    Returns uint32 (probes, count, 2 comps, 2 primes, n).
    """
    count = gallery.blocks - first_block if count is None else count
    if not 0 <= first_block <= first_block + count <= gallery.blocks:
        raise ParameterError(f"blocks {first_block}…{first_block + count} of a gallery of {gallery.blocks}")
    for probe in probes:
        if probe.dim != gallery.dim or probe.params != gallery.params:
            raise CryptoError(
                f"a probe of dimension {probe.dim} ({probe.params.preset}) does not fit a gallery of dimension "
                f"{gallery.dim} ({gallery.params.preset})"
            )
    check_threads(threads)
    n = gallery.params.n
    out = np.empty((len(probes), count, 2, 2, n), np.uint32)
    if not out.size:
        return out
    data = gallery.data[first_block : first_block + count]
    dim = gallery.dim
    addresses = np.array([probe.data.ctypes.data for probe in probes], np.uint64)
    run, chunk = _loop_sizes(len(probes))
    primes, folds = prime_row(gallery.params), _folds(gallery.params)
    parallel_ranges(
        lambda i, j: _score(data, dim, addresses, i, j, run, chunk, primes, folds, out), n, threads, grain=TILE
    )
    return out


def _loop_sizes(probes: int) -> tuple[int, int]:
    """Points that are worked in one run of a block, and blocks whose sums are kept at a time.

    Long runs suit the memory, but the run's part of all probes should stay in the second-level cache.
    """
    import os

    run, chunk = int(os.environ.get("RUN", 0)), int(os.environ.get("CHUNK", 0))
    return run or max(2, TILE // probes), chunk or max(4, 64 // probes)


@lru_cache(maxsize=16)
def _folds(params: Parameters) -> npt.NDArray[np.uint64]:
    """2^32 mod p for both primes: a 64-bit sum v folds to (v mod 2^32) + (v >> 32)·(2^32 mod p), equal to v mod p.

    Raises `ParameterError` for primes too far below 2^30 for the sums of the kernel.
    """
    folds = [2**32 % p for p in params.primes]
    for p, fold in zip(params.primes, folds, strict=True):
        folded = (2**32 - 1) * (1 + fold)
        fits = PRODUCTS_PER_FOLD * (p - 1) ** 2 + folded < 2**64
        for value in (4 * folded, (2**32 - 1) + (4 * folded >> 32) * fold):  # the two folds of `_reduce`
            last = (2**32 - 1) + (value >> 32) * fold
        if not fits or last >= 8 * p:
            raise ParameterError(f"prime {p} is too far below 2^30 for 64-bit sums of {PRODUCTS_PER_FOLD} products")
    out = np.array(folds, np.uint64)
    out.setflags(write=False)
    return out


def _vector(value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(64), 4), [value] * 4)


@intrinsic(prefer_literal=True)
def _dot(_typing: Any, blocks: Any, gallery: Any, stride: Any, probe: Any, dim: Any, fold: Any, sums: Any) -> Any:
    """sums[b][comp] = Σ_j gallery[b][j]·probe[comp][j] mod p, folded below 2^53, for `blocks` blocks `stride` bytes apart.

    `gallery`, `probe`, `sums` are addresses: uint32 (d), (2, d) and uint64 (blocks, 2). Written in LLVM because the
    accumulators must stay in registers and their four lanes must not be added before a fold, which no loop
    that the compiler vectorises by itself can say. Eight residues are read as four uint64: even ones are the low halves and
    odd ones the high halves, and a product of two halves is one vpmuludq (umull on ARM).
    """
    vector = ir.VectorType(ir.IntType(64), 4)
    word = ir.IntType(64)
    number = blocks.literal_value

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, gallery, stride, probe, dim, fold, sums = args
        low, half = _vector(0xFFFFFFFF), _vector(32)

        def at(address: Any) -> Any:
            loaded = builder.load(builder.inttoptr(address, vector.as_pointer()))
            loaded.align = 4
            return builder.and_(loaded, low), builder.lshr(loaded, half)

        lanes = ir.Constant(vector, ir.Undefined)
        for lane in range(4):
            lanes = builder.insert_element(lanes, fold, ir.Constant(ir.IntType(32), lane))
        accumulators = [[cgutils.alloca_once_value(builder, _vector(0)) for _ in range(2)] for _ in range(number)]

        def constant(value: int) -> Any:
            return ir.Constant(word, value)

        row = builder.mul(dim, constant(4))
        step = PRODUCTS_PER_FOLD // 2 * 32
        with cgutils.for_range_slice(builder, constant(0), row, constant(step), word) as (start, _):
            stop = builder.add(start, constant(step))
            stop = builder.select(builder.icmp_unsigned("<", stop, row), stop, row)
            with cgutils.for_range_slice(builder, start, stop, constant(32), word) as (offset, _):
                place = builder.add(probe, offset)
                probes = [at(place), at(builder.add(place, row))]
                place = builder.add(gallery, offset)
                for block in range(number):
                    even, odd = at(place)
                    place = builder.add(place, stride)
                    for comp in range(2):
                        total = builder.load(accumulators[block][comp])
                        total = builder.add(total, builder.mul(even, probes[comp][0]))
                        total = builder.add(total, builder.mul(odd, probes[comp][1]))
                        builder.store(total, accumulators[block][comp])
            for pair in accumulators:
                for accumulator in pair:
                    total = builder.load(accumulator)
                    total = builder.add(
                        builder.and_(total, low), builder.mul(builder.lshr(total, half), builder.and_(lanes, low))
                    )
                    builder.store(total, accumulator)
        place = sums
        for pair in accumulators:
            for accumulator in pair:
                total = builder.load(accumulator)
                parts = [builder.extract_element(total, ir.Constant(ir.IntType(32), lane)) for lane in range(4)]
                total = builder.add(builder.add(parts[0], parts[1]), builder.add(parts[2], parts[3]))
                builder.store(total, builder.inttoptr(place, word.as_pointer()))
                place = builder.add(place, constant(8))
        return context.get_dummy_value()

    return types.void(blocks, *[types.uint64] * 6), codegen


@intrinsic
def _word(_typing: Any, address: Any) -> Any:
    """The uint64 at an address."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.uint64(types.uint64), codegen


@kernel
def _score(
    gallery: Any, dim: Any, probes: Any, first: Any, last: Any, run: Any, chunk: Any, primes: Any, folds: Any, out: Any
) -> None:
    """Points `first` to `last` of all blocks. `run` and `chunk`: see `_loop_sizes`."""
    blocks, pitch = gallery.shape
    number, n = len(probes), out.shape[-1]
    width, stride = np.uint64(dim), np.uint64(4 * pitch)
    row = width * np.uint64(4)
    origin = np.uint64(gallery.ctypes.data)
    packed = np.empty((run, number, dim), np.uint64)
    packed_at = np.uint64(packed.ctypes.data)
    sums = np.zeros((run, number, 4, 2), np.uint64)
    sums_at = np.uint64(sums.ctypes.data)
    done = np.empty((number, chunk, 2, TILE), np.uint32)
    for prime in range(2):
        p, fold = np.uint64(primes[prime]), folds[prime]
        for tile in range(first, last, TILE):
            for base in range(0, blocks, chunk):
                count = min(chunk, blocks - base)
                for start in range(0, TILE, run):
                    point = np.uint64(prime * n + tile + start)
                    # Probes lie multiples of 4 KB apart and would push each other out of the cache: copy them together.
                    for k in range(run):
                        for i in range(number):
                            place = probes[i] + (point + np.uint64(k)) * row * np.uint64(2)
                            for j in range(dim):
                                packed[k, i, j] = _word(place + np.uint64(8 * j))
                    for block in range(0, count, 4):
                        group = min(4, count - block)
                        probe, to = packed_at, sums_at
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
                        _reduce(sums.reshape(-1), fold, p)
                        for k in range(run):
                            for i in range(number):
                                for b in range(group):
                                    for comp in range(2):
                                        done[i, block + b, comp, start + k] = sums[k, i, b, comp]
                for i in range(number):
                    for b in range(count):
                        for comp in range(2):
                            for k in range(TILE):
                                out[i, base + b, comp, prime, tile + k] = done[i, b, comp, k]


@kernel
def _reduce(sums: Any, fold: Any, p: Any) -> None:
    """Sums of four folded lanes to below p."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    p2, p4 = p << np.uint64(1), p << np.uint64(2)
    for i in range(len(sums)):
        value = sums[i]
        value = (value & low) + (value >> half) * fold
        value = (value & low) + (value >> half) * fold  # below 8p, see `_folds`
        value = min(value, value - p4)
        value = min(value, value - p2)
        sums[i] = min(value, value - p)


@kernel
def _interleave(source: Any, first: Any, last: Any, out: Any) -> None:
    """(d, 2 comps, 2 primes, n) to (2 primes, n, 2 comps, d), in tiles of 16 by 16 so that whole cache lines are used."""
    dim = len(source)
    for prime in range(2):
        for start in range(first, last, 16):
            for comp in range(2):
                for j in range(0, dim, 8):
                    for k in range(start, start + 16):
                        for i in range(8):
                            out[prime, k, comp, j + i] = source[j + i, comp, prime, k]
