"""The folder of a gallery: new files, one file replaced in one step, files deleted, and a lock between processes.

A change is: write new files and bring them to disk; replace the manifest; delete what the new manifest does not name.
Killed before the replacement, nothing has changed; killed after it, everything has. What was left over is deleted
before the next change.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from nodes.blocks.errors import BlocksLocked
from nodes.private_files import sync_folder

Bytes = bytes | bytearray | memoryview

LOCK = "lock"
MANIFEST = "manifest"
_PRIVATE = 0o600
_POLL_SECONDS = 0.05


def write_file(path: Path, pieces: Iterable[Bytes]) -> None:
    """Write a file, mode 0600, and bring its content to disk (not yet its name: `sync_folder`)."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:
                view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def link_file(source: Path, target: Path) -> None:
    """The same file under a second name; a copy of it on another file system."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        write_file(target, [source.read_bytes()])


def replace_file(path: Path, content: Bytes) -> None:
    """Put a file in the place of another, whole and on disk: after a crash it is the old one or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    write_file(fresh, [content])
    os.replace(fresh, path)
    sync_folder(path.parent)


def remove_all_but(folder: Path, named: Set[str]) -> None:
    """Delete the files of a folder that are neither named nor the manifest or the lock."""
    for entry in os.listdir(folder):
        if entry not in named and entry not in (LOCK, MANIFEST):
            os.unlink(folder / entry)


@contextmanager
def locked(folder: Path, seconds: float, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Hold the folder's lock: one writer at a time; readers need none. Raises `BlocksLocked` after `seconds`."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, _PRIVATE)
    try:
        deadline = clock() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock() >= deadline:
                    raise BlocksLocked(f"{folder} was being changed by another process for {seconds:g} s") from None
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(handle)
