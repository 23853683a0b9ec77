"""Encrypted searches of a gallery that lies in block files, while it changes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from nodes.blocks import BlockFiles, ResidentGallery, VersionReader
from pets.errors import GalleryError
from protocol.announcing import Plan
from protocol.engine import HOLDER, EncryptedEngine, PlainEngine
from protocol.gallery import Gallery
from protocol.terms import Terms
from tests.kit.blocks import CIPHER, MODEL, rows
from tests.kit.ring import RING

WIDE = 64
TERMS = Terms(Decimal("0.6"), WIDE, RING)


def test_search_of_one_version_with_changes_while_the_preparation_waits(tmp_path: Path) -> None:
    files = BlockFiles.create(tmp_path / "g", CIPHER, dim=WIDE, model=MODEL, block_rows=1000)
    templates = rows(RING.n + 500, dim=WIDE)
    templates[[17, RING.n + 3, RING.n + 9]] = templates[5]
    files.append(templates)
    with ResidentGallery(files).snapshot() as snapshot:
        gallery = Gallery.of(snapshot.rows, RING, root=snapshot.version.root)
        engine = EncryptedEngine()
        made = engine.prepare(gallery, Plan(RING, WIDE, TERMS.model))
        assert made[0].holders[HOLDER].rings[HOLDER].root == snapshot.version.root
        files.append(rows(700, seed=1, dim=WIDE))
        files.forget([17])
        files.correct(RING.n + 3, rows(1, seed=2, dim=WIDE)[0])
        outcome = engine.search_prepared(gallery, templates[5:6], TERMS, made)
        assert outcome == PlainEngine().search(gallery, templates[5:6], TERMS)
        hits = sorted(hit.row for hit in outcome[0].hits)
        assert hits == [5, 17, RING.n + 3, RING.n + 9]
        live = snapshot.live()
        assert [row for row in hits if live[row]] == [5, RING.n + 3, RING.n + 9]
        version = snapshot.version
    again = VersionReader(files, version.number).recompute()
    assert (again.root, again.missing.tolist()) == (version.root, [17])


def test_rows_from_elsewhere_are_checked_and_references_always() -> None:
    bad = rows(3, dim=WIDE)
    bad[1] = 127
    with pytest.raises(GalleryError, match="template 1"):
        Gallery.of(bad, RING)
    with pytest.raises(GalleryError, match="2 reference numbers for 3"):
        Gallery.of(rows(3, dim=WIDE), RING, ("ES-1", "ES-2"), root=bytes(32))
