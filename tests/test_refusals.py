"""What must be refused is refused by a typed error, before anything is released, and every party stops."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol.admission
import protocol.confirmation
import protocol.filter
import protocol.opening
import protocol.requester
from pets import ntt, residues, sketch
from pets.errors import CommitmentMismatch, LineupError, ResidueOutOfRange, SketchMismatch, TemplateError
from pets.params import PRESETS, norm_bound
from protocol import wire
from protocol.compute import REQUESTER as REQUESTER_SEAT
from protocol.compute import Ring
from protocol.errors import (
    BadFrame,
    ConfirmationFailed,
    Disagreement,
    DuplicateMessage,
    FrameTooLarge,
    MalformedFrame,
    MissingMessage,
    OutOfTurn,
    UnexpectedMessage,
    UnknownVersion,
    WrongAddress,
)
from protocol.gallery import Gallery
from protocol.messages import (
    Abort,
    AdmissionBit,
    AdmissionBlock,
    Announce,
    ConfirmationAnswer,
    ConfirmationBlock,
    ConfirmationDigest,
    FilterBlock,
    Gates,
    InputShare,
    Joined,
    KeyCommitment,
    KeyPair,
    Message,
    PairSecret,
    PowerSums,
    ProbeDigest,
    ProbePart,
    PublicShare,
    Release,
    Rung,
)
from protocol.session import State
from tests.galleries import Templates, near, scores, unit_rows
from tests.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, Trio, enrol, forge, key_erased
from tests.ring import RING

DIM = 64
HIT_ROW, OTHER_ROW = 17, 23  # in `scene`: a hit, and a row that is none


@lru_cache(maxsize=4)
def scene(hits: int = 1, rows: int = 200) -> tuple[Gallery, Templates]:
    """A gallery in which rows from 17 on hit the probe at 0.8; all others stay below 0.7."""
    rng = np.random.default_rng(hits)
    probe = unit_rows(rng, 1, DIM)[0]
    templates = unit_rows(rng, rows, DIM)
    templates[HIT_ROW : HIT_ROW + hits] = near(rng, probe, hits, np.full(hits, 0.8))
    assert (scores(templates, probe) > 0.7 * 176**2).sum() == hits
    return enrol(templates), probe


def run(attack: Attack | None, hits: int = 1, cap: int = 10, ladder: str = "0") -> Trio:
    """A whole search under attack, from the first message on."""
    gallery, probe = scene(hits)
    trio = Trio(gallery, threshold="0.7", cap=cap, ladder=ladder, attack=attack).offline()
    return trio if trio.failures else trio.online(probe)


def replace_first(
    kind: type[Message], sender: str, receiver: str, change: Callable[[bytes], Iterable[bytes]]
) -> tuple[Attack, list[bool]]:
    """An attack on the first frame of a kind on a link, and a list that tells whether it happened."""
    done: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if not done and d.of(kind, sender, receiver):
            done.append(True)
            return change(d.frame)
        return None

    return attack, done


def test_control_without_an_attack_the_hit_is_released() -> None:
    trio = run(None)
    assert trio.outcome() == trio.expected(scene()[1])
    assert [hit.row for hit in trio.outcome().hits] == [HIT_ROW]
    assert set(trio.states.values()) == {State.FINISHED}
    assert key_erased(trio.requester)
    assert key_erased(trio.router)


# --- probes ---


def assert_refused(trio: Trio) -> None:
    """Everybody opened the same bit, and nothing about hits was computed."""
    assert not trio.failures
    assert set(trio.states.values()) == {State.REFUSED}
    assert trio.holder.result is not None
    assert trio.holder.result.status == trio.requester.answers[HOLDER].status == "probe_refused"
    assert not any(trio.sent(kind) for kind in (FilterBlock, PowerSums, ConfirmationBlock, Release))
    assert key_erased(trio.requester)
    assert key_erased(trio.router)


def entries(dim: int, **values: int) -> npt.NDArray[np.int64]:
    probe = np.zeros(dim, np.int64)
    for name, value in values.items():
        probe[int(name[1:])] = value
    return probe


def with_entry(value: int) -> npt.NDArray[np.int64]:
    """A probe whose norm is fine and one entry of which is `value`."""
    probe = unit_rows(np.random.default_rng(0), 1, 128)[0].astype(np.int64) // 2
    probe[77] = value
    return probe


def scaled(factor: float) -> npt.NDArray[np.int64]:
    return np.rint(factor * unit_rows(np.random.default_rng(0), 1, 128)[0]).clip(-127, 127).astype(np.int64)


def one_more_than_the_bound() -> npt.NDArray[np.int64]:
    """Squared norm exactly one above the limit, all entries in range."""
    limit, probe = norm_bound(8), np.zeros(8, np.int64)
    rest = limit + 1
    for j in range(8):
        probe[j] = int(rest**0.5)
        rest -= int(probe[j]) ** 2
    assert int(probe @ probe) == limit + 1
    return probe


BAD_PROBES = {
    "scaled by 2": scaled(2),
    "scaled by 1.05": scaled(1.05),
    "one above the norm bound": one_more_than_the_bound(),
    "coordinate beyond the norm": entries(8, e3=127),
    "coordinate beyond the range": entries(128, e3=250),
    "two coordinates beyond the norm": entries(64, e0=127, e9=-127, e10=30),
    "entry 128": with_entry(128),
    "entry -128": with_entry(-128),
    "entry 129": with_entry(129),
    "entry 256, zero in its low byte": with_entry(256),
    "entry 5000": with_entry(5000),
    "entry -40000": with_entry(-40000),
    "entry half of t": with_entry(524286),
    "every entry 127": np.full(128, 127),
    "every entry -128": np.full(128, -128),
}


@pytest.mark.parametrize("probe", BAD_PROBES.values(), ids=BAD_PROBES)
def test_probe_that_is_no_unit_template_is_refused_before_anything_is_opened(probe: npt.NDArray[np.int64]) -> None:
    rows = unit_rows(np.random.default_rng(1), 30, len(probe))
    assert_refused(Trio(enrol(rows)).search(probe, unchecked=True))


@pytest.mark.parametrize(
    "probe",
    [entries(128, e3=127), entries(128, e3=-127), scaled(0.3), np.zeros(128, np.int64), scaled(1)],
    ids=["coordinate within the norm", "negative coordinate", "short", "zero", "unit"],
)
def test_control_probes_within_range_and_norm_are_admitted(probe: npt.NDArray[np.int64]) -> None:
    trio = Trio(enrol(unit_rows(np.random.default_rng(1), 30, 128))).search(probe, unchecked=True)
    assert trio.outcome() == trio.expected(probe.astype(np.int8))


@pytest.mark.parametrize("probe", [scaled(2), with_entry(-128), np.full(128, 127)])
def test_requester_refuses_such_a_probe_itself(probe: npt.NDArray[np.int64]) -> None:
    trio = Trio(enrol(unit_rows(np.random.default_rng(1), 3, 128))).offline()
    with pytest.raises(TemplateError):
        trio.requester.submit(probe.astype(np.int8))
    with pytest.raises(TemplateError, match="int8"):
        trio.requester.submit(probe)  # type: ignore[arg-type]
    trio.online(scaled(1).astype(np.int8))  # nothing was used up
    assert trio.outcome().status == "no_hit"


def tampered(monkeypatch: pytest.MonkeyPatch, ciphertexts: Iterable[int], polynomial: dict[int, int]) -> Trio:
    """A requester that adds a polynomial (coefficient -> value, modulo Q) to c0 of some ciphertexts."""
    original = protocol.requester.probe_parts

    def spoiled(probe: npt.NDArray[np.uint32], second: list[bytes], threads: int = 1) -> Any:
        for exponent, value in polynomial.items():
            unit = np.zeros((1, RING.n), np.int32)
            unit[0, exponent] = 1
            factors = np.array([value % p for p in RING.primes], np.uint64)[:, None]
            form = (ntt.forward(unit, RING)[0] * factors % np.array(RING.primes, np.uint64)[:, None]).astype(np.uint32)
            for j in ciphertexts:
                probe[j, 0] = residues.add(probe[j, 0], form, RING)
        return original(probe, second)

    monkeypatch.setattr(protocol.requester, "probe_parts", spoiled)
    gallery, probe = scene()
    return Trio(gallery, threshold="0.7", ladder="0").search(probe)


DELTA = RING.delta
NOISE = 2**38  # a quarter of Δ: four units of a rounded share
NOT_CONSTANT = {
    "X^5 in one": ([9], {5: DELTA}),
    "-X^4095 in one": ([0], {4095: -DELTA}),
    "X in all": (range(DIM), {1: DELTA}),
    "100·X^2048 in two": ([3, 4], {2048: 100 * DELTA}),
    "noise in X^500 of one": ([9], {500: NOISE}),
    "noise in many coefficients": (range(DIM), dict.fromkeys(range(200, 260), NOISE // 8)),
    "noise below the unit of a share": ([9], {500: 2**28}),
    "what vanishes when amplified": ([9], {500: RING.q // protocol.admission.AMPLIFIED}),
}
# Eight times the unit of a rounded share: four may be rounded back into the slack of three.
STUFFED = {
    "noise in the constant of one": ([9], {0: 2 * NOISE}),
    "negative noise in the constant of one": ([9], {0: -2 * NOISE}),
    "noise in every constant": (range(DIM), {0: NOISE}),
    "half of Δ in one": ([63], {0: DELTA // 2}),
    "noise below the unit of a share": ([9], {0: 2**20}),
}


@pytest.mark.parametrize("change", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_probe_that_is_not_constant_is_refused(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    assert_refused(tampered(monkeypatch, *change))


@pytest.mark.parametrize("change", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_control_without_the_constancy_sums_it_is_admitted(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    original = protocol.admission.coefficient_sums
    monkeypatch.setattr(protocol.admission, "coefficient_sums", lambda *args: np.zeros_like(original(*args)))
    trio = tampered(monkeypatch, *change)
    assert State.REFUSED not in trio.states.values()
    assert trio.sent(PowerSums)


@pytest.mark.parametrize("change", STUFFED.values(), ids=STUFFED)
def test_noise_stuffed_probe_is_refused(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    assert_refused(tampered(monkeypatch, *change))


def test_control_noise_that_rounding_hides_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trio = tampered(monkeypatch, range(DIM), {0: 2**15})
    assert trio.outcome() == trio.expected(scene()[1])


def test_probe_is_submitted_once_and_only_when_ready() -> None:
    gallery, probe = scene()
    trio = Trio(gallery, threshold="0.7", ladder="0")
    with pytest.raises(OutOfTurn):
        trio.requester.submit(probe)
    trio.search(probe)
    with pytest.raises(OutOfTurn):
        trio.requester.submit(probe)
    assert trio.outcome().status == "released"


# --- residues ---


def raise_first_residue(data: bytes) -> bytes:
    values = np.frombuffer(data, "<u4").copy()
    values[0] = RING.primes[0]
    return values.tobytes()


@pytest.mark.parametrize(
    ("kind", "sender", "receiver"),
    [
        (PublicShare, REQUESTER, ROUTER),
        (PublicShare, ROUTER, REQUESTER),
        (ProbePart, REQUESTER, HOLDER),
        (AdmissionBlock, HOLDER, REQUESTER),
        (AdmissionBlock, HOLDER, ROUTER),
        (FilterBlock, HOLDER, REQUESTER),
        (FilterBlock, HOLDER, ROUTER),
        (ConfirmationBlock, HOLDER, REQUESTER),
        (ConfirmationBlock, HOLDER, ROUTER),
    ],
)
def test_residue_at_its_prime_is_refused(kind: type[Message], sender: str, receiver: str) -> None:
    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(kind, sender, receiver):
            return [forge(d.frame, data=raise_first_residue(d.message.data))]  # type: ignore[union-attr]
        return None

    run(attack).assert_stopped(ResidueOutOfRange)


@pytest.mark.parametrize("which", ["requester", "router"])
def test_residue_at_its_prime_is_refused_in_a_reported_pair(which: str) -> None:
    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(KeyPair):
            return [forge(d.frame, **{which: raise_first_residue(getattr(d.message, which))})]
        return None

    run(attack).assert_stopped(ResidueOutOfRange)


def test_every_message_with_residues_was_tried() -> None:
    # those that carry arrays of residues have a limit that grows with the ring
    large = {kind for kind, limit in wire.LIMITS.items() if limit >= 8 * RING.n} - {InputShare, Gates}
    assert large == {PublicShare, KeyPair, ProbePart, AdmissionBlock, FilterBlock, ConfirmationBlock}


# --- parties that are told different things ---


def flip_digest(field: str) -> Callable[[bytes], list[bytes]]:
    return lambda frame: [forge(frame, **{field: bytes(32)})]


@pytest.mark.parametrize(
    ("kind", "sender", "receiver", "field", "error"),
    [
        (Joined, ROUTER, REQUESTER, "announce", Disagreement),
        (Joined, HOLDER, ROUTER, "nonce", Disagreement),
        (KeyCommitment, ROUTER, REQUESTER, "query_id", Disagreement),
        (KeyCommitment, ROUTER, REQUESTER, "digest", CommitmentMismatch),
        (KeyPair, ROUTER, HOLDER, "query_id", Disagreement),
        (ConfirmationBlock, HOLDER, ROUTER, "commitment", Disagreement),
        (ConfirmationDigest, REQUESTER, ROUTER, "digest", Disagreement),
    ],
)
def test_values_that_should_agree_and_do_not_stop_the_query(
    kind: type[Message], sender: str, receiver: str, field: str, error: type[LineupError]
) -> None:
    attack, done = replace_first(kind, sender, receiver, flip_digest(field))
    trio = run(attack)
    assert done
    trio.assert_stopped(error)


def test_key_pairs_that_differ_stop_the_query() -> None:
    attack, _ = replace_first(KeyPair, ROUTER, HOLDER, lambda f: [forge(f, router=wire.decode(f).message.requester)])  # type: ignore[union-attr]
    run(attack).assert_stopped(Disagreement)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "0.6"},
        {"cap": 11},
        {"ladder": "0.01"},
        {"dim": 72},
        {"preset": next(name for name in PRESETS if name != RING.preset)},
        {"preset": "n1024"},
        {"holders": ("OTHER",)},
        {"requester": "OTHER"},
        {"threshold": "1.0"},
        {"nonce": bytes(32)},
    ],
    ids=str,
)
@pytest.mark.parametrize("victim", [ROUTER, HOLDER])
def test_announcements_that_differ_stop_the_query(change: dict[str, Any], victim: str) -> None:
    attack, _ = replace_first(Announce, REQUESTER, victim, lambda f: [forge(f, **change)])
    trio = run(attack)
    assert trio.failures
    trio.assert_stopped(LineupError)


def test_a_filter_block_that_differs_is_noticed_before_release() -> None:
    # the holder itself would have to lie; its own hits come out wrong and cannot be confirmed
    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(FilterBlock, HOLDER, ROUTER):
            data = np.frombuffer(d.message.data, "<u4").copy()  # type: ignore[union-attr]
            return [forge(d.frame, data=np.roll(data, 1).clip(0, RING.primes[1] - 1).tobytes())]
        return None

    trio = run(attack)
    assert not trio.sent(Release)
    assert trio.holder.result is not None
    assert trio.holder.result.status == "too_many_candidates"  # half of all rows seem to hit


# --- more hits than the cap ---


@pytest.mark.parametrize("hits", [11, 12, 14, 15, 60])
def test_more_hits_than_the_cap_open_nothing(hits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_opens_nothing(scene(hits), monkeypatch)


def test_500_hits_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_opens_nothing(scene(500, 600), monkeypatch)


def assert_opens_nothing(where: tuple[Gallery, Templates], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    original = sketch.decode
    monkeypatch.setattr(sketch, "decode", lambda *args: opened.append(original(*args)) or opened[-1])
    gallery, probe = where
    trio = Trio(gallery, threshold="0.7", ladder="0.02").search(probe)
    assert trio.outcome() == trio.expected(probe)
    climbs = [rung.message.verdict for rung in trio.sent(Rung, HOLDER, ROUTER)]  # type: ignore[union-attr]
    too_many = [(scores(gallery.templates, probe) >= trio.terms.theta(rung)).sum() > 10 for rung in range(len(opened))]
    assert [rows is None for rows in opened] == too_many
    assert climbs == ["climb" if rows is None else "confirm" for rows in opened]
    assert opened[0] is None


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
    assert not trio.sent(Release)
    assert trio.holder.result is not None
    assert trio.holder.result.status == "too_many_candidates"


def test_requester_that_hides_a_hit_only_loses_it() -> None:
    trio = run(flip_last_gate(REQUESTER, HIT_ROW))
    assert trio.outcome().status == "no_hit"


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


def test_router_that_flips_its_comparison_output_is_noticed_in_the_power_sums() -> None:
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


# --- frames ---


def reencoded(frame: bytes, change: Callable[[list[Any]], None]) -> bytes:
    """The frame with its raw MessagePack structure changed."""
    raw = msgspec.msgpack.decode(frame)
    change(raw)
    return msgspec.msgpack.encode(raw)


def with_message(frame: bytes, message: list[Any]) -> bytes:
    return reencoded(frame, lambda raw: raw.__setitem__(-1, message))


FAULTS: dict[str, tuple[type[LineupError], Callable[[bytes], list[bytes]]]] = {
    "duplicate": (DuplicateMessage, lambda f: [f, f]),
    "skipped number": (MissingMessage, lambda f: [forge(f, sequence=wire.decode(f).sequence + 1)]),
    "truncated by one byte": (MalformedFrame, lambda f: [f[:-1]]),
    "truncated to half": (MalformedFrame, lambda f: [f[: len(f) // 2]]),
    "empty": (MalformedFrame, lambda f: [b""]),
    "trailing byte": (MalformedFrame, lambda f: [f + b"\0"]),
    "later version": (UnknownVersion, lambda f: [forge(f, version=2)]),
    "version 0": (UnknownVersion, lambda f: [forge(f, version=0)]),
    "extra field in the message": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw[-1].append(1))]),
    "extra field in the envelope": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw.append(1))]),
    "missing field": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw[-1].pop())]),
    "unknown type": (MalformedFrame, lambda f: [with_message(f, [99, b""])]),
    "field of a wrong type": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw[-1].__setitem__(1, 1.5))]),
    "negative number": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw.__setitem__(5, -1))]),
    "oversized": (FrameTooLarge, lambda f: [with_message(f, [4, bytes(70_000)])]),
    "larger than any message": (FrameTooLarge, lambda f: [with_message(f, [7, bytes(10_000_000)])]),
    "another type of message": (UnexpectedMessage, lambda f: [forge(f, message=ProbeDigest(bytes(32)))]),
    "unknown session": (WrongAddress, lambda f: [forge(f, session="NOBODY")]),
    "another query": (WrongAddress, lambda f: [forge(f, query=bytes(16))]),
    "another receiver": (WrongAddress, lambda f: [forge(f, receiver="NOBODY")]),
    "another sender": (WrongAddress, lambda f: [forge(f, sender="NOBODY")]),
}
POINTS: list[tuple[type[Message], str, str]] = [
    (Announce, REQUESTER, HOLDER),
    (KeyCommitment, ROUTER, REQUESTER),
    (KeyPair, ROUTER, HOLDER),
    (PairSecret, HOLDER, ROUTER),
    (ProbePart, REQUESTER, HOLDER),
    (AdmissionBit, HOLDER, ROUTER),
    (Gates, ROUTER, REQUESTER),
    (FilterBlock, HOLDER, REQUESTER),
    (PowerSums, ROUTER, HOLDER),
    (Rung, HOLDER, ROUTER),
    (ConfirmationBlock, HOLDER, REQUESTER),
]


@lru_cache(maxsize=1)
def valid_frames() -> list[bytes]:
    """One frame of each type that a search sends, large ones left out."""
    frames: dict[type[Message], bytes] = {}
    for d in run(None).deliveries:
        if len(d.frame) < 5000:
            frames.setdefault(type(d.message), d.frame)
    return list(frames.values())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_bad_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        wire.decode(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_frame_is_an_envelope_or_a_bad_frame_and_nothing_else(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(valid_frames())))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadFrame):
        assert isinstance(wire.decode(bytes(frame)), wire.Envelope)


# every fault at two points in the middle, and the commonest ones everywhere
EVERYWHERE = ("duplicate", "skipped number", "truncated to half", "later version", "another type of message")


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        pytest.param(point, fault, id=f"{fault} {point[0].__name__} to {point[2].lower()}")
        for point in POINTS
        for fault in FAULTS
        if fault in EVERYWHERE or point[0] in (PairSecret, Gates)
    ],
)
def test_bad_frame_is_a_typed_error_and_stops_every_party(point: tuple[type[Message], str, str], fault: str) -> None:
    error, change = FAULTS[fault]
    attack, done = replace_first(*point, change)
    trio = run(attack)
    assert done
    trio.assert_stopped(error)


def test_an_abort_whose_address_is_encoded_otherwise_stops_its_receiver_as_a_bad_frame() -> None:
    """Whoever keeps records must say what of a frame it hashes, also of the last one."""
    trio = Trio(scene()[0]).offline()
    requester = trio.requester
    requester.recorder = lambda event: None
    frame = wire.encode(wire.Envelope(wire.VERSION, requester.query, HOLDER, ROUTER, REQUESTER, 3, Abort("peer")))
    place = frame.index(REQUESTER.encode()) + len(REQUESTER)
    with pytest.raises(MalformedFrame):
        requester.handle(frame[:place] + b"\xcc\x03" + frame[place + 1 :], ROUTER)
    assert requester.sessions[HOLDER].state is State.ABORTED
    assert requester.outgoing


@pytest.mark.parametrize(
    ("kind", "sender", "receiver"),
    [
        (Joined, ROUTER, HOLDER),
        (Gates, ROUTER, REQUESTER),
        (AdmissionBit, HOLDER, ROUTER),
        (InputShare, HOLDER, ROUTER),
    ],
)
def test_frames_in_another_order_stop_every_party(kind: type[Message], sender: str, receiver: str) -> None:
    held: list[bytes] = []
    swapped: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if swapped or (d.sender, d.receiver) != (sender, receiver):
            return None
        if held:
            swapped.append(True)
            return [d.frame, held[0]]
        if d.of(kind):
            held.append(d.frame)
            return []
        return None

    trio = run(attack)
    if not swapped:  # the next frame never came, because this one was waited for
        assert not trio.failures
        assert not trio.sent(Release)
        return
    trio.assert_stopped(MissingMessage)


@pytest.mark.parametrize("kind", [KeyPair, Announce, PairSecret])
def test_late_copy_from_the_set_up_stops_every_party(kind: type[Message]) -> None:
    # the set-up is long finished when its frame comes again during the search
    kept: list[bytes] = []
    done: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(kind, REQUESTER, HOLDER):
            kept.append(d.frame)
        if d.of(Gates, REQUESTER, HOLDER) and not done:
            done.append(True)
            return [kept[0], d.frame]
        return None

    trio = run(attack)
    assert done
    trio.assert_stopped(DuplicateMessage)


def test_message_of_the_search_in_the_session_of_the_set_up_stops_every_party() -> None:
    attack, done = replace_first(Gates, ROUTER, REQUESTER, lambda f: [forge(f, session="", sequence=3)])
    trio = run(attack)
    assert done
    trio.assert_stopped(OutOfTurn)


def test_a_flood_of_messages_ahead_of_their_turn_is_refused() -> None:
    attack, _ = replace_first(
        ProbePart,
        REQUESTER,
        HOLDER,
        lambda f: [forge(f, sequence=wire.decode(f).sequence + ahead) for ahead in range(80)],
    )
    run(attack).assert_stopped(OutOfTurn)


def test_one_party_that_stops_stops_all() -> None:
    gallery, _ = scene()
    for name in (REQUESTER, ROUTER, HOLDER):
        trio = Trio(gallery, threshold="0.7").offline()
        machine = next(machine for machine in trio.query.machines if machine.name == name)
        machine.abort(machine.sessions[HOLDER], OutOfTurn("somebody pulled the plug"))
        trio.network.run()
        assert set(trio.states.values()) == {State.ABORTED}
        assert key_erased(trio.requester)
        assert key_erased(trio.router)


def test_two_holders_one_fails_and_the_other_still_answers() -> None:
    gallery, probe = scene()
    attack, done = replace_first(Gates, REQUESTER, "HOLDER-0", lambda f: [f[:-1]])
    trio = Trio(gallery, gallery, threshold="0.7", ladder="0", attack=attack).search(probe)
    assert done
    assert "HOLDER-0" not in trio.requester.answers
    assert trio.requester.answers["HOLDER-1"].references == (f"row-{HIT_ROW}",)
    assert {state for (_, session), state in trio.states.items() if session == "HOLDER-0"} == {State.ABORTED}
    assert key_erased(trio.requester)
    assert key_erased(trio.router)
