"""`lineup prepare`: a preparation in a file before there is a probe, for one `lineup match` later.

The file holds what all three parties keep, as they run in one process, and is its owner's secret (mode 0600). It serves
one search: it is claimed, under a lock, before anything that depends on the probe exists, by overwriting it with a
tombstone that says when. (A copy made before cannot be known: do not copy it.)
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from nodes.private_files import check_private, write_private
from pets.errors import MALFORMED, InputError
from pets.prf import SECRET_BYTES
from protocol.engine import HOLDER
from protocol.errors import PreparationSpent
from protocol.gallery import Gallery
from protocol.local import LocalPreparation
from protocol.preparation import (
    HolderPreparation,
    PreparationError,
    RequesterPreparation,
    RouterPreparation,
    pack,
    unpack,
)
from protocol.shown import kind_only

FORMAT: Literal["blind-lineup preparation 1"] = "blind-lineup preparation 1"
_ERASED = bytes(2**20)


class _File(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """`salt_seed`: behind the root of the gallery. `used`: seconds since 1970; a used file holds nothing else."""

    format: Literal["blind-lineup preparation 1"]
    used: float | None
    salt_seed: bytes = b""
    requester: bytes = b""
    router: bytes = b""
    holder: bytes = b""

    __repr__ = kind_only


class PreparationFileError(InputError):
    """A file that holds no preparation that can be used."""


def write_preparation(path: Path, preparation: LocalPreparation, gallery: Gallery) -> None:
    """Write a new file, mode 0600. Raises `PreparationFileError` rather than overwrite."""
    parts = (pack(part) for part in (preparation.requester, preparation.router, preparation.holders[HOLDER]))
    content = msgspec.msgpack.encode(_File(FORMAT, None, gallery.salt_seed, *parts))
    try:
        write_private(path, content)
    except FileExistsError:
        raise PreparationFileError(f"{path} exists already; name a new file") from None


@dataclass
class PreparedFile:
    """An open preparation, locked against others until `close`. Made by `open_preparation`."""

    path: Path
    preparation: LocalPreparation
    salt_seed: bytes = field(repr=False)
    _stream: BinaryIO = field(repr=False)

    def check_gallery(self, gallery: Gallery) -> None:
        """Raise `PreparationFileError` for another gallery than it was made of. It is not spent by this."""
        holder = self.preparation.holders[HOLDER]
        made = (holder.preset, holder.dim)
        if made != (gallery.params.preset, gallery.templates.shape[1]):
            raise PreparationFileError(
                f"{self.path} was made with {made[0]} and d = {made[1]}, the gallery is of d = "
                f"{gallery.templates.shape[1]} with {gallery.params.preset}"
            )
        if holder.rings[HOLDER].root != gallery.root:
            raise PreparationFileError(f"{self.path} was made for another gallery")

    def claim(self, preparation_id: bytes) -> None:
        """Use it: from here on the file is a tombstone, whatever happens. Raises `PreparationSpent` for another id."""
        if preparation_id != self.preparation.requester.preparation_id:
            raise PreparationSpent(f"{self.path} holds another preparation")
        tombstone = msgspec.msgpack.encode(_File(FORMAT, time.time()))
        handle = self._stream.fileno()
        size = os.fstat(handle).st_size
        os.pwrite(handle, tombstone.ljust(512, b"\0"), 0)
        os.fsync(handle)  # the claim; what follows erases
        for start in range(512, size, len(_ERASED)):
            os.pwrite(handle, _ERASED[: size - start], start)
        os.fsync(handle)
        os.ftruncate(handle, len(tombstone))
        os.fsync(handle)

    def close(self) -> None:
        """Let go of the file; one that was not claimed can be used later."""
        self._stream.close()


def open_preparation(path: Path) -> PreparedFile:
    """Open a file for one search.

    Raises `PreparationFileError` for one that was used, is in use or is not a preparation of this version, and
    `PermissionsRefused` for one that others may read.
    """
    try:
        stream = path.open("r+b", buffering=0)
    except OSError as error:
        raise PreparationFileError(f"preparation {path} cannot be opened: {error.strerror}") from error
    try:
        check_private(path, stream.fileno())
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreparationFileError(f"preparation {path} is being used by another search") from None
        preparation, salt_seed = _read(path, stream.readall())
        return PreparedFile(path, preparation, salt_seed, stream)
    except BaseException:
        stream.close()
        raise


def check_no_copies(files: Sequence[PreparedFile]) -> None:
    """Raise `PreparationFileError` where two files hold one preparation: its mask would hide two probes."""
    seen: dict[bytes, Path] = {}
    for file in files:
        preparation_id = file.preparation.requester.preparation_id
        if preparation_id in seen:
            raise PreparationFileError(
                f"{file.path} is a copy of {seen[preparation_id]}: a preparation serves one search"
            )
        seen[preparation_id] = file.path


def _read(path: Path, content: bytes) -> tuple[LocalPreparation, bytes]:
    start = _tombstone_start()
    if content.startswith(start):  # whatever follows: an erasure may have been cut off
        try:
            used = msgspec.msgpack.decode(content[len(start) - 1 : len(start) + 8], type=float)
            when = time.strftime(" on %Y-%m-%d at %H:%M:%S", time.localtime(used))
        except (*MALFORMED, ValueError, OverflowError, OSError):
            when = ""
        raise PreparationFileError(f"preparation {path} was used{when}; it serves one search")
    try:
        file = msgspec.msgpack.decode(content, type=_File)
        parts = (unpack(file.requester, RequesterPreparation), unpack(file.router, RouterPreparation))
        holder = unpack(file.holder, HolderPreparation)
        if file.used is not None or len(file.salt_seed) != SECRET_BYTES:
            raise PreparationError("it says that it was used, or has no salt for the gallery")
        if any(set(part.rings) != {HOLDER} for part in (*parts, holder)):
            raise PreparationError("it is not of this process's parties")
        return LocalPreparation(*parts, {HOLDER: holder}), file.salt_seed
    except (*MALFORMED, PreparationError, KeyError) as error:
        raise PreparationFileError(f"{path} is not a preparation of this version: {error}") from None


def _tombstone_start() -> bytes:
    """What every used file begins with: up to the mark of the number that follows."""
    whole = msgspec.msgpack.encode(_File(FORMAT, 0.0))
    return whole[: whole.index(msgspec.msgpack.encode(0.0)) + 1]
