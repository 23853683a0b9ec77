"""The audit finds a holder that puts something else than its share into admission or comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protocol.filter
from nodes.config.storage import storage_key
from nodes.evidence import sealed
from nodes.evidence.sealed import SealedGallery
from protocol.compute import HOLDER as HOLDER_SEAT
from protocol.compute import ROUTER as ROUTER_SEAT
from tests.kit.attacks import SketchReader, claims_few, shifted
from tests.kit.audits import audit_both, failures, resealed
from tests.kit.evidence import DIM, ES, World


def test_control_an_honest_holders_inputs_are_its_shares(world: World, query: bytes, tmp_path: Path) -> None:
    (check,) = [check for check in audit_both(world, query, tmp_path).checks if check.id == "audit-inputs"]
    assert check.status == "pass"


def test_a_holder_that_reads_one_sketch_is_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """384 thresholds of its own on rows of its lawful gallery, a lie in the count, then "nobody": no planted row."""
    reader = SketchReader(10, 1)
    claims_few(monkeypatch)
    monkeypatch.setattr(protocol.filter, "fold_threshold", reader.fold)
    monkeypatch.setattr(protocol.filter, "open_hits", reader.open)
    query = world.query((ES,))
    monkeypatch.undo()
    truth = world.galleries[ES].templates[: reader.rows].astype(np.int64) @ world.probe.astype(np.int64)
    assert np.array_equal(reader.low == 0, truth >= 0), "it did read"
    failed = failures(audit_both(world, query, tmp_path))
    assert "not the holder's share in the comparison" in failed["audit-inputs"]


def test_a_holder_that_asks_the_admission_bit_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shifted(monkeypatch, HOLDER_SEAT, np.eye(DIM, dtype=np.int64)[3])
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-inputs"]
    assert "not the holder's share in the admission" in failed["audit-inputs"]


def test_a_router_that_does_so_is_not_blamed_on_the_holder(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shifted(monkeypatch, ROUTER_SEAT, np.eye(DIM, dtype=np.int64)[3])
    query = world.query((ES,))
    monkeypatch.undo()
    assert failures(audit_both(world, query, tmp_path)) == {}


def test_another_secret_sealed_than_received_is_found(world: World, query: bytes, tmp_path: Path) -> None:
    key, folder = storage_key(world.identities[ES].config), world.root / ES / "sealed"
    before = sealed.open_kept(folder, key, query)
    assert isinstance(before, SealedGallery)
    changed: dict[str, Any] = {"pair_secret": bytes(32)}
    try:
        resealed(world, query, ES, **changed)
        assert "not the one received" in failures(audit_both(world, query, tmp_path))["audit-inputs"]
    finally:
        sealed.keep(folder, key, query, before)
