"""Append-only files of byte strings that survive a crash at any moment, and the lock that keeps a second writer out.

What was flushed before a crash stays readable, and a half-written end is recognised.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from nodes.logs.errors import LogInUse, LogUnusable

_FRAME = struct.Struct(">II")  # length of the payload, CRC-32 over length and payload


def create_file(path: Path, content: bytes = b"") -> None:
    """A new file that only its owner may read, flushed. Raises `FileExistsError`."""
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class FrameFile:
    """An append-only file of byte strings. Before anything else, read it through with `scan`."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = path.open("r+b")
        self._limit = limit
        self._starts = array("Q")
        self._end = 0

    def __len__(self) -> int:
        return len(self._starts)

    def scan(self) -> Iterator[bytes]:
        """Every payload, up to the first place that is not a whole frame."""
        self._file.seek(0)
        while len(head := self._file.read(_FRAME.size)) == _FRAME.size:
            length, check = _FRAME.unpack(head)
            if not 0 < length <= self._limit:
                return
            payload = self._file.read(length)
            if len(payload) < length or _checksum(payload) != check:
                return
            self._starts.append(self._end)
            self._end += _FRAME.size + length
            yield payload

    @property
    def torn_bytes(self) -> int:
        """How much stands after the last whole frame."""
        return self._file.seek(0, os.SEEK_END) - self._end

    def torn_by_one_write(self) -> bool:
        """Whether what stands after the last whole frame can be one unfinished frame, and not several broken ones."""
        self._file.seek(self._end)
        head = self._file.read(_FRAME.size)
        if len(head) < _FRAME.size or not any(head):
            return not any(self._file.read())
        length = int(_FRAME.unpack(head)[0])
        return length <= self._limit and self.torn_bytes <= _FRAME.size + length

    def drop_torn(self) -> None:
        """Cut off what stands after the last whole frame."""
        if self.torn_bytes:
            self._file.truncate(self._end)
            self._flush()

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add frames in one write and flush them."""
        for payload in payloads:
            if not 0 < len(payload) <= self._limit:
                raise ValueError(f"a frame carries 1 to {self._limit} bytes, got {len(payload)}")
        self._file.seek(self._end)
        self._file.write(b"".join(_FRAME.pack(len(payload), _checksum(payload)) + payload for payload in payloads))
        self._flush()
        for payload in payloads:
            self._starts.append(self._end)
            self._end += _FRAME.size + len(payload)

    def read(self, index: int) -> bytes:
        """Payload `index` as it now stands on disk. The checksum is not looked at: callers have a better one."""
        end = self._starts[index + 1] if index + 1 < len(self) else self._end
        start = self._starts[index] + _FRAME.size
        self._file.seek(start)
        return self._file.read(end - start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def lock_folder(folder: Path) -> int:
    """Take the folder's lock; closing the returned handle gives it back. Raises `LogUnusable`."""
    try:
        handle = os.open(folder / "lock", os.O_RDWR)
    except OSError as error:
        raise LogUnusable(f"{folder} is not a log: {error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise LogInUse(f"{folder} is in use by another process: is the node running already?") from None
    return handle


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(4, "big")))
