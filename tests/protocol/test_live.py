"""Rows that are not live are not found, and nothing else changes: against the plaintext twin, bit for bit."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import protocol.blocks
from pets.errors import GalleryError
from pets.params import N8192, Parameters
from protocol.engine import Outcome
from protocol.messages import Gates, LiveRows, MaskedScores
from protocol.terms import Terms
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, ROUTER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold
from tests.protocol.test_exact import KINDS, LADDERS, THRESHOLDS, Case, random_rows, rows_at_theta

pytestmark = pytest.mark.ring

SHARES = {"none": 0.0, "few": 0.1, "half": 0.5, "most": 0.9, "all": 1.0}


def check_against_twin(
    kind: Any,
    rows: int,
    seed: int,
    share: str,
    threshold: str = "0.55",
    cap: int = 10,
    ladder: str = "0.02",
    dim: int = 128,
    params: Parameters = RING,
    zeroed: bool = True,
) -> tuple[Outcome, np.ndarray]:
    """Prepared with all rows, searched when some are not live any more, their templates overwritten or still there."""
    rng = np.random.default_rng(seed)
    probe = unit_rows(rng, 1, dim)[0]
    terms = Terms(Decimal(threshold), dim, params, cap, Decimal(ladder))
    thetas = tuple(terms.theta(rung) for rung in range(len(terms.rungs)))
    gallery = hold(kind(Case(rng, dim, rows, probe, thetas)).copy(), params)
    root = gallery.root
    live = rng.random(rows) < SHARES[share]
    trio = Trio(gallery, threshold=threshold, cap=cap, ladder=ladder, live=live).prepare()
    expected = trio.expected(probe)
    if zeroed:
        gallery.forget_rows(np.flatnonzero(~live))
        assert not gallery.templates[~live].any()
    outcome = trio.search(probe).outcome()
    assert outcome == expected
    assert gallery.root == root
    assert all(live[hit.row] for hit in outcome.hits)
    return outcome, live


driven = partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@driven(max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    rows=st.sampled_from([1, 63, 4095, 4096, 4097]),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from(list(SHARES)),
    threshold=st.sampled_from(THRESHOLDS),
    cap=st.sampled_from([1, 10, 99]),
    ladder=st.sampled_from(LADDERS),
    zeroed=st.booleans(),
)
def test_a_search_among_live_rows_equals_the_plaintext_twin(**case: Any) -> None:
    check_against_twin(**case)


@pytest.mark.parametrize("dim", [8, 24])
def test_other_dimensions(dim: int) -> None:
    check_against_twin(random_rows, 300, dim, "half", threshold="0.05", cap=99, dim=dim)


@pytest.mark.parametrize("dim", [64, 512, 1024])
@pytest.mark.parametrize("zeroed", [False, True])
def test_at_and_just_below_the_threshold_in_every_dimension(dim: int, zeroed: bool) -> None:
    check_against_twin(rows_at_theta, 300, dim, "half", cap=99, ladder="0.1", dim=dim, zeroed=zeroed)


@pytest.mark.parametrize("rows", [300, 8193])
def test_at_ring_dimension_8192(rows: int) -> None:
    check_against_twin(rows_at_theta, rows, rows, "half", cap=99, params=N8192)


def test_rows_that_are_not_live_neither_fill_the_cap_nor_cause_a_climb() -> None:
    rng = np.random.default_rng(4)
    probe = unit_rows(rng, 1, 64)[0]
    rows = unit_rows(rng, 400, 64)
    rows[100:130] = near(rng, probe, 30, np.full(30, 0.8))
    live = np.ones(400, np.bool_)
    live[103:130] = False
    all_live = Trio(hold(rows), threshold="0.6", ladder="0").search(probe).outcome()
    assert all_live.status == "too_many_candidates"
    trio = Trio(hold(rows), threshold="0.6", ladder="0", live=live).search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert {hit.row for hit in trio.outcome().hits} == {100, 101, 102}


def test_a_climb_looks_at_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three chunks, twelve rows just above the threshold, of which a climb leaves three; one of them is not live."""
    monkeypatch.setattr(protocol.blocks, "CHUNK_ROWS", RING.n)
    rng = np.random.default_rng(4)
    probe = unit_rows(rng, 1, 64)[0]
    rows = unit_rows(rng, 2 * RING.n + 70, 64)
    places = np.linspace(5, len(rows) - 1, 14).astype(int)
    rows[places] = near(rng, probe, 14, np.array([0.63] * 11 + [0.8] * 3))
    live = np.ones(len(rows), np.bool_)
    live[places[-1]] = False
    trio = Trio(hold(rows), threshold="0.6", ladder="0.1", live=live).search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert trio.outcome().threshold_used > trio.terms.threshold
    assert {hit.row for hit in trio.outcome().hits} == set(places[-3:-1].tolist())
    assert len(trio.sent(LiveRows)) == 3, "one a chunk, however many rungs"


