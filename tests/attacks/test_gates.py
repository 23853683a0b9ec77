"""Gates that a holder turns while a gallery is prepared: what it reads of the probe in the search that follows.

That no rule of the audit finds turned gates: tests/audit. What requester and router can turn, and what the confirmation
makes of it: tests/protocol/test_refusals_opening.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.filtering
from pets.bits import Planes
from pets.params import SHARE_BITS
from pets.planes import from_planes
from pets.templates import Templates
from protocol.compare import threshold_offset
from protocol.compute import Ring
from protocol.messages import MaskedScores
from protocol.roles import Seat
from tests.kit.attacks import Gate, SketchSolver, claims_few, one_row, received_sums, turn_gates
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

PLANE = 18  # the borrow out of it, turned, moves z by 2^19 (32,768 units of score): up where it was 1, down where 0
DOUBT = 16 * 5436  # one deviation of a random row's score, in units of a share


class BorrowTurner:
    """A holder that turns one gate of `subtract` in 32·(cap + 2) rows of its lawful gallery, before there is a probe.

    Moved up, a row hits from a score near 0 on; moved down, never. In the search the holder knows e and m, so of a row
    that scores about 0 it knows z, and with it which way the row went.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, trio: Trio, rows: int, *, honest: bool = False) -> None:
        self.trio = trio
        self.solver = SketchSolver(trio.terms.cap)
        for row in range(rows):
            if len(self.solver.rows) < 32 * (trio.terms.cap + 2):
                self.solver.ask(row)
        self.hit = np.zeros(0, bool)
        self.sure: list[bool] = []
        monkeypatch.setattr(protocol.filtering, "open_hits", self.open)
        claims_few(monkeypatch)
        if not honest:
            turn_gates(monkeypatch, self.flips)

    def flips(self, gate: Gate) -> Planes | None:
        """In the preparation."""
        here = gate.seat == Seat.HOLDER and gate.purpose[0] == "subtract" and gate.turn == PLANE
        return one_row(gate.x, *self.solver.rows) if here else None

    def open(self, ring: Ring, running: Any, _rows: int, cap: int) -> Any:
        """In place of decoding: solve for the rows, then confirm nobody."""
        assert self.trio.made is not None
        prepared = self.trio.made.holders[HOLDER].rings[HOLDER]
        then = Ring(Seat.HOLDER, ring.names, self.trio.made.requester.preparation_id, prepared.own, prepared.following)
        words = len(self.published) // 64
        drawn = then.masks("mask", 0, 1, 0)
        m = from_planes(drawn.own.words(SHARE_BITS, words) ^ drawn.following.words(SHARE_BITS, words)).astype(np.int64)
        period = 2 ** (PLANE + 1)
        # z of a row that scores 0, modulo 2^19; z + m carries where m was more than what it was taken from.
        z = (-threshold_offset(self.trio.terms.theta(0), RING) - self.published) % period
        up = z + m % period - period
        for row in self.solver.rows:
            edge = min(int(up[row]), int(z[row]), period - int(z[row]))
            self.sure.append(edge > DOUBT)
        self.hit = self.solver.hits((yield from received_sums(ring, running, cap)))
        return ()

    @property
    def published(self) -> npt.NDArray[np.int64]:
        """e, as the holder sent it."""
        data = self.trio.sent(MaskedScores, HOLDER)[0].message.data  # type: ignore[union-attr]
        planes = np.frombuffer(data, "<u8").astype(np.uint64).reshape(SHARE_BITS, -1)
        return from_planes(planes).astype(np.int64)

    def guess(self, templates: Templates) -> npt.NDArray[np.float64]:
        """The probe's direction: rows that hit, less those that did not, which counts more where they went up."""
        weights = np.where(self.hit, 1, np.where(self.sure, -0.6, -0.25))
        found: npt.NDArray[np.float64] = templates[self.solver.rows].astype(np.float64).T @ weights
        return found


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b.astype(np.float64)))


def turning_search(
    monkeypatch: pytest.MonkeyPatch, seed: int, *, honest: bool = False
) -> tuple[Trio, BorrowTurner, float]:
    """The search, the holder, and the cosine of what it makes of its hits with the probe, 0 of none."""
    rng = np.random.default_rng(seed)
    probe, templates = unit_rows(rng, 1, 128)[0], unit_rows(rng, 3000, 128)
    trio = Trio(hold(templates), threshold="0.55")
    reader = BorrowTurner(monkeypatch, trio, len(templates), honest=honest)
    trio.search(probe)
    return trio, reader, cosine(reader.guess(templates), probe) if reader.hit.any() else 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_known_limit_a_holder_that_flips_gates_reads_comparisons_of_384_rows(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It publishes what is due, its gallery is lawful, nothing is released, and nothing shows online."""
    trio, reader, reached = turning_search(monkeypatch, seed)
    assert trio.requester.answers[HOLDER].status == "no_hit"
    assert not trio.failures
    assert 50 < reader.hit.sum() < 120, "of the half that went up, those above their mean"
    assert 50 < sum(reader.sure) < 120, "of which it knows, too, that they do not hit if they do not"
    assert reached == pytest.approx(0.63, abs=0.1), "0.60 to 0.68 in four searches"


def test_control_a_holder_that_turns_nothing_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, reader, reached = turning_search(monkeypatch, 0, honest=True)
    assert not reader.hit.any()
    assert reached == 0
