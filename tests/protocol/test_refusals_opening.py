"""More hits than the cap, lies in the comparison and wrong answers in the confirmation release nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import protocol.confirming
import protocol.filtering
import protocol.opening
from pets import sketch
from pets.errors import SketchMismatch
from pets.templates import Templates
from protocol import wire
from protocol.errors import ConfirmationFailed, Disagreement
from protocol.gallery import Gallery
from protocol.messages import ConfirmationAnswer, ConfirmationBlock, Gates, PowerSums, Release, Rung, Search
from protocol.roles import Seat
from protocol.session import State
from tests.kit.attacks import TREE, turn_rows
from tests.kit.galleries import scores
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge
from tests.kit.scene import HIT_ROW, OTHER_ROW, replace_first, run, scene
from tests.kit.trio import Trio


@pytest.mark.ring
def test_control_without_an_attack_the_hit_is_released() -> None:
    trio = run(None)
    assert trio.outcome() == trio.expected(scene()[1])
    assert [hit.row for hit in trio.outcome().hits] == [HIT_ROW]
    assert set(trio.states.values()) == {State.FINISHED}
    assert erased(trio)


def erased(trio: Trio) -> bool:
    """Whether nothing is left of what was prepared."""
    assert trio.made is not None
    return not any(part.rings for part in (trio.made.requester, trio.made.router, *trio.made.holders.values()))


# --- more hits than the cap ---


@pytest.mark.parametrize("hits", [11, 12, 14, 15, 60])
def test_more_hits_than_the_cap_open_nothing(hits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_opens_nothing(scene(hits), monkeypatch)


@pytest.mark.ring
def test_500_hits_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_opens_nothing(scene(500, 600), monkeypatch)


def assert_opens_nothing(where: tuple[Gallery, Templates], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    original = sketch.decode
    monkeypatch.setattr(sketch, "decode", lambda *args: opened.append(original(*args)) or opened[-1])
    gallery, probe = where
    trio = Trio(gallery, threshold="0.7", ladder="0.02").search(probe)
    assert trio.outcome() == trio.expected(probe)
    verdicts = [rung.message.verdict for rung in trio.sent(Rung, HOLDER, ROUTER)]  # type: ignore[union-attr]
    hits = [(scores(gallery.templates, probe) >= trio.terms.theta(rung)).sum() for rung in range(len(verdicts))]
    assert verdicts == ["climb" if count > 10 else "confirm" for count in hits]
    assert len(verdicts) > 1
    assert [len(rows) for rows in opened] == hits[-1:]
    assert len(trio.sent(PowerSums)) == 2, "no sums of the rungs below"


def test_too_many_at_the_last_rung_end_the_query_without_confirmation() -> None:
    trio = run(None, hits=11)
    assert trio.outcome().status == "too_many_candidates"
    assert not trio.outcome().hits
    assert not trio.sent(ConfirmationBlock)
    assert not trio.sent(Release)
    assert erased(trio)


def test_control_exactly_the_cap_is_released() -> None:
    trio = run(None, hits=10)
    assert len(trio.outcome().hits) == 10


def test_a_holder_that_climbs_beyond_the_ladder_is_stopped() -> None:
    attack, done = replace_first(Rung, HOLDER, REQUESTER, lambda f: [forge(f, verdict="climb")])
    trio = run(attack)
    assert done
    trio.assert_stopped(Disagreement)


# --- parties that turn a gate of the comparison, and keep what fits: nobody sees a difference ---


@pytest.mark.ring
@pytest.mark.parametrize("seat", [Seat.HOLDER, Seat.REQUESTER, Seat.ROUTER], ids=["holder", "requester", "router"])
def test_a_row_turned_into_a_hit_is_not_released(seat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    turn_rows(monkeypatch, seat, [OTHER_ROW])
    trio = run(None)
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)
    assert trio.sent(ConfirmationBlock)


@pytest.mark.parametrize("seat", [Seat.REQUESTER, Seat.ROUTER], ids=["requester", "router"])
def test_control_without_the_checks_of_the_confirmation_a_row_turned_into_a_hit_is_released(
    seat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_rows(monkeypatch, seat, [OTHER_ROW])
    monkeypatch.setattr(protocol.confirming, "check_answers", lambda *args: [0] * args[2])
    assert {hit.row for hit in run(None).outcome().hits} == {HIT_ROW, OTHER_ROW}


@pytest.mark.parametrize("seat", [Seat.REQUESTER, Seat.ROUTER], ids=["requester", "router"])
def test_a_row_that_does_not_exist_turned_into_a_hit_stops_the_search(
    seat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no row is, nobody is live: it must be turned after that (`protocol.live`)."""
    turn_rows(monkeypatch, seat, [3000], turn=TREE)  # the gallery has 200 rows
    run(None).assert_stopped(Disagreement)


