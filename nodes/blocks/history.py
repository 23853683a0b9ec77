"""Earlier versions, for audits: rows, salts and leaves as they were, whatever was rewritten and compacted since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodes.blocks.block import Rows, join
from nodes.blocks.errors import BlocksCorrupted, BlocksUnavailable, typed_errors
from nodes.blocks.gallery import ATTEMPTS, BlockFiles
from nodes.blocks.manifest import Version
from nodes.blocks.numbering import DroppedRows
from pets.gallery_commitment import SALT_BYTES, Hashes, block_hash, gallery_root


@dataclass(frozen=True)
class Recomputed:
    """`root`: of the version, from its rows and leaves. `missing`: numbers of rows of which only the leaf is left."""

    root: bytes
    missing: npt.NDArray[np.int64]


class VersionReader:
    """Reads a version that is kept, block by block, while the gallery goes on changing; for one thread.

    Raises `UnknownVersion`.
    """

    def __init__(self, files: BlockFiles, version: int) -> None:
        self._files = files
        self._manifest, self._numbering = files.state()
        self.version = self._manifest.version(version)
        self._locate()

    def blocks(self) -> Iterator[Rows]:
        """The rows of each block as it was committed to; those that are gone are named by `Rows.erased`."""
        size = self._manifest.block_rows
        for start in range(0, self.version.rows, size):
            yield self.read(start, min(start + size, self.version.rows))

    def read(self, start: int, stop: int) -> Rows:
        """The rows of some slots of the version."""
        with typed_errors(str(self._files.folder)):
            for _ in range(ATTEMPTS):
                try:
                    return self._read(start, stop)
                except FileNotFoundError as error:  # rewritten since the manifest was read
                    before = self._manifest.generation
                    self._manifest, self._numbering = self._files.state()
                    if self._manifest.generation == before:
                        raise BlocksCorrupted(f"{error.filename} is missing") from None
                    self._locate()
        raise BlocksUnavailable(f"{self._files.folder} changed {ATTEMPTS} times while a block was read")

    def recompute(self) -> Recomputed:
        """The version's root as it follows from what is kept. An audit compares it with the one in the evidence."""
        hashes, missing, start = [], [], 0
        for rows in self.blocks():
            hashes.append(block_hash(rows.leaves()))
            missing.append(start + np.flatnonzero(rows.erased))
            start += len(rows)
        slots = np.concatenate(missing) if missing else np.empty(0, np.int64)
        return Recomputed(gallery_root(hashes), self._numbering.rows(slots, self.version.epoch))

    def _locate(self) -> None:
        """Where in the version the rows lie that later compactions left out."""
        later = self._numbering.since(self.version.epoch)
        self._reader = self._files.block_reader(self._manifest)
        numbers = np.concatenate([np.empty(0, np.int64), *(part.rows for part in later)])
        leaves = np.concatenate(
            [np.empty((0, SALT_BYTES), np.uint8), *(_leaves_of(part, self.version) for part in later)]
        )
        slots = self._numbering.slots(numbers, self.version.epoch)
        inside = (slots >= 0) & (slots < self.version.rows)
        order = np.argsort(slots[inside])
        self._slots, self._leaves = slots[inside][order], leaves[inside][order]

    def _read(self, start: int, stop: int) -> Rows:
        first, last = np.searchsorted(self._slots, [start, stop])
        held = self._held(start - int(first), stop - int(last))
        if first == last:
            return held
        places = self._slots[first:last] - start - np.arange(last - first)
        return Rows(
            np.insert(held.rows, places, np.int8(0), axis=0),
            np.insert(held.tags, places, self._leaves[first:last], axis=0),
            np.insert(held.erased, places, True),
        )

    def _held(self, start: int, stop: int) -> Rows:
        """Slots of the present epoch, out of as many blocks as they lie in."""
        size = self._manifest.block_rows
        parts = []
        for index in range(start // size, -(-stop // size) if stop > start else start // size):
            rows = self._reader.read(self._manifest.blocks[index])
            parts.append(rows[max(0, start - index * size) : stop - index * size].copy())
        if parts:
            return join(parts)
        empty = np.empty((0, SALT_BYTES), np.uint8)
        return Rows(np.empty((0, self._manifest.dim), np.int8), empty, np.empty(0, bool))


def _leaves_of(part: DroppedRows, version: Version) -> Hashes:
    if part.leaves is None:
        raise BlocksCorrupted(
            f"version {version.number} is kept, but not the leaves of what epoch {part.epoch} dropped"
        )
    return part.leaves
