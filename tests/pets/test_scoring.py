import itertools

import numpy as np
import pytest

from pets import ntt, scoring
from pets.errors import CryptoError, GalleryError, ParameterError, ResidueOutOfRange
from pets.params import N4096, N8192, Parameters
from tests.kit.ring import OTHER, RING

pytestmark = pytest.mark.ring


def slow_scores(templates: np.ndarray, ciphertexts: np.ndarray, params: Parameters) -> np.ndarray:
    """Σ_j p_j·ct_j, column by column, each product and sum reduced by numpy."""
    rows, dim = templates.shape
    blocks = -(-rows // params.n)
    padded = np.zeros((blocks * params.n, dim), np.int32)
    padded[:rows] = templates
    primes = np.array(params.primes, np.uint64)[:, None]
    total = np.zeros((blocks, 2, 2, params.n), np.uint64)
    for j in range(dim):
        column = ntt.forward(np.ascontiguousarray(padded[:, j].reshape(blocks, params.n)), params)
        total += column.astype(np.uint64)[:, None] * ciphertexts[j].astype(np.uint64)[None] % primes
    return total % primes


def random_ciphertexts(rng: np.random.Generator, dim: int, params: Parameters) -> np.ndarray:
    primes = np.array(params.primes, np.uint64)[:, None]
    return (rng.integers(0, 2**62, (dim, 2, 2, params.n), np.uint64) % primes).astype(np.uint32)


def scored(rows: np.ndarray, ciphertexts: np.ndarray, params: Parameters, threads: int = 1) -> np.ndarray:
    """The scores under one probe, uint32 (blocks, 2, 2, n)."""
    return scoring.score_rows(rows, [scoring.prepare_probe(ciphertexts, params, threads)], params, threads)[0]


def random_templates(rng: np.random.Generator, rows: int, dim: int) -> np.ndarray:
    return rng.integers(-127, 128, (rows, dim), np.int8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "dim", "params"),
    [
        (1, 8, N4096),
        (4095, 128, N4096),
        (4096, 512, N4096),
        (4097, 24, N4096),
        (20000, 128, N4096),
        (20000, 512, N4096),
        (9000, 1024, N8192),
        (8192, 8, N8192),
    ],
)
def test_scores_equal_the_slow_sum(rows: int, dim: int, params: Parameters) -> None:
    rng = np.random.default_rng(rows + dim)
    templates, ciphertexts = random_templates(rng, rows, dim), random_ciphertexts(rng, dim, params)
    got = scored(templates, ciphertexts, params, threads=2)
    assert got.dtype == np.uint32
    assert np.array_equal(got, slow_scores(templates, ciphertexts, params))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [8, 128, 136, 512, 1024])
@pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)
def test_largest_residues_everywhere_do_not_overflow(dim: int, params: Parameters) -> None:
    primes = np.array(params.primes, np.uint32)[:, None]
    # A gallery of -1 in coefficient 0 is p - 1 at every point.
    templates = np.zeros((1, dim), np.int8)
    templates[0] = -1
    ciphertexts = np.broadcast_to(primes - 1, (dim, 2, 2, params.n)).astype(np.uint32)
    assert (scored(templates, ciphertexts, params) == dim).all()  # (p-1)·(p-1) = 1


def test_a_probe_of_constants_scores_like_the_plaintext() -> None:
    """With ct_j = (q_j, 0) the result is the polynomial of the plaintext scores."""
    rng = np.random.default_rng(5)
    rows = RING.n + 904
    templates = random_templates(rng, rows, 128)
    probe = rng.integers(-127, 128, 128).astype(np.int64)
    primes = np.array(RING.primes)
    ciphertexts = np.zeros((128, 2, 2, RING.n), np.uint32)
    ciphertexts[:, 0] = (probe[:, None] % primes)[:, :, None]
    got = scored(templates, ciphertexts, RING)
    assert not got[:, 1].any()
    residues = ntt.inverse(np.ascontiguousarray(got[:, 0]), RING)
    expected = np.zeros(2 * RING.n, np.int64)
    expected[:rows] = templates.astype(np.int64) @ probe
    for prime, p in enumerate(RING.primes):
        assert np.array_equal(residues[:, prime].reshape(-1), expected % p)


def test_several_probes_in_one_pass_score_like_each_alone() -> None:
    rng = np.random.default_rng(6)
    rows = random_templates(rng, 7 * RING.n - 5, 16)
    probes = [scoring.prepare_probe(random_ciphertexts(rng, 16, RING), RING) for _ in range(19)]
    alone = [scoring.score_rows(rows, [probe], RING, threads=2)[0] for probe in probes]
    for count in (2, 3, 5, 19):
        got = scoring.score_rows(rows, probes[:count], RING, threads=2)
        assert got.shape == (count, 7, 2, 2, RING.n)
        assert np.array_equal(got, alone[:count])
    assert scoring.score_rows(rows, [], RING).shape == (0, 7, 2, 2, RING.n)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("blocks", [0, 1, 4, 5, 9])
