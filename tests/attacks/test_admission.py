"""Admission under attack: its c1, its coins, its bit as an oracle, noise, and a requester that lies in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.admission
import protocol.filter
import protocol.requester
from pets import ntt, residues
from pets.keys import ZeroPool, encrypt_constants
from pets.params import SHARE_BITS, norm_bound
from pets.replicated import and_local
from protocol.compute import HOLDER as HOLDER_SEAT
from protocol.compute import REQUESTER as REQUESTER_SEAT
from protocol.compute import ROUTER as ROUTER_SEAT
from protocol.compute import Ring
from protocol.errors import ConfirmationFailed, Disagreement
from protocol.messages import AdmissionBit, AdmissionBlock, FilterBlock, Gates, ProbeDigest, ProbePart, Release
from protocol.session import State
from protocol.steps import Send, receive
from protocol.wire import ADMISSION_POLYNOMIALS, array
from tests.kit.attacks import N, Residues, crowd, doubled, key_and_secret, payload, probe_ciphertexts, shifted
from tests.kit.galleries import Templates, near, rows_with_scores, scores, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, Trio, enrol, forge
from tests.kit.ring import RING
from tests.kit.scene import NOT_CONSTANT, assert_refused, scene, tampered

pytestmark = pytest.mark.ring

SUMS = ADMISSION_POLYNOMIALS - 1


# --- the identity block's c1 is not re-randomised: what does it show? ---


def test_c1_of_a_probe_does_not_depend_on_the_probe() -> None:
    """So nothing that is made of c1 and public rows or coins, as all of admission's c1 is, can show the probe."""
    key, _ = key_and_secret()
    one, two = unit_rows(np.random.default_rng(0), 2, 8)
    first, second = (
        encrypt_constants(probe, ZeroPool.make(key, bytes(32), "probe", 8).take(8), RING) for probe in (one, two)
    )
    assert np.array_equal(first[:, 1], second[:, 1])
    assert not (first[:, 0] == second[:, 0]).any(), "the control: c0 does depend on it, and stays with the holder"


def admission_c1(trio: Trio) -> Residues:
    return payload(trio, AdmissionBlock, ROUTER)[0].reshape(ADMISSION_POLYNOMIALS, 2, N)


def test_c1_of_the_identity_block_is_known_to_the_requester_beforehand() -> None:
    """It is Σ X^j·c1_j whatever the holder has: nothing of the gallery is in it."""
    probe = unit_rows(np.random.default_rng(0), 1, 8)[0]
    for rows in (3, 60):
        trio = Trio(enrol(unit_rows(np.random.default_rng(rows), rows, 8))).search(probe)
        powers = ntt.forward(np.eye(8, N, dtype=np.int32), RING)
        expected = np.zeros((2, N), np.uint32)
        for power, ciphertext in zip(powers, probe_ciphertexts(trio), strict=True):
            expected = residues.add(expected, residues.multiply(ciphertext[1][None], power, RING)[0], RING)
        assert np.array_equal(admission_c1(trio)[0], expected)


def coins_of(trio: Trio) -> npt.NDArray[np.uint8]:
    """The holder's secret coins, (40, 8), as the requester finds them: which of the 256 sums of its own c1 it got."""
    points = probe_ciphertexts(trio)[:, 1, 0, :4].astype(np.uint64)
    choices = np.array(list(itertools.product((0, 1), repeat=8)), np.uint64)
    sums = {tuple(row): choice for choice, row in zip(choices, choices @ points % RING.primes[0], strict=True)}
    return np.array([sums[tuple(row)] for row in admission_c1(trio)[1:, 0, :4].astype(np.uint64)], np.uint8)


def test_the_requester_learns_the_coins_but_only_when_its_ciphertexts_are_gone() -> None:
    probe = unit_rows(np.random.default_rng(0), 1, 8)[0]
    trio = Trio(enrol(unit_rows(np.random.default_rng(1), 20, 8))).search(probe)
    coins = coins_of(trio)
    assert 100 < coins.sum() < 220
    order = [type(d.message) for d in trio.deliveries]
    last = max(i for i, kind in enumerate(order) if kind in (ProbePart, ProbeDigest))
    assert last < order.index(AdmissionBlock)
    assert not np.array_equal(coins, coins_of(Trio(enrol(unit_rows(np.random.default_rng(1), 20, 8))).search(probe)))


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


