"""The encrypted search equals its plaintext twin bit for bit, whatever the gallery (protocol/DESIGN.md, 2.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pets.replicated
import protocol.blocks
import protocol.engine
import protocol.filtering
import protocol.forks
from pets.errors import TemplateError
from pets.mask_encryption import draw_mask
from pets.params import N4096, N8192, SHARE_BITS, Parameters, norm_bound, scale
from pets.planes import from_planes, unpack_bits
from pets.rounding import round_shares
from pets.templates import Templates
from protocol.engine import EncryptedEngine, PlainEngine
from protocol.gallery import Gallery
from protocol.terms import Terms
from tests.kit.galleries import longest, near, quantised, rows_with_scores, scores, unit_rows
from tests.kit.parties import HOLDER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold, opened

pytestmark = pytest.mark.ring

THRESHOLDS = ["0.05", "0.123", "0.3", "0.55", "0.8", "0.89", "0.9", "0.95"]
LADDERS = ["0", "0.02", "0.004", "0.3"]


@dataclass(frozen=True)
class Case:
    """A probe and terms; `theta` of the first rung and of those it may climb to."""

    rng: np.random.Generator
    dim: int
    rows: int
    probe: Templates
    thetas: tuple[int, ...]


def random_rows(case: Case) -> Templates:
    return unit_rows(case.rng, case.rows, case.dim)


def correlated_rows(case: Case) -> Templates:
    """A crowd around the threshold: most queries climb."""
    middle = case.thetas[0] / scale(case.dim) ** 2
    cosines = np.clip(case.rng.normal(middle - 0.05, 0.05, case.rows), -0.99, 0.99)
    return near(case.rng, case.probe, case.rows, cosines)


def rows_at_theta(case: Case) -> Templates:
    """Scores of exactly theta and theta - 1 of every rung among random rows."""
    rows = unit_rows(case.rng, case.rows, case.dim)
    edges = [theta - below for theta in case.thetas for below in (0, 1)][: case.rows]
    rows[case.rng.choice(case.rows, len(edges), replace=False)] = rows_with_scores(case.rng, case.probe, edges)
    return rows


def every_row_at_theta_or_below(case: Case) -> Templates:
    """Nothing but the two scores that one unit of error would confuse; few are hits."""
    edges = rows_with_scores(case.rng, case.probe, [case.thetas[0] - 1] * 8 + [case.thetas[0]] * 2)
    pick = case.rng.integers(0, 8, case.rows)
    pick[case.rng.integers(0, case.rows, 7)] = 8
    pick[-1] = 9
    return edges[pick]


def equal_rows(case: Case) -> Templates:
    return np.repeat(unit_rows(case.rng, 1, case.dim), case.rows, axis=0)


def the_probe_itself(case: Case) -> Templates:
    return np.repeat(case.probe[None], case.rows, axis=0)


def the_opposite(case: Case) -> Templates:
    """The strongest negative scores: modulo t they must not come out as hits."""
    return np.repeat(-case.probe[None], case.rows, axis=0)


def longest_rows(case: Case) -> Templates:
    """As long as the norm bound allows, along and against the probe."""
    rows = unit_rows(case.rng, case.rows, case.dim)
    extremes = np.array([longest(case.rng, case.dim), -longest(case.rng, case.dim)])
    rows[: min(2, case.rows)] = extremes[: case.rows]
    return rows


def spiky_rows(case: Case) -> Templates:
    """A few entries of 127, all others zero."""
    count = min(case.dim, norm_bound(case.dim) // 127**2)
    rows = np.zeros((case.rows, case.dim), np.int8)
    for row in rows:
        row[case.rng.choice(case.dim, count, replace=False)] = case.rng.choice([-127, 127], count)
    return rows


KINDS: list[Callable[[Case], Templates]] = [
    random_rows,
    correlated_rows,
    rows_at_theta,
    every_row_at_theta_or_below,
    equal_rows,
    the_probe_itself,
    the_opposite,
    longest_rows,
    spiky_rows,
]
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)


def check_against_twin(
    kind: Callable[[Case], Templates],
    rows: int,
    seed: int,
    threshold: str,
    cap: int,
    ladder: str,
    probe_kind: str = "unit",
    dim: int = 128,
    params: Parameters = RING,
) -> str:
    rng = np.random.default_rng(seed)
    probe = longest(rng, dim) if probe_kind == "longest" else unit_rows(rng, 1, dim)[0]
    terms = Terms(Decimal(threshold), dim, params, cap, Decimal(ladder))
    thetas = tuple(terms.theta(rung) for rung in range(len(terms.rungs)))
    gallery = hold(kind(Case(rng, dim, rows, probe, thetas)), params)
    trio = Trio(gallery, threshold=threshold, cap=cap, ladder=ladder).search(probe)
    outcome = trio.outcome()
    assert outcome == trio.expected(probe)
    exact = scores(gallery.templates, probe)
    assert all(hit.score == exact[hit.row] >= thetas[0] for hit in outcome.hits)
    return outcome.status


driven = partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.slow
@driven(max_examples=30)
@given(
    kind=kinds,
    rows=st.sampled_from([1, 63, 4095, 4096, 4097]),
    seed=seeds,
    threshold=st.sampled_from(THRESHOLDS),
    cap=st.sampled_from([1, 10, 99]),
    ladder=st.sampled_from(LADDERS),
    probe_kind=st.sampled_from(["unit", "longest"]),
)
def test_encrypted_search_equals_the_plaintext_twin(**case: Any) -> None:
    check_against_twin(**case)


@pytest.mark.slow
@driven(max_examples=5)
@given(kind=kinds, rows=st.sampled_from([1, 4097]), seed=seeds, threshold=st.sampled_from(THRESHOLDS))
def test_encrypted_search_equals_the_plaintext_twin_at_512_dimensions(**case: Any) -> None:
    check_against_twin(**case, cap=10, ladder="0.02", dim=512)


@pytest.mark.slow
@driven(max_examples=4)
@given(kind=kinds, rows=st.sampled_from([1, 8191, 8193]), seed=seeds, threshold=st.sampled_from(THRESHOLDS))
def test_encrypted_search_equals_the_plaintext_twin_at_ring_dimension_8192(**case: Any) -> None:
    check_against_twin(**case, cap=10, ladder="0.02", params=N8192)


@pytest.mark.parametrize("dim", [8, 24, 1024])
def test_other_dimensions_give_the_same_hits_as_the_twin(dim: int) -> None:
    check_against_twin(random_rows, 300, dim, "0.05", 99, "0.02", dim=dim)


@pytest.mark.parametrize(
    ("kind", "rows", "threshold", "ladder", "status"),
    [
        (rows_at_theta, 4097, "0.55", "0", "released"),
        (the_probe_itself, 1, "0.95", "0.02", "released"),
        (the_probe_itself, 11, "0.3", "0.3", "too_many_candidates"),
        (the_opposite, 4096, "0.05", "0.02", "no_hit"),
        (correlated_rows, 4096, "0.3", "0.02", "released"),
    ],
)
def test_adversarial_galleries_end_as_expected(
    kind: Callable[[Case], Templates], rows: int, threshold: str, ladder: str, status: str
) -> None:
    assert check_against_twin(kind, rows, 5, threshold, 10, ladder) == status


def test_empty_gallery_ends_in_no_hit() -> None:
    probe = unit_rows(np.random.default_rng(0), 1, 128)[0]
    trio = Trio(hold(np.empty((0, 128), np.int8), RING)).search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert trio.outcome().status == "no_hit"


def test_one_preparation_serves_several_holders() -> None:
    rng = np.random.default_rng(6)
    probe = unit_rows(rng, 1, 64)[0]
    galleries = [unit_rows(rng, rows, 64) for rows in (50, 4200, 0)]
    galleries[1][4100:4103] = near(rng, probe, 3, np.full(3, 0.9))
    trio = Trio(*(hold(rows) for rows in galleries), threshold="0.8").search(probe)
    for name in trio.galleries:
        assert trio.outcome(name) == trio.expected(probe, name)
    assert len(trio.outcome(f"{HOLDER}-1").hits) == 3


def test_a_search_may_ask_some_of_the_holders_that_prepared() -> None:
    rng = np.random.default_rng(6)
    probe = unit_rows(rng, 1, 64)[0]
    trio = Trio(*(hold(unit_rows(rng, 50, 64)) for _ in range(3))).prepare()
    del trio.galleries[f"{HOLDER}-1"]
    trio.search(probe)
    for name in trio.galleries:
        assert trio.outcome(name) == trio.expected(probe, name)


def test_several_probes_in_one_pass_equal_the_twin() -> None:
    rng = np.random.default_rng(3)
    probes = unit_rows(rng, 3, 128)
    rows = np.concatenate([unit_rows(rng, 4090, 128), near(rng, probes[1], 7, np.linspace(0.4, 0.6, 7))])
    gallery = Gallery.of(rows, RING)
    terms = Terms(Decimal("0.3"), 128, RING)
    encrypted = EncryptedEngine().search(gallery, probes, terms)
    assert encrypted == PlainEngine().search(gallery, probes, terms)
    assert [outcome.status for outcome in encrypted].count("released") >= 1


@pytest.mark.parametrize("forks", [True, False], ids=["processes", "threads"])
@pytest.mark.parametrize("threads", [3, 9])
def test_queries_side_by_side_equal_the_twin(threads: int, forks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels split among threads, three chunks at each of several rungs."""
    monkeypatch.setattr(protocol.engine, "possible", lambda: forks and protocol.forks.possible())
    monkeypatch.setattr(pets.replicated, "PARALLEL_WORDS", 1)
    monkeypatch.setattr(protocol.blocks, "CHUNK_ROWS", RING.n)
    rng = np.random.default_rng(3)
    probes = unit_rows(rng, 4, 64)
    templates = unit_rows(rng, 2 * RING.n + 90, 64)
    templates[RING.n - 3 : RING.n + 4] = near(rng, probes[1], 7, np.linspace(0.6, 0.8, 7))
    templates[2 * RING.n :: 9] = near(rng, probes[2], 10, np.linspace(0.59, 0.65, 10))
    gallery = Gallery.of(templates, RING)
    terms = Terms(Decimal("0.58"), 64, RING, cap=7)
    expected = PlainEngine().search(gallery, probes, terms)
    assert EncryptedEngine(threads).search(gallery, probes, terms) == expected
    assert [bool(outcome.hits) for outcome in expected] == [False, True, True, False]
    assert expected[2].threshold_used > terms.threshold
    bad = probes.copy()
    bad[2] = 127
    with pytest.raises(TemplateError):
        EncryptedEngine(threads).search(gallery, bad, terms)


