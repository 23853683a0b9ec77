"""The secrets of a log's entries: one file of slots, so that an entry is erased by destroying its secret.

Limits, said plainly. Destroying a secret overwrites its slot, flushes, and rewrites the file without it. That reaches
the file system's current blocks. It does not reach flash cells that wear levelling set aside, copy-on-write snapshots,
journals that hold data, backups, swap, or what Python left in memory. Therefore: keep this file on an encrypted volume
of its own, on a file system that overwrites in place, and out of backups. Whoever can write the disk can also destroy
secrets early; the log shows that (`nodes.logs.log`), it cannot prevent it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

from nodes.logs.errors import LogUnusable
from nodes.logs.frames import create_file
from nodes.private_files import sync_folder

_SLOT = struct.Struct(">QQQ32s8s")  # index, first index of its batch, created, secret, start of SHA-256 over these
_MAGIC = b"BLIND-LINEUP-LOG-KEYS-1".ljust(32, b"\x00")
_NOWHERE = -1


@dataclass(frozen=True)
class Slot:
    """The secret of one entry, when it was created, and the first entry that was appended together with it."""

    index: int
    batch: int
    created: int
    secret: bytes = field(repr=False)


class KeySlots:
    """The file of per-entry secrets: 64 bytes of head, then slots of 64 bytes, none across two sectors of a disk.

    `entries`: how many entries the log has. Secrets beyond are orphans, of entries that a crash prevented.
    """

    def __init__(self, path: Path, log: bytes, entries: int) -> None:
        self._path = path
        self._entries = entries
        self._rewritten = path.with_suffix(".new")
        self._rewritten.unlink(missing_ok=True)  # from a crash; the old file is still whole
        self._file = path.open("r+b")
        self._head = _MAGIC + log
        if self._file.read(len(self._head)) != self._head:
            self._file.close()
            raise LogUnusable(f"{path} does not hold the keys of this log")
        self._load()

    @staticmethod
    def create(path: Path, log: bytes) -> None:
        """An empty file for the log with ID `log`."""
        create_file(path, _MAGIC + log)

    def add(self, slots: Sequence[Slot]) -> None:
        """Add secrets and flush them, before the entries themselves are written. Indices follow on."""
        self._entries = max(self._entries, slots[-1].index + 1)
        self._file.seek(self._end)
        self._file.write(b"".join(_pack(slot) for slot in slots))
        self._flush()
        for slot in slots:
            self._note(slot.index, slot.batch, slot.created, self._end)
            self._end += _SLOT.size

    def get(self, index: int) -> Slot | None:
        """The secret of an entry; None if it was destroyed or never was, or if its slot is damaged."""
        if not 0 <= index < len(self._places) or self._places[index] == _NOWHERE:
            return None
        self._file.seek(self._places[index])
        return _unpack(self._file.read(_SLOT.size))

    def live(self) -> Iterator[tuple[int, int]]:
        """(index, created) of every entry that has a secret."""
        return ((i, self._created[i]) for i, place in enumerate(self._places) if place != _NOWHERE)

    def missing(self) -> Iterator[int]:
        """Every entry that has no secret."""
        places = chain(self._places, repeat(_NOWHERE, self._entries - len(self._places)))
        return (index for index, place in enumerate(places) if place == _NOWHERE)

    @property
    def orphans(self) -> int:
        """How many secrets belong to entries that never were."""
        return self._orphans

    @property
    def last_batch(self) -> int:
        """The first entry of the last append: only from here on can a crash have torn the log."""
        return self._batch

    def destroy(self, indices: Iterable[int]) -> None:
        """Overwrite the secrets of these entries, flush, and rewrite the file without them."""
        places = [self._places[index] for index in indices if self.get(index)]
        if not places:
            return
        for place in places:
            self._file.seek(place)
            self._file.write(bytes(_SLOT.size))
        self._flush()
        self._compact()

    def drop_orphans(self) -> None:
        """Destroy the secrets of entries that never were: their places will be taken by others."""
        if self._orphans:
            self._compact()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _compact(self) -> None:
        kept = [slot for index in range(len(self._places)) if (slot := self.get(index))]
        create_file(self._rewritten, self._head + b"".join(_pack(slot) for slot in kept))
        self._file.close()
        self._rewritten.replace(self._path)
        sync_folder(self._path.parent)
        self._file = self._path.open("r+b")
        self._load()

    def _load(self) -> None:
        self._places, self._created = array("q"), array("q")
        self._batch = self._orphans = 0
        self._end = len(self._head)
        self._file.seek(self._end)
        while len(raw := self._file.read(_SLOT.size)) == _SLOT.size:  # a shorter rest is torn: overwritten by `add`
            if _is_whole(raw):
                index, batch, created, *_ = _SLOT.unpack(raw)
                self._note(index, batch, created, self._end)
            self._end += _SLOT.size

    def _note(self, index: int, batch: int, created: int, place: int) -> None:
        self._batch = batch
        if index >= self._entries:
            self._orphans += 1
            return
        missing = index + 1 - len(self._places)
        if missing > 0:
            self._places.extend([_NOWHERE] * missing)
            self._created.extend([0] * missing)
        self._places[index], self._created[index] = place, created

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _pack(slot: Slot) -> bytes:
    body = _SLOT.pack(slot.index, slot.batch, slot.created, slot.secret, b"")[:-8]
    return body + hashlib.sha256(body).digest()[:8]


def _unpack(raw: bytes) -> Slot | None:
    return Slot(*_SLOT.unpack(raw)[:-1]) if _is_whole(raw) else None


def _is_whole(raw: bytes) -> bool:
    return hashlib.sha256(raw[:-8]).digest()[:8] == raw[-8:]
