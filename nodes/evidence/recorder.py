"""What a node keeps of each query, for the log and for a supervisor's evidence.

Of every frame: place, type, size and the SHA-256 of its message. Of frames that say nothing about faces: the message
too, so that signatures, commitments, terms and verdicts can be checked offline. Messages of the comparison, shares and
releases are never kept: two parties' copies together would rebuild every score.

One file a query, `evidence/QUERY`, of length-prefixed MessagePack records; every record also goes to the
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
from nodes.verify.format import HARMLESS, Record
from protocol.machine import Machine
from protocol.messages import Abort, Announce, Release, Signature
from protocol.session import Event

__all__ = ["HARMLESS", "Record", "Recorder", "read_records"]

_LENGTH = struct.Struct(">I")


class Recorder:
    """Shared by all queries of a node. `folder`: where evidence files go; `log`: the transcript log.

    What is recorded is written behind the query's back, phase by phase, so that it does not wait for the disk; but
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

    def attach(self, machine: Machine) -> None:
        """Record everything a machine sends and consumes from now on. What cannot be written is raised at the next."""
        self._waiting[machine.query] = []
        machine.recorder = lambda event: self._record(machine, event)

    def flush(self, query: bytes) -> None:
        """Write what waits to disk: the log first, for a record that is in no log cannot be exported."""
        with self._writing:
            with self._lock:
                waiting = self._waiting.get(query)
                if not waiting:
                    return
                self._waiting[query] = []
            self._log.append([entry for _, entry in waiting], int(time.time() * 1000))
            records = (msgspec.msgpack.encode(record) for record, _ in waiting)
            content = b"".join(part for data in records for part in (_LENGTH.pack(len(data)), data))
            append_private(self._folder / query.hex(), content)

    def end(self, query: bytes) -> None:
        """A query is over. Raises what kept its records from being written."""
        self.flush(query)
        self._waiting.pop(query, None)
        if (failed := self._failed.pop(query, None)) is not None:
            raise failed

    def close(self) -> None:
        """Write no more."""
        self._writer.shutdown()

    def _record(self, machine: Machine, event: Event) -> None:
        if (failed := self._failed.get(machine.query)) is not None:
            raise failed
        now = int(time.time() * 1000)
        message, kind = event.message, type(event.message).__name__
        kept = message if isinstance(message, HARMLESS) else None
        signature = message.signature if isinstance(message, (Signature, Announce)) and message.signature else None
        record = Record(
            event.session, event.direction, event.peer, event.sequence, kind, event.content, event.size, now, kept
        )
        entry = TranscriptEntry(
            machine.query, "query" if not event.session else "session", event.direction, event.peer, kind,
            event.sequence, event.digest, signature, now,
        )  # fmt: skip
        with self._lock:
            self._waiting[machine.query].append((record, entry))
        if isinstance(message, Release):
            self.flush(machine.query)
        elif isinstance(message, (Announce, Signature, Abort)):
            self._writer.submit(self._flush_behind, machine.query)

    def _flush_behind(self, query: bytes) -> None:
        try:
            self.flush(query)
        except Exception as error:  # whatever it is, the query must not go on without its records
            self._failed[query] = error


def read_records(path: Path) -> list[Record]:
    """The records of one query; a record that was cut off by a crash is left out. Raises `pets.errors.MALFORMED`."""
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
