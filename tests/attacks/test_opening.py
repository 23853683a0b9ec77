"""What a count and planted rows would give away, what the sketch does (also to who only looks), what a climb tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.cap
import protocol.filter
from pets import gf32, sketch
from pets.params import SHARE_BITS, norm_bound
from pets.planes import unpack_bits
from protocol.compare import SHARE_MASK, threshold_offset
from protocol.compute import HOLDER as HOLDER_SEAT
from protocol.compute import REQUESTER as REQUESTER_SEAT
from protocol.compute import ROUTER as ROUTER_SEAT
from protocol.compute import Ring
from protocol.errors import ConfirmationFailed, Disagreement, QueryRefused
from protocol.filter import CLIMB, CONFIRM
from protocol.messages import ConfirmationBlock, PowerSums, Release, Rung
from protocol.session import State
from tests.kit.attacks import (
    SMALL,
    N,
    SketchReader,
    claims_few,
    climbs_at_will,
    crowd,
    force,
    miscounts,
    payload,
    probes_and_gallery,
)
from tests.kit.galleries import Templates, near, scores, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, Delivery, Trio, enrol, forge
from tests.kit.ring import RING

pytestmark = pytest.mark.ring

# --- the count as an oracle ---


def forced_search(
    monkeypatch: pytest.MonkeyPatch, templates: Templates, probe: Templates, units: int
) -> tuple[Trio, int]:
    """A requester forces 100 rows to hit and shifts row 200 by `units`. Returns also how many rows then hit."""
    counts: list[int] = []
    with monkeypatch.context() as patch:
        force(patch, range(100), [0], {200: units})
        original, parts = protocol.filter.hit_bits, {}

        def watched(seat: Ring, *args: Any) -> Any:
            parts[seat.index] = bits = yield from original(seat, *args)
            return bits

        patch.setattr(protocol.filter, "hit_bits", watched)
        trio = Trio(enrol(templates), threshold="0.9", ladder="0").search(probe)
        own, others = parts[HOLDER_SEAT], parts[REQUESTER_SEAT]
        counts.append(int(unpack_bits(own.parts[0][0] ^ own.parts[1][0] ^ others.parts[1][0]).sum()))
    return trio, counts[0]


def people() -> tuple[Templates, Templates]:
    rng = np.random.default_rng(11)
    return unit_rows(rng, 300, SMALL), unit_rows(rng, 1, SMALL)[0]


def test_control_a_scheme_that_opens_counts_gives_one_score_in_as_many_counts_as_it_has_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """13 here, where scores have 13 bits; 19 at d = 512."""
    templates, probe = people()
    truth, bound = int(scores(templates, probe)[200]), norm_bound(SMALL)
    theta = Trio(enrol(templates), threshold="0.9", ladder="0").terms.theta(0)
    _, without = forced_search(monkeypatch, templates, probe, -2 * bound)
    low, high, asked = -bound, bound + 1, 0  # low <= score < high
    while high - low > 1:
        guess = (low + high) // 2
        _, count = forced_search(monkeypatch, templates, probe, theta - guess)
        low, high = (guess, high) if count > without else (low, guess)
        asked += 1
    assert abs(low - truth) <= 1, "a share is rounded to a sixteenth of a unit, and so is a shift"
    assert asked == 13


def test_forced_rows_show_the_requester_the_same_whichever_side_its_guess_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the cap, the sketch says "too many" to the holder, and the holder one word to the others."""
    templates, probe = people()
    bound = norm_bound(SMALL)
    seen = []
    counts = []
    for units in (-2 * bound, 2 * bound):
        trio, count = forced_search(monkeypatch, templates, probe, units)
        counts.append(count)
        assert trio.outcome().status == "too_many_candidates"
        seen.append([(d.sender, type(d.message), len(d.frame)) for d in trio.deliveries if d.receiver == REQUESTER])
        assert [d.message.verdict for d in trio.sent(Rung, receiver=REQUESTER)] == ["exhausted"]  # type: ignore[union-attr]
    assert counts[1] == counts[0] + 1
    assert seen[0] == seen[1]


