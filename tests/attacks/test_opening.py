"""What a count and planted rows would give away, what the sketch does (also to who only looks), what a climb tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.cap
import protocol.filtering
from pets import gf32, sketch
from pets.planes import unpack_bits
from pets.templates import Templates
from protocol.compare import threshold_offset
from protocol.compute import Ring
from protocol.errors import ConfirmationFailed, Disagreement, OutOfTurn, QueryRefused
from protocol.filter import CLIMB, CONFIRM
from protocol.messages import ConfirmationBlock, PowerSums, Release, Rung
from protocol.roles import Seat
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
from tests.kit.galleries import near, rows_with_scores, scores, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, Delivery, forge
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold, opened

pytestmark = pytest.mark.ring


def verdicts(trio: Trio) -> list[str]:
    """What the holder said of each rung."""
    return [d.message.verdict for d in trio.sent(Rung, HOLDER, REQUESTER)]  # type: ignore[union-attr]


class Watched:
    """Every party's hit bits at each rung, of a gallery of one chunk, which nobody ever puts together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parts: dict[tuple[int, int], Any] = {}
        original = protocol.filtering.Filter.hits

        def hits(filtering: Any, rung: int, index: int) -> Any:
            bits = yield from original(filtering, rung, index)
            self.parts[rung, filtering.ring.seat] = bits.parts
            return bits

        monkeypatch.setattr(protocol.filtering.Filter, "hits", hits)

    def of(self, rung: int = 0) -> npt.NDArray[np.uint8]:
        return unpack_bits(opened([self.parts[rung, seat] for seat in range(3)])[0])


# --- the count as an oracle ---


def people(cosine: float) -> tuple[Templates, Templates]:
    """A probe, and 300 rows of which row 200 has this cosine to it."""
    rng = np.random.default_rng(11)
    probe, rows = unit_rows(rng, 1, 128)[0], unit_rows(rng, 300, 128)
    rows[200] = near(rng, probe, 1, np.array([cosine]))[0]
    return rows, probe


def forced_search(monkeypatch: pytest.MonkeyPatch, cosine: float) -> tuple[Trio, int]:
    """A requester forces 100 rows to hit, more than any cap. Returns also how many rows then hit."""
    templates, probe = people(cosine)
    with monkeypatch.context() as patch:
        watched = Watched(patch)
        force(patch, range(100), [0])
        trio = Trio(hold(templates), threshold="0.5", ladder="0").search(probe)
    return trio, int(watched.of().sum())


def test_forced_rows_show_the_requester_the_same_whether_one_more_hits_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the cap, the bit says "too many" to all, and nothing else leaves. The counts, which would tell, differ."""
    seen, counts = [], []
    for cosine in (0.2, 0.8):
        trio, count = forced_search(monkeypatch, cosine)
        counts.append(count)
        assert trio.outcome().status == "too_many_candidates"
        seen.append([(d.sender, type(d.message), len(d.frame)) for d in trio.deliveries if d.receiver == REQUESTER])
        assert verdicts(trio) == ["exhausted"]
    assert counts == [100, 101], "control: a scheme that opens counts tells whether row 200 hits"
    assert seen[0] == seen[1]


@pytest.mark.parametrize("more", [False, True])
def test_known_limit_the_last_rung_tells_a_cheating_requester_one_bit_more(
    more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced up to the cap, one more hit ends the search as "too many", which freezes nothing."""
    probe, templates = crowd()
    templates[200] = near(np.random.default_rng(1), probe, 1, np.array([0.75 if more else 0.65]))[0]
    force(monkeypatch, range(100, 108), [0])
    trio = Trio(hold(templates), threshold="0.7", ladder="0").search(probe)
    if more:
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
    trio = Trio(hold(templates), threshold="0.65", ladder="0.05").search(probe)
    assert trio.outcome() == trio.expected(probe)
    hits = np.flatnonzero(scores(templates, probe) >= trio.terms.theta(0))
    assert len(hits) == len(cosines)
    return trio, seen, set(hits.tolist())


def without_the_bit(monkeypatch: pytest.MonkeyPatch, *said: str) -> None:
    """Sums of every rung leave, and the holder says what follows."""
    opening, opening_bits = protocol.filtering.open_hits, protocol.filtering.open_bit

    def opening_all(*args: Any) -> Any:
        try:
            return (yield from opening(*args))
        except Disagreement:
            return None

    def always(*args: Any) -> Any:
        yield from opening_bits(*args)
        return True

    monkeypatch.setattr(protocol.filtering, "open_bit", always)
    monkeypatch.setattr(protocol.filtering, "open_hits", opening_all)
    monkeypatch.setattr(protocol.filtering, "verdict_on", lambda _few, rung, _terms: said[rung])


NESTED = [0.8] * 10 + [0.72] * 12 + [0.67] * 12


