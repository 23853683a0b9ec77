"""What attacks share: what a party received, galleries and probes to attack, parties that lie."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.admission
import protocol.filter
from pets import gf32, residues, sketch
from pets.keys import JointKey, sample_key_share
from pets.params import Parameters, scale
from pets.sampling import common_polynomial
from protocol.compare import SHARE_MASK, threshold_offset
from protocol.compute import HOLDER as HOLDER_SEAT
from protocol.compute import REQUESTER as REQUESTER_SEAT
from protocol.compute import Ring
from protocol.filter import CLIMB, CONFIRM
from protocol.messages import FilterBlock, PowerSums, ProbePart
from protocol.steps import Step, receive
from protocol.wire import array
from tests.kit.galleries import Templates, near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, Trio
from tests.kit.ring import RING

SMALL = 8  # dimensions: the attacks on the gallery take d queries, or d/3
N = RING.n

Residues = npt.NDArray[np.uint32]


def payload(trio: Trio, kind: Any, receiver: str) -> list[npt.NDArray[np.uint32]]:
    """The arrays in all messages of a kind that a party received."""
    return [np.frombuffer(d.message.data, "<u4") for d in trio.sent(kind, receiver=receiver)]  # type: ignore[union-attr]


def block_c1(trio: Trio) -> Residues:
    """c1 of the only block, as the requester received it."""
    return payload(trio, FilterBlock, REQUESTER)[0].reshape(2, N)


def probe_ciphertexts(trio: Trio) -> Residues:
    """The probe as it was sent, uint32 (d, 2, 2, n)."""
    return np.concatenate(payload(trio, ProbePart, HOLDER)).reshape(-1, 2, 2, N)


def centred(coefficients: Residues, params: Parameters = RING) -> npt.NDArray[np.int64]:
    """Residues of coefficients, (…, 2, n), as integers between -Q/2 and Q/2."""
    x = coefficients.astype(np.int64)
    p0, p1 = params.primes
    lifted = x[..., 0, :] + p0 * ((x[..., 1, :] - x[..., 0, :]) * pow(p0, -1, p1) % p1)
    integers: npt.NDArray[np.int64] = lifted - params.q * (lifted > params.q // 2)
    return integers


def probes_and_gallery() -> tuple[Templates, Templates]:
    rng = np.random.default_rng(4)
    return unit_rows(rng, SMALL, SMALL), unit_rows(rng, 100, SMALL)


def key_and_secret() -> tuple[JointKey, Residues]:
    identity = secrets.token_bytes(32)
    common = common_polynomial(RING, identity)
    shares = [sample_key_share(RING, common, secrets.token_bytes(32), identity) for _ in range(2)]
    key = JointKey.combine(RING, identity, (shares[0].public, shares[1].public))
    return key, residues.add(shares[0].secret, shares[1].secret, RING)


def crowd() -> tuple[Templates, Templates]:
    """A probe, and a gallery with 2 matches at 0.8 and 5 people at 0.45, nobody else above 0.4."""
    rng = np.random.default_rng(7)
    probe = unit_rows(rng, 1, 128)[0]
    templates = unit_rows(rng, 300, 128)
    templates[10:12] = near(rng, probe, 2, np.full(2, 0.8))
    templates[20:25] = near(rng, probe, 5, np.full(5, 0.45))
    return probe, templates


def doubled(probe: Templates) -> npt.NDArray[np.int64]:
    return (2 * probe.astype(np.int64)).clip(-127, 127)


def force(monkeypatch: pytest.MonkeyPatch, rows: Iterable[int], rungs: Iterable[int], target: dict[int, int]) -> None:
    """A requester that shifts its shares at some rungs: `rows` become hits, `target` rows gain that many units."""
    original = protocol.filter.hit_bits  # type: ignore[attr-defined]

    def lying(seat: Ring, shares: Any, rung: int, chunk: int) -> Any:
        if seat.index == REQUESTER_SEAT and rung in rungs:
            shares = shares.astype(np.int64)
            for row in rows:
                shares[row] += 16 * 100_000
            for row, units in target.items():
                shares[row] += (units << 24) // RING.t
            shares = (shares % 2**24).astype(np.uint32)
        return (yield from original(seat, shares, rung, chunk))

    monkeypatch.setattr(protocol.filter, "hit_bits", lying)


def miscounts(monkeypatch: pytest.MonkeyPatch, seat: int, by: int, rungs: Iterable[int] = range(9)) -> None:
    """A party that shifts its share of the count."""
    original = protocol.filter.at_most_cap  # type: ignore[attr-defined]

    def lying(ring: Ring, share: int, cap: int, rung: int) -> Step[bool]:
        return (yield from original(ring, share + by * (ring.index == seat and rung in rungs), cap, rung))

    monkeypatch.setattr(protocol.filter, "at_most_cap", lying)


def claims_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder for whom the bit says "no more than the cap", whatever hits."""
    miscounts(monkeypatch, HOLDER_SEAT, -(2**30))


