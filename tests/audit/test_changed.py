"""The audit on site of a holder whose gallery changed since: what is still there is recomputed, the rest is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from nodes.config.storage import holder_store
from nodes.store import Category, Status
from nodes.verify import Report
from protocol.gallery import Gallery
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.audits import audit
from tests.kit.evidence import DIM, ES, FR, ROWS, World, failures, held, new_world
from tests.kit.galleries import unit_rows
from tests.kit.ring import RING


def now() -> datetime:
    return datetime.now(timezone.utc)


def enrol(world: World, rows: int) -> None:
    with holder_store(world.root / ES) as store:
        store.enrol_many(
            unit_rows(np.random.default_rng(6), rows, DIM),
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=now().date() + timedelta(days=1),
            model=SYNTHETIC_MODEL,
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of its own, in which ES holds two blocks and some more."""
    world = new_world(tmp_path_factory.mktemp("changed"))
    enrol(world, 2 * RING.n + 100 - ROWS)
    world.galleries[ES] = held(world.root / ES)
    return world


@pytest.fixture
def gone(world: World) -> Iterator[list[str]]:
    """References to forget; the next test starts with the rows that are left, and another row in the second block."""
    gallery = world.galleries[ES]
    assert gallery.references is not None
    row = next(row for row in range(RING.n + 17, 2 * RING.n) if gallery.references[row] != "nobody")
    yield [gallery.references[row]]
    world.galleries[ES] = held(world.root / ES)


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
    assert left["audit-gallery"] == f"row {RING.n + 17}: forgotten, only the leaf under the root is left"
    assert left["audit-blocks"] == left["audit-gallery"]
    passed = {check.id for check in report.checks if check.status == "pass"}
    assert {"audit-gallery", "audit-blocks", "audit-hits", "audit-rows", "audit-block", "audit-scores"} <= passed


def planted(world: World, row: int) -> bytes:
    """A query whose holder prepares and searches another row in a row's place, under the root that it should have."""
    honest = world.galleries[ES]
    rows = honest.templates.copy()
    rows[row] = rows[row][::-1]
    world.galleries[ES] = Gallery.of(rows, RING, honest.references, root=honest.root)
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


def test_who_was_enrolled_and_forgotten_before_the_query_costs_the_audit_nothing(
    world: World, gone: list[str], tmp_path: Path
) -> None:
    """Zeros were prepared in the place of the forgotten row; and a later enrolment is another version."""
    forgotten(world, gone)
    world.galleries[ES] = held(world.root / ES)
    query = world.query((ES,))
    enrol(world, 50)
    report = audited(world, query, tmp_path)
    assert failures(report) == {}
    assert set(unknown(report)) == {"audit-gallery"}, "it names the leaves, and all else is recomputed"


def test_a_hit_that_was_forgotten_since_is_named_and_the_others_are_compared(world: World, tmp_path: Path) -> None:
    """Its rows are multiples of a template that hit: of which row, nobody can say any more."""
    query = world.query((ES,))
    gallery = world.galleries[ES]
    assert gallery.references is not None
    forgotten(world, [gallery.references[200]])
    report = audited(world, query, tmp_path)
    assert failures(report) == {}
    assert "whether 1 rows are the gallery's" in unknown(report)["audit-rows"]
    assert "whether any of 1 rows hit" in unknown(report)["audit-hits"]


def test_a_version_that_is_not_kept_any_more_is_said_to_be_gone(world: World, tmp_path: Path) -> None:
    world.galleries[ES] = held(world.root / ES)
    query = world.query((ES,))
    enrol(world, 3)
    with holder_store(world.root / ES) as store:
        store.retire_versions(int(now().timestamp()) + 1)
    report = audited(world, query, tmp_path)
    assert failures(report) == {}
    assert unknown(report)["audit-gallery"].startswith("the gallery cannot be read: this version")
