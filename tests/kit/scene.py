"""A small search with a known answer, as it is and with something changed on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import protocol.form
import protocol.preparing
from pets import ntt, residues
from pets.residues import Residues
from pets.templates import Templates
from protocol.errors import FalseRefusal, ProbeRefused
from protocol.gallery import Gallery
from protocol.local import LocalPreparation
from protocol.messages import CapBit, ConfirmationBlock, Message, PowerSums, Release
from protocol.session import State
from tests.kit.galleries import near, scores, unit_rows
from tests.kit.parties import HOLDER, Attack, Delivery
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

DIM = 64
N = RING.n
ROWS = 200
HIT_ROW, OTHER_ROW = 17, 23  # in `scene`: a hit, and a row that is none


def scene(hits: int = 1, rows: int = ROWS) -> tuple[Gallery, Templates]:
    """A gallery in which rows from 17 on hit the probe at 0.8; all others stay below 0.7."""
    return _scene(hits, rows)  # the same one, however it is asked for


@lru_cache(maxsize=4)
def _scene(hits: int, rows: int) -> tuple[Gallery, Templates]:
    rng = np.random.default_rng(hits)
    probe = unit_rows(rng, 1, DIM)[0]
    templates = unit_rows(rng, rows, DIM)
    templates[HIT_ROW : HIT_ROW + hits] = near(rng, probe, hits, np.full(hits, 0.8))
    assert (scores(templates, probe) > 0.7 * 176**2).sum() == hits
    return hold(templates), probe


@lru_cache(maxsize=1)
def stranger() -> Templates:
    """A probe that nobody in `scene` resembles."""
    probe: Templates = unit_rows(np.random.default_rng(20), 1, DIM)[0]
    assert scores(scene()[0].templates, probe).max() < 0.6 * 176**2
    return probe


def faces() -> tuple[Templates, Templates, Templates]:
    """The probe of `scene`, a stranger, and the rows."""
    gallery, probe = scene()
    return probe, stranger(), gallery.templates


def small_trio(**options: Any) -> Trio:
    """The parties of `scene`, at a threshold of 0.7 without a ladder; nothing is prepared yet."""
    return Trio(scene()[0], threshold="0.7", ladder="0", **options)


def pair(**options: Any) -> Trio:
    """The same with two holders of the same rows."""
    rows = scene()[0].templates
    return Trio(hold(rows), hold(rows.copy()), threshold="0.7", ladder="0", **options)


def run(
    attack: Attack | None, hits: int = 1, cap: int = 10, ladder: str = "0", made: LocalPreparation | None = None
) -> Trio:
    """A preparation and a search with it, under attack from the first message on. `made`: a preparation that waits."""
    gallery, probe = scene(hits)
    trio = Trio(gallery, threshold="0.7", cap=cap, ladder=ladder, attack=attack)
    trio.made = made
    return trio.search(probe)


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


def assert_refused(trio: Trio) -> None:
    """Everybody opened the same bit, before anything about hits; the requester, who knew the probe, calls it a lie."""
    assert any(isinstance(failure, FalseRefusal) for failure in trio.failures)
    for machine in (trio.router, trio.holder):
        assert machine.sessions[HOLDER].state is State.REFUSED
        assert isinstance(machine.sessions[HOLDER].failure, ProbeRefused)
    assert not any(trio.sent(kind) for kind in (CapBit, PowerSums, ConfirmationBlock, Release))
    assert not trio.requester.answers


# --- a mask that is not what it should be ---


def spoiled(monkeypatch: pytest.MonkeyPatch, ciphertexts: Iterable[int], polynomial: dict[int, int]) -> None:
    """A requester that adds a polynomial (coefficient -> value, modulo Q) to some ciphertexts, and keeps quiet."""
    original = protocol.preparing.encrypt_mask  # type: ignore[attr-defined]

    def spoil(*given: Any) -> Residues:
        mask = original(*given)
        for exponent, value in polynomial.items():
            form = monomial(exponent, value)
            for j in ciphertexts:
                mask[j] = residues.add(mask[j], form, RING)
        return mask

    monkeypatch.setattr(protocol.preparing, "encrypt_mask", spoil)
    monkeypatch.setattr(protocol.form, "check_lanes", lambda *_: None)


def monomial(exponent: int, value: int) -> Residues:
    """value·X^exponent modulo Q, in NTT form, uint32 (2, n)."""
    unit = np.zeros((1, N), np.int8)
    unit[0, exponent] = 1
    primes = np.array(RING.primes, np.uint64)[:, None]
    factors = np.array([value % p for p in RING.primes], np.uint64)[:, None]
    form: Residues = (ntt.forward(unit, RING)[0] * factors % primes).astype(np.uint32)
    return form


DELTA = RING.delta
NOISE = 2**38  # a quarter of Δ: four units of a rounded share
MALFORMED: dict[str, tuple[Iterable[int], dict[int, int]]] = {
    "X^5 in one": ([9], {5: DELTA}),
    "-X^(n-1) in one": ([0], {N - 1: -DELTA}),
    "X in all": (range(DIM), {1: DELTA}),
    "100·X^2048 in two": ([3, 4], {2048: 100 * DELTA}),
    "noise in X^500 of one": ([9], {500: NOISE}),
    "noise in many coefficients": (range(DIM), dict.fromkeys(range(200, 260), NOISE // 8)),
    "noise far below the unit of a share": ([9], {500: 2**23}),
    "noise beside a number": ([9], {0: NOISE}),
    "negative noise beside a number": ([9], {0: -2 * NOISE}),
    "noise beside every number": (range(DIM), {0: NOISE}),
    "half of Δ beside a number": ([63], {0: DELTA // 2}),
    "noise beside a number, far below the unit": ([9], {0: 2**23}),
    "what vanishes when amplified": ([9], {500: RING.q // protocol.form.AMPLIFIED}),
    "what vanishes times t": ([9], {0: RING.q // RING.t + 2**36}),
}
