"""What attacks share: what a party received, galleries and probes to attack, parties that lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.admitting
import protocol.compute
import protocol.filtering
from pets import gf32, sketch
from pets.bits import Bits, Planes
from pets.circuits import Circuit
from pets.params import Parameters, scale
from pets.replicated import Masks
from pets.residues import Residues
from pets.templates import Templates
from protocol.compare import threshold_offset
from protocol.compute import Ring
from protocol.filter import CLIMB, CONFIRM
from protocol.live import Live
from protocol.messages import PowerSums
from protocol.roles import Seat
from protocol.steps import Step, receive
from protocol.wire import array
from tests.kit.galleries import near, unit_rows
from tests.kit.ring import RING
from tests.kit.trio import Trio

SMALL = 8  # dimensions: the attacks on the gallery take d preparations
N = RING.n
TREE = 4  # ANDs, one after the other, of the comparison's tree: the last of them decides the sign


def without_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence is taken away: the hit bit is opened as it is. The holder does not look either."""

    def hit_alone(negative: Circuit[Bits], live: Bits) -> Circuit[Bits]:
        return ~(yield from negative)

    monkeypatch.setattr(protocol.filtering, "_live_and_not", hit_alone)
    monkeypatch.setattr(Live, "standing", lambda self, rows: rows)
    monkeypatch.setattr(Live, "check_opened", lambda self, rows: None)


def payload(trio: Trio, kind: Any, receiver: str) -> list[npt.NDArray[np.uint32]]:
    """The arrays in all messages of a kind that a party received."""
    return [np.frombuffer(d.message.data, "<u4") for d in trio.sent(kind, receiver=receiver)]  # type: ignore[union-attr]


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


# --- gates ---


@dataclass(frozen=True)
class Gate:
    """One round of ANDs at one party. `turn`: which of those that have this purpose in this ring, from 0."""

    holder: str
    seat: int
    purpose: tuple[Any, ...]
    turn: int
    x: Bits


def turn_gates(monkeypatch: pytest.MonkeyPatch, flips: Callable[[Gate], Planes | None]) -> None:
    """Parties that turn gates: what `flips` says is turned in what one sends of an AND, and keeps: nobody sees it."""
    known: dict[int, tuple[str, int, tuple[Any, ...]]] = {}
    kept: list[Masks] = []  # so that no id() is given out twice
    turns: Counter[int] = Counter()
    drawing, multiplying = Ring.masks, protocol.compute.and_local  # type: ignore[attr-defined]

    def masks(ring: Ring, *purpose: Any) -> Masks:
        drawn = drawing(ring, *purpose)
        kept.append(drawn)
        known[id(drawn)] = ring.names[Seat.HOLDER], ring.seat, purpose
        return drawn

    def and_local(drawn: Masks, x: Bits, y: Bits, threads: int = 1) -> Bits:
        product = multiplying(drawn, x, y, threads)
        wanted = flips(Gate(*known[id(drawn)], turns[id(drawn)], x))
        turns[id(drawn)] += 1
        if wanted is not None:
            product.parts[0] ^= wanted
        return product

    monkeypatch.setattr(Ring, "masks", masks)
    monkeypatch.setattr(protocol.compute, "and_local", and_local)


