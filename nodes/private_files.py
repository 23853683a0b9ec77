"""Files that only their owner may read, and public files that are never seen half written.

`PermissionsRefused` (a pets.errors.InputError): a private file or folder is open to group or others.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pets.errors import InputError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
_PUBLIC_FILE = 0o644
_OTHERS = 0o077


class PermissionsRefused(InputError):
    """A private file or folder that others than its owner may use."""


def check_private(path: Path, stream: int | None = None) -> None:
    """Raise `PermissionsRefused` if group or others may use `path` (or the open file `stream`), OSError if absent."""
    status = path.stat() if stream is None else os.fstat(stream)
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        wanted = PRIVATE_FOLDER if stat.S_ISDIR(status.st_mode) else PRIVATE_FILE
        raise PermissionsRefused(f"{path} has mode {mode:04o}, it must be {wanted:04o}: chmod {wanted:o} {path}")


def read_private(path: Path) -> bytes:
    """The content of a private file. Raises `PermissionsRefused`, and `InputError` if it cannot be read."""
    try:
        with path.open("rb") as stream:
            check_private(path, stream.fileno())
            return stream.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a new file with mode 0600 from its first moment. Raises FileExistsError rather than overwrite."""
    with _new_private(path) as stream:
        _write(stream.fileno(), content)
        os.fsync(stream.fileno())


def copy_private(source: Path, target: Path) -> None:
    """Copy a file to a new one with mode 0600 from its first moment, whole and on disk.

    Raises FileExistsError rather than overwrite, OSError; then there is no copy.
    """
    with source.open("rb") as content, _new_private(target) as stream:
        try:
            shutil.copyfileobj(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException:
            target.unlink()
            raise


def replace_private(path: Path, content: bytes) -> None:
    """Put a file with mode 0600 in its place, whole and on disk: after a crash it is the old one or the new one."""
    replace_private_pieces(path, (content,))


def replace_private_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """The same, one piece after the other: no more than one need be in memory. An error leaves the old file."""
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)  # of a write that was interrupted
    try:
        with _new_private(fresh) as stream:
            for piece in pieces:
                _write(stream.fileno(), piece)
            os.fsync(stream.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_private(path: Path, content: bytes) -> None:
    """Add to a file with mode 0600, made if absent: all of `content`, on disk, or nothing. Raises OSError."""
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    try:
        if new:
            sync_folder(path.parent)
        before = os.fstat(handle).st_size
        try:
            _write(handle, content)
            os.fsync(handle)
        except BaseException:
            os.ftruncate(handle, before)  # what follows half a record could not be read any more
            raise
    finally:
        os.close(handle)


def write_public(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Put a file with mode 0644 in its place in one step. Raises FileExistsError unless `overwrite`."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), _PUBLIC_FILE)
            _write(stream.fileno(), content)
            os.fsync(stream.fileno())
        if overwrite:
            os.replace(name, path)
        else:
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _new_private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE), "wb")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk: a power cut would take the name of a new or renamed file with it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]
