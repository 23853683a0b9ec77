"""Admission and form check under attack: scaled probes, coins, noise, the bit as an oracle, lies of a requester."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.admitting
import protocol.filtering
import protocol.form
import protocol.preparing
from pets import residues
from pets.bits import Planes
from pets.mask_encryption import draw_mask
from pets.params import SHARE_BITS, norm_bound, scale
from pets.prf import Keystream, derive_key
from pets.residues import Residues
from pets.templates import Templates
from protocol.difference import unpack_difference
from protocol.errors import ConfirmationFailed, Disagreement
from protocol.form import SUMS
from protocol.messages import AdmissionBit, CapBit, Difference, FormBlock, MaskPart, PreparedBlocks, Release
from protocol.roles import Seat
from protocol.session import State
from tests.kit.attacks import Gate, asks_signs, crowd, doubled, one_row, turn_gates, turn_the_bound
from tests.kit.galleries import near, rows_with_scores, scores, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, forge
from tests.kit.ring import RING
from tests.kit.scene import DIM, MALFORMED, assert_refused, monomial, run, scene, small_trio, spoiled
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring


# --- a scaled probe ---


def test_scaled_probe_does_not_lower_the_threshold() -> None:
    probe, templates = crowd()
    trio = Trio(hold(templates), threshold="0.7").search(doubled(probe), unchecked=True)
    assert_refused(trio)
    assert trio.holder.result is not None
    assert (trio.holder.result.status, trio.holder.result.hits) == ("probe_refused", ())


def test_control_without_the_norm_check_a_scaled_probe_finds_people_who_do_not_match(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol.admitting, "norm_bound", lambda _: 2**20)
    probe, templates = crowd()
    trio = Trio(hold(templates), threshold="0.7").search(doubled(probe), unchecked=True)
    released = {hit.row for hit in trio.outcome().hits}
    assert released == {10, 11, 20, 21, 22, 23, 24}
    honest = set(np.flatnonzero(scores(templates, probe) >= trio.terms.theta(0)))
    assert honest == {10, 11}


def test_known_limit_a_requester_that_flips_the_last_gate_gets_any_probe_admitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing this needs a verified circuit. The committed seed makes it provable in an audit."""
    probe, templates = crowd()
    turn_the_bound(monkeypatch, Seat.REQUESTER)
    trio = Trio(hold(templates), threshold="0.7").accept()
    assert trio.made is not None
    seed, preparation_id = trio.made.requester.seed, trio.made.requester.preparation_id
    trio.search(doubled(probe), unchecked=True)
    assert {hit.row for hit in trio.outcome().hits} == {10, 11, 20, 21, 22, 23, 24}
    assert not trio.failures

    # the audit: the seed to which the announcement commits gives the mask again, and the probe lies open
    (sent,) = trio.sent(Difference)
    u = unpack_difference(sent.message, 128, RING).astype(np.int64)  # type: ignore[arg-type]
    audited = (u + draw_mask(seed, preparation_id, 128, RING)) % RING.t
    audited -= RING.t * (audited > RING.t // 2)
    assert np.array_equal(audited, doubled(probe))
    assert int(audited @ audited) > norm_bound(128)


def test_scale_leaves_room_for_every_score() -> None:
    # the largest score and the largest threshold together stay below t/2, for all dimensions
    for dim in range(8, 1025, 8):
        assert 2 * (norm_bound(dim) + scale(dim) ** 2) < RING.t


# --- coins ---


def kernel(coins: npt.NDArray[np.uint8], modulus: int) -> list[int]:
    """A vector that every row of coins sums to zero modulo a prime."""
    rows, pivots = [[int(x) for x in row] for row in coins], []
    for column in range(coins.shape[1]):
        at = next((r for r in range(len(pivots), len(rows)) if rows[r][column] % modulus), None)
        if at is None:
            continue
        rows[len(pivots)], rows[at] = rows[at], rows[len(pivots)]
        row = rows[len(pivots)]
        inverse = pow(row[column], -1, modulus)
        row[:] = [x * inverse % modulus for x in row]
        for other in rows:
            if other is not row and other[column]:
                factor = other[column]
                other[:] = [(x - factor * y) % modulus for x, y in zip(other, row, strict=True)]
        pivots.append(column)
    free = next(column for column in range(coins.shape[1]) if column not in pivots)
    vector = [0] * coins.shape[1]
    vector[free] = 1
    for row, column in zip(rows, pivots, strict=False):
        vector[column] = -row[free] % modulus
    return vector


SEED = bytes(range(32))
COINS = np.unpackbits(Keystream(derive_key(SEED, "form-coins")).bytes_array(SUMS, DIM // 8), axis=1)


def add_to_mask(monkeypatch: pytest.MonkeyPatch, weights: Iterable[Any], exponent: int, unit: int = RING.delta) -> None:
    """A requester that adds unit·w_j·X^exponent to each ciphertext; w_j an integer, or one for each prime."""
    original = protocol.preparing.encrypt_mask
    form, primes = monomial(exponent, unit).astype(np.uint64), np.array(RING.primes, np.uint64)[:, None]

    def spoil(*given: Any) -> Residues:
        mask = original(*given)
        for j, weight in enumerate(weights):
            both = weight if isinstance(weight, tuple) else (weight, weight)
            factor = np.array([w % p for w, p in zip(both, RING.primes, strict=True)], np.uint64)[:, None]
            mask[j] = residues.add(mask[j], (form * factor % primes).astype(np.uint32), RING)
        return mask

    monkeypatch.setattr(protocol.preparing, "encrypt_mask", spoil)
    monkeypatch.setattr(protocol.form, "check_lanes", lambda *_: None)


def made_for(monkeypatch: pytest.MonkeyPatch, coins: npt.NDArray[np.uint8]) -> None:
    """A mask that is not constant, beyond what the unit rows show, and that these coins add up to nothing."""
    kernels = [kernel(coins, p) for p in RING.primes]
    add_to_mask(monkeypatch, list(zip(*kernels, strict=True)), 100)


def test_a_mask_made_for_other_coins_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made_for(monkeypatch, COINS)
    trio = small_trio().prepare()
    assert trio.made is None
    assert not trio.sent(PreparedBlocks)


def test_control_with_coins_known_beforehand_a_mask_that_is_not_constant_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made_for(monkeypatch, COINS)
    original = protocol.preparing.holder_checks_form
    monkeypatch.setattr(protocol.preparing, "holder_checks_form", lambda *given: original(*given[:-1], SEED))
    assert small_trio().prepare().made is not None


def test_the_requester_learns_the_coins_but_only_when_its_mask_is_gone() -> None:
    seeds = []
    for _ in range(2):
        trio = small_trio().prepare()
        order = [type(d.message) for d in trio.deliveries]
        assert max(i for i, kind in enumerate(order) if kind is MaskPart) < order.index(FormBlock)
        seeds.append(trio.sent(FormBlock)[0].message.seed)  # type: ignore[union-attr]
    assert seeds[0] != seeds[1]


# --- the bit as an oracle ---


@pytest.mark.parametrize("negative", [False, True])
def test_known_limit_admission_tells_a_cheating_router_the_sign_of_one_coordinate(
    negative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused if so; if not, all goes on and nobody notices."""
    rng = np.random.default_rng(3)
    probe = unit_rows(rng, 1, 128)[0]
    coordinate = int(np.flatnonzero((probe < 0) == negative)[0])
    assert abs(int(probe[coordinate])) <= 64
    with monkeypatch.context() as patch:
        asks_signs(patch, lambda _: coordinate)
        trio = Trio(hold(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0").search(probe)
    assert (trio.router.sessions[HOLDER].state is State.REFUSED) == negative
    # The control, and how the requester notices: an honest party would have let this very probe through.
    trio = Trio(hold(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0").search(probe)
    assert trio.requester.answers[HOLDER].status == "no_hit"


@pytest.mark.parametrize("cosine", [0.0, 0.7])
def test_a_holder_that_asks_the_bit_whether_the_probe_resembles_a_face_is_found_before_the_first_gate(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It publishes the unit rows of q + shift: the bit would say whether that is too long. The requester looks."""
    rng = np.random.default_rng(3)
    wanted = unit_rows(rng, 1, 128)[0]
    probe = near(rng, wanted, 1, np.array([cosine]))[0]
    trio = Trio(hold(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0").accept()
    asks_of_resemblance(monkeypatch, wanted)
    trio.search(probe)
    trio.assert_stopped(Disagreement)
    assert not trio.sent(AdmissionBit)


@pytest.mark.parametrize("cosine", [0.0, 0.7])
def test_control_without_the_requesters_look_the_bit_tells_the_holder_one_comparison(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    wanted = unit_rows(rng, 1, 128)[0]
    probe = near(rng, wanted, 1, np.array([cosine]))[0]
    total = probe.astype(np.int64) + np.rint(0.1 * wanted).astype(np.int64)
    trio = Trio(hold(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0").accept()
    asks_of_resemblance(monkeypatch, wanted)
    monkeypatch.setattr(protocol.admitting, "check_lanes", lambda *_: None)
    trio.search(probe)
    resembles = int(total @ total) > norm_bound(128)
    assert resembles == (cosine > 0.5)
    assert (trio.holder.sessions[HOLDER].state is State.REFUSED) == resembles


def asks_of_resemblance(monkeypatch: pytest.MonkeyPatch, wanted: Templates) -> None:
    original = protocol.admitting.public_sums
    shift = 16 * np.rint(0.1 * wanted).astype(np.int64)

    def lying(*given: Any) -> Residues:
        out = original(*given).astype(np.int64)
        out[: len(shift)] += shift
        moved: Residues = (out % 2**SHARE_BITS).astype(np.uint32)
        return moved

    monkeypatch.setattr(protocol.admitting, "public_sums", lying)


# --- noise beside the numbers of a mask ---


def without_amplification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.form, "times", lambda coefficients, *_: np.zeros_like(coefficients))


BITS = [20, 26, 33, 37]  # of noise on every r_j; 2^37 is an eighth of Δ, two units of a share


@pytest.mark.parametrize("bits", BITS)
def test_noise_beside_the_numbers_is_refused(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, range(DIM), {0: 2**bits})
    assert small_trio().prepare().made is None


@pytest.mark.parametrize("bits", BITS[1:])
def test_control_without_amplification_noise_freezes_the_query_where_anything_hits(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times a row and a factor it no longer rounds away."""
    without_amplification(monkeypatch)
    spoiled(monkeypatch, range(DIM), {0: 2**bits})
    trio = run(None)
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_control_noise_that_rounding_hides_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, range(DIM), {0: 2**13})
    trio = run(None)
    assert trio.outcome() == trio.expected(scene()[1])
    assert trio.outcome().hits


def test_control_without_amplification_an_eighth_of_a_unit_fits_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose entries add up to a multiple of 8 scores an integer more, and is released though it does not hit."""
    rng = np.random.default_rng(5)
    probe, templates = crowd()
    target = Trio(hold(templates[:1]), threshold="0.7").terms.theta(0) - 2
    templates[10:12] = templates[12]
    templates[110] = next(
        row
        for row in (rows_with_scores(rng, probe, [target])[0] for _ in range(10_000))
        if row.sum(dtype=int) % 8 == 0 and row.sum(dtype=int) >= 16
    )
    without_amplification(monkeypatch)
    add_to_mask(monkeypatch, [1] * 128, 0, RING.delta // 8)
    trio = Trio(hold(templates), threshold="0.7").search(probe)
    assert not trio.failures
    assert trio.requester.answers[HOLDER].references == ("row-110",)


def quiet_noise(monkeypatch: pytest.MonkeyPatch, cosine: float) -> Trio:
    """A mask with noise at X^100, and no other lie: row 110 hits by 3, less what row 10 scores with the noise.

    The noise lies along b and has a norm of one unit of a share, so that its random sums stay within the slack. At row
    110 it adds up to 15 units of score times the cosine of b and row 10. A confirmation block has nothing at X^100.
    """
    rng = np.random.default_rng(5)
    probe, templates = crowd()
    b = unit_rows(rng, 1, 128)[0]
    templates[10:12] = templates[12]
    templates[10] = near(rng, b, 1, np.array([cosine]))[0]
    terms = Trio(hold(templates[:1]), threshold="0.7").terms
    templates[110] = rows_with_scores(rng, probe, [terms.theta(0) + 3])[0]
    direction = b - b.mean()
    direction *= RING.q / 2**SHARE_BITS / np.linalg.norm(direction)
    add_to_mask(monkeypatch, [-round(value) for value in direction], 100, unit=1)
    return Trio(hold(templates), threshold="0.7").search(probe)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_noise_that_is_not_constant_is_refused_also_within_the_slack(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio = quiet_noise(monkeypatch, cosine)
    assert trio.made is None
    assert not trio.sent(PreparedBlocks)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_control_without_amplification_such_noise_tells_about_a_row_that_is_not_released(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No share, gate or answer is a lie, and no confirmation fails: one bit of a row that does not hit for each hit."""
    without_amplification(monkeypatch)
    trio = quiet_noise(monkeypatch, cosine)
    assert not trio.failures
    assert trio.requester.answers[HOLDER].references == (("row-110",) if cosine == 0 else ())


# --- a requester that lies inside the circuit of the form check ---


def turn_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requester knows that its mask is refused, so it turns the last gate: everybody opens "well formed"."""
    last = last_of_form()

    def flips(gate: Gate) -> Planes | None:
        turned = gate.seat == Seat.REQUESTER and gate.purpose == ("form",) and gate.turn == last
        return one_row(gate.x, 0) if turned else None

    turn_gates(monkeypatch, flips)


@lru_cache(maxsize=1)
def last_of_form() -> int:
    """Which AND of the form check is its last, at 128 and at 64 dimensions alike."""
    seen: list[int] = []

    def watched(gate: Gate) -> None:
        if gate.purpose == ("form",):
            seen.append(gate.turn)

    with pytest.MonkeyPatch.context() as patch:
        turn_gates(patch, watched)
        Trio(hold(unit_rows(np.random.default_rng(0), 1, 128))).prepare()
    return max(seen)


def test_known_limit_a_requester_that_turns_one_gate_of_the_form_check_gets_any_mask_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in admission: the committed seed of the mask makes it provable afterwards, nothing does so online."""
    with monkeypatch.context() as patch:
        spoiled(patch, *MALFORMED["X^5 in one"])
        assert small_trio().prepare().made is None, "control: honest in its gates, it is refused"
    spoiled(monkeypatch, *MALFORMED["X^5 in one"])
    turn_the_form(monkeypatch)
    assert small_trio().prepare().made is not None


def released_beside(monkeypatch: pytest.MonkeyPatch, target: Templates, other: Templates) -> Trio:
    """A mask with -X^200·b: row 210 is released only if row 10, which need not hit, does not score too high with b."""
    probe, templates = crowd()
    templates[11] = templates[12]
    templates[210], templates[10] = templates[10], target
    turn_the_form(monkeypatch)
    add_to_mask(monkeypatch, [-int(v) for v in other], 200)
    trio = Trio(hold(templates), threshold="0.7").search(probe)
    assert scores(templates, probe)[210] > trio.terms.theta(0) > scores(templates, probe)[10]
    return trio


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_known_limit_a_mask_that_is_not_constant_tells_about_a_row_that_is_not_released(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its lie in the form check, the requester sees whether a row it does not get resembles b: one bit a hit."""
    rng = np.random.default_rng(5)
    other = unit_rows(rng, 1, 128)[0]
    trio = released_beside(monkeypatch, near(rng, other, 1, np.array([cosine]))[0], other)
    assert not trio.failures
    assert trio.requester.answers[HOLDER].references == (("row-210",) if cosine == 0 else ())
    assert len(trio.sent(Release)) == 1


def stops_beside(monkeypatch: pytest.MonkeyPatch, target: Templates, other: Templates) -> Trio:
    """A mask with 2·X^1000·b puts twice what row 50 scores with b where the block has no row; a hit there stops all."""
    probe, templates = crowd()
    templates[50] = target
    turn_the_form(monkeypatch)
    add_to_mask(monkeypatch, [2 * int(v) for v in other], 1000)
    return Trio(hold(templates), threshold="0.7").search(probe)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_with_that_lie_a_row_that_does_not_exist_tells_nothing_for_it_is_not_live(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    other = unit_rows(rng, 1, 128)[0]
    trio = stops_beside(monkeypatch, near(rng, other, 1, np.array([cosine]))[0], other)
    assert {hit.row for hit in trio.outcome().hits} == {10, 11}


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_control_without_live_bits_a_row_that_does_not_exist_tells_about_one_that_does(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comparison with any vector, whatever hits: the search stops, or the answer is right."""

    def whatever_lives(negative: Any, live: Any) -> Any:
        below = yield from negative
        yield ~below, live
        return ~below

    monkeypatch.setattr(protocol.filtering, "_live_and_not", whatever_lives)
    rng = np.random.default_rng(5)
    other = unit_rows(rng, 1, 128)[0]
    trio = stops_beside(monkeypatch, near(rng, other, 1, np.array([cosine]))[0], other)
    if cosine > 0.3:
        trio.assert_stopped(Disagreement)
    else:
        assert {hit.row for hit in trio.outcome().hits} == {10, 11}


# --- stopping after the bit is seen ---


@pytest.mark.parametrize("victim", [HOLDER, REQUESTER])
def test_a_router_that_saw_the_bit_and_sends_a_wrong_component_only_stops_the_query(victim: str) -> None:
    def attack(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, component=not d.message.component)] if d.of(AdmissionBit, ROUTER, victim) else None  # type: ignore[union-attr]

    trio = run(attack)
    trio.assert_stopped(Disagreement)
    assert not trio.sent(CapBit, victim)