@pytest.mark.parametrize(("cosines", "rungs"), [([0.67] * 11, 2), ([0.67] * 12, 2), (NESTED, 3)])
def test_a_holder_gets_no_sums_of_a_rung_on_which_more_hit_than_the_cap(
    cosines: list[float], rungs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio, seen, _ = watched_search(monkeypatch, cosines)
    assert verdicts(trio) == ["climb"] * (rungs - 1) + ["confirm"]
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


# --- a holder that publishes thresholds of its own, and lies in the count for the sake of the sketch ---


def climbing_search(monkeypatch: pytest.MonkeyPatch, rungs: int) -> tuple[Trio, Templates, npt.NDArray[np.float64]]:
    """The search, the probe, and what the holder makes of it by least squares over its own rows."""
    rng = np.random.default_rng(2)
    probe, templates = unit_rows(rng, 1, 128)[0], unit_rows(rng, 500, 128)
    trio = Trio(hold(templates), threshold="0.55", ladder="0.03").accept()
    reader = SketchReader(trio.terms, trio.terms.cap, rungs)
    monkeypatch.setattr(protocol.filtering, "public_sums", reader.publish)
    monkeypatch.setattr(protocol.filtering, "open_hits", reader.open)
    claims_few(monkeypatch)
    if rungs > 1:
        climbs_at_will(monkeypatch, rungs)
    trio.search(probe)
    assert trio.requester.answers[HOLDER].status == "no_hit"
    middle = (reader.low + reader.high) / 2
    guess, *_ = np.linalg.lstsq(templates[: len(middle)].astype(np.float64), middle, rcond=None)
    return trio, probe, guess


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b.astype(np.float64)))


def test_known_limit_a_holder_that_lies_in_the_count_reads_as_many_thresholds_as_the_sums_have_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """384 comparisons of its own, once a query. Nothing shows online; no row is planted, nothing is released."""
    trio, probe, guess = climbing_search(monkeypatch, 1)
    assert verdicts(trio) == ["confirm"]
    assert len(trio.sent(Release)) == 1
    assert cosine(guess, probe) == pytest.approx(0.87, abs=0.015)


