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
    gallery = scoring.encode_gallery(templates, params, threads=2)
    assert (gallery.rows, gallery.dim, gallery.blocks) == (rows, dim, -(-rows // params.n))
    got = scoring.score(gallery, scoring.prepare_probe(ciphertexts, params, threads=2), threads=2)
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
    gallery = scoring.encode_gallery(templates, params)
    got = scoring.score(gallery, scoring.prepare_probe(ciphertexts, params))
    assert (got == dim).all()  # (p-1)·(p-1) = 1


def test_a_probe_of_constants_scores_like_the_plaintext() -> None:
    """With ct_j = (q_j, 0) the result is the polynomial of the plaintext scores."""
    rng = np.random.default_rng(5)
    rows = RING.n + 904
    templates = random_templates(rng, rows, 128)
    probe = rng.integers(-127, 128, 128).astype(np.int64)
    primes = np.array(RING.primes)
    ciphertexts = np.zeros((128, 2, 2, RING.n), np.uint32)
    ciphertexts[:, 0] = (probe[:, None] % primes)[:, :, None]
    gallery = scoring.encode_gallery(templates, RING)
    got = scoring.score(gallery, scoring.prepare_probe(ciphertexts, RING))
    assert not got[:, 1].any()
    residues = ntt.inverse(np.ascontiguousarray(got[:, 0]), RING)
    expected = np.zeros(2 * RING.n, np.int64)
    expected[:rows] = templates.astype(np.int64) @ probe
    for prime, p in enumerate(RING.primes):
        assert np.array_equal(residues[:, prime].reshape(-1), expected % p)


def test_score_many_equals_score() -> None:
    rng = np.random.default_rng(6)
    gallery = scoring.encode_gallery(random_templates(rng, 7 * RING.n - 5, 16), RING, threads=2)
    probes = [scoring.prepare_probe(random_ciphertexts(rng, 16, RING), RING) for _ in range(19)]
    for some in (probes[:2], probes[:3], probes[:5], probes):
        got = scoring.score_many(gallery, some, threads=2)
        assert got.shape == (len(some), 7, 2, 2, RING.n)
        for one, probe in zip(got, some, strict=True):
            assert np.array_equal(one, scoring.score(gallery, probe))
    assert scoring.score_many(gallery, []).shape == (0, 7, 2, 2, RING.n)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("blocks", [0, 1, 4, 5, 9])
def test_rows_score_like_an_encoded_gallery(dtype: type, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SCRATCH_BYTES", 1)  # four blocks at a time
    rng = np.random.default_rng(blocks)
    count = max(0, blocks * RING.n - 9)
    rows = random_templates(rng, count, 16).astype(dtype)
    probes = [scoring.prepare_probe(random_ciphertexts(rng, 16, RING), RING) for _ in range(3)]
    seen: list[int] = []
    got = scoring.score_rows(rows, probes, RING, threads=2, progress=seen.append)
    assert np.array_equal(got, scoring.score_many(scoring.encode_gallery(rows, RING), probes))
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


def test_more_blocks_than_are_worked_at_a_time() -> None:
    rng = np.random.default_rng(7)
    rows = 70 * RING.n
    gallery = scoring.encode_gallery(random_templates(rng, rows, 8), RING, threads=2)
    probes = [scoring.prepare_probe(random_ciphertexts(rng, 8, RING), RING) for _ in range(2)]
    both = scoring.score_many(gallery, probes, threads=2)
    for first in (0, 63, 66, 69):
        count = min(5, 70 - first)
        assert np.array_equal(scoring.score(gallery, probes[1], first, count), both[1, first : first + count])


def test_any_range_of_blocks_and_any_number_of_threads_give_the_same() -> None:
    rng = np.random.default_rng(8)
    gallery = scoring.encode_gallery(random_templates(rng, 6 * RING.n + 1, 24), RING)
    probe = scoring.prepare_probe(random_ciphertexts(rng, 24, RING), RING)
    whole = scoring.score(gallery, probe)
    for first, count in ((0, 1), (1, 3), (2, 5), (6, 1), (3, 0)):
        for threads in (1, 2, 3):
            assert np.array_equal(scoring.score(gallery, probe, first, count, threads), whole[first : first + count])


def test_confirmation_rows_of_20_bits_are_encoded() -> None:
    rng = np.random.default_rng(9)
    templates = rng.integers(-(2**18), 2**18, (60, 64)).astype(np.int32)
    ciphertexts = random_ciphertexts(rng, 64, RING)
    got = scoring.score(scoring.encode_gallery(templates, RING), scoring.prepare_probe(ciphertexts, RING))
    assert np.array_equal(got, slow_scores(templates, ciphertexts, RING))


def test_progress_counts_rows_and_an_empty_gallery_has_no_blocks() -> None:
    seen: list[int] = []
    templates = np.zeros((2 * RING.n + 808, 8), np.int8)
    scoring.encode_gallery(templates, RING, progress=seen.append)
    assert seen == [RING.n, 2 * RING.n, 2 * RING.n + 808]
    empty = scoring.encode_gallery(templates[:0], RING)
    assert empty.blocks == 0
    probe = scoring.prepare_probe(np.zeros((8, 2, 2, RING.n), np.uint32), RING)
    assert scoring.score(empty, probe).shape == (0, 2, 2, RING.n)


def test_columns_of_a_larger_array_are_encoded_like_a_copy() -> None:
    templates = random_templates(np.random.default_rng(10), 100, 32)
    view, copy = templates[:, 8:24], templates[:, 8:24].copy()
    assert np.array_equal(scoring.encode_gallery(view, RING).data, scoring.encode_gallery(copy, RING).data)


def test_wrong_shapes_dtypes_and_values_are_refused() -> None:
    gallery = scoring.encode_gallery(np.zeros((RING.n + 904, 8), np.int8), RING)
    ciphertexts = np.zeros((8, 2, 2, RING.n), np.uint32)
    probe = scoring.prepare_probe(ciphertexts, RING)
    for bad in (np.zeros((5, 8)), np.zeros(8, np.int8), np.zeros((5, 8), np.int64), [[0] * 8]):
        with pytest.raises(GalleryError, match="int8 or int32"):
            scoring.encode_gallery(bad, RING)  # type: ignore[arg-type]
    for dim in (0, 7, 12, 1032):
        with pytest.raises(ParameterError, match="dimension"):
            scoring.encode_gallery(np.zeros((5, dim), np.int8), RING)
    with pytest.raises(CryptoError, match="uint32"):
        scoring.prepare_probe(ciphertexts.astype(np.uint64), RING)
    with pytest.raises(CryptoError, match="shape"):
        scoring.prepare_probe(ciphertexts, OTHER)
    ciphertexts[3, 1, 0, 9] = RING.primes[0]
    with pytest.raises(ResidueOutOfRange, match=r"ciphertexts\[3, 1, 0, 9\]"):
        scoring.prepare_probe(ciphertexts, RING)
    with pytest.raises(CryptoError, match="dimension 16"):
        scoring.score(gallery, scoring.prepare_probe(np.zeros((16, 2, 2, RING.n), np.uint32), RING))
    with pytest.raises(CryptoError, match=OTHER.preset):
        scoring.score(gallery, scoring.prepare_probe(np.zeros((8, 2, 2, OTHER.n), np.uint32), OTHER))
    for first, count in ((-1, 1), (0, 3), (3, 0), (1, -1)):
        with pytest.raises(ParameterError, match="blocks"):
            scoring.score(gallery, probe, first, count)


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
    gallery = scoring.encode_gallery(np.zeros((RING.n + 904, 8), np.int8), RING)
    with pytest.raises(CryptoError, match="shape"):
        scoring.EncodedGallery(RING.n + 904, 16, RING, gallery.data)
    with pytest.raises(CryptoError, match="contiguous"):
        scoring.EncodedGallery(1, 8, RING, np.asfortranarray(gallery.data)[:1])
    with pytest.raises(CryptoError, match="do not fill 2 blocks"):
        scoring.EncodedGallery(2 * RING.n + 1, 8, RING, gallery.data)
    with pytest.raises(CryptoError, match="shape"):
        scoring.ScoringProbe(8, RING, np.zeros((2, RING.n, 2, 16), np.uint32))


def test_primes_that_would_overflow_the_sums_are_refused() -> None:
    low = Parameters("insecure_low_prime", RING.n, (536903681, 1073692673))
    with pytest.raises(ParameterError, match="64-bit"):
        scoring.encode_gallery(np.zeros((5, 8), np.int8), low)
