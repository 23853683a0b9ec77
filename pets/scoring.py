"""Scoring rows under an encrypted mask: the scores of a block as one ciphertext, without a key (DESIGN, section 5).

::

    p_j(X)  = Σ_i D[i][j]·X^i            column j of a block of n rows, in NTT form
    ct      = Σ_j p_j · ct_j             both components, both primes
    Dec(ct) = Σ_j q_j · p_j(X)           so coefficient i is the score of row i

In NTT form the sum is, at each of the n points, prime and component, a dot product of length d. Blocks in NTT form
keep the d residues of a point together, (blocks, 2 primes, n, d), and so does the probe: both are read in the order
they lie in memory, and one point's probe (4 KB at d = 512) stays in the first-level cache for many blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pets import ntt
from pets.allocator import pages_apart
from pets.errors import CryptoError, GalleryError, ParameterError
from pets.interleaving import interleave
from pets.params import Parameters, check_dim
from pets.residues import Residues, check_residues, check_shape, prime_row
from pets.scoring_kernel import MAX_LANES, PADDING, PRODUCTS_PER_FOLD, TILE, score_points
from pets.threads import check_threads, parallel_ranges

SCRATCH_BYTES = 1 << 27  # for blocks that are in NTT form for one pass only


@dataclass(frozen=True, eq=False)
class ScoringProbe:
    """An encrypted mask in the order the kernel reads it, made by `prepare_probe`.

    `dim`: d. `data`: uint32 (2 primes, n, 2 comps, d).
    """

    dim: int
    params: Parameters
    data: Residues

    def __post_init__(self) -> None:
        _check_data(self.data, (2, self.params.n, 2, self.dim), "probe data")


def _check_rows(templates: npt.NDArray[Any]) -> tuple[int, int]:
    if not isinstance(templates, np.ndarray) or templates.dtype not in (np.int8, np.int32) or templates.ndim != 2:
        got = f"{templates.dtype} {templates.shape}" if isinstance(templates, np.ndarray) else type(templates).__name__
        raise GalleryError(f"templates must be int8 or int32 shaped (rows, d), got {got}")
    return templates.shape[0], check_dim(templates.shape[1])


def _room(blocks: int, dim: int, params: Parameters) -> Residues:
    """Memory for blocks in NTT form, the padding cleared."""
    size = 2 * params.n * dim
    data = np.empty((blocks, size + PADDING), np.uint32)
    data[:, size:] = 0
    return data


def _encode_block(templates: npt.NDArray[Any], block: int, to: Residues, params: Parameters, threads: int) -> None:
    """One block of n templates, or as many as are left, in NTT form."""
    part = templates[block * params.n : (block + 1) * params.n]
    _touch_pages(to, threads)
    dim = part.shape[1]
    ntt.forward_columns(part, to[: 2 * params.n * dim].reshape(2, params.n, dim), params, threads)


def _touch_pages(fresh: Residues, threads: int) -> None:
    """One thread for each page: where several meet in a new one, each of them fetches and clears a page."""
    parallel_ranges(lambda i, j: fresh[i:j:1024].fill(0), len(fresh), threads, grain=1 << 19)


def prepare_probe(ciphertexts: Residues, params: Parameters, threads: int = 1) -> ScoringProbe:
    """Put d ciphertexts, uint32 (d, 2 comps, 2 primes, n) in NTT form, in the order the kernel reads them.

    Raises `CryptoError` for another dtype or shape and `ResidueOutOfRange` for a value not below its prime.
    """
    check_shape(ciphertexts, (None, 2, 2, params.n), "ciphertexts")
    check_threads(threads)
    dim = check_dim(len(ciphertexts))
    source = np.ascontiguousarray(ciphertexts)
    data = pages_apart((2, params.n, 2, dim), np.uint32)
    largest = np.empty((2, params.n // TILE), np.uint32)
    parallel_ranges(lambda i, j: interleave(source, i, j, data, largest), params.n, threads, grain=TILE)
    if (largest >= prime_row(params)[:, None]).any():
        check_residues(ciphertexts, params, "ciphertexts")  # names the value
    return ScoringProbe(dim, params, data)


def score_rows(
    rows: npt.NDArray[Any],
    probes: Sequence[ScoringProbe],
    params: Parameters,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Residues:
    """Σ_j p_j·ct_j of every block and probe, a few blocks at a time: nothing stays in NTT form, 8·d bytes a row.

    `rows`: int8 or int32 (R, d), d a multiple of 8 up to 1024. Each block is transformed once for all probes, and
    beside the result at most `SCRATCH_BYTES`, or four blocks, are in use. `progress` is called with the number of rows
    done so far. Returns uint32 (probes, ceil(R/n), 2 comps, 2 primes, n), NTT form, fully reduced: ciphertexts of the
    scores, NOT yet re-randomised. A function of (rows, probe) modulo Q, additive in the rows. Raises
    `GalleryError` for another dtype or shape, `ParameterError` for another d, `CryptoError` for a probe of another
    dimension or ring.
    """
    count, dim = _check_rows(rows)
    _check_probes(probes, dim, params)
    check_threads(threads)
    _folds(params)
    blocks = -(-count // params.n)
    out = np.empty((len(probes), blocks, 2, 2, params.n), np.uint32)
    if not out.size:
        return out
    group = min(blocks, max(4, SCRATCH_BYTES // (8 * params.n * dim)))
    data = _room(group, dim, params)
    for first in range(0, blocks, group):
        number = min(group, blocks - first)
        for k in range(number):
            _encode_block(rows, first + k, data[k], params, threads)
        out[:, first : first + number] = _score_blocks(data[:number], dim, probes, params, threads)
        if progress is not None:
            progress(min(count, (first + number) * params.n))
    return out


def _check_probes(probes: Sequence[ScoringProbe], dim: int, params: Parameters) -> None:
    for probe in probes:
        if probe.dim != dim or probe.params != params:
            raise CryptoError(
                f"a probe of dimension {probe.dim} ({probe.params.preset}) does not fit a gallery of dimension "
                f"{dim} ({params.preset})"
            )


def _score_blocks(
    data: Residues, dim: int, probes: Sequence[ScoringProbe], params: Parameters, threads: int
) -> Residues:
    """The scores of blocks in NTT form: uint32 (blocks, 2·n·dim + PADDING)."""
    out = np.empty((len(probes), len(data), 2, 2, params.n), np.uint32)
    if not out.size:
        return out
    addresses = np.array([probe.data.ctypes.data for probe in probes], np.uint64)
    run, chunk = _loop_sizes(len(probes))
    primes, folds = prime_row(params), _folds(params)
    parallel_ranges(
        lambda i, j: score_points(data, dim, addresses, i, j, run, chunk, primes, folds, out),
        params.n,
        threads,
        grain=TILE,
        ranges=8,
    )
    return out


def _check_data(data: Residues, shape: tuple[int | None, ...], name: str) -> None:
    """The kernel reads by address: raise `CryptoError` unless the memory is what it expects."""
    check_shape(data, shape, name)
    if not data.flags.c_contiguous:
        raise CryptoError(f"{name} must be contiguous")


def _loop_sizes(probes: int) -> tuple[int, int]:
    """Points that are worked in one run of a block, and blocks whose sums are kept at a time.

    Long runs suit the memory, but the run's part of all probes should stay in the second-level cache.
    """
    return max(1, TILE >> (probes - 1).bit_length()), 64


@lru_cache(maxsize=16)
def _folds(params: Parameters) -> npt.NDArray[np.uint64]:
    """2^32 mod p for both primes: a 64-bit sum v folds to (v mod 2^32) + (v >> 32)·(2^32 mod p), equal to v mod p.

    Raises `ParameterError` for primes too far below 2^30 for the sums of the kernel.
    """
    folds = [2**32 % p for p in params.primes]
    for p, fold in zip(params.primes, folds, strict=True):
        lane = (2**32 - 1) * (1 + fold)  # the largest folded accumulator; the kernel adds some and folds twice more
        once = (2**32 - 1) + (MAX_LANES * lane >> 32) * fold
        twice = (2**32 - 1) + (once >> 32) * fold
        if PRODUCTS_PER_FOLD * (p - 1) ** 2 + lane >= 2**64 or twice >= 8 * p:
            raise ParameterError(f"prime {p} is too far below 2^30 for 64-bit sums of {PRODUCTS_PER_FOLD} products")
    out = np.array(folds, np.uint64)
    out.setflags(write=False)
    return out
