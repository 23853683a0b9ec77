"""Rows times polynomials under encryption: the same, word for word, as the block that they make."""

from __future__ import annotations

import numpy as np
import pytest

from pets.combining import combine_rows
from pets.errors import CryptoError, GalleryError
from pets.params import N4096, N8192, Parameters
from pets.scoring import ScoringProbe, prepare_probe, score_rows


def probe(params: Parameters, dim: int, rng: np.random.Generator) -> ScoringProbe:
    """Residues of all sizes, the largest and zero among them."""
    columns = [rng.integers(0, p, (dim, 2, params.n), dtype=np.uint32) for p in params.primes]
    for column, p in zip(columns, params.primes, strict=True):
        column[:, :, :64], column[:, :, 64:128] = p - 1, 0
    return prepare_probe(np.stack(columns, axis=2), params)


@pytest.mark.parametrize(
    ("params", "dim", "count", "threads"),
    [(N4096, 512, 10, 2), (N4096, 8, 1, 1), (N4096, 24, 3, 1), (N8192, 128, 99, 3), (N4096, 1024, 10, 1)],
)
def test_equals_the_block_in_ntt_form(params: Parameters, dim: int, count: int, threads: int) -> None:
    rng = np.random.default_rng(dim)
    rows = rng.integers(-63, 64, (count, dim)).astype(np.int8)
    rows[0] = np.where(np.arange(dim) < 512, 127, 0)
    rows[count // 2] = -rows[0]
    factors = rng.integers(0, 1025, (count, 6)).astype(np.int32)
    factors[-1] = -1024
    polynomials = np.zeros((count, params.n), np.int32)
    for k in range(count):
        polynomials[k, 6 * k : 6 * k + 6] = factors[k]
    block = (factors[:, :, None] * rows[:, None].astype(np.int32)).reshape(6 * count, dim)
    encrypted = probe(params, dim, rng)
    expected = score_rows(block, [encrypted], params)[0, 0]
    assert np.array_equal(combine_rows(rows, polynomials, encrypted, threads), expected)


def test_no_rows_give_zero() -> None:
    encrypted = probe(N4096, 8, np.random.default_rng(0))
    out = combine_rows(np.empty((0, 8), np.int8), np.empty((0, 4096), np.int32), encrypted)
    assert out.shape == (2, 2, 4096)
    assert not out.any()


def test_rows_whose_sums_could_overflow_are_refused() -> None:
    encrypted = probe(N4096, 1024, np.random.default_rng(0))
    rows, polynomials = np.full((1, 1024), 64, np.int8), np.zeros((1, 4096), np.int32)
    with pytest.raises(GalleryError, match=r"add up to 65536, the limit is 65535"):
        combine_rows(rows, polynomials, encrypted)
    rows[0, 0] = 63
    combine_rows(rows, polynomials, encrypted)


@pytest.mark.parametrize(
    ("rows", "polynomials"),
    [
        (np.zeros((2, 16), np.int8), np.zeros((2, 4096), np.int32)),
        (np.zeros((2, 8), np.int32), np.zeros((2, 4096), np.int32)),
        (np.zeros((2, 8), np.int8), np.zeros((3, 4096), np.int32)),
        (np.zeros((2, 8), np.int8), np.zeros((2, 4096), np.int64)),
    ],
)
def test_other_shapes_and_types_are_refused(rows: np.ndarray, polynomials: np.ndarray) -> None:
    with pytest.raises(CryptoError):
        combine_rows(rows, polynomials, probe(N4096, 8, np.random.default_rng(0)))
