"""The rows that a holder prepared and searched, read from its block files: as committed to, but for who was forgotten.

Of a forgotten row only its salted leaf is left. With it the root can be recomputed, so the version is known to be the
one committed to, and the audit says which rows it cannot recompute. Whoever was forgotten *before* the preparation was
zeros in it: if the block fits with zeros in these places, nothing of it is missing (`fits`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.blocks import UnknownVersion, VersionReader
from nodes.blocks.numbering import live_slots
from nodes.config.names import Purpose
from nodes.config.schema import load_config
from nodes.config.storage import holder_store
from nodes.store import EmptyStore
from nodes.store.holdings import Holdings
from nodes.store.rows import as_store_errors
from pets.errors import GalleryError
from pets.gallery_commitment import block_hash, gallery_root
from pets.templates import Templates
from protocol.messages import Search


@dataclass
class Rows:
    """`templates`: int8 (rows, d), zeros where a row is missing. `found`: bool (rows,), who may be found now for the
    purpose of the query. `missing`: the rows that cannot be recomputed. `n`: rows of a block of the query.
    """

    templates: Templates = field(repr=False)
    found: npt.NDArray[np.bool_] = field(repr=False)
    missing: set[int]
    n: int

    def whole(self, first: int, count: int) -> bool:
        """Whether none of the rows of these blocks is missing."""
        return not any(first <= row // self.n < first + count for row in self.missing)

    def fits(self, block: int) -> None:
        """The block was prepared with zeros in the place of the rows that are missing."""
        self.missing = {row for row in self.missing if row // self.n != block}


def version_rows(folder: Path, announce: Search, n: int, root: bytes) -> Rows:
    """The rows under a root, from a holder's folder. `n`: rows of a block of the query.

    Raises `UnknownVersion` where that version is not kept, `GalleryError` where its rows do not give the root,
    `StoreError`, and as the configuration does.
    """
    config, now = load_config(folder), datetime.now(timezone.utc)
    if root == gallery_root(()):
        return Rows(np.empty((0, announce.dim), np.int8), np.empty(0, np.bool_), set(), n)
    with holder_store(folder) as store, as_store_errors():
        searched = store.categories
        if announce.warrant is not None:
            searched = config.policy.searched(Purpose(announce.warrant.purpose))
        try:
            model, files = store.row_files(store.categories, announce.model)
        except EmptyStore:
            raise UnknownVersion("no templates of this model are held any more") from None
        manifest, numbering = files.state()
        version = next((found for found in reversed(manifest.versions) if found.root == root), None)
        if version is None:
            raise UnknownVersion("this version of the gallery is not kept any more")
        templates = np.empty((version.rows, manifest.dim), np.int8)
        hashes, missing, start = [], set(), 0
        for part in VersionReader(files, version.number).blocks():
            templates[start : start + len(part)] = part.rows
            missing |= set((start + np.flatnonzero(part.erased)).tolist())
            hashes.append(block_hash(part.leaves()))
            start += len(part)
        if gallery_root(hashes) != root:
            raise GalleryError("the rows that are kept are not those of the root")
        held = Holdings(store, model).bits(now, searched)
        found = live_slots(manifest, numbering, version)
        found &= held.of(numbering.rows(np.arange(version.rows), version.epoch))
    return Rows(templates, found, missing, n)
