"""The audit on site of one query: its parts, the files between them, and what a node sealed, changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.audit.audit import audit_party
from nodes.config.storage import storage_key
from nodes.evidence import sealed
from nodes.evidence.export import export_bundle
from nodes.evidence.sealed import SealedBlock, SealedGallery
from nodes.verify import Report, decode_bundle
from tests.kit.evidence import ES, FR, World, failures


@pytest.fixture(scope="module")
def ciphertexts(world: World, query: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the requester's audit."""
    path = tmp_path_factory.mktemp("audit") / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    return path


@pytest.fixture(scope="module")
def probe(world: World, query: bytes, ciphertexts: Path) -> Path:
    """The file that a supervisor may carry besides."""
    path = ciphertexts.with_name("probe.npz")
    assert failures(audit(world, query, FR, None, path)) == {}
    return path


def audit(world: World, query: bytes, name: str, path: Path | None = None, probe: Path | None = None) -> Report:
    bundle = decode_bundle(export_bundle(world.root / name, query.hex()))
    return audit_party(bundle, world.root / name, path, probe)


def audit_both(world: World, query: bytes, folder: Path) -> Report:
    """The requester's audit, which finds nothing, then the holder's with all that it needs."""
    files = folder / "ciphertexts.npy", folder / "probe.npz"
    assert failures(audit(world, query, FR, *files)) == {}
    return audit(world, query, ES, *files)


def resealed(world: World, query: bytes, name: str, **changes: Any) -> None:
    """Change what a node sealed, as whoever holds its storage key can."""
    key, folder = storage_key(world.identities[name].config), world.root / name / "sealed"
    sealed.keep(folder, key, query, msgspec.structs.replace(sealed.open_kept(folder, key, query), **changes))


def sealed_block(world: World, query: bytes) -> SealedBlock:
    content = sealed.open_kept(world.root / ES / "sealed", storage_key(world.identities[ES].config), query)
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
