"""The audit on site finds a holder that cheated: in what it committed to, its rows, its coins, or its numbers."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from nodes.audit import audit as auditing
from nodes.audit import handover
from nodes.audit import rows as audited
from nodes.audit.handover import Sent
from nodes.audit.rows import Rows, version_rows
from nodes.blocks import UnknownVersion
from nodes.evidence.sealed import SealedProbe
from pets.gallery_commitment import block_hash
from pets.params import theta
from pets.product import public_sums
from protocol import admitting, filtering, preparing, searching
from protocol.compare import threshold_offset
from protocol.gallery import Gallery
from protocol.local import LocalSearch
from tests.kit.audits import audit, audit_both, resealed, sealed_of
from tests.kit.evidence import DIM, ES, FR, World, failures
from tests.kit.ring import RING


def planted(honest: Gallery) -> Gallery:
    """Another gallery that says it is the committed one: row 0 is turned round."""
    rows = honest.templates.copy()
    rows[0] = rows[0][::-1]
    return Gallery.of(rows, RING, honest.references, root=honest.root)


# What was prepared.


def test_a_swapped_gallery_is_found(world: World, tmp_path: Path) -> None:
    """Planted rows: the holder prepares and searches other rows than its store holds, and commits to the store's."""
    honest = world.galleries[ES]
    world.galleries[ES] = planted(honest)
    try:
        query = world.query((ES,))
    finally:
        world.galleries[ES] = honest
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-blocks"]
    assert "(PreparedBlocks)" in failed["audit-blocks"]
    assert "block 0" in failed["audit-blocks"]


def test_a_gallery_that_is_swapped_for_the_search_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It was prepared as it should be; u meets other rows."""
    real, rows = filtering.product_of, planted(world.galleries[ES]).templates
    monkeypatch.setattr(searching, "product_of", lambda _, *arguments: real(rows, *arguments))
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert next(iter(failed)) == "audit-published", "and a row that was not prepared scores at random: it may even hit"
    assert "(MaskedScores)" in failed["audit-published"]


def test_chosen_coins_in_the_form_check_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Coins of the holder's choice could single out one ciphertext."""
    monkeypatch.setattr(preparing, "derive_key", lambda *_: bytes(32))
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-form"]
    assert "(FormBlock)" in failed["audit-form"]


@pytest.mark.parametrize(
    ("field", "change", "broken"),
    [
        ("seed", lambda value: bytes(32), {"audit-gallery", "audit-form", "audit-blocks", "audit-block"}),
        ("holder_seed", lambda value: bytes(32), {"audit-keys"}),
        ("public", lambda value: bytes(len(value)), {"audit-keys"}),
        ("own", lambda value: bytes(32), {"audit-keys"}),
        ("following", lambda value: bytes(32), {"audit-keys"}),
        ("rows", lambda value: value - 1, {"audit-gallery"}),
        ("versions", lambda value: value[:-1], {"audit-gallery"}),
        ("versions", lambda value: (msgspec.structs.replace(value[0], attempt=1),), {"audit-gallery", "audit-blocks"}),
    ],
)
def test_another_secret_than_the_one_used_is_found(
    world: World, query: bytes, sent: Path, kept: Any, field: str, change: Callable[[Any], Any], broken: set[str]
) -> None:
    resealed(world, query, ES, **{field: change(getattr(sealed_of(world, query, ES), field))})
    report = audit(world, query, ES, sent)
    assert broken <= set(failures(report))
    if broken == {"audit-keys"}:
        unknown = {check.id for check in report.checks if check.status == "not-checkable"}
        assert {"audit-form", "audit-blocks", "audit-admission", "audit-published", "audit-block"} <= unknown