@pytest.mark.parametrize("distance", [-500, 500])
def test_known_limit_the_last_rung_tells_a_cheating_requester_one_bit_more(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced up to the cap, one more ends the search as "too many", which freezes nothing."""
    probe, templates = crowd()
    trio = Trio(enrol(templates), threshold="0.7", ladder="0")
    missing = trio.terms.theta(0) - int(scores(templates, probe)[200])
    force(monkeypatch, range(100, 108), [0], {200: missing + distance})
    trio.search(probe)
    if distance > 0:
        assert trio.outcome().status == "too_many_candidates"
    else:
        trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


# --- a holder that follows the protocol, and studies its sketches ---


def radius_decoded(sums: npt.NDArray[np.uint32]) -> set[int] | None:
    """Everything that sums decode to: as many rows as there are sums, two more than `sketch.decode` takes."""
    locator = gf32.minimal_polynomial(sketch._all_power_sums(sums))
    elements = gf32.distinct_roots(locator) if len(locator) - 1 <= len(sums) else None
    return None if elements is None else {gf32.discrete_log(element) for element in elements}


def sums_of(rows: set[int], cap: int) -> npt.NDArray[np.uint32]:
    elements = np.array([gf32.power(gf32.ALPHA, row) for row in rows], np.int64)
    return gf32.odd_power_sums(elements, cap + 2).astype(np.uint32)


def watched_search(monkeypatch: pytest.MonkeyPatch, cosines: list[float]) -> tuple[Trio, list[Any], set[int]]:
    """An honest search from 0.65 in steps of 0.05, the sums that the holder got at each rung, and all hits."""
    seen: list[Any] = []
    original = sketch.decode
    monkeypatch.setattr(sketch, "decode", lambda sums, *rest: seen.append(sums.copy()) or original(sums, *rest))
    rng = np.random.default_rng(4)
    probe, templates = unit_rows(rng, 1, 128)[0], unit_rows(rng, 300, 128)
    templates[100 : 100 + len(cosines)] = near(rng, probe, len(cosines), np.array(cosines))
    trio = Trio(enrol(templates), threshold="0.65", ladder="0.05").search(probe)
    assert trio.outcome() == trio.expected(probe)
    hits = np.flatnonzero(scores(templates, probe) >= trio.terms.theta(0))
    assert len(hits) == len(cosines)
    return trio, seen, set(hits.tolist())


def without_the_bit(monkeypatch: pytest.MonkeyPatch, *verdicts: str) -> None:
    """Sums of every rung leave, and the holder says what follows."""
    original = protocol.filter.open_hits

    def opening(*args: Any) -> Any:
        try:
            return (yield from original(*args))
        except Disagreement:
            return None

    def always(*_args: Any) -> Any:
        return True
        yield

    monkeypatch.setattr(protocol.filter, "at_most_cap", always)
    monkeypatch.setattr(protocol.filter, "open_hits", opening)
    monkeypatch.setattr(protocol.filter, "verdict_on", lambda _few, rung, _terms: verdicts[rung])


NESTED = [0.8] * 10 + [0.72] * 12 + [0.67] * 12


@pytest.mark.parametrize(("cosines", "rungs"), [([0.67] * 11, 2), ([0.67] * 12, 2), (NESTED, 3)])
def test_a_holder_gets_no_sums_of_a_rung_on_which_more_hit_than_the_cap(
    cosines: list[float], rungs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio, seen, _ = watched_search(monkeypatch, cosines)
    verdicts = [d.message.verdict for d in trio.sent(Rung, HOLDER, REQUESTER)]  # type: ignore[union-attr]
    assert verdicts == ["climb"] * (rungs - 1) + ["confirm"]
    assert len(seen) == 1
    assert len(trio.sent(PowerSums)) == 2
    assert np.array_equal(seen[0], sums_of({hit.row for hit in trio.outcome().hits}, 10))


def test_control_without_the_bit_sums_decode_to_more_hits_than_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """To two more; and to three, if the holder tries each of its rows as one of them."""
    without_the_bit(monkeypatch, CLIMB, CONFIRM)
    _, seen, hits = watched_search(monkeypatch, [0.67] * 12)
    assert radius_decoded(seen[0]) == hits
    _, seen, hits = watched_search(monkeypatch, [0.67] * 13)
    assert radius_decoded(seen[0]) is None
    guessed = [radius_decoded(sketch.combine(seen[0], sums_of({row}, 10))) for row in range(300)]
    assert {frozenset(rest | {row}) for row, rest in enumerate(guessed) if rest} == {frozenset(hits)}


def test_control_without_the_bit_a_climb_that_ends_tells_the_hits_of_the_rungs_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What hits above hits below too: taken off, it leaves at most cap + 2 rows more at each rung to be decoded."""
    without_the_bit(monkeypatch, CLIMB, CLIMB, CONFIRM)
    trio, seen, hits = watched_search(monkeypatch, NESTED)
    assert radius_decoded(seen[0]) is None
    assert radius_decoded(seen[1]) is None
    known: set[int] = set()
    for sums in reversed(seen):
        more = radius_decoded(sketch.combine(sums, sums_of(known, 10)))
        assert more is not None
        known |= more
    assert len(trio.outcome().hits) == 10
    assert known == hits


# --- a holder that lies in the count for the sake of the sketch ---


def climbing_search(monkeypatch: pytest.MonkeyPatch, rungs: int) -> tuple[Trio, Templates, npt.NDArray[np.float64]]:
    """The search, the probe, and what the holder makes of it by least squares over its own rows."""
    rng = np.random.default_rng(2)
    probe, templates = unit_rows(rng, 1, 128)[0], unit_rows(rng, 500, 128)
    trio = Trio(enrol(templates), threshold="0.55")
    reader = SketchReader(trio.terms.cap, rungs)
    monkeypatch.setattr(protocol.filter, "fold_threshold", reader.fold)
    monkeypatch.setattr(protocol.filter, "open_hits", reader.open)
    claims_few(monkeypatch)
    if rungs > 1:
        climbs_at_will(monkeypatch, rungs)
    trio.search(probe)
    assert trio.requester.answers[HOLDER].status == "no_hit"
    middle = (reader.low + reader.high) / 2
    guess, *_ = np.linalg.lstsq(templates[: reader.rows].astype(np.float64), middle, rcond=None)
    return trio, probe, guess


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b.astype(np.float64)))


