"""A log as it is opened, verified and read (`nodes.logs.log` says what that finds and what it cannot)."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from nodes.logs.checkpoints import (
    BadCheckpoint,
    Checkpoint,
    Disclosure,
    Signer,
    Verifier,
    check_checkpoint,
    decode_checkpoint,
)
from nodes.logs.entries import RECORD_LIMIT, Entry, LogHeader, decode_header, decrypt_record, retention_end
from nodes.logs.errors import DisclosureRefused, EntryErased, EntryRefused, LogTampered, LogUnusable
from nodes.logs.frames import FrameFile, lock_folder
from nodes.logs.holds import Holds, decode_order
from nodes.logs.keys import KeySlots, Slot
from pets.merkle import MerkleTree, hash_leaf

_CHECKPOINT_LIMIT = 8192
_ORDER_LIMIT = 8192
_Log = TypeVar("_Log", bound="LogReader")


@dataclass(frozen=True)
class LogKeys:
    """Whose signatures count: the owner's (`sign`, `verify`) and the supervisor's (`supervisor`)."""

    sign: Signer
    verify: Verifier
    supervisor: Verifier


class LogReader:
    """The parts that only read. Files stay open until `close`."""

    def __init__(self, folder: Path, trust: LogKeys, keys: Path | None) -> None:
        self._trust = trust
        self._tree = MerkleTree()
        self._sizes: list[int] = []
        self._times: list[int] = []
        self._now = 0
        self._closed = False
        with ExitStack() as opened:
            opened.callback(os.close, lock_folder(folder))
            self._entries = _open_frames(folder / "entries", RECORD_LIMIT, opened)
            self._checkpoint_file = _open_frames(folder / "checkpoints", _CHECKPOINT_LIMIT, opened)
            self._hold_file = _open_frames(folder / "holds", _ORDER_LIMIT, opened)
            self.header = self._read_entries()
            self._holds = Holds(self.header.log, trust.supervisor)
            self._slots = _open_keys(keys or folder / "keys", self.header.log, self.size, opened)
            self._opened = opened.pop_all()

    @classmethod
    def open(
        cls: type[_Log],
        folder: Path,
        trust: LogKeys,
        now: int,
        keys: Path | None = None,
        witnessed: Iterable[Checkpoint] = (),
    ) -> _Log:
        """Open and verify a log (see `nodes.logs.log`). `witnessed`: checkpoints of this log that others were given.

        Raises `LogUnusable`, `LogTampered`, `BadCheckpoint`, `OrderRefused`.
        """
        log = cls(folder, trust, keys)
        try:
            log._verify(witnessed, now)
        except BaseException:
            log.close()
            raise
        return log

    @property
    def size(self) -> int:
        """The number of entries, erased ones included."""
        return self._tree.size

    @property
    def usable(self) -> bool:
        """Whether it is open: a failed write closes it."""
        return not self._closed

    @property
    def root(self) -> bytes:
        """The Merkle root over all entries."""
        return self._tree.root()

    @property
    def last_checkpoint(self) -> Checkpoint:
        """The newest checkpoint."""
        return self.checkpoint_number(len(self._sizes) - 1)

    def checkpoint_number(self, number: int) -> Checkpoint:
        """Checkpoint `number`; 0 is the one the log was made with. Raises `LogUnusable`."""
        if not 0 <= number < len(self._sizes):
            raise LogUnusable(f"checkpoint {number} of {len(self._sizes)}")
        return decode_checkpoint(self._checkpoint_file.read(number))

    def read(self, index: int) -> Entry:
        """One entry. Raises `EntryErased`, `LogTampered` if it is not what it was, `LogUnusable` if it never was."""
        slot, record = self._locate(index)
        try:
            return decrypt_record(record, slot.secret, self.header, index, slot.created)
        except (DisclosureRefused, EntryRefused) as error:
            raise LogTampered(index, index, str(error)) from None

    def created(self, index: int) -> int:
        """When an entry was made, milliseconds since 1970. Raises as `read`."""
        return self._locate(index)[0].created

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Proof that the log of `second` entries extends that of `first`. Raises `pets.merkle.NoSuchProof`."""
        return self._tree.consistency_proof(first, second)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Proof that entry `index`, erased or not, is in the log of `size` entries. Raises `NoSuchProof`."""
        return self._tree.inclusion_proof(index, size)

    def disclose(self, index: int, size: int) -> Disclosure:
        """One entry with its secret and its proof towards the checkpoint of `size` entries.

        Raises as `read`, and `pets.merkle.NoSuchProof`.
        """
        slot, record = self._locate(index)
        path = tuple(self._tree.inclusion_proof(index, size))
        return Disclosure(index, slot.created, record, slot.secret, size, path)

    def close(self) -> None:
        """Close all files and let other processes in."""
        self._closed = True
        self._opened.close()

    def __enter__(self: _Log) -> _Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # Opening.

    def _read_entries(self) -> LogHeader:
        payloads = self._entries.scan()
        header = decode_header(next(payloads, b""))
        for record in payloads:
            self._tree.append(hash_leaf(record))
        return header

    def _verify(self, witnessed: Iterable[Checkpoint], now: int) -> None:
        checkpoints = self._read_checkpoints()
        for checkpoint in witnessed:
            check_checkpoint(checkpoint, self.header.log, self._trust.verify)
            checkpoints.append(checkpoint)
        self._check_roots(sorted(checkpoints, key=lambda checkpoint: checkpoint.size))
        self._recover()
        self._read_holds()
        self._check_erasures(self._tick(max(now, self._times[-1])))

    def _read_checkpoints(self) -> list[Checkpoint]:
        checkpoints: list[Checkpoint] = []
        for number, data in enumerate(self._checkpoint_file.scan()):
            checkpoint = decode_checkpoint(data)
            check_checkpoint(checkpoint, self.header.log, self._trust.verify)
            if checkpoints and (checkpoint.size, checkpoint.time) < (checkpoints[-1].size, checkpoints[-1].time):
                raise BadCheckpoint(f"checkpoint {number} goes back behind the one before")
            checkpoints.append(checkpoint)
        if not checkpoints or not self._checkpoint_file.torn_by_one_write():
            raise BadCheckpoint(f"the file of checkpoints is damaged after the first {len(checkpoints)}")
        self._checkpoint_file.drop_torn()
        self._sizes = [checkpoint.size for checkpoint in checkpoints]
        self._times = [checkpoint.time for checkpoint in checkpoints]
        return checkpoints

    def _check_roots(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Raise `LogTampered` naming as few entries as can be, unless the entries give every root."""
        good = before = 0  # the largest two sizes so far whose roots were right
        for checkpoint in checkpoints:
            if checkpoint.size > self.size:
                raise LogTampered(self.size, checkpoint.size - 1, "signed in a checkpoint, and missing or broken")
            if self._tree.root(checkpoint.size) != checkpoint.root:
                self._blame(good if good < checkpoint.size else before, checkpoint.size)
            if checkpoint.size > good:
                before, good = good, checkpoint.size

    def _blame(self, start: int, end: int) -> None:
        for index in range(start, end):
            try:
                self.read(index)
            except LogTampered as error:
                raise LogTampered(index, index, f"rewritten after it was signed: {error.reason}") from None
            except EntryErased:
                continue
        raise LogTampered(start, max(start, end - 1), "not those that a checkpoint was signed over")

    def _recover(self) -> None:
        """Drop what a crash left of the last append. Anything else that is broken was not a crash."""
        if self.size < self._slots.last_batch:
            last = self._slots.last_batch - 1
            raise LogTampered(self.size, last, "their keys are there, and they were flushed before later ones")
        if self._entries.torn_bytes and not self._slots.orphans:
            raise LogTampered(self.size, self.size, "broken, and no append was under way")
        self._entries.drop_torn()
        self._slots.drop_orphans()

    def _read_holds(self) -> None:
        for data in self._hold_file.scan():
            self._holds.obey(decode_order(data))
        if not self._hold_file.torn_by_one_write():
            raise LogUnusable("the file of holds is damaged")
        self._hold_file.drop_torn()

    def _check_erasures(self, now: int) -> None:
        """No entry may lack its key before its time. It is no older than the last checkpoint that lacks it."""
        for index in self._slots.missing():
            earliest = retention_end(self._times[bisect_right(self._sizes, index) - 1])
            if now < earliest:
                raise LogTampered(index, index, "its key is gone before three years have passed")
            if any(order.time < earliest for order in self._holds.over(index)):
                raise LogTampered(index, index, "its key is gone although the supervisor held it")

    # Small change.

    def _locate(self, index: int) -> tuple[Slot, bytes]:
        self._check_open()
        if not 0 <= index < self.size:
            raise LogUnusable(f"entry {index} of {self.size}")
        record = self._entries.read(index + 1)  # frame 0 is the header
        if hash_leaf(record) != self._tree.leaf(index):
            raise LogTampered(index, index, "changed on disk since the log was opened")
        slot = self._slots.get(index)
        if slot is None:
            raise EntryErased(f"entry {index} was erased")
        return slot, record

    def _tick(self, now: int) -> int:
        self._now = max(self._now, now)
        return self._now

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnusable("the log was closed, perhaps after a failed write: open it again")


def _open_frames(path: Path, limit: int, opened: ExitStack) -> FrameFile:
    try:
        return opened.enter_context(closing(FrameFile(path, limit)))
    except OSError as error:
        raise LogUnusable(f"{path.parent} is not a log: {error}") from None


def _open_keys(path: Path, log: bytes, entries: int, opened: ExitStack) -> KeySlots:
    try:
        return opened.enter_context(closing(KeySlots(path, log, entries)))
    except OSError as error:
        raise LogUnusable(f"the keys of the log cannot be read: {error}") from None
