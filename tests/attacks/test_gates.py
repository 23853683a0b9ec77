"""Gates that a party flips inside the comparison: what a holder reads, and how a router hides a hit. No audit tells."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.compute
import protocol.filter
from nodes.verify import verify_bundles
from pets import gf32, sketch
from pets.params import SHARE_BITS, theta
from protocol.compute import HOLDER as HOLDER_SEAT
from protocol.compute import ROUTER as ROUTER_SEAT
from protocol.compute import Ring
from protocol.messages import PowerSums
from protocol.steps import receive
from protocol.wire import array
from tests.kit.attacks import claims_few, crowd
from tests.kit.audits import audit
from tests.kit.evidence import DE, DIM, ES, EU, FR, ROWS, failures, shared_world
from tests.kit.galleries import Templates, unit_rows
from tests.kit.parties import HOLDER, Trio, enrol
from tests.kit.ring import RING

PLANE = 18  # flipping bit 18 of the carries adds 2^19 to a sum (32,768 units of score) where that carry was 0


class GateFlipper:
    """A holder that shares its inputs honestly and flips one AND gate for 32·(cap + 2) rows of its lawful gallery.

    Where the carry was 0, the row then hits from a score near 0 on. It knows its own addend and, roughly, what the
    other two add up to, and takes rows in which the carry most likely was 0.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, theta: int, cap: int = 10) -> None:
        self.count, self.theta, self.cap = count, theta, cap
        self.rows: list[int] = []
        self.hit = np.zeros(0, bool)
        self._basis: dict[int, tuple[int, int]] = {}
        self._flips: npt.NDArray[np.uint64] | None = None
        self._comparing = protocol.filter.hit_bits
        self._multiplying = protocol.compute.and_local
        monkeypatch.setattr(protocol.filter, "hit_bits", self.compare)
        monkeypatch.setattr(protocol.compute, "and_local", self.multiply)
        monkeypatch.setattr(protocol.filter, "open_hits", self.open)
        claims_few(monkeypatch)

    def compare(self, ring: Ring, shares: Any, rung: int, chunk: int) -> Any:
        """Before the first gate: choose the rows."""
        if ring.index == HOLDER_SEAT:
            x = shares.astype(np.int64)
            others = (-16 * self.theta - x) % 2 ** (PLANE + 1)  # of a row that scores 0, modulo 2^19
            doubt = np.minimum(others, 2 ** (PLANE + 1) - others) + 2**30 * (x >> PLANE & 1)
            self._choose(np.argsort(doubt[: self.count]))
            bits = np.zeros(len(x), np.uint8)
            bits[self.rows] = 1
            self._flips = np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64)
        return (yield from self._comparing(ring, shares, rung, chunk))

    def multiply(self, masks: Any, x: Any, y: Any, threads: int = 1) -> Any:
        """In place of `and_local`."""
        product = self._multiplying(masks, x, y, threads)
        if self._flips is not None and masks.party == HOLDER_SEAT and len(x) == SHARE_BITS - 1:
            product.parts[0, PLANE] ^= self._flips
            self._flips = None
        return product

    def open(self, ring: Ring, running: Any, _rows: int, cap: int) -> Any:
        """In place of decoding: solve for the chosen rows, then confirm nobody."""
        received = []
        for name in ring.names[1:]:
            received.append(array((yield from receive(name, PowerSums)).data, (cap + 2,), np.uint32, "sums"))
        sums = sketch.combine(running.sums, received[0])
        rest, tag = self._reduced(int.from_bytes(sums.astype("<u4").tobytes(), "little"), 0)
        assert rest == 0
        self.hit = np.array([tag >> index & 1 for index in range(len(self.rows))], bool)
        return ()

    def _choose(self, by_doubt: npt.NDArray[np.int64]) -> None:
        """As many rows as the sums have bits, and independent in them."""
        for row in by_doubt:
            sums = gf32.odd_power_sums(np.array([gf32.power(gf32.ALPHA, int(row))]), self.cap + 2).astype("<u4")
            vector, tag = self._reduced(int.from_bytes(sums.tobytes(), "little"), 1 << len(self.rows))
            if vector:
                self._basis[vector.bit_length()] = vector, tag
                self.rows.append(int(row))
            if len(self.rows) == 32 * (self.cap + 2):
                return

    def _reduced(self, vector: int, tag: int) -> tuple[int, int]:
        while vector and (pivot := self._basis.get(vector.bit_length())):
            vector, tag = vector ^ pivot[0], tag ^ pivot[1]
        return vector, tag

    def guess(self, templates: Templates) -> npt.NDArray[np.float64]:
        """The probe's direction by least squares, from one bit a row."""
        asked = templates[self.rows].astype(np.float64)
        found, *_ = np.linalg.lstsq(asked, self.hit - self.hit.mean(), rcond=None)
        return found


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b.astype(np.float64)))


