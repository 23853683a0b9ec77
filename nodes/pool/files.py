"""Preparations sealed on disk: one file each, named by its ID, encrypted under the node's storage key.

A file is a number of pieces, each sealed for its place: AES-GCM takes 2 GB at a time, and many holders' rings are more.
A file under another name, under another key, with a changed byte or with pieces missing does not open. Deleting a file
does not overwrite it: what is left of it on the disk is as encrypted as it was.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from nodes.private_files import PRIVATE_FOLDER, replace_private_pieces
from nodes.store import StorageKey, StoreCorrupted
from pets.errors import MALFORMED, LineupError
from protocol.preparation import (
    HolderPreparation,
    Preparation,
    RequesterPreparation,
    RouterPreparation,
    pack,
    unpack,
)
from protocol.roles import Role
from protocol.shown import kind_only

log = logging.getLogger("lineup.pool")

PIECE_BYTES = 2**26
_SEAL_BYTES = 28  # by which a sealed piece is longer
_LENGTH = struct.Struct(">I")  # of the head, before it
_COLUMN = "preparation"
_NAME = "[0-9a-f]" * 64
_KINDS: dict[Role, type[Any]] = {
    Role.REQUESTER: RequesterPreparation,
    Role.ROUTER: RouterPreparation,
    Role.HOLDER: HolderPreparation,
}


class Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a file says before the preparation, as `protocol.preparation.pack` gives it. `made`: seconds since 1970."""

    conversation: bytes
    made: float
    role: Role

    __repr__ = kind_only


class SealedFiles:
    """The folder of them, made when it is first needed."""

    def __init__(self, folder: Path, key: StorageKey) -> None:
        self._folder = folder
        self._key = key

    def write(self, conversation: bytes, preparation: Preparation, made: float) -> int:
        """Seal a preparation, whole and on disk before this returns; gives the bytes of its file.

        Raises OSError for a disk that is full; there is no file then.
        """
        role = next(role for role, kind in _KINDS.items() if isinstance(preparation, kind))
        head = msgspec.msgpack.encode(Head(conversation, made, role))
        content = b"".join((_LENGTH.pack(len(head)), head, pack(preparation)))
        name, count = preparation.preparation_id.hex(), -(-len(content) // PIECE_BYTES)
        self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        view = memoryview(content)
        pieces = (view[index * PIECE_BYTES : (index + 1) * PIECE_BYTES] for index in range(count))
        sealed = (self._key.seal(piece, _COLUMN, name, _place(index, count)) for index, piece in enumerate(pieces))
        replace_private_pieces(self._folder / name, sealed)
        return len(content) + count * _SEAL_BYTES

    def read(self, preparation_id: bytes) -> tuple[bytes, float, Preparation]:
        """Conversation, time and preparation of a file. Raises OSError, `StoreCorrupted`, `PreparationError`."""
        name = preparation_id.hex()
        content = memoryview(b"".join(_opened(self._folder / name, self._key)))
        try:
            end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
            head = msgspec.msgpack.decode(content[_LENGTH.size : end], type=Head)
        except (*MALFORMED, struct.error):
            raise StoreCorrupted(f"the {_COLUMN} of {name} was written by another version") from None
        preparation: Preparation = unpack(content[end:], _KINDS[head.role])
        if preparation.preparation_id != preparation_id:
            raise StoreCorrupted(f"the {_COLUMN} of {name} is another one's")
        return head.conversation, head.made, preparation

    def size(self, preparation_id: bytes) -> int:
        """Bytes of a file."""
        return (self._folder / preparation_id.hex()).stat().st_size

    def remove(self, preparation_id: bytes) -> None:
        """Delete a file, if there is one. What cannot be deleted is said in the log."""
        try:
            (self._folder / preparation_id.hex()).unlink(missing_ok=True)
        except OSError as error:
            log.error(
                "a preparation's file stays", extra={"preparation": preparation_id.hex(), "error": type(error).__name__}
            )

    def listed(self) -> list[bytes]:
        """IDs of all files. Files left half written are deleted, others are ignored."""
        found = []
        for path in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if path.match(_NAME) and path.is_file():
                found.append(bytes.fromhex(path.name))
            elif path.match(f".{_NAME}"):
                with suppress(OSError):
                    path.unlink()
            else:
                log.warning("passed over %a, which is no preparation's file", path.name[:80])
        return found

    def opened(self) -> Iterator[tuple[bytes, float, Preparation, int]]:
        """Every file that opens, one at a time. One that does not is dropped with a line in the log."""
        for preparation_id in self.listed():
            try:
                conversation, made, preparation = self.read(preparation_id)
                size = self.size(preparation_id)
            except (OSError, LineupError) as error:
                log.warning("a preparation that cannot be read is dropped", extra=fields(preparation_id, error))
                self.remove(preparation_id)
                continue
            yield conversation, made, preparation, size


def reseal(folder: Path, old: StorageKey, new: StorageKey) -> int:
    """Encrypt every file anew; gives how many. May be interrupted and called again. What opens under neither stays."""
    done = 0
    for preparation_id in SealedFiles(folder, new).listed():
        path, name = folder / preparation_id.hex(), preparation_id.hex()
        count = _count(path)
        with suppress(StoreCorrupted):
            pieces = enumerate(_opened(path, old))
            replace_private_pieces(path, (new.seal(piece, _COLUMN, name, _place(at, count)) for at, piece in pieces))
            done += 1
    return done


def _opened(path: Path, key: StorageKey) -> Iterator[bytes]:
    """The pieces of a file. Raises OSError, `StoreCorrupted`."""
    count = _count(path)
    with path.open("rb") as stream:
        for index in range(count):
            yield key.unseal(stream.read(PIECE_BYTES + _SEAL_BYTES), _COLUMN, path.name, _place(index, count))


def _count(path: Path) -> int:
    """Pieces of a file; an empty one has a piece that does not open."""
    return max(1, -(-path.stat().st_size // (PIECE_BYTES + _SEAL_BYTES)))


def _place(index: int, count: int) -> bytes:
    return b"%d of %d" % (index, count)


def fields(preparation_id: bytes, error: Exception | None = None) -> dict[str, str | None]:
    """What the log says of a preparation (`nodes.service.json_logs`)."""
    return {"preparation": preparation_id.hex(), "error": None if error is None else type(error).__name__}