def add_to_probe(
    monkeypatch: pytest.MonkeyPatch, weights: Iterable[int], exponent: int, unit: int = RING.delta
) -> None:
    """A requester that adds unit·w_j·X^exponent to each ciphertext."""
    original = protocol.requester.probe_parts
    power = np.zeros((1, N), np.int32)
    power[0, exponent] = 1
    form = ntt.forward(power, RING)[0].astype(np.uint64)
    primes = np.array(RING.primes, np.uint64)[:, None]

    def spoiled(probe: Residues, second: list[bytes], threads: int = 1) -> Any:
        for j, weight in enumerate(weights):
            factor = np.array([unit * weight % p for p in RING.primes], np.uint64)[:, None]
            probe[j, 0] = residues.add(probe[j, 0], (form * factor % primes).astype(np.uint32), RING)
        return original(probe, second)

    monkeypatch.setattr(protocol.requester, "probe_parts", spoiled)


COINS = np.random.default_rng(0).integers(0, 2, (SUMS, 64)).astype(np.uint8)


def test_a_probe_made_for_other_coins_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    add_to_probe(monkeypatch, kernel(COINS, RING.t), 100)  # beyond what the identity block shows
    gallery, probe = scene()
    assert_refused(Trio(gallery, threshold="0.7", ladder="0").search(probe))


def test_control_with_coins_known_beforehand_a_probe_that_is_not_constant_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_to_probe(monkeypatch, kernel(COINS, RING.t), 100)  # beyond what the identity block shows
    original = protocol.admission.random_sums
    known = SimpleNamespace(bytes_array=lambda *_: np.packbits(COINS, axis=1))
    monkeypatch.setattr(protocol.admission, "random_sums", lambda sent, _, *rest: original(sent, known, *rest))
    gallery, probe = scene()
    trio = Trio(gallery, threshold="0.7", ladder="0").search(probe)
    assert State.REFUSED not in trio.states.values()
    assert trio.sent(FilterBlock)


# --- the bit as an oracle ---


@pytest.mark.parametrize("seat", [HOLDER_SEAT, ROUTER_SEAT], ids=["holder", "router"])
@pytest.mark.parametrize("cosine", [0.0, 0.7])
def test_known_limit_admission_tells_a_cheating_holder_or_router_one_comparison(
    seat: int, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Does the probe resemble a face of its choice? Refused if so; if not, all goes on and nobody notices."""
    rng = np.random.default_rng(3)
    wanted = unit_rows(rng, 1, 128)[0]
    probe = near(rng, wanted, 1, np.array([cosine]))[0]
    shift = np.rint(0.1 * wanted).astype(np.int64)
    total = probe.astype(np.int64) + shift
    shifted(monkeypatch, seat, shift)
    trio = Trio(enrol(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0").search(probe)
    resembles = int(total @ total) > norm_bound(128)
    assert resembles == (cosine > 0.5)
    assert (trio.requester.answers[HOLDER].status == "probe_refused") == resembles
    # The control, and how the requester notices: an honest party would have let this very probe through.
    monkeypatch.undo()
    trio = Trio(enrol(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0").search(probe)
    assert trio.requester.answers[HOLDER].status == "no_hit"


# --- noise ---


def without_amplification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.admission, "times", lambda coefficients, *_: np.zeros_like(coefficients))


BITS = [20, 26, 33, 37]  # of noise on every q_j; 2^37 is an eighth of Δ, two units of a share


@pytest.mark.parametrize("bits", BITS)
def test_noise_beside_the_coordinates_is_refused(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(tampered(monkeypatch, range(64), {0: 2**bits}))


@pytest.mark.parametrize("bits", BITS[1:])
def test_control_without_amplification_noise_freezes_the_query_where_anything_hits(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times a row and a factor it no longer rounds away."""
    without_amplification(monkeypatch)
    trio = tampered(monkeypatch, range(64), {0: 2**bits})
    assert State.REFUSED not in trio.states.values()
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)


