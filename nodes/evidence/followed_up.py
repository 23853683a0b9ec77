"""What a node keeps of the follow-up of a query: its statements, which say nothing about persons searched for.

One file a query, `follow-up/QUERY`, of length-prefixed MessagePack records, each written after its entry in the
transcript log; payloads never come here.
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from nodes.config.names import FOLLOW_UP
from nodes.logs.entries import Milliseconds, TranscriptEntry
from nodes.logs.log import TamperEvidentLog
from nodes.private_files import append_private
from nodes.verify.format import Direction
from protocol.follow_up import Statement
from protocol.messages import Name

FOLDER = FOLLOW_UP
PHASE = "follow-up"
_LENGTH = struct.Struct(">I")


class Kept(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A statement, from or to whom, when, and its entry in the transcript log."""

    direction: Direction
    peer: Name
    time: Milliseconds
    index: int
    statement: Statement


def keep(folder: Path, log: TamperEvidentLog, statement: Statement, direction: Direction, peer: str, now: int) -> None:
    """Log a statement, then keep it. Raises OSError and as the log does."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / statement.query.hex()
    number = len(read(path))
    entry = TranscriptEntry(
        statement.query, PHASE, direction, peer, statement.kind, number, statement.frame, statement.signature, now
    )
    (index,) = log.append([entry], now)
    data = msgspec.msgpack.encode(Kept(direction, peer, now, index, statement))
    append_private(path, _LENGTH.pack(len(data)) + data)


def read(path: Path) -> list[Kept]:
    """All statements of one query, none where there is no file. Raises `pets.errors.MALFORMED`."""
    if not path.is_file():
        return []
    data, kept, position = path.read_bytes(), [], 0
    while position + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if position + length > len(data):
            break  # cut off by a crash
        kept.append(msgspec.msgpack.decode(data[position : position + length], type=Kept))
        position += length
    return kept
