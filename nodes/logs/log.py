"""A node's append-only, tamper-evident log: a Merkle tree (RFC 9162), signed checkpoints, entries that can be erased.

Article 40 of Regulation (EU) 2024/982 wants logs that can be trusted and that are erased after three years. Both hold
because the tree is built over encrypted entries and every entry has a key of its own: destroying the key erases the
entry and leaves every root and proof as it was (`nodes.logs.entries`; for the limits of that `nodes.logs.keys`).

::

    FOLDER/entries       header, then one record an entry; only appended, never rewritten
    FOLDER/checkpoints   signed checkpoints; the first one, of size 0, is made with the log
    FOLDER/holds         the supervisor's orders (`nodes.logs.holds`)
    FOLDER/keys          one secret an entry; may lie elsewhere
    FOLDER/lock          held while a process writes

What opening verifies, and what follows:

- Every checkpoint's signature, and that the entries on disk give its root: rewriting or removing an entry below the
  last checkpoint is found and named (the entry if its key shows it, else those since the checkpoint before).
- `witnessed` checkpoints, which others were given, in the same way: rolling the folder back to an older state is found.
- No key is missing for an entry that was held, or that cannot be three years old yet (it is no older than the last
  checkpoint without it).
- A write that a crash cut short is recognised (the keys, flushed first, say where the last append began) and dropped.

What it cannot find: entries after the last checkpoint that anyone saw, changed by somebody who can write the keys too.
Therefore: checkpoint at the end of every query and give the checkpoint away.

The log has no clock: callers say what time it is, in milliseconds since 1970 UTC; it never goes backwards.
One writer, one thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path

import msgspec

from nodes.logs.checkpoints import Checkpoint, check_checkpoint, checkpoint_message, decode_checkpoint
from nodes.logs.entries import (
    RECORD_LIMIT,
    Entry,
    Kind,
    LogHeader,
    decode_header,
    encode_entry,
    encrypt_entry,
    retention_end,
)
from nodes.logs.frames import FrameFile, create_file
from nodes.logs.holds import Order, decode_order
from nodes.logs.keys import KeySlots, Slot
from nodes.logs.reader import LogKeys, LogReader
from nodes.private_files import sync_folder
from pets.merkle import hash_leaf

__all__ = ["LogKeys", "TamperEvidentLog"]


class TamperEvidentLog(LogReader):
    """One log, open for writing. Made by `create` or `open`; closes as a context manager."""

    @classmethod
    def create(
        cls, folder: Path, kind: Kind, owner: str, trust: LogKeys, now: int, keys: Path | None = None
    ) -> TamperEvidentLog:
        """A new log in a new folder. `keys`: where the secrets go instead of into the folder.

        Raises `FileExistsError`, `LogUnusable` for an unknown kind or a name that is none.
        """
        header = LogHeader(1, kind, owner, os.urandom(32))
        data = msgspec.msgpack.encode(header)
        decode_header(data)
        folder.mkdir(mode=0o700, parents=True)
        for name in ("entries", "checkpoints", "holds", "lock"):
            create_file(folder / name)
        KeySlots.create(keys or folder / "keys", header.log)
        with closing(FrameFile(folder / "entries", RECORD_LIMIT)) as entries:
            entries.append([data])
        log = cls(folder, trust, keys)
        try:
            log.checkpoint(now)
            for place in {folder, folder.parent, (keys or folder / "keys").parent}:
                sync_folder(place)
        except BaseException:
            log.close()
            raise
        return log

    def append(self, entries: Sequence[Entry], now: int) -> range:
        """Write entries and flush them, all of them or, after a crash, the first few. Returns their indices.

        Raises `EntryRefused`, and then nothing is written.
        """
        self._check_open()
        batch, created = self.size, self._tick(now)
        slots, records = [], []
        for index, entry in enumerate(entries, batch):
            slot = Slot(index, batch, created, os.urandom(32))
            data = encode_entry(entry, self.header.kind)
            slots.append(slot)
            records.append(encrypt_entry(data, slot.secret, self.header, index, created))
        if not records:
            return range(batch, batch)
        try:
            self._slots.add(slots)  # first, so that no entry is ever on disk without its key
            self._entries.append(records)
        except BaseException:
            self.close()  # nobody knows what is on the disk now: opening finds out
            raise
        for record in records:
            self._tree.append(hash_leaf(record))
        return range(batch, self.size)

    def checkpoint(self, now: int) -> Checkpoint:
        """Sign size and root as they are, keep the checkpoint and return it, to be given to others."""
        self._check_open()
        log, size, root, time = self.header.log, self.size, self.root, self._tick(now)
        signature = self._trust.sign(checkpoint_message(log, size, root, time))
        data = msgspec.msgpack.encode(Checkpoint(log, size, root, time, signature))
        made = decode_checkpoint(data)
        check_checkpoint(made, log, self._trust.verify)  # a wrong key would make the log unopenable
        try:
            self._checkpoint_file.append([data])
        except BaseException:
            self.close()
            raise
        self._sizes.append(size)
        self._times.append(time)
        return made

    def obey(self, order: Order) -> None:
        """Put a supervisor's hold into force or lift one. Raises `OrderRefused`."""
        self._check_open()
        data = msgspec.msgpack.encode(order)
        self._holds.obey(decode_order(data))
        try:
            self._hold_file.append([data])
        except BaseException:
            self.close()
            raise

    def due(self, now: int) -> tuple[int, ...]:
        """All entries, not yet erased, that are three years old and not held."""
        self._check_open()
        old = takewhile(lambda entry: retention_end(entry[1]) <= now, self._slots.live())  # times never go backwards
        return tuple(index for index, _ in old if not any(self._holds.over(index)))

    def held(self) -> tuple[int, ...]:
        """All entries, not yet erased, that a supervisor's order keeps, whatever their age."""
        self._check_open()
        return tuple(index for index, _ in self._slots.live() if any(self._holds.over(index)))

    def erase_due(self, now: int) -> tuple[int, ...]:
        """Destroy the keys of all entries that are three years old and not held; returns which.

        The log has no other way to erase. Records stay, and with them every root and proof.
        """
        due = self.due(now)
        try:
            self._slots.destroy(due)
        except BaseException:
            self.close()
            raise
        return due
