"""Copies of an SQLite store while it is in use, and back. PostgreSQL has its own: `pg_dump`, `pg_restore` (README)."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from nodes.store.errors import StoreCorrupted, StoreFull, StoreRefusal, StoreUnavailable


def copy_database(source: Path, target: Path) -> None:
    """Copy one moment of an SQLite database to a new file, mode 0600, which appears whole or not at all.

    Writers go on meanwhile. The copy is as encrypted as its source. Raises `StoreRefusal` if the target exists,
    `StoreCorrupted` if the copy fails SQLite's integrity check, `StoreFull`, `StoreUnavailable`.
    """
    if target.exists():
        raise StoreRefusal(f"{target} exists already, a copy never overwrites")
    if not source.is_file():
        raise StoreUnavailable(f"{source} does not exist")
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)  # mode 0600
        temporary = Path(name)
        os.close(handle)
        _copy(source, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except sqlite3.DatabaseError as error:
        text = str(error).lower()
        if "full" in text:
            raise StoreFull(f"no space for a copy at {target}") from error
        if "malformed" in text or "not a database" in text:
            raise StoreCorrupted(f"{source} is damaged or is not a database") from error
        raise StoreUnavailable(f"{source} cannot be copied to {target}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"{target} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    # closing(): a connection's own context manager ends a transaction and leaves the file open
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.execute("PRAGMA query_only = ON")
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        result = writer.execute("PRAGMA integrity_check").fetchone()[0]
        if result != "ok":
            raise StoreCorrupted(f"the copy of {source} fails SQLite's integrity check")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
