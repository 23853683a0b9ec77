"""More hits than the cap, lies in the comparison and wrong answers in the confirmation release nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import protocol.confirmation
import protocol.filter
import protocol.opening
from pets import sketch
from pets.errors import SketchMismatch
from protocol import wire
from protocol.compute import REQUESTER as REQUESTER_SEAT
from protocol.compute import Ring
from protocol.errors import ConfirmationFailed, Disagreement
from protocol.gallery import Gallery
from protocol.messages import (
    AdmissionBit,
    ConfirmationAnswer,
    ConfirmationBlock,
    FilterBlock,
    Gates,
    PowerSums,
    Release,
    Rung,
)
from protocol.session import State
from tests.kit.galleries import Templates, scores
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, Trio, forge, key_erased
from tests.kit.scene import HIT_ROW, OTHER_ROW, replace_first, run, scene


@pytest.mark.ring
def test_control_without_an_attack_the_hit_is_released() -> None:
    trio = run(None)
    assert trio.outcome() == trio.expected(scene()[1])
    assert [hit.row for hit in trio.outcome().hits] == [HIT_ROW]
    assert set(trio.states.values()) == {State.FINISHED}
    assert key_erased(trio.requester)
    assert key_erased(trio.router)


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
    assert key_erased(trio.requester)
    assert key_erased(trio.router)


def test_control_exactly_the_cap_is_released() -> None:
    trio = run(None, hits=10)
    assert len(trio.outcome().hits) == 10


def test_a_holder_that_climbs_beyond_the_ladder_is_stopped() -> None:
    attack, done = replace_first(Rung, HOLDER, REQUESTER, lambda f: [forge(f, verdict="climb")])
    trio = run(attack)
    assert done
    trio.assert_stopped(Disagreement)


# --- parties that lie in the comparison ---


def flip_bit(frame: bytes, row: int, plane: int = 0, planes: int = 1) -> bytes:
    data = bytearray(wire.decode(frame).message.data)  # type: ignore[union-attr]
    data[plane * len(data) // planes + row // 8] ^= 1 << row % 8
    return forge(frame, data=bytes(data))


def flip_last_gate(sender: str, row: int) -> Attack:
    """Flip one row's bit in the seventh and last AND gate of the comparison, which decides the sign."""
    state = {"filtering": False, "rounds": 0}

    def attack(d: Delivery) -> Iterable[bytes] | None:
        state["filtering"] |= d.of(FilterBlock)
        if state["filtering"] and d.of(Gates, sender):
            state["rounds"] += 1
            if state["rounds"] == 7:
                return [flip_bit(d.frame, row)]
        return None

    return attack


def test_requester_that_flips_its_comparison_output_gets_nothing_and_freezes_the_query() -> None:
    # both honest parties now hold consistent shares of a wrong bit: only the confirmation can notice
    trio = run(flip_last_gate(REQUESTER, OTHER_ROW))
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)
    assert trio.sent(ConfirmationBlock)


def test_requester_that_makes_a_row_hit_that_does_not_exist_gets_nothing() -> None:
    trio = run(flip_last_gate(REQUESTER, 3000))  # the gallery has 200 rows
    trio.assert_stopped(Disagreement)


def test_requester_that_hides_a_hit_only_loses_it() -> None:
    trio = run(flip_last_gate(REQUESTER, HIT_ROW))
    assert trio.outcome().status == "no_hit"


