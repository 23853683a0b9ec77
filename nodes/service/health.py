"""Whether a node can work: what it must write down before it answers can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nodes.config.schema import NodeConfig
from nodes.evidence.archive import Archive
from nodes.store import StoreError
from nodes.store.store import GalleryStore

PROBE_BYTES = 2**19  # more than a query with two holders writes to any one file


def failing(config: NodeConfig, archive: Archive, store: GalleryStore) -> tuple[str, ...]:
    """What of `logs`, `evidence` and `store` cannot be used now; empty if the node can work. Says nothing of peers.

    A log closes itself after a failed write, until the node is started again.
    """
    opened = archive.transcript.usable and archive.article_forty.usable and archive.ledger.usable
    logs = opened and _writable(config.paths.logs)
    checks = {"logs": logs, "evidence": _writable(archive.folder / "evidence"), "store": _answers(config, store)}
    return tuple(name for name, works in checks.items() if not works)


def _answers(config: NodeConfig, store: GalleryStore) -> bool:
    try:
        _ = store.generation
    except StoreError:
        return False
    return config.storage.file is None or _writable(config.storage.file.parent)


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
    except OSError:
        return False
    return True