def climbs_at_will(monkeypatch: pytest.MonkeyPatch, rungs: int) -> None:
    """Takes a defence out: a verdict need not follow from the bit, and the holder climbs as often as it likes."""
    monkeypatch.setattr(protocol.filter, "verdict_on", lambda _, rung, __: CLIMB if rung < rungs - 1 else CONFIRM)


def shifted(monkeypatch: pytest.MonkeyPatch, seat: int, shift: npt.NDArray[np.int64]) -> None:
    """A party that adds `shift` to its addends of q_j in admission: the circuit then judges q + shift."""
    original = protocol.admission._decide

    def lying(ring: Ring, params: Any, dim: int, coefficients: Residues, seed: bytes) -> Step[bool]:
        if ring.index == seat:
            for index, p in enumerate(params.primes):
                moved = coefficients[0, index, :dim] + np.array([params.delta * int(v) % p for v in shift])
                coefficients[0, index, :dim] = moved % p
        return (yield from original(ring, params, dim, coefficients, seed))

    monkeypatch.setattr(protocol.admission, "_decide", lying)


class SketchReader:
    """A holder that asks of 32·(cap + 2) rows of its lawful gallery, at each rung, whether the score is at least a
    threshold of its own, and bisects. All other rows it keeps from hitting, so the sketch is a linear system.
    """

    def __init__(self, cap: int, rungs: int) -> None:
        self.rows, self.left = 32 * (cap + 2), rungs
        self._basis: dict[int, tuple[int, int]] = {}
        for row in range(self.rows):
            sums = gf32.odd_power_sums(np.array([gf32.power(gf32.ALPHA, row)]), cap + 2).astype("<u4")
            vector, tag = self._reduced(int.from_bytes(sums.tobytes(), "little"), 1 << row)
            assert vector, "as many bits as the sketch has"
            self._basis[vector.bit_length()] = vector, tag
        bound = 3 * scale(128) ** 2 // 10  # where scores of random rows lie
        self.low: npt.NDArray[np.int64] = np.full(self.rows, -bound, np.int64)
        self.high: npt.NDArray[np.int64] = np.full(self.rows, bound, np.int64)

    def _reduced(self, vector: int, tag: int) -> tuple[int, int]:
        while vector and (pivot := self._basis.get(vector.bit_length())):
            vector, tag = vector ^ pivot[0], tag ^ pivot[1]
        return vector, tag

    @property
    def asked(self) -> npt.NDArray[np.int64]:
        return (self.low + self.high) // 2

    def fold(self, shares: npt.NDArray[np.uint32], *_: Any) -> npt.NDArray[np.uint32]:
        """In place of the agreed threshold."""
        offsets = np.full(len(shares), threshold_offset(scale(128) ** 2, RING), np.int64)
        offsets[: self.rows] = [threshold_offset(int(value), RING) for value in self.asked]
        return ((shares.astype(np.int64) - offsets) % 2**24).astype(np.uint32) & SHARE_MASK

    def open(self, ring: Ring, running: Any, rows: int, cap: int) -> Any:
        """In place of decoding: then "nobody". It must have lied in the count, else no sums would come."""
        received = []
        for name in ring.names[1:]:
            received.append(array((yield from receive(name, PowerSums)).data, (cap + 2,), np.uint32, "sums"))
        sums = sketch.combine(running.sums, received[0])
        rest, tag = self._reduced(int.from_bytes(sums.astype("<u4").tobytes(), "little"), 0)
        assert rest == 0
        hit = np.array([tag >> row & 1 for row in range(self.rows)], bool)
        self.low, self.high = np.where(hit, self.asked, self.low), np.where(hit, self.high, self.asked)
        self.left -= 1
        return ()
