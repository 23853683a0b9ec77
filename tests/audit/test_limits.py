"""What no audit finds: gates that were changed inside the comparison. Each attack works, and every rule passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.verify import verify_bundles
from pets.bits import Bits
from pets.replicated import Masks, and_local
from protocol import compute, filtering, searching
from protocol.roles import Seat
from tests.kit.audits import audit, audit_both
from tests.kit.evidence import ES, EU, FR, World, failures
from tests.kit.ring import RING

CARRY, LAST = 2, 3  # of the comparison's gates: the carry out of the lowest 16 bits, and the one into the top bit
NEAR = list(range(100, 110))  # rows at a cosine of 0.72


def turned(monkeypatch: pytest.MonkeyPatch, seat: int, gate: int, rows: list[int]) -> None:
    """`seat` turns one gate of the comparison for some rows, at every rung. Its peers get what fits."""
    lanes = np.zeros(RING.n, np.uint8)
    lanes[rows] = 1
    flips = np.packbits(lanes, bitorder="little").view("<u8").astype(np.uint64)
    number = {Seat.HOLDER: 0, Seat.ROUTER: 0}

    def lying(masks: Masks, x: Bits, y: Bits, threads: int = 1) -> Bits:
        product = and_local(masks, x, y, threads)
        if masks.party == seat and x.shape[1] == len(flips):
            number[seat] = 0 if len(x) == 11 else number[seat] + 1
            if number[seat] == gate:
                product.parts[0, 0] ^= flips
        return product

    monkeypatch.setattr(compute, "and_local", lying)


def test_known_limit_a_holder_that_turned_gates_passes_every_rule(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It learns of half of its rows near 0.72 that they lie within 0.07 below the threshold, and confirms none."""
    opened: list[int] = []
    filters = filtering.holder_filters

    def keeps_quiet(*arguments: Any) -> Any:
        rung, hits = yield from filters(*arguments)
        opened.extend(row for row in hits or () if row in NEAR)
        return rung, tuple(row for row in hits or () if row not in NEAR)

    for _ in range(10):  # each row tells with one chance in two, and then at most eight may
        made = world.prepare((ES,))
        with monkeypatch.context() as patch:
            patch.setattr(searching, "holder_filters", keeps_quiet)
            turned(patch, Seat.HOLDER, CARRY, NEAR)
            query = world.query((ES,), made=made, threshold="0.75")
        if opened:
            break
    assert opened, "it did read what the agreed threshold does not tell"
    assert failures(audit_both(world, query, tmp_path)) == {}
    assert failures(verify_bundles(list(world.bundles(query, (FR, EU, ES)).values()), world.trust)) == {}


def test_control_without_the_gates_it_reads_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    filters = filtering.holder_filters

    def looks(*arguments: Any) -> Any:
        rung, hits = yield from filters(*arguments)
        opened.extend(hits or ())
        return rung, hits

    monkeypatch.setattr(searching, "holder_filters", looks)
    world.query((ES,), threshold="0.75")
    assert opened == [200, 201]


def test_known_limit_a_hidden_hit_is_found_only_if_the_probe_is_brought_to_the_audit(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The router turns the last gate for both rows that hit."""
    made = world.prepare((ES,))
    turned(monkeypatch, Seat.ROUTER, LAST, [200, 201])
    query = world.query((ES,), made=made, threshold="0.8")
    monkeypatch.undo()
    assert failures(verify_bundles(list(world.bundles(query, (FR, EU, ES)).values()), world.trust)) == {}
    files = tmp_path / "fr.sent", tmp_path / "fr.probe"
    assert failures(audit(world, query, FR, *files)) == {}
    assert failures(audit(world, query, ES, files[0])) == {}
    failed = failures(audit(world, query, ES, *files))
    assert list(failed) == ["audit-hits"]
    assert "2 rows hit and are not in the block" in failed["audit-hits"]
