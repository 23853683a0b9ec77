"""The encrypted search equals its plaintext twin bit for bit, whatever the gallery (protocol/DESIGN.md, 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pets.replicated
import protocol.filter
from pets.bits import Bits
from pets.errors import TemplateError
from pets.params import N4096, N8192, SHARE_BITS, Parameters, norm_bound, scale
from pets.planes import unpack_bits
from pets.rounding import round_shares
from protocol.compare import threshold_offset
from protocol.compute import Ring
from protocol.engine import EncryptedEngine, PlainEngine
from protocol.gallery import Gallery
from protocol.terms import Terms
from tests.kit.galleries import Templates, longest, near, quantised, rows_with_scores, scores, unit_rows
from tests.kit.parties import Trio, enrol
from tests.kit.ring import RING

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
    dim: int = 128,
    params: Parameters = RING,
    probe_kind: str = "unit",
) -> str:
    """Search both ways and compare everything; returns the status."""
    rng = np.random.default_rng(seed)
    probe = longest(rng, dim) if probe_kind == "longest" else unit_rows(rng, 1, dim)[0]
    terms = Terms(Decimal(threshold), dim, params, cap, Decimal(ladder))
    thetas = tuple(terms.theta(rung) for rung in range(len(terms.rungs)))
    gallery = enrol(kind(Case(rng, dim, rows, probe, thetas)), params)
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
@driven(max_examples=6)
@given(kind=kinds, rows=st.sampled_from([1, 4097]), seed=seeds, threshold=st.sampled_from(THRESHOLDS))
def test_encrypted_search_equals_the_plaintext_twin_at_512_dimensions(**case: Any) -> None:
    check_against_twin(**case, cap=10, ladder="0.02", dim=512)


@pytest.mark.slow
@driven(max_examples=5)
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
    # also shows that the generators above make what they say: without it all of them could end in no_hit
    assert check_against_twin(kind, rows, 5, threshold, 10, ladder) == status


@pytest.mark.parametrize("params", [RING, N8192], ids=lambda p: p.preset)
def test_empty_gallery_ends_in_no_hit(params: Parameters) -> None:
    probe = unit_rows(np.random.default_rng(0), 1, 128)[0]
    trio = Trio(enrol(np.empty((0, 128), np.int8), params)).search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert trio.outcome().status == "no_hit"


def test_several_probes_in_one_pass_equal_the_twin() -> None:
    rng = np.random.default_rng(3)
    probes = unit_rows(rng, 3, 128)
    rows = np.concatenate([unit_rows(rng, 4090, 128), near(rng, probes[1], 7, np.linspace(0.4, 0.6, 7))])
    gallery = Gallery.enrol(rows, RING)
    terms = Terms(Decimal("0.3"), 128, RING)
    encrypted = EncryptedEngine().search(gallery, probes, terms)
    assert encrypted == PlainEngine().search(gallery, probes, terms)
    assert [outcome.status for outcome in encrypted].count("released") >= 1


@pytest.mark.parametrize("threads", [3, 9])
def test_queries_on_several_threads_equal_the_twin(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries side by side, kernels split among threads, three chunks at each of several rungs."""
    monkeypatch.setattr(pets.replicated, "PARALLEL_WORDS", 1)
    monkeypatch.setattr(protocol.filter, "CHUNK_ROWS", RING.n)
    rng = np.random.default_rng(3)
    probes = unit_rows(rng, 4, 64)
    templates = unit_rows(rng, 2 * RING.n + 90, 64)
    templates[RING.n - 3 : RING.n + 4] = near(rng, probes[1], 7, np.linspace(0.6, 0.8, 7))
    templates[2 * RING.n :: 9] = near(rng, probes[2], 10, np.linspace(0.59, 0.65, 10))
    gallery = Gallery.enrol(templates, RING)
    terms = Terms(Decimal("0.58"), 64, RING, cap=7)
    expected = PlainEngine().search(gallery, probes, terms)
    assert EncryptedEngine(threads).search(gallery, probes, terms) == expected
    assert [bool(outcome.hits) for outcome in expected] == [False, True, True, False]
    assert expected[2].threshold_used > terms.threshold
    bad = probes.copy()
    bad[2] = 127
    with pytest.raises(TemplateError):
        EncryptedEngine(threads).search(gallery, bad, terms)