@pytest.mark.ring
@pytest.mark.parametrize("seat", [Seat.REQUESTER, Seat.ROUTER], ids=["requester", "router"])
def test_known_limit_a_hit_turned_into_none_is_a_clean_no_hit(seat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who turns it must know which row it is. Only an audit to which the probe is brought can tell."""
    turn_rows(monkeypatch, seat, [HIT_ROW])
    trio = run(None)
    assert trio.outcome().status == "no_hit"
    assert len(trio.expected(scene()[1]).hits) == 1


# --- parties that send another product than they keep ---


def flip_bit(frame: bytes, row: int) -> bytes:
    data = bytearray(wire.decode(frame).message.data)  # type: ignore[union-attr]
    data[row // 8] ^= 1 << row % 8
    return forge(frame, data=bytes(data))


def flip_last_gate(sender: str, row: int) -> Attack:
    """Flip one row's bit in what the last gate of the comparison sends."""
    rounds = [0]
    asked: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(Search):
            asked.append(True)
        if asked and d.of(Gates, sender):
            rounds[0] += 1
            if rounds[0] == TREE + 1:  # and with the live bits
                return [flip_bit(d.frame, row)]
        return None

    return attack


def test_router_that_sends_another_product_gets_nothing() -> None:
    """The count is then a random number, which is more than the cap or not."""
    trio = run(flip_last_gate(ROUTER, OTHER_ROW))
    assert not trio.sent(Release)
    if trio.sent(PowerSums):
        trio.assert_stopped(SketchMismatch)
    else:
        assert trio.outcome().status == "too_many_candidates"


def test_router_that_sends_another_product_is_noticed_in_the_power_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    opening = protocol.filtering.open_bit

    def few(*args: Any) -> Any:
        yield from opening(*args)
        return True

    monkeypatch.setattr(protocol.filtering, "open_bit", few)
    run(flip_last_gate(ROUTER, OTHER_ROW)).assert_stopped(SketchMismatch)


def test_holder_that_sends_another_product_changes_nothing() -> None:
    # the components it opens with are its own; those of the others do not rest on the last gate it sends
    trio = run(flip_last_gate(HOLDER, OTHER_ROW))
    assert trio.outcome() == trio.expected(scene()[1])


# --- confirmation ---


BOTH = (REQUESTER, ROUTER)  # the two compute the same answer, and the holder compares; alike they are still checked


def shift_answers(senders: Iterable[str], slot: int, delta: int, values: Iterable[int] = (0,)) -> Attack:
    """Some numbers of a slot, in the answers of some parties."""
    liars = set(senders)

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if not d.of(ConfirmationAnswer) or d.sender not in liars:
            return None
        answer = np.frombuffer(d.message.data, "<u4").astype(np.int64)  # type: ignore[union-attr]
        answer[[6 * slot + value for value in values]] += delta
        return [forge(d.frame, data=(answer % 2**24).astype("<u4").tobytes())]

    return attack


@pytest.mark.slow
@pytest.mark.ring
@pytest.mark.parametrize("delta", [16, -16, 48, 2**10, 2**19, 2**23, -(2**23) + 16])
@pytest.mark.parametrize(("senders", "value"), [((REQUESTER,), 0), ((ROUTER,), 3), (BOTH, 0), (BOTH, 3)])
def test_shifted_confirmation_answer_freezes_the_query(senders: tuple[str, ...], value: int, delta: int) -> None:
    run(shift_answers(senders, 0, delta, [value])).assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_a_frozen_query_has_kept_what_made_its_confirmation_block() -> None:
    holder = run(shift_answers(BOTH, 0, 16, [5])).holder
    assert holder.result is None
    assert holder.sealed is not None
    assert holder.sealed.rows == (HIT_ROW,)
    assert len(holder.sealed.answers) == 2


def test_answers_that_shift_score_and_all_factors_alike_freeze_the_query() -> None:
    run(shift_answers(BOTH, 0, 16, range(6))).assert_stopped(ConfirmationFailed, state=State.FROZEN)


@pytest.mark.parametrize("slot", [1, 9])
@pytest.mark.parametrize("hits", [0, 1])
def test_non_zero_unused_slot_freezes_the_query(slot: int, hits: int) -> None:
    trio = run(shift_answers(BOTH, slot, 16, [5]), hits=hits)
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_control_a_shift_within_the_rounding_error_changes_nothing() -> None:
    trio = run(shift_answers(BOTH, 0, 3))
    assert trio.outcome() == trio.expected(scene()[1])


def test_a_shift_of_one_answer_alone_is_noticed_however_small() -> None:
    run(shift_answers((REQUESTER,), 0, 3)).assert_stopped(ConfirmationFailed, state=State.FROZEN)


@pytest.mark.ring
def test_confirmation_of_a_row_below_theta_freezes_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    # also true scores are not released when they are none of a hit
    monkeypatch.setattr(protocol.filtering, "open_hits", opening_also(OTHER_ROW))
    run(None).assert_stopped(ConfirmationFailed, state=State.FROZEN)


def opening_also(row: int) -> Any:
    original = protocol.opening.open_hits

    def opened(*args: Any) -> Any:
        rows = yield from original(*args)
        return (*rows, row)

    return opened


def test_control_without_the_checks_of_the_confirmation_the_row_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.filtering, "open_hits", opening_also(OTHER_ROW))
    monkeypatch.setattr(protocol.confirming, "check_answers", lambda *args: [0] * args[2])
    assert {hit.row for hit in run(None).outcome().hits} == {HIT_ROW, OTHER_ROW}