def test_control_without_amplification_an_eighth_of_a_unit_fits_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose entries add up to a multiple of 8 scores an integer more, and is released though it does not hit."""
    rng = np.random.default_rng(5)
    probe, templates = crowd()
    target = Trio(enrol(templates[:1]), threshold="0.7").terms.theta(0) - 2
    candidates = (rows_with_scores(rng, probe, [target])[0] for _ in itertools.count())
    templates[10:12] = templates[12]
    templates[110] = next(row for row in candidates if row.sum(dtype=int) % 8 == 0 and row.sum(dtype=int) >= 16)
    without_amplification(monkeypatch)
    add_to_probe(monkeypatch, [1] * 128, 0, RING.delta // 8)
    trio = Trio(enrol(templates), threshold="0.7").search(probe)
    assert not trio.failures
    assert trio.requester.answers[HOLDER].references == ("row-110",)


def quiet_noise(monkeypatch: pytest.MonkeyPatch, cosine: float) -> Trio:
    """A probe with noise at X^100, and no other lie: row 110 hits by 3, less what row 10 scores with the noise.

    The noise lies along b and has a norm of one unit of a share, so that its random sums stay within the slack. At row
    110 it adds up to 15 units of score times the cosine of b and row 10. A confirmation block has nothing at X^100.
    """
    rng = np.random.default_rng(5)
    probe, templates = crowd()
    b = unit_rows(rng, 1, 128)[0]
    templates[10:12] = templates[12]
    templates[10] = near(rng, b, 1, np.array([cosine]))[0]
    terms = Trio(enrol(templates[:1]), threshold="0.7").terms
    templates[110] = rows_with_scores(rng, probe, [terms.theta(0) + 3])[0]
    direction = b - b.mean()
    direction *= RING.q / 2**SHARE_BITS / np.linalg.norm(direction)
    add_to_probe(monkeypatch, [-round(value) for value in direction], 100, unit=1)
    return Trio(enrol(templates), threshold="0.7").search(probe)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_noise_that_is_not_constant_is_refused_also_within_the_slack(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(quiet_noise(monkeypatch, cosine))


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_control_without_amplification_such_noise_tells_about_a_row_that_is_not_released(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No share, gate or answer is a lie, and no confirmation fails: one bit of a row that does not hit for each hit."""
    without_amplification(monkeypatch)
    trio = quiet_noise(monkeypatch, cosine)
    assert not trio.failures
    assert trio.requester.answers[HOLDER].references == (("row-110",) if cosine == 0 else ())


# --- a requester that lies inside the circuit ---


def flip_the_last_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requester knows that its probe is refused, so it adds one to the last AND: everybody opens "admitted"."""
    gates = 0

    def counted(d: Delivery) -> None:
        nonlocal gates
        gates += d.of(Gates, REQUESTER)

    Trio(enrol(unit_rows(np.random.default_rng(0), 1, 128)), attack=counted).search(np.zeros(128, np.int8))
    last = gates - 14  # the rounds of comparison and count
    original = protocol.admission.evaluate

    def lying(ring: Ring, masks: Any, circuit: Any) -> Any:
        if ring.index != REQUESTER_SEAT:
            return (yield from original(ring, masks, circuit))
        x, y = next(circuit)
        for rounds in itertools.count(1):
            z = and_local(masks, x, y)
            if rounds == last:
                z.parts[0, 0, 0] ^= np.uint64(1)
            yield Send(ring.previous, Gates(memoryview(z.parts[0].tobytes())))
            message = yield from receive(ring.following, Gates)
            z.parts[1] = array(message.data, z.shape, np.uint64, "gates")
            try:
                x, y = circuit.send(z)
            except StopIteration as end:
                assert rounds == last
                return end.value

    monkeypatch.setattr(protocol.admission, "evaluate", lying)


def test_known_limit_a_requester_that_flips_the_last_gate_gets_any_probe_admitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Design 2.9, with less effort: no coin need be known, so re-randomising the 40 sums would close nothing."""
    probe, templates = crowd()
    flip_the_last_gate(monkeypatch)
    trio = Trio(enrol(templates), threshold="0.7").search(doubled(probe), unchecked=True)
    assert {hit.row for hit in trio.outcome().hits} == {10, 11, 20, 21, 22, 23, 24}
    assert not trio.failures