def test_a_holder_that_got_the_sums_may_not_climb(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, templates = crowd()
    trio = Trio(
        hold(templates),
        threshold="0.4",
        attack=lambda d: [forge(d.frame, verdict="climb")] if d.of(Rung, HOLDER) else None,
    )
    claims_few(monkeypatch)
    trio.search(probe)
    assert len(trio.sent(PowerSums)) == 2
    trio.assert_stopped(Disagreement)


@pytest.mark.parametrize(("rungs", "reached"), [(2, 0.933), (3, 0.944), (5, 0.963), (9, 0.991)])
def test_control_where_a_verdict_need_not_follow_from_the_bit_it_reads_one_sketch_a_rung(
    rungs: int, reached: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it published stands, so each rung asks the same rows a threshold higher by the ladder's step."""
    trio, probe, guess = climbing_search(monkeypatch, rungs)
    assert verdicts(trio) == ["climb"] * (rungs - 1) + ["confirm"]
    assert cosine(guess, probe) == pytest.approx(reached, abs=0.015)


@pytest.mark.parametrize("told", ["climb", "confirm"])
def test_a_holder_that_gives_up_before_the_last_rung_is_stopped(told: str) -> None:
    """Else "too many candidates" would stand for a threshold above which nobody has looked."""

    def attack(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, verdict="exhausted")] if d.of(Rung, HOLDER) else None

    probe, templates = crowd()
    # 7 rows hit at 0.4, 2 of them at the last rung
    trio = Trio(hold(templates), threshold="0.4", cap=2 if told == "climb" else 10, ladder="0.1", attack=attack)
    trio.search(probe)
    assert verdicts(trio) == [told]
    trio.assert_stopped(Disagreement)


# --- parties that lie in the count ---


@pytest.mark.parametrize("hits", [False, True])
@pytest.mark.parametrize("seat", [Seat.REQUESTER, Seat.ROUTER], ids=["requester", "router"])
def test_known_limit_a_lie_in_the_count_tells_one_comparison_a_rung_and_freezes_nothing(
    seat: int, hits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows that two hit by themselves, and has the bit say whether a third does, which the next rung does not."""
    probe, templates = crowd()
    templates[50] = near(np.random.default_rng(3), probe, 1, np.array([0.71 if hits else 0.6]))[0]
    trio = Trio(hold(templates), threshold="0.7")
    miscounts(monkeypatch, seat, trio.terms.cap - 2, [0])
    trio.search(probe)
    assert not trio.failures
    assert {hit.row for hit in trio.outcome().hits} == {10, 11}, "the right answer in any case"
    assert trio.outcome().threshold_used == trio.terms.rungs[hits]


@pytest.mark.parametrize(("row", "hits"), [(10, True), (50, False)])
def test_known_limit_a_holder_that_lies_in_the_count_has_the_bit_tell_of_one_row(
    row: int, hits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its own component u of the row's hit bit, and adds ±500 to what it sends of it: ±1000 to the count."""
    probe, templates = crowd()
    original, masking = protocol.filtering.count_share, protocol.cap.masked
    component: list[int] = []

    def lying_mask(bits: Any, stream: Any) -> Any:
        words = masking(bits, stream)
        if not component:
            component.append(int(bits[row // 64] >> np.uint64(row % 64)) & 1)
            words[row : row + 1] += np.array([500 if component[0] else 2**32 - 500], np.uint32)
        return words

    def counting(ring: Ring, *rest: Any) -> Any:
        share = yield from original(ring, *rest)
        return share + 1000 * (ring.seat == Seat.HOLDER and rest[1] == 0 and component[0])

    monkeypatch.setattr(protocol.cap, "masked", lying_mask)
    monkeypatch.setattr(protocol.filtering, "count_share", counting)
    trio = Trio(hold(templates), threshold="0.7").search(probe)
    assert not trio.failures
    assert trio.outcome().threshold_used == trio.terms.rungs[hits]


# --- planted rows and forced hits ---


def planted() -> tuple[Templates, npt.NDArray[np.int64]]:
    """Rows e_j, and a threshold for each: row (j, v) would hit exactly if q_j >= v. All hit bits give q away."""
    levels = np.arange(-127, 128)
    templates = np.repeat(np.eye(SMALL, dtype=np.int8), len(levels), axis=0)
    return templates, np.tile(levels, SMALL)


def planting_search(monkeypatch: pytest.MonkeyPatch, probe: Templates) -> tuple[Trio, list[Any], Watched]:
    """A holder that publishes its rows less thresholds of its own. Returns what it decoded, and the hit bits."""
    templates, thresholds = planted()
    trio = Trio(hold(templates), threshold="0.5", ladder="0").accept()
    offsets = np.full(N, threshold_offset(1, RING), np.int64)
    offsets[: len(thresholds)] = [threshold_offset(int(v), RING) for v in thresholds]
    publishing = protocol.filtering.public_sums

    def lying(masked: Any, values: Any, offset: int, *rest: Any) -> Any:
        honest = publishing(masked, values, offset, *rest).astype(np.int64)
        return ((honest + offset - offsets) % 2**24).astype(np.uint32)

    monkeypatch.setattr(protocol.filtering, "public_sums", lying)
    watched, decoded, opening = Watched(monkeypatch), list[Any](), protocol.filtering.open_hits

    def watched_opening(*args: Any) -> Any:
        decoded.append((yield from opening(*args)))
        return decoded[-1]

    monkeypatch.setattr(protocol.filtering, "open_hits", watched_opening)
    return trio.search(probe), decoded, watched


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
    _, _, watched = planting_search(monkeypatch, probe)
    reached = watched.of()[: SMALL * 255].reshape(SMALL, 255).sum(axis=1).astype(np.int64) - 128
    assert np.array_equal(reached, probe)


def test_forced_hits_at_the_rung_that_ends_the_search_freeze_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, templates = crowd()
    force(monkeypatch, range(100, 103), range(9))
    Trio(hold(templates), threshold="0.7").search(probe).assert_stopped(ConfirmationFailed, state=State.FROZEN)


@pytest.mark.parametrize("hits", [False, True])
def test_known_limit_a_climb_tells_a_cheating_requester_one_bit_unnoticed(
    hits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forcing cap - 2 rows beside 2 true hits, one more decides whether the search climbs; the next rung is honest.

    Design 8 says that forced hits freeze the query. They do if the search ends at that rung; if it climbs, the
    requester has learned that one more row hits at the first rung, and everything ends as usual.
    """
    probe, templates = crowd()
    trio = Trio(hold(templates), threshold="0.7")
    edge = trio.terms.theta(0) - (0 if hits else 1)
    templates[200] = rows_with_scores(np.random.default_rng(1), probe, [edge])[0]
    trio.galleries[HOLDER] = hold(templates)
    force(monkeypatch, range(100, 108), [0])
    trio.search(probe)
    if hits:
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
    force(monkeypatch, range(100, 108), [0])
    trio = Trio(hold(templates), threshold="0.7", attack=stop)
    trio.search(probe)
    assert all(isinstance(failure, OutOfTurn) for failure in trio.failures), "what was under way already"
    assert set(trio.states.values()) == {State.ABORTED}
    assert str(trio.holder.sessions[HOLDER].failure) == f"{REQUESTER} stopped the query: timeout"
    assert not trio.sent(Release)
