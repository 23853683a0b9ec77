"""What a node keeps of each conversation, preparation or search, for the log and for a supervisor's evidence.

Of every frame: place, type, size and the SHA-256 of its message. Of frames that say nothing about faces or keys: the
message too, so that signatures, commitments, terms and verdicts can be checked offline. Messages of the comparison,
shares, seeds and releases are never kept: two parties' copies together would rebuild every score.

One file a conversation, `evidence/CONVERSATION`, of length-prefixed MessagePack records; every record also goes to the
tamper-evident transcript log as a hash.
"""

from __future__ import annotations

import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from nodes.logs.entries import TranscriptEntry
from nodes.logs.log import TamperEvidentLog
from nodes.private_files import append_private
from nodes.verify.format import HARMLESS, WHOLE, Record, signature_in
from protocol.messages import Abort, Prepare, Release, Search, Signature
from protocol.session import Event

__all__ = ["HARMLESS", "Record", "Recorder", "read_records"]

_LENGTH = struct.Struct(">I")


class Recorder:
    """Shared by all conversations of a node. `folder`: where evidence files go; `log`: the transcript log.

    What is recorded is written behind a conversation's back, phase by phase, so that it does not wait for the disk; but
    nothing is released before everything that led to it is on disk. `writing`: held by whoever reads or writes the log.
    """

    def __init__(self, folder: Path, log: TamperEvidentLog, writing: AbstractContextManager[Any]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._log = log
        self._writing = writing
        self._lock = threading.Lock()  # over `_waiting`, and never held while the disk works
        self._waiting: dict[bytes, list[tuple[Record, TranscriptEntry]]] = {}
        self._failed: dict[bytes, Exception] = {}
        self._writer = ThreadPoolExecutor(1, "recorder")

    def begin(self, conversation: bytes) -> None:
        """Take records of a conversation from now on, until `end`."""
        self._waiting[conversation] = []

    def flush(self, conversation: bytes) -> None:
        """Write what waits to disk: the log first, for a record that is in no log cannot be exported."""
        with self._writing:
            with self._lock:
                waiting = self._waiting.get(conversation)
                if not waiting:
                    return
                self._waiting[conversation] = []
            self._log.append([entry for _, entry in waiting], int(time.time() * 1000))
            records = (msgspec.msgpack.encode(record) for record, _ in waiting)
            content = b"".join(part for data in records for part in (_LENGTH.pack(len(data)), data))
            append_private(self._folder / conversation.hex(), content)

    def end(self, conversation: bytes) -> None:
        """A conversation is over. Raises what kept its records from being written."""
        self.flush(conversation)
        self._waiting.pop(conversation, None)
        if (failed := self._failed.pop(conversation, None)) is not None:
            raise failed

    def close(self) -> None:
        """Write no more."""
        self._writer.shutdown()

    def record(self, conversation: bytes, event: Event) -> None:
        """Keep what a machine sends or consumes. What could not be written is raised at the next event."""
        if (failed := self._failed.get(conversation)) is not None:
            raise failed
        now = int(time.time() * 1000)
        message, kind = event.message, type(event.message).__name__
        kept = message if isinstance(message, HARMLESS) else None
        record = Record(
            event.session, event.direction, event.peer, event.sequence, kind, event.content, event.size, now, kept
        )
        entry = TranscriptEntry(
            conversation, "whole" if event.session == WHOLE else "session", event.direction, event.peer, kind,
            event.sequence, event.digest, signature_in(message), now,
        )  # fmt: skip
        with self._lock:
            self._waiting[conversation].append((record, entry))
        if isinstance(message, Release):
            self.flush(conversation)
        elif isinstance(message, (Prepare, Search, Signature, Abort)):
            self._writer.submit(self._flush_behind, conversation)

    def _flush_behind(self, conversation: bytes) -> None:
        try:
            self.flush(conversation)
        except Exception as error:  # whatever it is, the conversation must not go on without its records
            self._failed[conversation] = error


def read_records(path: Path) -> list[Record]:
    """The records of one conversation, without one that a crash cut off. Raises `pets.errors.MALFORMED`."""
    data, records, position = path.read_bytes(), [], 0
    decoder = msgspec.msgpack.Decoder(Record)
    while position + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if position + length > len(data):
            break
        records.append(decoder.decode(data[position : position + length]))
        position += length
    return records
