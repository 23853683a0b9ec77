"""What block files raise.

::

    BlocksError
    ├── BlocksUnavailable           a file cannot be read or written
    │   └── BlocksFull              no space left; nothing was changed
    ├── BlocksCorrupted             a file does not decrypt, is missing, or holds what was never written
    ├── BlocksLocked                another process changes the gallery for longer than the limit
    └── BlocksRefusal               refused data (also an `InputError`)
        ├── UnknownRow              no such row
        ├── UnknownVersion          no such version, or no longer
        ├── RunConflict             an interrupted enrolment was continued as something else
        └── NoRoom                  the address space set aside at start is used up

No message holds an entry of a template.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pets.errors import InputError, LineupError


class BlocksError(LineupError):
    """Base of everything block files raise."""


class BlocksUnavailable(BlocksError):
    """A file of the gallery cannot be read or written."""


class BlocksFull(BlocksUnavailable):
    """No space is left on the device. The gallery is as it was."""


class BlocksCorrupted(BlocksError):
    """A file of the gallery was damaged, exchanged or deleted."""


class BlocksLocked(BlocksError):
    """Another process is changing the gallery."""


class BlocksRefusal(BlocksError, InputError):
    """Refused data or settings."""


class UnknownRow(BlocksRefusal):
    """A row number that was never given, or whose row is gone."""


class UnknownVersion(BlocksRefusal):
    """A version that never was, is no longer kept, or lies before a compaction."""


class RunConflict(BlocksRefusal):
    """An enrolment was continued with another number of rows, or by two processes at once."""


class NoRoom(BlocksRefusal):
    """The gallery has outgrown the address space that was set aside when it was opened."""


@contextmanager
def typed_errors(what: str) -> Iterator[None]:
    """Turn OSError into `BlocksError`."""
    try:
        yield
    except OSError as error:
        name = error.filename or what
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BlocksFull(f"no space left to write {name}") from error
        raise BlocksUnavailable(f"{name}: {error.strerror}") from error