def test_rows_may_be_mapped_from_a_file(tmp_path: Any) -> None:
    rng = np.random.default_rng(3)
    np.save(tmp_path / "rows.npy", unit_rows(rng, 4200, 64))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    trio = Trio(hold(rows)).search(np.array(rows[4150]))
    assert trio.outcome() == trio.expected(np.array(rows[4150]))
    assert trio.outcome().hits[0].row == 4150


# --- every row, not only the few that the sketch lets through ---


def distance(total: np.ndarray, exact: np.ndarray, t: int) -> list[float]:
    """|total - v·2^24/t| modulo 2^24, from integers."""
    period = t << SHARE_BITS
    gaps = [(int(v) * t - (int(s) << SHARE_BITS)) % period for v, s in zip(total, exact, strict=True)]
    return [min(gap, period - gap) / t for gap in gaps]


def prepared_totals(trio: Trio) -> tuple[np.ndarray, np.ndarray]:
    """e' + m + z of every row of one chunk, which nobody ever puts together, and the mask r."""
    assert trio.made is not None
    requester = trio.made.requester
    parts = (trio.made.holders[HOLDER], requester, trio.made.router)
    chunks = [part.rings[HOLDER].chunks[0] for part in parts]
    z = from_planes(opened([chunk.z for chunk in chunks])).astype(np.int64)
    masked = chunks[0].masked
    assert masked is not None
    mask = draw_mask(requester.seed, requester.preparation_id, requester.dim, requester.params).astype(np.int64)
    return (z + masked) % 2**SHARE_BITS, mask


