"""What a holder that cheats in the confirmation reads. (That the audit on site finds it: tests/audit.)"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.confirming
import protocol.filtering
import protocol.searching
from pets import ntt, residues
from pets.keys import expand_secret
from pets.mask_encryption import expand_public
from pets.params import SHARE_BITS, Parameters
from pets.residues import Residues
from pets.scoring import score_rows
from pets.templates import Templates
from protocol.compute import Ring
from protocol.confirmation import SLOT, Hit, check_answers
from protocol.confirming import holder_confirms
from protocol.difference import unpack_difference
from protocol.errors import ConfirmationFailed
from protocol.messages import ConfirmationAnswer, ConfirmationBlock, Difference, Release
from protocol.session import State
from protocol.steps import Step
from tests.kit.attacks import centred
from tests.kit.galleries import near, scores, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, Delivery, forge
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

DIGITS = 14  # of base 3 in one number of 24 bits: a digit's unit is 3.5, the rounding error of a share a half


# --- the key, by a chosen c1 ---


def key_reading_c1(width: int, params: Parameters) -> Residues:
    """w_0 + Σ_m w_m·X^(-width·m): coefficient i < width of c1·s is Σ_m w_m·s[i + width·m]. NTT form, (2, n)."""
    polynomial = [0] * params.n
    for m in range(min(DIGITS, -(-params.n // width))):
        weight = params.q * 3**m // 3**DIGITS
        polynomial[-width * m % params.n] = weight if m == 0 else params.q - weight  # X^-k = -X^(n-k)
    wide = np.array([[value % p for value in polynomial] for p in params.primes], np.int64)
    low, high = (wide & 0x7FFF).astype(np.int32), (wide >> 15).astype(np.int32)
    forms = [ntt.forward(np.stack([low[i], high[i]]), params)[:, i].astype(np.uint64) for i in range(2)]
    return np.stack([(f[0] + f[1] * 2**15) % p for f, p in zip(forms, params.primes, strict=True)]).astype(np.uint32)


def key_from_answer(answer: npt.NDArray[np.int64], params: Parameters) -> npt.NDArray[np.int64]:
    """The coefficients of s2 that an answer holds: the first DIGITS·width."""
    half = 2 ** (SHARE_BITS - 1)
    value = np.rint(((answer + half) % 2**SHARE_BITS - half) * 3**DIGITS / 2**SHARE_BITS).astype(np.int64)
    rows = []
    for _ in range(DIGITS):
        digit = (value + 1) % 3 - 1
        rows.append(digit)
        value = (value - digit) // 3
    return np.concatenate(rows)[: params.n]


@pytest.mark.parametrize("cap", [10, 49])
def test_known_limit_a_holder_reads_the_key_by_a_chosen_c1(cap: int) -> None:
    """84 coefficients of s2 a slot: 840 of 4096 at cap 10, the whole key from cap 49; then r, and q = u + r."""
    c1 = key_reading_c1(SLOT * cap, RING)

    def attack(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, data=c1.tobytes())] if d.of(ConfirmationBlock) else None

    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, 8)[0]
    trio = Trio(hold(unit_rows(rng, 50, 8)), threshold="0.95", ladder="0", cap=cap, attack=attack).prepare()
    assert trio.made is not None
    holder, preparation_id = trio.made.holders[HOLDER], trio.made.requester.preparation_id
    truth = centred(ntt.inverse(expand_secret(RING, trio.made.router.router_seed, preparation_id)[None], RING))[0]
    own, mask = expand_secret(RING, holder.holder_seed, preparation_id), holder.mask.copy()
    trio.search(probe)
    answers = [np.frombuffer(d.message.data, "<u4") for d in trio.sent(ConfirmationAnswer)]  # type: ignore[union-attr]
    assert len(answers) == 2
    read = key_from_answer(answers[0].astype(np.int64), RING)
    assert len(read) == min(RING.n, DIGITS * SLOT * cap)
    assert np.array_equal(read, truth[: len(read)])
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)  # at the holder's own hand; a cheater goes on
    if len(read) == RING.n:
        secret = residues.add(own, ntt.forward(read.astype(np.int32)[None], RING)[0], RING)
        product = residues.multiply(expand_public(preparation_id, 8, RING), secret, RING)
        opened = centred(ntt.inverse(residues.add(mask, product, RING), RING))[:, 0]
        r = np.rint(opened / RING.q * RING.t).astype(np.int64)
        u = unpack_difference(trio.sent(Difference)[0].message, 8, RING).astype(np.int64)  # type: ignore[arg-type]
        q = (u + r) % RING.t
        assert np.array_equal(np.where(q > RING.t // 2, q - RING.t, q), probe)


# --- the probe, by chosen rows ---


def test_known_limit_chosen_numbers_are_nearly_the_whole_probe_at_128_dimensions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two coordinates in each of 60 numbers of 20 bits: 120 of 128 at cap 10, exactly, and nobody notices."""
    rng = np.random.default_rng(1)
    probe = unit_rows(rng, 1, 128)[0]
    block = np.zeros((60, 128), np.int32)
    block[np.arange(60), 2 * np.arange(60)], block[np.arange(60), 2 * np.arange(60) + 1] = 1, 255
    answers: list[npt.NDArray[np.int64]] = []

    def reading(sums: Residues, *_: Any) -> list[int]:
        answers.append(((sums.astype(np.int64) * RING.t + 2 ** (SHARE_BITS - 1)) >> SHARE_BITS) % RING.t)
        return []

    monkeypatch.setattr(protocol.confirming, "build_block", lambda *_: (block, np.zeros((10, SLOT), np.int32)))
    instead = lambda rows, factors, mask, threads: score_rows(block, [mask], RING)[0, 0]  # noqa: E731
    monkeypatch.setattr(protocol.confirming, "combine_rows", instead)
    monkeypatch.setattr(protocol.confirming, "check_answers", reading)
    trio = Trio(hold(unit_rows(rng, 50, 128)), threshold="0.9", ladder="0").search(probe)
    assert trio.outcome().status == "no_hit"
    numbers = (answers[0] + RING.t // 2) % RING.t - RING.t // 2
    even = (numbers + 127) % 255 - 127
    read = np.stack([even, (numbers - even) // 255], axis=1).reshape(-1)
    assert np.array_equal(read, probe[:120])


# --- scores of rows that did not hit ---


def scores_of_chosen_rows(monkeypatch: pytest.MonkeyPatch, chosen: list[int]) -> tuple[Trio, dict[int, int], Any]:
    """A holder that puts `chosen` rows into the free slots, reads them and releases only what did hit."""
    opening, original = protocol.filtering.open_hits, holder_confirms
    read: dict[int, int] = {}

    def opened(*args: Any) -> Any:
        return (*(yield from opening(*args)), *chosen)

    def confirming(ring: Ring, *args: Any) -> Step[tuple[Hit, ...]]:
        hits = yield from original(ring, *args)
        read.update({hit.row: hit.score for hit in hits})
        return tuple(hit for hit in hits if hit.row not in chosen)

    monkeypatch.setattr(protocol.filtering, "open_hits", opened)
    monkeypatch.setattr(protocol.searching, "holder_confirms", confirming)
    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, 64)[0]
    templates: Templates = unit_rows(rng, 200, 64)
    templates[17] = near(rng, probe, 1, np.array([0.8]))[0]
    trio = Trio(hold(templates), threshold="0.7", ladder="0").search(probe)
    return trio, read, scores(templates, probe)


def test_known_limit_a_holder_reads_exact_scores_of_rows_that_did_not_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody online sees which rows fill the slots: cap scores of the holder's choice a query."""
    monkeypatch.setattr(
        protocol.confirming,
        "check_answers",
        lambda sums, factors, used, theta, params: check_answers(sums, factors, used, -params.t, params),
    )
    chosen = [3, 5, 8, 13, 21, 34, 55, 89, 144]
    trio, read, truth = scores_of_chosen_rows(monkeypatch, chosen)
    assert read == {row: int(truth[row]) for row in (17, *chosen)}
    assert trio.requester.answers[HOLDER].references == ("row-17",)
    assert set(trio.states.values()) == {State.FINISHED}


def test_a_holder_that_keeps_to_its_own_check_freezes_on_a_row_that_did_not_hit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trio, read, _ = scores_of_chosen_rows(monkeypatch, [3])
    assert not read
    assert not trio.sent(Release, receiver=REQUESTER)
    trio.assert_stopped(ConfirmationFailed, state=State.FROZEN)