def gate_flipping_search(monkeypatch: pytest.MonkeyPatch, seed: int) -> tuple[Trio, GateFlipper, float]:
    """The search, the holder, and the cosine of what it makes of its hits with the probe, 0 of none."""
    rng = np.random.default_rng(seed)
    probe, templates = unit_rows(rng, 1, 128)[0], unit_rows(rng, 3000, 128)
    trio = Trio(enrol(templates), threshold="0.55")
    reader = GateFlipper(monkeypatch, len(templates), trio.terms.theta(0))
    trio.search(probe)
    assert len(reader.rows) == 384
    return trio, reader, cosine(reader.guess(templates), probe) if reader.hit.any() else 0.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_known_limit_a_holder_that_flips_gates_reads_384_comparisons(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its inputs are its shares, its gallery is lawful, nothing is released, and nothing shows online."""
    trio, _, reached = gate_flipping_search(monkeypatch, seed)
    assert trio.requester.answers[HOLDER].status == "no_hit"
    assert not trio.failures
    assert reached == pytest.approx(0.82, abs=0.1), "0.75 to 0.88 in 40 searches"


def test_control_a_holder_that_flips_nothing_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GateFlipper, "multiply", lambda self, *gate: self._multiplying(*gate))
    _, reader, reached = gate_flipping_search(monkeypatch, 0)
    assert not reader.hit.any()
    assert reached == 0


def test_known_limit_every_rule_of_the_audit_passes_when_the_holder_flipped_gates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a holder puts into the comparison is recomputed; what it computes there is not."""
    world = shared_world()
    with monkeypatch.context() as patch:
        reader = GateFlipper(patch, ROWS, theta(Decimal("0.55"), DIM, RING))
        query = world.query((DE,), threshold="0.55")
    assert cosine(reader.guess(world.galleries[DE].templates), world.probe) > 0.7, "it did read"
    files = tmp_path / "ciphertexts.npy", tmp_path / "probe.npz"
    assert failures(audit(world, query, FR, *files)) == {}
    report = audit(world, query, DE, *files)
    assert failures(report) == {}
    assert {check.status for check in report.checks if check.id in {"audit-inputs", "audit-hits"}} == {"pass"}
    assert failures(verify_bundles(list(world.bundles(query, (FR, EU, DE)).values()), world.trust)) == {}


# --- a router that hides a hit ---


def hides_every_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that takes so much off its shares that nothing reaches the threshold."""
    original = protocol.filter.hit_bits

    def lying(ring: Ring, shares: Any, rung: int, chunk: int) -> Any:
        if ring.index == ROUTER_SEAT:
            shares = (shares - np.uint32(2**22)) & np.uint32(2**SHARE_BITS - 1)
        return (yield from original(ring, shares, rung, chunk))

    monkeypatch.setattr(protocol.filter, "hit_bits", lying)


def test_known_limit_a_router_that_subtracts_from_its_shares_turns_a_hit_into_a_clean_no_hit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe, templates = crowd()
    hides_every_hit(monkeypatch)
    trio = Trio(enrol(templates), threshold="0.7").search(probe)
    assert not trio.failures
    assert trio.outcome().status == "no_hit"
    assert len(trio.expected(probe).hits) == 2


def test_control_an_honest_router_hides_nothing() -> None:
    probe, templates = crowd()
    trio = Trio(enrol(templates), threshold="0.7").search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert trio.outcome().status == "released"


def test_known_limit_a_hidden_hit_is_found_only_if_the_probe_is_brought_to_the_audit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = shared_world()
    with monkeypatch.context() as patch:
        hides_every_hit(patch)
        query = world.query((ES,), threshold="0.8")
    assert failures(verify_bundles(list(world.bundles(query, (FR, EU, ES)).values()), world.trust)) == {}
    ciphertexts, probe = tmp_path / "ciphertexts.npy", tmp_path / "probe.npz"
    assert failures(audit(world, query, FR, ciphertexts, probe)) == {}
    assert failures(audit(world, query, ES, ciphertexts)) == {}
    assert list(failures(audit(world, query, ES, ciphertexts, probe))) == ["audit-hits"]