def traffic(live: np.ndarray | None, rows: int = 500) -> list[tuple[str, str, str, int]]:
    rng = np.random.default_rng(4)
    probe = unit_rows(rng, 1, 64)[0]
    templates = unit_rows(rng, rows, 64)
    trio = Trio(hold(templates), threshold="0.9", live=live).search(probe)
    return [(type(d.message).__name__, d.sender, d.receiver, len(d.frame)) for d in trio.deliveries]


def test_what_travels_is_the_same_whoever_is_live() -> None:
    nobody = np.zeros(500, np.bool_)
    assert traffic(None) == traffic(np.ones(500, np.bool_)) == traffic(nobody)
    assert any(kind == "LiveRows" for kind, *_ in traffic(None))


def test_control_what_travels_does_depend_on_the_blocks() -> None:
    assert traffic(None) != traffic(None, RING.n + 1)


def test_it_takes_a_half_byte_a_row_in_all() -> None:
    """A bit a row of the holder's, and a bit of each party's gate."""
    rng = np.random.default_rng(4)
    trio = Trio(hold(unit_rows(rng, 300, 64))).accept()
    before = len(trio.deliveries)
    trio.search(unit_rows(rng, 1, 64)[0])
    n, sent = RING.n, trio.deliveries[before:]
    assert [len(d.message.data) for d in sent if d.of(LiveRows)] == [n // 8]  # type: ignore[union-attr]
    gates = [len(d.message.data) for d in sent if d.of(Gates, HOLDER, ROUTER)]  # type: ignore[union-attr]
    assert gates[:5] == [n // 8 * planes for planes in (11, 5, 1, 1, 1)]  # the tree, then live
    assert all(len(d.message.data) == 3 * n for d in sent if d.of(MaskedScores))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "live", [np.ones(49, np.bool_), np.ones(51, np.bool_), np.ones(50, np.uint8), np.ones((50, 1), np.bool_)]
)
def test_bits_that_do_not_fit_the_gallery_are_refused(live: np.ndarray) -> None:
    trio = Trio(hold(unit_rows(np.random.default_rng(0), 50, 64)), live=live).prepare()
    with pytest.raises(GalleryError, match=r"live must be bool \(50,\)"):
        trio.accept()
    assert trio.made is not None
    assert not trio.made.requester.spent


@pytest.mark.parametrize("rows", [[50], [-1], [3, 500]])
def test_a_row_that_there_is_not_cannot_be_forgotten(rows: list[int]) -> None:
    gallery = hold(unit_rows(np.random.default_rng(0), 50, 64))
    before = gallery.templates.copy()
    with pytest.raises(GalleryError, match="of 50"):
        gallery.forget_rows(rows)
    assert np.array_equal(gallery.templates, before)


def test_rows_that_are_read_only_cannot_be_forgotten_here(tmp_path: Any) -> None:
    np.save(tmp_path / "rows.npy", unit_rows(np.random.default_rng(0), 50, 64))
    gallery = hold(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    with pytest.raises(GalleryError, match="read-only"):
        gallery.forget_rows([3])