def released_beside(monkeypatch: pytest.MonkeyPatch, target: Templates, other: Templates) -> Trio:
    """A probe q - X^100·b: row 110 is released only if row 10 does not score too high with b, which it need not hit."""
    probe, templates = crowd()
    templates[11] = templates[12]
    templates[110], templates[10] = templates[10], target
    flip_the_last_gate(monkeypatch)
    add_to_probe(monkeypatch, [-int(v) for v in other], 100)
    trio = Trio(enrol(templates), threshold="0.7").search(probe)
    assert scores(templates, probe)[110] > trio.terms.theta(0) > scores(templates, probe)[10]
    return trio


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_known_limit_a_probe_that_is_not_constant_tells_about_a_row_that_is_not_released(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its lie in admission, the requester sees whether a row it does not get resembles b: one bit a true hit."""
    rng = np.random.default_rng(5)
    other = unit_rows(rng, 1, 128)[0]
    trio = released_beside(monkeypatch, near(rng, other, 1, np.array([cosine]))[0], other)
    assert not trio.failures
    assert trio.requester.answers[HOLDER].references == (("row-110",) if cosine == 0 else ())
    assert len(trio.sent(Release)) == 1


def stops_beside(monkeypatch: pytest.MonkeyPatch, target: Templates, other: Templates) -> Trio:
    """A probe q + X^1000·b puts what row 50 scores with b where the block has no row; a hit there stops the search.

    The requester shifts its own shares so that nothing else hits there, and that does from 0.3 on.
    """
    probe, templates = crowd()
    templates[50] = target
    guess = round(0.3 * 248**2)
    original = protocol.filter.hit_bits

    def lying(seat: Ring, shares: Any, rung: int, chunk: int) -> Any:
        if seat.index == REQUESTER_SEAT:
            moved = shares.astype(np.int64)
            moved[len(templates) :] -= 16 * 150_000
            moved[1050] += 16 * (150_000 + trio.terms.theta(0) - guess)
            shares = (moved % 2**SHARE_BITS).astype(np.uint32)
        return (yield from original(seat, shares, rung, chunk))

    flip_the_last_gate(monkeypatch)
    add_to_probe(monkeypatch, [int(v) for v in other], 1000)
    monkeypatch.setattr(protocol.filter, "hit_bits", lying)
    trio = Trio(enrol(templates), threshold="0.7")
    return trio.search(probe)


@pytest.mark.parametrize("cosine", [0.0, 0.6])
def test_known_limit_with_that_lie_a_row_that_does_not_exist_tells_about_one_that_does(
    cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comparison with any vector, whatever hits: the search stops, or the answer is right."""
    rng = np.random.default_rng(5)
    other = unit_rows(rng, 1, 128)[0]
    trio = stops_beside(monkeypatch, near(rng, other, 1, np.array([cosine]))[0], other)
    if cosine > 0.3:
        trio.assert_stopped(Disagreement)
    else:
        assert {hit.row for hit in trio.outcome().hits} == {10, 11}


@pytest.mark.parametrize("change", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_control_without_the_lie_such_probes_are_refused(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(tampered(monkeypatch, *change))


# --- stopping after the bit is seen ---


@pytest.mark.parametrize("victim", [HOLDER, REQUESTER])
def test_a_router_that_saw_the_bit_and_sends_a_wrong_component_only_stops_the_query(
    victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, component=not d.message.component)] if d.of(AdmissionBit, ROUTER, victim) else None

    gallery, probe = scene()
    trio = Trio(gallery, threshold="0.7", ladder="0", attack=attack).search(probe)
    trio.assert_stopped(Disagreement)
    assert not trio.sent(FilterBlock) or victim == REQUESTER