def test_a_gallery_whose_files_are_not_there_leaves_the_rest_checkable(
    world: World, query: bytes, sent: Path, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Rows:
        raise UnknownVersion("not kept")

    monkeypatch.setattr(auditing, "version_rows", gone)
    report = audit(world, query, ES, sent)
    assert failures(report) == {}
    unknown = {check.id for check in report.checks if check.status == "not-checkable"}
    assert {"audit-gallery", "audit-blocks", "audit-published", "audit-live", "audit-rows", "audit-hits"} == unknown


def test_rows_that_are_not_those_of_the_root_fail(
    world: World, query: bytes, sent: Path, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the files of another gallery were shown, whose owner has the key."""
    assert failures(audit(world, query, ES, sent)) == {}, "the control"
    monkeypatch.setattr(audited, "block_hash", lambda leaves: block_hash(leaves[::-1]))
    assert "audit-gallery" in failures(audit(world, query, ES, sent))


def test_what_others_were_sent_is_refused(world: World, query: bytes, sent: Path, tmp_path: Path) -> None:
    content = handover.read(sent, Sent)
    turned = bytes([content.mask[0] ^ 1]) + content.mask[1:]
    for changed in (
        msgspec.structs.replace(content, mask=turned),
        msgspec.structs.replace(content, mask=content.mask[:-8]),
        msgspec.structs.replace(content, mask=b"\xff" * len(content.mask)),
        msgspec.structs.replace(content, difference=bytes(len(content.difference))),
        msgspec.structs.replace(content, difference=b""),
    ):
        handover.write(tmp_path / "other", changed)
        assert list(failures(audit(world, query, ES, tmp_path / "other"))) == ["audit-received"]


def test_a_holder_that_sealed_nothing_is_found(world: World, query: bytes, kept: Any) -> None:
    (world.root / ES / "sealed" / query.hex()).unlink()
    failed = failures(audit(world, query, ES))
    assert "nothing was sealed" in failed["audit-sealed"]
    assert isinstance(sealed_of(world, query, FR), SealedProbe)


# What was published in the search.


def test_chosen_coins_in_admission_are_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With parities of its choice a soiled lane passes."""
    monkeypatch.setattr(searching, "derive_key", lambda *_: bytes(32))
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-admission"]
    assert "(AdmissionScores)" in failed["audit-admission"]


def test_a_number_of_the_admission_moved_by_a_little_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By so little that the requester's own look at it lets it pass."""
    real = admitting.admission_scores

    def moved(ring: Any, *arguments: Any) -> Any:
        ring.known[3] += np.uint32(1)
        return real(ring, *arguments)

    monkeypatch.setattr(searching, "admission_scores", moved)
    query = world.query((ES,))
    monkeypatch.undo()
    assert list(failures(audit_both(world, query, tmp_path))) == ["audit-admission"]


def test_thresholds_of_its_own_are_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It asks of three lawful rows whether their score is at least 0, and confirms only those that hit by right."""
    rows, opened = [3, 4, 5], list[int]()
    publish, filters = public_sums, filtering.holder_filters

    def own_threshold(masked: Any, values: Any, offset: int, *rest: Any) -> Any:
        published = publish(masked, values, offset, *rest)
        published[rows] += np.uint32(offset - threshold_offset(0, RING))
        return published & np.uint32(2**24 - 1)

    def keeps_quiet(*arguments: Any) -> Any:
        rung, hits = yield from filters(*arguments)
        opened.extend(row for row in hits or () if row in rows)
        return rung, tuple(row for row in hits or () if row not in rows)

    monkeypatch.setattr(filtering, "public_sums", own_threshold)
    monkeypatch.setattr(searching, "holder_filters", keeps_quiet)
    query = world.query((ES,), threshold="0.8")
    monkeypatch.undo()
    truth = world.galleries[ES].templates[rows].astype(np.int64) @ world.probe.astype(np.int64)
    assert opened == [row for row, score in zip(rows, truth, strict=True) if score >= 0], "it did read"
    assert theta(Decimal("0.8"), DIM, RING) > truth.max(), "what was none of its business"
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-published"]


def test_a_row_that_is_kept_from_being_found_is_found(world: World, tmp_path: Path) -> None:
    """Who is not live is not found; here somebody was not who is held all the same."""

    def attack(search: LocalSearch) -> None:
        search.holders[ES].live.now[200] = False

    failed = failures(audit_both(world, world.query((ES,), attack=attack), tmp_path))
    assert list(failed) == ["audit-live", "audit-hits"]
    assert "(LiveRows)" in failed["audit-live"]
    assert "1 rows hit and are not in the block" in failed["audit-hits"]


def test_who_is_of_no_category_of_the_purpose_must_not_be_live(
    world: World, query: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if row 5 were of a missing person, whom a search for a suspect does not look at."""
    real = version_rows

    def without(*arguments: Any) -> Rows:
        stored = real(*arguments)
        stored.found[5] = False
        return stored

    def attack(search: LocalSearch) -> None:
        search.holders[ES].live.now[5] = False

    monkeypatch.setattr(auditing, "version_rows", without)
    assert failures(audit_both(world, world.query((ES,), attack=attack), tmp_path)) == {}
    assert list(failures(audit_both(world, query, tmp_path))) == ["audit-live"]
