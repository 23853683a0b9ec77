"""The audit on site of one query: its parts, the files between them, and what a node sealed, changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.audit.audit import audit_party
from nodes.config.storage_key import storage_key
from nodes.evidence import sealed
from nodes.evidence.export import export_bundle
from nodes.evidence.sealed import SealedBlock, SealedGallery
from nodes.verify import Report, decode_bundle
from tests.kit.evidence import ES, FR, World, failures


@pytest.fixture(scope="module")
def sent(world: World, query: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the requester sent, written by its audit."""
    path = tmp_path_factory.mktemp("audit") / "fr.sent"
    assert failures(audit(world, query, FR, path)) == {}
    return path


@pytest.fixture(scope="module")
def probe(world: World, query: bytes, sent: Path) -> Path:
    """The file that a supervisor may carry besides."""
    path = sent.with_name("fr.probe")
    assert failures(audit(world, query, FR, None, path)) == {}
    return path


def audit(world: World, query: bytes, name: str, sent: Path | None = None, probe: Path | None = None) -> Report:
    bundle = decode_bundle(export_bundle(world.root / name, query.hex()))
    return audit_party(bundle, world.root / name, sent, probe)


def audit_both(world: World, query: bytes, folder: Path) -> Report:
    """The requester's audit, which finds nothing, then the holder's with all that it needs."""
    files = folder / "fr.sent", folder / "fr.probe"
    assert failures(audit(world, query, FR, *files)) == {}
    return audit(world, query, ES, *files)


def sealed_of(world: World, query: bytes, name: str) -> Any:
    """What a node sealed."""
    return sealed.open_kept(world.root / name / "sealed", storage_key(world.identities[name].config), query)


def resealed(world: World, query: bytes, name: str, **changes: Any) -> None:
    """Change what a node sealed, as whoever holds its storage key can."""
    content = msgspec.structs.replace(sealed_of(world, query, name), **changes)
    sealed.keep(world.root / name / "sealed", storage_key(world.identities[name].config), query, content)


def sealed_block(world: World, query: bytes) -> SealedBlock:
    content = sealed_of(world, query, ES)
    assert isinstance(content, SealedGallery)
    assert content.confirmation is not None
    return content.confirmation


def reblocked(world: World, query: bytes, **changes: Any) -> None:
    """Change what the holder sealed of its confirmation block."""
    block = msgspec.structs.replace(sealed_block(world, query), **changes)
    resealed(world, query, ES, confirmation=block)


@pytest.fixture
def kept(world: World, query: bytes) -> Any:
    """What both sealed, put back afterwards."""
    paths = [world.root / name / "sealed" / query.hex() for name in (FR, ES)]
    contents = [path.read_bytes() for path in paths]
    yield
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
