"""A small search with a known answer, as it is and with something changed on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.admission
import protocol.requester
from pets import ntt, residues
from protocol.gallery import Gallery
from protocol.messages import ConfirmationBlock, FilterBlock, Message, PowerSums, Release
from protocol.session import State
from tests.kit.galleries import Templates, near, scores, unit_rows
from tests.kit.parties import HOLDER, Attack, Delivery, Trio, enrol, key_erased
from tests.kit.ring import RING

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


def assert_refused(trio: Trio) -> None:
    """Everybody opened the same bit, and nothing about hits was computed."""
    assert not trio.failures
    assert set(trio.states.values()) == {State.REFUSED}
    assert trio.holder.result is not None
    assert trio.holder.result.status == trio.requester.answers[HOLDER].status == "probe_refused"
    assert not any(trio.sent(kind) for kind in (FilterBlock, PowerSums, ConfirmationBlock, Release))
    assert key_erased(trio.requester)
    assert key_erased(trio.router)


def tampered(monkeypatch: pytest.MonkeyPatch, ciphertexts: Iterable[int], polynomial: dict[int, int]) -> Trio:
    """A requester that adds a polynomial (coefficient -> value, modulo Q) to c0 of some ciphertexts."""
    original = protocol.requester.probe_parts  # type: ignore[attr-defined]

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