def test_known_limit_a_holder_that_lies_in_the_count_reads_as_many_thresholds_as_the_sums_have_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """384 comparisons of its own, once a query. Nothing shows online; no row is planted, nothing is released."""
    trio, probe, guess = climbing_search(monkeypatch, 1)
    assert [d.message.verdict for d in trio.sent(Rung, receiver=REQUESTER)] == ["confirm"]  # type: ignore[union-attr]
    assert len(trio.sent(Release)) == 1
    assert cosine(guess, probe) == pytest.approx(0.87, abs=0.01)


def test_a_holder_that_got_the_sums_may_not_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, templates = crowd()
    trio = Trio(
        enrol(templates),
        threshold="0.4",
        attack=lambda d: [forge(d.frame, verdict="climb")] if d.of(Rung, HOLDER) else None,
    )
    claims_few(monkeypatch)
    trio.search(probe)
    assert len(trio.sent(PowerSums)) == 2
    trio.assert_stopped(Disagreement)


@pytest.mark.parametrize(("rungs", "reached"), [(2, 0.93), (3, 0.98), (5, 0.999), (9, 1)])
def test_control_where_a_verdict_need_not_follow_from_the_bit_it_reads_one_sketch_a_rung(
    rungs: int, reached: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine rungs are 9·384 comparisons: more than the probe has bits at 128 dimensions. It has it exactly."""
    trio, probe, guess = climbing_search(monkeypatch, rungs)
    verdicts = [d.message.verdict for d in trio.sent(Rung, receiver=REQUESTER)]  # type: ignore[union-attr]
    assert verdicts == ["climb"] * (rungs - 1) + ["confirm"]
    assert cosine(guess, probe) == pytest.approx(reached, abs=0.01)
    assert np.array_equal(np.rint(guess), probe) == (rungs == 9)


@pytest.mark.parametrize("told", ["climb", "confirm"])
def test_a_holder_that_gives_up_before_the_last_rung_is_stopped(told: str) -> None:
    """Else "too many candidates" would stand for a threshold above which nobody has looked."""

    def attack(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, verdict="exhausted")] if d.of(Rung, HOLDER) else None

    probe, templates = crowd()
    # 7 rows hit at 0.4, 2 of them at the last rung
    trio = Trio(enrol(templates), threshold="0.4", cap=2 if told == "climb" else 10, ladder="0.1", attack=attack)
    trio.search(probe)
    assert [d.message.verdict for d in trio.sent(Rung, HOLDER, REQUESTER)] == [told]  # type: ignore[union-attr]
    trio.assert_stopped(Disagreement)


# --- requester or router that lie in the count ---


@pytest.mark.parametrize("cosine", [0.2, 0.4])
@pytest.mark.parametrize("seat", [REQUESTER_SEAT, ROUTER_SEAT], ids=["requester", "router"])
def test_known_limit_a_lie_in_the_count_tells_one_comparison_a_rung_and_freezes_nothing(
    seat: int, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets a row hit from a threshold of its own, and knows that two hit by themselves: a third is "more"."""
    probe, templates = crowd()
    templates[50] = near(np.random.default_rng(3), probe, 1, np.array([cosine]))[0]
    original = protocol.filter.hit_bits
    trio = Trio(enrol(templates), threshold="0.7")
    gain = trio.terms.theta(0) - round(0.3 * 248**2)

    def shifting(ring: Ring, shares: Any, rung: int, chunk: int) -> Any:
        if ring.index == seat and rung == 0:
            moved = shares.astype(np.int64)
            moved[50] += 16 * gain
            shares = (moved % 2**SHARE_BITS).astype(np.uint32)
        return (yield from original(ring, shares, rung, chunk))

    monkeypatch.setattr(protocol.filter, "hit_bits", shifting)
    miscounts(monkeypatch, seat, trio.terms.cap - 2, [0])
    trio.search(probe)
    assert not trio.failures
    assert {hit.row for hit in trio.outcome().hits} == {10, 11}, "the right answer in any case"
    assert trio.outcome().threshold_used == trio.terms.rungs[cosine > 0.3]


@pytest.mark.parametrize(("row", "hits"), [(10, True), (50, False)])
def test_known_limit_a_holder_that_lies_in_the_count_has_the_bit_tell_of_one_row(
    row: int, hits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its own component u of the row's hit bit, and adds ±500 to what it sends of it: ±1000 to the count."""
    probe, templates = crowd()
    original, masking = protocol.filter.count_share, protocol.cap.masked
    component: list[int] = []

    def lying_mask(bits: Any, stream: Any) -> Any:
        words = masking(bits, stream)
        if not component:
            component.append(int(bits[row // 64] >> np.uint64(row % 64)) & 1)
            words[row : row + 1] += np.array([500 if component[0] else 2**32 - 500], np.uint32)
        return words

    def counting(ring: Ring, *rest: Any) -> Any:
        share = yield from original(ring, *rest)
        return share + 1000 * (ring.index == HOLDER_SEAT and rest[1] == 0 and component[0])

    monkeypatch.setattr(protocol.cap, "masked", lying_mask)
    monkeypatch.setattr(protocol.filter, "count_share", counting)
    trio = Trio(enrol(templates), threshold="0.7").search(probe)
    assert not trio.failures
    assert trio.outcome().threshold_used == trio.terms.rungs[hits]


# --- planted rows and forced hits ---


def planted() -> tuple[Templates, npt.NDArray[np.int64]]:
    """Rows e_j, and a threshold for each: row (j, v) would hit exactly if q_j >= v. All hit bits give q away."""
    levels = np.arange(-127, 128)
    templates = np.repeat(np.eye(SMALL, dtype=np.int8), len(levels), axis=0)
    return templates, np.tile(levels, SMALL)


def planting_search(monkeypatch: pytest.MonkeyPatch, probe: Templates) -> tuple[Trio, list[Any], dict[int, Any]]:
    """A holder that folds its own thresholds into its share. Returns what it decoded, and every party's hit bits."""
    templates, thresholds = planted()
    offsets = np.zeros(N, np.int64)
    offsets[: len(thresholds)] = [threshold_offset(int(v), RING) for v in thresholds]
    offsets[len(thresholds) :] = threshold_offset(1, RING)
    monkeypatch.setattr(
        protocol.filter,
        "fold_threshold",
        lambda shares, *_: ((shares.astype(np.int64) - offsets) % 2**24).astype(np.uint32) & SHARE_MASK,
    )
    bits: dict[int, Any] = {}
    original = protocol.filter.hit_bits

    def watched(seat: Ring, *args: Any) -> Any:
        bits[seat.index] = yield from original(seat, *args)
        return bits[seat.index]

    monkeypatch.setattr(protocol.filter, "hit_bits", watched)
    decoded: list[Any] = []
    opening = protocol.filter.open_hits

    def watched_opening(*args: Any) -> Any:
        decoded.append((yield from opening(*args)))
        return decoded[-1]

    monkeypatch.setattr(protocol.filter, "open_hits", watched_opening)
    return Trio(enrol(templates), threshold="0.5", ladder="0").search(probe), decoded, bits


def test_planted_rows_open_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trio, decoded, _ = planting_search(monkeypatch, probes_and_gallery()[0][0])
    assert decoded == []
    assert trio.outcome().status == "too_many_candidates"
    assert not trio.sent(PowerSums)


def test_planted_rows_and_a_lie_in_the_count_open_to_nothing_but_the_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    claims_few(monkeypatch)
    trio, decoded, _ = planting_search(monkeypatch, probes_and_gallery()[0][0])
    assert decoded == []
    trio.assert_stopped(Disagreement)
    # all that the two others told the holder about hits: cap + 2 words each, and both the same
    sums = payload(trio, PowerSums, HOLDER)
    assert len(sums) == 2
    assert np.array_equal(sums[0], sums[1])
    assert sums[0].nbytes * 8 == 32 * (trio.terms.cap + 2) < len(planted()[0])
    assert not trio.sent(ConfirmationBlock)


def test_control_with_the_hit_bits_themselves_planted_rows_give_the_probe_away(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probes_and_gallery()[0][0]
    _, _, bits = planting_search(monkeypatch, probe)
    own, others = bits[HOLDER_SEAT], bits[REQUESTER_SEAT]
    opened = unpack_bits(own.parts[0][0] ^ own.parts[1][0] ^ others.parts[1][0])
    reached = opened[: SMALL * 255].reshape(SMALL, 255).sum(axis=1).astype(np.int64) - 128
    assert np.array_equal(reached, probe)


def test_forced_hits_at_the_rung_that_ends_the_search_freeze_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, templates = crowd()
    force(monkeypatch, range(100, 103), range(9), {})
    Trio(enrol(templates), threshold="0.7").search(probe).assert_stopped(ConfirmationFailed, state=State.FROZEN)


@pytest.mark.parametrize("distance", [-500, 500])
def test_known_limit_a_climb_tells_a_cheating_requester_one_bit_unnoticed(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forcing cap - 2 rows beside 2 true hits, one more decides whether the search climbs; the next rung is honest.

    Design 8 says that forced hits freeze the query. They do if the search ends at that rung; if it climbs, the
    requester has learned that the eleventh row's score lies above its guess, and everything ends as usual.
    """
    probe, templates = crowd()
    trio = Trio(enrol(templates), threshold="0.7")
    row = 200
    missing = trio.terms.theta(0) - int(scores(templates, probe)[row])
    force(monkeypatch, range(100, 108), [0], {row: missing + distance})
    trio.search(probe)
    if distance > 0:
        assert {hit.row for hit in trio.outcome().hits} == {10, 11}
        assert trio.outcome().threshold_used == trio.terms.rungs[1]
    else:
        trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_known_limit_a_requester_that_stops_at_the_verdict_freezes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong guess of the test above: it has heard the verdict, and never answers the confirmation it would fail."""

    def stop(d: Delivery) -> list[bytes] | None:
        if not d.of(Rung, HOLDER, REQUESTER):
            return None
        assert isinstance(d.message, Rung)
        assert d.message.verdict == CONFIRM
        trio.requester.abort(trio.requester.sessions[HOLDER], QueryRefused("timeout", "out of order"))
        return []

    probe, templates = crowd()
    force(monkeypatch, range(100, 108), [0], {})
    trio = Trio(enrol(templates), threshold="0.7", attack=stop)
    trio.search(probe)
    assert not trio.failures
    assert set(trio.states.values()) == {State.ABORTED}
    assert str(trio.holder.sessions[HOLDER].failure) == f"{REQUESTER} stopped the query: timeout"
    assert not trio.sent(Release)