@pytest.mark.parametrize("dim", [128, 512, 1024])
def test_what_is_prepared_is_the_masks_product_within_one(dim: int) -> None:
    """Predicted from two roundings of half a unit each and noise far below one; measured on every row."""
    rng = np.random.default_rng(dim)
    rows = unit_rows(rng, RING.n + 100, dim)
    rows[0], rows[1] = longest(rng, dim), -longest(rng, dim)
    trio = Trio(hold(rows, RING)).prepare()
    total, mask = prepared_totals(trio)
    gaps = distance(total[: len(rows)], rows.astype(np.int64) @ mask % RING.t, RING.t)
    assert max(gaps) <= 1.01
    assert max(gaps) > 0.5, "two roundings never leave every row exact: this would compare nothing"
    # rows of the last block that do not exist are zeros
    assert max(distance(total[len(rows) :], np.zeros(len(total) - len(rows), np.int64), RING.t)) <= 1.01


@pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)
def test_products_of_the_mask_that_wrap_at_0_and_t_minus_1_are_exact(
    params: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose product with the mask is 0 or t - 1 modulo t: where a wrap that did not vanish would show."""
    dim = 64
    rng = np.random.default_rng(1)
    probe = unit_rows(rng, 1, dim)[0]
    base = unit_rows(rng, 40, dim).astype(np.int64)
    t = params.t
    # A mask in which coordinate 0 is 1 and coordinate 1 is t - 1; the rows' first entries then steer the product.
    import protocol.preparing
    import protocol.searching

    known = rng.integers(0, 4, dim)
    known[0], known[1] = 1, t - 1
    fixed = lambda *_: known.astype(np.uint32)  # noqa: E731
    monkeypatch.setattr(protocol.preparing, "draw_mask", fixed)
    monkeypatch.setattr(protocol.searching, "draw_mask", fixed)
    rows = np.clip(base // 8, -15, 15)
    for index, row in enumerate(rows):
        row[0] = row[1] = 0
        for wanted in [0, t - 1][index % 2 :: 2]:
            missing = (wanted - int(row @ known)) % t
            missing -= t if missing > t // 2 else 0
            row[0], row[1] = max(-127, min(127, missing)), 0
            if row[0] != missing:
                row[1] = row[0] - missing
    products = rows @ known % t
    keep = (np.abs(rows) <= 127).all(axis=1)
    assert {0, t - 1} <= set(products[keep].tolist())
    trio = Trio(hold(rows[keep].astype(np.int8), params), threshold="0.05", cap=99).search(probe)
    assert trio.outcome() == trio.expected(probe)


@pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)
def test_a_share_is_rounded_to_within_half_a_unit_where_rounding_turns(params: Parameters) -> None:
    """So two of them and noise far below a unit are within one."""
    units = np.random.default_rng(0).integers(0, 2**SHARE_BITS, 5000).tolist()
    turns = [(2 * unit + 1) * params.q // 2 ** (SHARE_BITS + 1) for unit in units]
    values = [(turn + by) % params.q for turn in turns for by in (-(2**25), -1, 0, 1, 2**25)] + [0, params.q - 1]
    residues = np.array([[[value % p for value in values] for p in params.primes]], np.uint32)
    for value, share in zip(values, round_shares(residues, params)[0].tolist(), strict=True):
        gap = (share * params.q - value * 2**SHARE_BITS) % (params.q << SHARE_BITS)
        assert min(gap, (params.q << SHARE_BITS) - gap) < params.q * (0.5 + 2**-9)


@driven(max_examples=8)
@given(seed=seeds, threshold=st.sampled_from(["0.05", "0.3", "0.55", "0.95"]), dim=st.sampled_from([64, 128]))
def test_every_hit_bit_is_right_when_all_scores_lie_around_theta(seed: int, threshold: str, dim: int) -> None:
    rng = np.random.default_rng(seed)
    probe = unit_rows(rng, 1, dim)[0]
    theta = Terms(Decimal(threshold), dim, RING).theta(0)
    edges = rows_with_scores(rng, probe, [theta - 2, theta - 1, theta, theta + 1])
    rows = np.concatenate([edges[rng.integers(0, 4, RING.n - 2)], quantised(-probe[None].astype(float)), probe[None]])
    with pytest.MonkeyPatch.context() as patch:
        watched = hit_bits_of(patch)
        trio = Trio(hold(rows), threshold=threshold, ladder="0").search(probe)
    assert not trio.failures
    bits = unpack_bits(opened([watched[seat] for seat in range(3)])[0])
    assert np.array_equal(bits, scores(rows, probe) >= theta)
    assert RING.n // 4 < bits.sum() < 3 * RING.n // 4


def hit_bits_of(monkeypatch: pytest.MonkeyPatch) -> dict[int, npt.NDArray[np.uint64]]:
    """Seat -> that party's components of the hit bits, of one chunk and rung."""
    seen: dict[int, npt.NDArray[np.uint64]] = {}
    original = protocol.filtering.Filter.hits

    def hits(filtering: Any, rung: int, index: int) -> Any:
        bits = yield from original(filtering, rung, index)
        seen[filtering.ring.seat] = bits.parts
        return bits

    monkeypatch.setattr(protocol.filtering.Filter, "hits", hits)
    return seen