def test_rows_a_few_blocks_at_a_time_score_like_all_at_once(
    dtype: type, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(blocks)
    count = max(0, blocks * RING.n - 9)
    rows = random_templates(rng, count, 16).astype(dtype)
    probes = [scoring.prepare_probe(random_ciphertexts(rng, 16, RING), RING) for _ in range(3)]
    at_once = scoring.score_rows(rows, probes, RING)
    monkeypatch.setattr(scoring, "SCRATCH_BYTES", 1)  # four blocks at a time
    seen: list[int] = []
    assert np.array_equal(scoring.score_rows(rows, probes, RING, threads=2, progress=seen.append), at_once)
    assert seen == [min(count, done * RING.n) for done in range(4, blocks + 4, 4)]


def test_rows_that_do_not_fit_are_refused() -> None:
    rows, probe = np.zeros((5, 8), np.int8), scoring.prepare_probe(np.zeros((8, 2, 2, RING.n), np.uint32), RING)
    assert scoring.score_rows(rows, [], RING).shape == (0, 1, 2, 2, RING.n)
    with pytest.raises(GalleryError, match="int8 or int32"):
        scoring.score_rows(rows.astype(np.int64), [probe], RING)
    with pytest.raises(CryptoError, match="dimension 16"):
        scoring.score_rows(np.zeros((5, 16), np.int8), [probe], RING)
    with pytest.raises(CryptoError, match=OTHER.preset):
        scoring.score_rows(rows, [probe], OTHER)


def test_more_blocks_than_are_worked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    rows = random_templates(rng, 70 * RING.n, 8)
    probes = [scoring.prepare_probe(random_ciphertexts(rng, 8, RING), RING) for _ in range(2)]
    monkeypatch.setattr(scoring, "SCRATCH_BYTES", 1 << 40)
    both = scoring.score_rows(rows, probes, RING, threads=2)
    for first in (0, 63, 66, 69):
        part = rows[first * RING.n : (first + 5) * RING.n]
        assert np.array_equal(scoring.score_rows(part, probes[1:], RING)[0], both[1, first : first + 5])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(threads: int) -> None:
    rng = np.random.default_rng(8)
    rows, ciphertexts = random_templates(rng, 6 * RING.n + 1, 24), random_ciphertexts(rng, 24, RING)
    assert np.array_equal(scored(rows, ciphertexts, RING, threads), scored(rows, ciphertexts, RING))


def test_confirmation_rows_of_20_bits_are_scored() -> None:
    rng = np.random.default_rng(9)
    templates = rng.integers(-(2**18), 2**18, (60, 64)).astype(np.int32)
    ciphertexts = random_ciphertexts(rng, 64, RING)
    got = scored(templates, ciphertexts, RING)
    assert np.array_equal(got, slow_scores(templates, ciphertexts, RING))


def test_columns_of_a_larger_array_score_like_a_copy() -> None:
    rng = np.random.default_rng(10)
    templates, ciphertexts = random_templates(rng, 100, 32), random_ciphertexts(rng, 16, RING)
    view, copy = templates[:, 8:24], templates[:, 8:24].copy()
    assert np.array_equal(scored(view, ciphertexts, RING), scored(copy, ciphertexts, RING))


def test_wrong_shapes_dtypes_and_values_are_refused() -> None:
    ciphertexts = np.zeros((8, 2, 2, RING.n), np.uint32)
    probe = scoring.prepare_probe(ciphertexts, RING)
    for bad in (np.zeros((5, 8)), np.zeros(8, np.int8), np.zeros((5, 8), np.int64), [[0] * 8]):
        with pytest.raises(GalleryError, match="int8 or int32"):
            scoring.score_rows(bad, [probe], RING)  # type: ignore[arg-type]
    for dim in (0, 7, 12, 1032):
        with pytest.raises(ParameterError, match="dimension"):
            scoring.score_rows(np.zeros((5, dim), np.int8), [], RING)
    with pytest.raises(CryptoError, match="uint32"):
        scoring.prepare_probe(ciphertexts.astype(np.uint64), RING)
    with pytest.raises(CryptoError, match="shape"):
        scoring.prepare_probe(ciphertexts, OTHER)
    ciphertexts[3, 1, 0, 9] = RING.primes[0]
    with pytest.raises(ResidueOutOfRange, match=r"ciphertexts\[3, 1, 0, 9\]"):
        scoring.prepare_probe(ciphertexts, RING)


@pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)
@pytest.mark.parametrize("dim", [8, 40])
def test_a_residue_at_its_prime_is_found_wherever_it_stands(dim: int, params: Parameters) -> None:
    """Probes are checked while they are transposed, in squares and tiles: corners of all of them, and between."""
    n = params.n
    ciphertexts = np.empty((dim, 2, 2, n), np.uint32)
    ciphertexts[:] = np.array(params.primes, np.uint32)[:, None] - 1
    scoring.prepare_probe(ciphertexts, params, threads=2)
    rows, points = {0, 7, dim - 8, dim // 2, dim - 1}, (0, 7, 8, 15, 16, n // 2 - 1, n // 2, n - 16, n - 1)
    for row, comp, prime, point in itertools.product(rows, range(2), range(2), points):
        for value in (params.primes[prime], 2**31, 2**32 - 1):
            ciphertexts[row, comp, prime, point] = value
            with pytest.raises(ResidueOutOfRange, match=rf"ciphertexts\[{row}, {comp}, {prime}, {point}\] is {value}"):
                scoring.prepare_probe(ciphertexts, params, threads=2)
        ciphertexts[row, comp, prime, point] = params.primes[prime] - 1
    scoring.prepare_probe(ciphertexts, params, threads=2)


def test_memory_that_the_kernel_cannot_read_is_refused() -> None:
    data = np.zeros((2, RING.n, 2, 8), np.uint32)
    with pytest.raises(CryptoError, match="shape"):
        scoring.ScoringProbe(16, RING, data)
    with pytest.raises(CryptoError, match="contiguous"):
        scoring.ScoringProbe(8, RING, np.asfortranarray(data))


def test_primes_that_would_overflow_the_sums_are_refused() -> None:
    low = Parameters("insecure_low_prime", RING.n, (536903681, 1073692673))
    with pytest.raises(ParameterError, match="64-bit"):
        scoring.score_rows(np.zeros((5, 8), np.int8), [], low)