# --- every row, not only the few that the sketch lets through ---


@dataclass
class Seen:
    """What the three parties held in the comparison of each rung, which nobody ever puts together."""

    totals: list[npt.NDArray[np.int64]] = field(default_factory=list)
    bits: list[npt.NDArray[np.uint8]] = field(default_factory=list)


@contextmanager
def watch_comparison() -> Iterator[dict[tuple[int, int], tuple[Any, Bits]]]:
    """(seat, rung) -> that party's rounded shares (the holder's with the threshold folded in) and its hit bits."""
    seen: dict[tuple[int, int], tuple[Any, Bits]] = {}
    original = protocol.filter.hit_bits

    def watched(ring: Ring, shares: Any, rung: int, chunk: int) -> Any:
        bits = yield from original(ring, shares, rung, chunk)
        seen[ring.index, rung] = shares.copy(), bits
        return bits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.filter, "hit_bits", watched)
        yield seen


def compared(templates: Templates, probe: Templates, threshold: str, params: Parameters) -> tuple[Any, Any, Any]:
    """(sum of the three rounded shares, hit bits of the first rung, scores) of every row of one chunk."""
    with watch_comparison() as seen:
        trio = Trio(enrol(templates, params), threshold=threshold, ladder="0").search(probe)
        assert not trio.failures
    total = sum(seen[seat, 0][0].astype(np.int64) for seat in range(3))
    total += threshold_offset(trio.terms.theta(0), params)
    bits = [seen[seat, 0][1] for seat in range(3)]
    for seat in range(3):  # replicated: x_{i+1} of party i is the first component of party i+1
        assert np.array_equal(bits[seat].parts[1], bits[(seat + 1) % 3].parts[0])
    opened = bits[0].parts[0][0] ^ bits[1].parts[0][0] ^ bits[2].parts[0][0]
    return total, unpack_bits(opened), scores(templates, probe)


def distance(total: npt.NDArray[np.int64], exact: npt.NDArray[np.int64], t: int) -> list[float]:
    """|total - s·2^24/t| modulo 2^24, from integers."""
    period = t << SHARE_BITS
    gaps = [(int(v) * t - (int(s) << SHARE_BITS)) % period for v, s in zip(total, exact, strict=True)]
    return [min(gap, period - gap) / t for gap in gaps]


@pytest.mark.parametrize(("dim", "params"), [(128, RING), (512, RING), (128, N8192)])
def test_sum_of_the_three_shares_is_the_score_within_two(dim: int, params: Parameters) -> None:
    rng = np.random.default_rng(dim)
    probe = longest(rng, dim)
    rows = unit_rows(rng, params.n + 100, dim)
    rows[0], rows[1], rows[2:50] = probe, -probe, near(rng, probe, 48, np.linspace(-0.99, 0.99, 48))
    total, bits, exact = compared(rows, probe, "0.5", params)
    gaps = distance(total[: len(rows)], exact, params.t)
    assert max(gaps) <= 2
    assert max(gaps) > 0.5, "three roundings never leave every row exact: this would compare nothing"
    # rows of the last block that do not exist are zeros
    assert max(distance(total[len(rows) :], np.zeros(len(total) - len(rows), np.int64), params.t)) <= 2
    assert not bits[len(rows) :].any()


@pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)
def test_a_share_is_rounded_to_within_half_a_unit_where_rounding_turns(params: Parameters) -> None:
    """So three of them and noise far below a unit are within 1.5, which leaves the stated 2 for a sum of integers."""
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
    _, bits, exact = compared(rows, probe, threshold, RING)
    assert np.array_equal(bits, exact >= theta)
    assert RING.n // 4 < bits.sum() < 3 * RING.n // 4