def one_row(x: Bits, *rows: int) -> Planes:
    """Ones in the lanes of some rows, in every plane of an operand's shape."""
    out = np.zeros(x.shape, np.uint64)
    for row in rows:
        out[:, row // 64] ^= np.uint64(1 << row % 64)
    return out


def turn_rows(
    monkeypatch: pytest.MonkeyPatch,
    seat: int,
    rows: Iterable[int],
    rungs: Iterable[int] = range(9),
    turn: int = TREE - 1,
) -> None:
    """A party that turns the last gate of the comparison for some rows: what hits does not, what does not hits."""
    chosen, wanted = tuple(rows), set(rungs)

    def flips(gate: Gate) -> Planes | None:
        compares = gate.purpose[0] == "compare" and gate.purpose[1] in wanted
        return one_row(gate.x, *chosen) if gate.seat == seat and compares and gate.turn == turn else None

    turn_gates(monkeypatch, flips)


def force(monkeypatch: pytest.MonkeyPatch, rows: Iterable[int], rungs: Iterable[int]) -> None:
    """A requester that makes `rows`, of which it knows that they do not hit, hit on some rungs."""
    turn_rows(monkeypatch, Seat.REQUESTER, rows, rungs)


BOUND_TURNS = 7  # ANDs of the comparison of the norm with its bound, of 32 bits


def turn_the_bound(monkeypatch: pytest.MonkeyPatch, seat: int) -> None:
    """A party that turns the last gate of the admission: everybody opens the opposite of what is so."""

    def flips(gate: Gate) -> Planes | None:
        last = gate.purpose == ("admission bound",) and gate.turn == BOUND_TURNS - 1
        return one_row(gate.x, 0) if gate.seat == seat and last else None

    turn_gates(monkeypatch, flips)


PRODUCTS_TURN = 5  # of the admission: products of two bits of each coordinate


def asks_signs(monkeypatch: pytest.MonkeyPatch, coordinate: Callable[[str], int]) -> None:
    """A router that has the admission bit of each holder's ring say whether a coordinate is negative: refused if so.

    It turns the product of bits 6 and 7, of weight -2^14, which is 1 where -64 <= q_j < 0: that adds 2^14 to the norm
    where it was 1, and takes as much off where it was 0.
    """
    at = protocol.admitting._PAIRS.index((6, 7))

    def flips(gate: Gate) -> Planes | None:
        if gate.seat != Seat.ROUTER or gate.purpose != ("admission",) or gate.turn != PRODUCTS_TURN:
            return None
        j, out = coordinate(gate.holder), np.zeros(gate.x.shape, np.uint64)
        out[at, j // 64] = np.uint64(1 << j % 64)
        return out

    turn_gates(monkeypatch, flips)


# --- the count ---


def miscounts(monkeypatch: pytest.MonkeyPatch, seat: int, by: int, rungs: Iterable[int] = range(9)) -> None:
    """A party that shifts its share of the count."""
    original = protocol.filtering.cap_bit  # type: ignore[attr-defined]

    def lying(ring: Ring, share: int, cap: int, rung: int) -> Step[Bits]:
        return (yield from original(ring, share + by * (ring.seat == seat and rung in rungs), cap, rung))

    monkeypatch.setattr(protocol.filtering, "cap_bit", lying)


def claims_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder for whom the bit says "no more than the cap", whatever hits."""
    miscounts(monkeypatch, Seat.HOLDER, -(2**30))


def climbs_at_will(monkeypatch: pytest.MonkeyPatch, rungs: int) -> None:
    """Takes a defence out: a verdict need not follow from the bit, and the holder climbs as often as it likes."""
    monkeypatch.setattr(protocol.filtering, "verdict_on", lambda _, rung, __: CLIMB if rung < rungs - 1 else CONFIRM)


# --- the sketch ---


class SketchSolver:
    """What power sums tell about as many rows as they have bits, where no other row hits: a linear system."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.rows: list[int] = []
        self._basis: dict[int, tuple[int, int]] = {}

    def ask(self, row: int) -> bool:
        """Take one more row, unless the sums cannot tell it from those taken already."""
        sums = gf32.odd_power_sums(np.array([gf32.power(gf32.ALPHA, row)]), self.cap + 2).astype("<u4")
        vector, tag = self._reduced(int.from_bytes(sums.tobytes(), "little"), 1 << len(self.rows))
        if vector:
            self._basis[vector.bit_length()] = vector, tag
            self.rows.append(row)
        return bool(vector)

    def hits(self, sums: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which of the rows hit, bool, in the order in which they were taken."""
        rest, tag = self._reduced(int.from_bytes(sums.astype("<u4").tobytes(), "little"), 0)
        assert rest == 0
        return np.array([tag >> index & 1 for index in range(len(self.rows))], bool)

    def _reduced(self, vector: int, tag: int) -> tuple[int, int]:
        while vector and (pivot := self._basis.get(vector.bit_length())):
            vector, tag = vector ^ pivot[0], tag ^ pivot[1]
        return vector, tag


def received_sums(ring: Ring, running: Any, cap: int) -> Step[npt.NDArray[np.uint32]]:
    """The sums of all hits, as a holder gets them that does not decode them."""
    received = []
    for name in ring.names[1:]:
        message: PowerSums = yield from receive(name, PowerSums)
        received.append(array(message.data, (cap + 2,), np.uint32, "sums"))
    return sketch.combine(running.sums, received[0])


class SketchReader:
    """A holder that publishes 32·(cap + 2) rows of its lawful gallery less thresholds of its own.

    All other rows it keeps from hitting. On each rung that it gets the sums of, every threshold lies `rise` higher.
    `low`, `high`: between what each score lies. (It must lie in the count too, else no sums would come.)
    """

    def __init__(self, terms: Any, cap: int, rungs: int) -> None:
        self.solver = SketchSolver(cap)
        for row in range(32 * (cap + 2)):
            assert self.solver.ask(row), "as many bits as the sketch has"
        self.rises = [terms.theta(rung) - terms.theta(0) for rung in range(rungs)]
        self.rung = 0
        self.first = -self.rises[-1] // 2
        bound = 3 * scale(128) ** 2 // 10  # where scores of random rows lie
        self.low: npt.NDArray[np.int64] = np.full(len(self.solver.rows), -bound, np.int64)
        self.high: npt.NDArray[np.int64] = np.full(len(self.solver.rows), bound, np.int64)
        self._publishing = protocol.filtering.public_sums  # type: ignore[attr-defined]

    def publish(
        self, masked: Residues, values: Residues, offset: int, params: Parameters, threads: int = 1
    ) -> Residues:
        """In place of the agreed threshold. `values`: D·u."""
        asked = np.full(len(masked), threshold_offset(scale(128) ** 2, params), np.int64)
        asked[: len(self.low)] = threshold_offset(self.first, params)
        honest = self._publishing(masked, values, offset, params, threads).astype(np.int64)
        lying: Residues = ((honest + offset - asked) % 2**24).astype(np.uint32)
        return lying

    def open(self, ring: Ring, running: Any, _rows: int, cap: int) -> Any:
        """In place of decoding: then "nobody"."""
        hit = self.solver.hits((yield from received_sums(ring, running, cap)))
        asked = self.first + self.rises[self.rung]
        self.low = np.where(hit, np.maximum(self.low, asked), self.low)
        self.high = np.where(hit, self.high, np.minimum(self.high, asked))
        self.rung += 1
        return ()
