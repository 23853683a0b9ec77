"""The audit on site of a holder whose gallery changed since: what is still there is recomputed, the rest is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from nodes.config.storage import holder_store
from nodes.evidence.block_hashes import block_hashes
from nodes.store import Category, Status
from nodes.verify import Report
from protocol.gallery import Gallery
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.audits import audit
from tests.kit.evidence import DIM, ES, FR, ROWS, World, failures
from tests.kit.galleries import unit_rows
from tests.kit.ring import RING


def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of its own, in which ES holds two blocks and some more."""
    world = World.make(tmp_path_factory.mktemp("changed"))
    with holder_store(world.root / ES) as store:
        store.enrol_many(
            unit_rows(np.random.default_rng(6), 2 * RING.n + 100 - ROWS, DIM),
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=now().date() + timedelta(days=1),
            model=SYNTHETIC_MODEL,
        )
        snapshot = store.snapshot(now())
    world.galleries[ES] = Gallery.of(snapshot.templates, RING, snapshot.references)
    return world


@pytest.fixture
def gone(world: World) -> Iterator[list[str]]:
    """References to forget; the next test starts with the rows that are left."""
    gallery = world.galleries[ES]
    assert gallery.references is not None
    yield [gallery.references[RING.n + 17]]
    with holder_store(world.root / ES) as store:
        snapshot = store.snapshot(now())
    world.galleries[ES] = Gallery.of(snapshot.templates, RING, snapshot.references)


def forgotten(world: World, references: list[str]) -> None:
    with holder_store(world.root / ES) as store:
        for reference in references:
            store.forget(reference, now())


def audited(world: World, query: bytes, folder: Path) -> Report:
    """The requester's audit, then the holder's with both files."""
    files = folder / "fr.sent", folder / "fr.probe"
    assert failures(audit(world, query, FR, *files)) == {}
    return audit(world, query, ES, *files)


def unknown(report: Report) -> dict[str, str]:
    return {check.id: "\n".join(check.details) for check in report.checks if check.status == "not-checkable"}


def test_rows_forgotten_since_are_named_and_all_else_passes(world: World, gone: list[str], tmp_path: Path) -> None:
    query = world.query((ES,))
    forgotten(world, gone)
    report = audited(world, query, tmp_path)
    assert failures(report) == {}
    left = unknown(report)
    assert set(left) == {"audit-gallery", "audit-blocks", "audit-published", "audit-live", "audit-hits"}
    assert f"rows {RING.n} to {2 * RING.n - 1}: one of them was changed or forgotten" in left["audit-gallery"]
    passed = {check.id for check in report.checks if check.status == "pass"}
    assert {"audit-gallery", "audit-blocks", "audit-hits", "audit-rows", "audit-block", "audit-scores"} <= passed


def planted(world: World, row: int) -> bytes:
    """A query whose holder prepares and searches another row in a row's place, and seals the hashes it should have."""
    honest = world.galleries[ES]
    rows = honest.templates.copy()
    rows[row] = rows[row][::-1]
    swapped = Gallery.of(rows, RING, honest.references, salt_seed=honest.salt_seed)
    swapped.__dict__.update(root=honest.root, _block_hashes=block_hashes(honest))
    world.galleries[ES] = swapped
    query = world.query((ES,))
    world.galleries[ES] = honest
    return query


def test_a_planted_row_is_found_though_another_block_changed(world: World, gone: list[str], tmp_path: Path) -> None:
    """Forgetting somebody is no way round the audit for what is not in the same block."""
    query = planted(world, 5)
    forgotten(world, gone)
    failed = failures(audited(world, query, tmp_path))
    assert failed == {"audit-blocks": "block 0: the committed rows give another c1"}


def test_known_limit_the_block_of_somebody_who_was_forgotten_is_not_recomputed(
    world: World, gone: list[str], tmp_path: Path
) -> None:
    """A planted row in the same block passes; so would a threshold of its own in the same 262,144 rows."""
    query = planted(world, RING.n + 5)
    forgotten(world, gone)
    assert failures(audited(world, query, tmp_path)) == {}


def test_a_hit_in_a_block_that_changed_is_compared_as_far_as_can_be(
    world: World, gone: list[str], tmp_path: Path
) -> None:
    """Its rows are multiples of a template that hit: of which row, nobody can say any more."""
    query = world.query((ES,))
    gallery = world.galleries[ES]
    assert gallery.references is not None
    forgotten(world, [gallery.references[3]])
    report = audited(world, query, tmp_path)
    assert failures(report) == {}
    assert "whether 2 rows are the gallery's" in unknown(report)["audit-rows"]
    assert "whether a rung was climbed" in unknown(report)["audit-hits"]