@pytest.mark.ring
@pytest.mark.parametrize("seat", [REQUESTER_SEAT, 2], ids=["requester", "router"])
def test_key_owner_that_shifts_its_share_of_a_row_gets_nothing(seat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = protocol.filter.hit_bits

    def lying(ring: Ring, shares: Any, *purpose: Any) -> Any:
        if ring.index == seat:
            shares = shares.copy()
            shares[OTHER_ROW] = (int(shares[OTHER_ROW]) + 16 * 30000) % 2**24  # 30000 units of score
        return (yield from original(ring, shares, *purpose))

    monkeypatch.setattr(protocol.filter, "hit_bits", lying)
    trio = run(None)
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_router_that_flips_its_comparison_output_gets_nothing() -> None:
    """The count is then a random number, which is more than the cap or not."""
    trio = run(flip_last_gate(ROUTER, OTHER_ROW))
    assert not trio.sent(Release)
    if trio.sent(PowerSums):
        trio.assert_stopped(SketchMismatch)
    else:
        assert trio.outcome().status == "too_many_candidates"


def test_router_that_flips_its_comparison_output_is_noticed_in_the_power_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(*_args: Any) -> Any:
        return True
        yield

    monkeypatch.setattr(protocol.filter, "at_most_cap", few)
    run(flip_last_gate(ROUTER, OTHER_ROW)).assert_stopped(SketchMismatch)


def test_holder_that_flips_what_it_sends_in_the_comparison_changes_nothing() -> None:
    # the components it opens with are its own; those of the others do not rest on the last gate it sends
    trio = run(flip_last_gate(HOLDER, OTHER_ROW))
    assert trio.outcome() == trio.expected(scene()[1])


@pytest.mark.parametrize("sender", [REQUESTER, ROUTER])
def test_power_sums_that_differ_are_refused(sender: str) -> None:
    def change(frame: bytes) -> list[bytes]:
        sums = np.frombuffer(wire.decode(frame).message.data, "<u4").copy()  # type: ignore[union-attr]
        sums[3] ^= 1
        return [forge(frame, data=sums.tobytes())]

    attack, _ = replace_first(PowerSums, sender, HOLDER, change)
    run(attack).assert_stopped(SketchMismatch)


def test_components_of_the_admission_bit_that_differ_are_refused() -> None:
    attack, _ = replace_first(
        AdmissionBit,
        REQUESTER,
        HOLDER,
        lambda f: [forge(f, component=not wire.decode(f).message.component)],  # type: ignore[union-attr]
    )
    run(attack).assert_stopped(Disagreement)


# --- confirmation ---


def shift_answer(sender: str, slot: int, value: int, delta: int) -> Attack:
    def change(frame: bytes) -> list[bytes]:
        answer = np.frombuffer(wire.decode(frame).message.data, "<u4").copy()  # type: ignore[union-attr]
        answer[6 * slot + value] = (int(answer[6 * slot + value]) + delta) % 2**24
        return [forge(frame, data=answer.tobytes())]

    return replace_first(ConfirmationAnswer, sender, HOLDER, change)[0]


@pytest.mark.slow
@pytest.mark.ring
@pytest.mark.parametrize("delta", [16, -16, 48, 2**10, 2**19, 2**23, -(2**23) + 16])
@pytest.mark.parametrize(("sender", "value"), [(REQUESTER, 0), (ROUTER, 3)])
def test_shifted_confirmation_answer_freezes_the_query(sender: str, value: int, delta: int) -> None:
    run(shift_answer(sender, 0, value, delta)).assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_a_frozen_query_has_kept_what_made_its_confirmation_block() -> None:
    holder = run(shift_answer(ROUTER, 0, 5, 16)).query.holders[HOLDER]
    assert holder.result is None
    assert holder.sealed is not None
    assert holder.sealed.rows == (HIT_ROW,)


def test_answers_that_shift_score_and_all_factors_alike_freeze_the_query() -> None:
    def change(frame: bytes) -> list[bytes]:
        answer = np.frombuffer(wire.decode(frame).message.data, "<u4").copy()  # type: ignore[union-attr]
        answer[:6] = (answer[:6].astype(np.int64) + 16 * np.array([1, 1, 1, 1, 1, 1])) % 2**24
        return [forge(frame, data=answer.tobytes())]

    attack, _ = replace_first(ConfirmationAnswer, REQUESTER, HOLDER, change)
    run(attack).assert_stopped(ConfirmationFailed, state=State.FROZEN)


@pytest.mark.parametrize("slot", [1, 9])
@pytest.mark.parametrize("hits", [0, 1])
def test_non_zero_unused_slot_freezes_the_query(slot: int, hits: int) -> None:
    trio = run(shift_answer(ROUTER, slot, 5, 16), hits=hits)
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_control_a_shift_within_the_rounding_error_changes_nothing() -> None:
    trio = run(shift_answer(REQUESTER, 0, 0, 3))
    assert trio.outcome() == trio.expected(scene()[1])


@pytest.mark.ring
def test_confirmation_of_a_row_below_theta_freezes_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    # also true scores are not released when they are none of a hit
    monkeypatch.setattr(protocol.filter, "open_hits", opening_also(OTHER_ROW))
    run(None).assert_stopped(ConfirmationFailed, state=State.FROZEN)


def opening_also(row: int) -> Any:
    original = protocol.opening.open_hits

    def opened(*args: Any) -> Any:
        rows = yield from original(*args)
        return (*rows, row)

    return opened


def test_control_without_the_checks_of_the_confirmation_the_row_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.filter, "open_hits", opening_also(OTHER_ROW))
    monkeypatch.setattr(protocol.confirmation, "check_answers", lambda *args: [0] * args[2])
    assert {hit.row for hit in run(None).outcome().hits} == {HIT_ROW, OTHER_ROW}
