"""Numbers of rows, which stay, and slots, in which the rows of an epoch lie. Rows that compactions left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks.errors import BlocksCorrupted
from nodes.blocks.files import Bytes
from nodes.blocks.manifest import Dropped, Manifest, Version
from nodes.blocks.sealing import seal, unseal
from pets.gallery_commitment import SALT_BYTES, Hashes

_KIND = "dropped"
_NUMBER_BYTES = 8

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DroppedRows:
    """Rows that are not in `epoch` any more: numbers in order, and their leaves, or None when nobody needs them."""

    epoch: int
    rows: Numbers
    leaves: Hashes | None


def seal_dropped(cipher: AESGCM, gallery: bytes, what: Dropped, dropped: DroppedRows) -> list[Bytes]:
    """The pieces of the file of `dropped`."""
    content = dropped.rows.astype("<i8").tobytes()
    if dropped.leaves is not None:
        content += dropped.leaves.tobytes()
    return seal(cipher, content, *_what(gallery, what))


def read_dropped(folder: Path, cipher: AESGCM, gallery: bytes, what: Dropped) -> DroppedRows:
    """The inverse. Raises `BlocksCorrupted`, OSError."""
    path = folder / what.name
    content = unseal(cipher, path.read_bytes(), path, *_what(gallery, what))
    if len(content) != what.rows * (_NUMBER_BYTES + SALT_BYTES * what.leaves):
        raise BlocksCorrupted(f"{path} holds {len(content)} bytes, which are not {what.rows} rows")
    data = np.frombuffer(content, np.uint8)
    end = _NUMBER_BYTES * what.rows
    leaves = data[end:].reshape(-1, SALT_BYTES) if what.leaves else None
    return DroppedRows(what.epoch, data[:end].view("<i8").astype(np.int64), leaves)


def _what(gallery: bytes, what: Dropped) -> tuple[str | bytes | int, ...]:
    return _KIND, gallery, what.epoch, what.generation, what.rows, int(what.leaves)


class Numbering:
    """Translates between row numbers and slots, for every epoch up to the present one."""

    def __init__(self, dropped: Sequence[DroppedRows]) -> None:
        self.dropped = tuple(dropped)

    @classmethod
    def of(cls, folder: Path, cipher: AESGCM, manifest: Manifest) -> Numbering:
        """As the manifest has it. Raises `BlocksCorrupted`, OSError."""
        return cls([read_dropped(folder, cipher, manifest.gallery, what) for what in manifest.dropped])

    def gone(self, epoch: int) -> Numbers:
        """The rows that are not in an epoch, in order."""
        parts = [part.rows for part in self.dropped if part.epoch <= epoch]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    def slots(self, rows: npt.ArrayLike, epoch: int) -> Numbers:
        """The slot of each row, -1 where the epoch does not have it any more."""
        numbers, gone = np.asarray(rows, np.int64), self.gone(epoch)
        before = np.searchsorted(gone, numbers)
        missing = np.zeros(numbers.shape, bool)
        inside = before < len(gone)
        missing[inside] = gone[before[inside]] == numbers[inside]
        return np.where(missing, -1, numbers - before)

    def rows(self, slots: npt.ArrayLike, epoch: int) -> Numbers:
        """The number of the row in each slot."""
        places, gone = np.asarray(slots, np.int64), self.gone(epoch)
        return places + np.searchsorted(gone - np.arange(len(gone)), places, side="right")

    def since(self, epoch: int) -> list[DroppedRows]:
        """What later epochs than this one dropped."""
        return [part for part in self.dropped if part.epoch > epoch]


def live_slots(manifest: Manifest, numbering: Numbering, version: Version) -> npt.NDArray[np.bool_]:
    """Which slots of a version a query may find now, bool (rows,).

    Not those of rows that are forgotten, whenever that was, nor of rows that were replaced up to this version.
    """
    live = np.ones(version.rows, bool)
    dead = [row for row, state in manifest.dead.items() if state.forgotten or state.version <= version.number]
    gone = [np.array(dead, np.int64), *(part.rows for part in numbering.since(version.epoch))]
    numbers = np.concatenate(gone)
    slots = numbering.slots(numbers[numbers < version.next_row], version.epoch)
    live[slots[slots >= 0]] = False
    return live
