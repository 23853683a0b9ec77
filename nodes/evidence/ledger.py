"""What a node's database held when it was last seen, in a log of its own: the node knows what it had.

A database that was lost, emptied or damaged would answer "no hit" for everybody whom it no longer holds. So a node that
starts, and one that meets a change while it runs, compares the database with the last entry of its `gallery` log, whose
checkpoints are signed. More than before is an enrolment or a deletion; less, or another database, is a loss. It goes on
only from `lineup store restore`, or once the operator ordered `--accept-loss`, which this node signs into the log.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from nodes.identity.identity import NodeIdentity
from nodes.logs.entries import GalleryEntry, Reason
from nodes.logs.log import TamperEvidentLog
from nodes.private_files import replace_private
from nodes.store import StoreLost
from nodes.store.content import ID_BYTES, Content
from pets.prf import encode_labels

ORDER_CONTEXT = "accept-loss"
EXPECTED = "restoring"  # beside the logs


def expect(logs: Path, content: Content, aside: str = "") -> None:
    """Write down what a restore is about to put in place. If it is killed then, the next start notes it as restored.

    It excuses nothing: what the node meets must be lawful all the same. `logs`: the folder of the node's logs. `aside`:
    under which mark templates of what was lost are put aside then (`GalleryStore.put_unnamed_rows_aside`); empty where
    nothing was lost, and they are deleted.
    """
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_private(logs / EXPECTED, content.database_id + content.generation.to_bytes(8, "big") + aside.encode())


def expected(logs: Path, content: Content) -> str | None:
    """The mark of `expect`, if this is what a restore was about to put in place, or a later state of it; else None."""
    try:
        written = (logs / EXPECTED).read_bytes()
    except FileNotFoundError:
        return None
    database_id, generation, aside = written[:ID_BYTES], written[ID_BYTES : ID_BYTES + 8], written[ID_BYTES + 8 :]
    if content.database_id != database_id or content.generation < int.from_bytes(generation, "big"):
        return None
    return aside.decode()


def expect_no_more(logs: Path) -> None:
    """The restore is noted, or changed nothing."""
    (logs / EXPECTED).unlink(missing_ok=True)


class Ledger:
    """The `gallery` log of a node. `writing`: held by whoever reads or writes the node's logs."""

    def __init__(self, identity: NodeIdentity, log: TamperEvidentLog, writing: AbstractContextManager[Any]) -> None:
        self._identity = identity
        self._log = log
        self._writing = writing
        self._logs = identity.config.paths.logs
        self._staffed: bool | None = None

    @property
    def usable(self) -> bool:
        """Whether the log is open: a failed write closes it."""
        return self._log.usable

    @property
    def last(self) -> GalleryEntry | None:
        """What the node had; None if it never looked."""
        with self._writing:
            entry = self._log.read(self._log.size - 1) if self._log.size else None
        assert entry is None or isinstance(entry, GalleryEntry)
        return entry

    @property
    def staffed(self) -> bool:
        """Whether this node ever had staff: what is signed into the log is not taken back by who loses, or empties, the
        database of persons."""
        with self._writing:
            if self._staffed is None:
                entries = map(self._log.read, range(self._log.size))
                self._staffed = any(isinstance(entry, GalleryEntry) and entry.reason == "staff" for entry in entries)
            return self._staffed

    def note_staff(self) -> None:
        """From now on there is staff: an entry like the last one. Nothing before the first."""
        with self._writing:
            if (last := self.last) is not None and not self.staffed:
                now = int(time.time() * 1000)
                self._append(msgspec.structs.replace(last, reason="staff", signature=None, time=now))
                self._staffed = True

    def check(self, content: Content) -> None:
        """Raise `StoreLost` if the database lost something."""
        last = self.last
        if last is not None and (found := difference(last, content)) is not None:
            raise lost(self._identity, found)

    def meet(self, content: Content) -> None:
        """The database as it is now: noted if it is new or changed. Raises `StoreLost` if it lost something."""
        self.check(content)
        last = self.last
        if last is None or last.generation != content.generation:
            restored = expected(self._logs, content) is not None
            self.note(content, "restored" if restored else "first" if last is None else "change")
        expect_no_more(self._logs)

    def note(self, content: Content, reason: Reason) -> None:
        """Write it down and sign a checkpoint. `accepted-loss` is signed as an order besides."""
        now = int(time.time() * 1000)
        held = (content.database_id, content.generation, content.rows, content.digest)
        signature = None
        if reason == "accepted-loss":
            order = encode_labels("blind-lineup/accept-loss/v1", self._log.header.log, *held, now)
            signature = self._identity.signing.sign(order, ORDER_CONTEXT)
        self._append(GalleryEntry(*held, reason, signature, now))
        expect_no_more(self._logs)

    def _append(self, entry: GalleryEntry) -> None:
        with self._writing:
            self._log.append([entry], entry.time)
            self._log.checkpoint(entry.time)


def difference(last: GalleryEntry, content: Content) -> str | None:
    """How a database differs from what the node had, in words; None if it is that one, or a later state of it."""
    had = f"the node had {last.rows} subjects"
    if content.database_id != last.database_id:
        return f"it is another database, with {content.rows} subjects; {had}"
    if content.generation < last.generation:
        return f"it is an older state, with {content.rows} subjects; {had}"
    if content.generation == last.generation and (content.rows, content.digest) != (last.rows, last.digest):
        return f"its {content.rows} subjects are not those of before; {had}"
    return None


def lost(identity: NodeIdentity, found: str) -> StoreLost:
    """The refusal, with both ways out."""
    return StoreLost(
        f"the database of {identity.config.name} is not what it was: {found}. Put a backup in its place with `lineup "
        "store restore`; or, if what is missing is lost for good, start once with `lineup node serve --accept-loss`, "
        "which is signed into the log"
    )
