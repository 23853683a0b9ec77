"""Copies of an SQLite store while it is in use, and back. PostgreSQL has its own: `pg_dump`, `pg_restore` (README)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nodes.private_files import copy_private, sync_folder
from nodes.store.database import Database
from nodes.store.errors import StoreCorrupted, StoreError, StoreFull, StoreLocked, StoreRefusal, StoreUnavailable
from nodes.store.gallery import lock
from nodes.store.rows import ASIDE, COPYING, FOLDER_BYTES, RowFiles, copy_folder, rows_beside
from nodes.store.subjects import utc_day, utc_seconds


def check_new(database: Database, path: Path) -> None:
    """Raise `StoreRefusal` if a copy of the store would overwrite something. Of PostgreSQL a dump may lie there."""
    rows = rows_beside(path)
    for target in (rows,) if database.path is None else (path, rows):
        if target.exists():
            raise StoreRefusal(f"{target} exists already; a copy never overwrites a file")


def back_up(database: Database, files: RowFiles, path: Path) -> None:
    """Copy one moment: an SQLite database to a new file, the templates of either to FILE.rows. Raises `StoreError`."""
    rows = rows_beside(path)
    try:
        with ExitStack() as until_done:
            with database.writing() as session:  # one moment of both: nobody changes either
                lock(session)
                staged = until_done.enter_context(files.staging())
                copies = files.copy_to(session, staged)
                reader = database.path and until_done.enter_context(closing(moment(database.path)))
            for folder in copies:
                copy_folder(folder, rows / folder.name)
            if database.path is not None:
                copy_database(database.path, path, reader or None)
    except BaseException:
        shutil.rmtree(rows, ignore_errors=True)
        raise


def moment(source: Path) -> sqlite3.Connection:
    """A connection that goes on seeing a database as it is now. Raises `StoreUnavailable`."""
    with ExitStack() as failed:
        try:
            reader = failed.enter_context(closing(sqlite3.connect(source, isolation_level=None)))
            reader.execute("PRAGMA query_only = ON")
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM store").fetchone()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{source} cannot be read ({type(error).__name__})") from None
        failed.pop_all()
    return reader


def copy_database(source: Path, target: Path, reader: sqlite3.Connection | None = None) -> None:
    """Copy one moment of an SQLite database to a new file, mode 0600, which appears whole or not at all.

    `reader`: sees the moment that is wanted (`moment`); else it is the present one.

    Writers go on meanwhile. The copy is as encrypted as its source. Raises `StoreRefusal` if the target exists,
    `StoreCorrupted` if the copy fails SQLite's integrity check, `StoreFull`, `StoreUnavailable`.
    """
    if target.exists():
        raise StoreRefusal(f"{target} exists already; a copy never overwrites a file")
    if not source.is_file():
        raise StoreUnavailable(f"{source} does not exist")
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)  # mode 0600
        temporary = Path(name)
        os.close(handle)
        _copy(source, temporary, reader)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
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


def _copy(source: Path, target: Path, reader: sqlite3.Connection | None) -> None:
    # closing(): a connection's own context manager ends a transaction and leaves the file open
    with closing(sqlite3.connect(source)) as own, closing(sqlite3.connect(target)) as writer:
        own.execute("PRAGMA query_only = ON")
        (reader or own).backup(writer)
        writer.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        result = writer.execute("PRAGMA integrity_check").fetchone()[0]
        if result != "ok":
            raise StoreCorrupted(f"the copy of {source} fails SQLite's integrity check")


State = tuple[int | None, ...]  # what differs once anything was written into a store that a restore takes over


@dataclass(frozen=True)
class CarriedOver:
    """`forgotten`: subjects deleted again. `lost`: subjects enrolled since the backup, which it does not hold.

    `unknown`: subjects of the backup of whom the store knows nothing, though their time is not over: it was itself
    restored from another backup. `state`: of the store when this was taken from it, for `replace_database`.
    """

    forgotten: int
    lost: int
    unknown: int
    state: State


def of_sqlite(error: sqlite3.DatabaseError, path: Path) -> StoreError:
    """What an error means: `StoreCorrupted` only where the file is damaged, or is not what it should be.

    Its text, which may hold values, is not repeated.
    """
    text = str(error).lower()
    if "locked" in text or "busy" in text:
        return StoreLocked(f"{path} is in use by somebody else")
    if "is full" in text:
        return StoreFull(f"no space left to read {path}")
    damaged = any(sign in text for sign in ("malformed", "not a database", "no such table", "no such column"))
    if isinstance(error, sqlite3.OperationalError) and not damaged:
        return StoreUnavailable(f"{path} cannot be read just now")
    return StoreCorrupted(f"{path} cannot be read ({type(error).__name__})")


def carry_over(current: Path, copy: Path, now: datetime) -> CarriedOver:
    """Bring into a copy what its store has done since: nobody forgotten comes back, no query is answered again.

    Claims, quotas, counts of releases, deletions, contested flags; who handled whom is chained, and taken over by
    `GalleryStore.add_handling`. Both must be of this version, and
    nobody may use them. Raises `StoreCorrupted` if either is damaged, `StoreUnavailable` if it cannot be read just
    now; then the copy is as it was.
    """
    try:
        return _carry_over(current, copy, now)
    except sqlite3.DatabaseError as error:
        raise of_sqlite(error, current) from None


def _carry_over(current: Path, copy: Path, now: datetime) -> CarriedOver:
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")  # photos go with their subjects
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("ATTACH ? AS current", (str(current),))
        connection.execute("BEGIN IMMEDIATE")
        for statement in _CARRY_OVER:
            connection.execute(statement, {"now": utc_seconds(now)})
        for statement in _FORGET_AGAIN:
            connection.execute(statement)
        (forgotten,) = connection.execute("SELECT count(*) FROM forgotten WHERE subject IS NULL").fetchone()
        (lost,) = connection.execute(_LOST).fetchone()
        (unknown,) = connection.execute(_UNKNOWN, {"today": utc_day(now).isoformat()}).fetchone()
        state = _state(connection, "current")
        connection.execute("COMMIT")
        return CarriedOver(forgotten, lost, unknown, state)


def _state(connection: sqlite3.Connection, schema: str) -> State:
    """Changes of the gallery; who handled whom, claims, quotas and releases are written without one."""
    parts = (
        "generation FROM {0}.store",
        "max(id) FROM {0}.handling",
        "count(*) FROM {0}.claimed_query",
        "max(time) FROM {0}.claimed_query",  # of a loss that was noted again
        "sum(used) FROM {0}.quota",
        "sum(times) FROM {0}.released",
    )
    return tuple(connection.execute(f"SELECT {part}".format(schema)).fetchone()[0] for part in parts)


# a subject of both is found by its number, for references have no index, and told by all of the reference
_LOST = (
    "SELECT count(*) FROM current.subject AS other WHERE subject IS NULL AND NOT EXISTS "
    "(SELECT 1 FROM main.subject AS own WHERE own.id = other.id AND own.reference = other.reference)"
)
_UNKNOWN = (
    "SELECT count(*) FROM main.subject AS own WHERE subject IS NULL AND retain_until >= :today AND NOT EXISTS "
    "(SELECT 1 FROM current.subject AS other WHERE other.id = own.id AND other.reference = own.reference)"
)
_DELETED = "(SELECT reference FROM main.deletion)"
_FORGET_AGAIN = (
    'CREATE TEMP TABLE forgotten AS SELECT id, subject, model_id, "row" FROM main.subject '  # noqa: S608
    f"WHERE reference IN {_DELETED} OR subject IN {_DELETED}",
    'INSERT OR IGNORE INTO main.gone_row SELECT model_id, "row" FROM forgotten',  # erased when the copy is opened
    "DELETE FROM main.subject WHERE id IN (SELECT id FROM forgotten)",
)
# WHERE true: else SQLite reads ON CONFLICT as a join
_CARRY_OVER = (
    "INSERT INTO main.claimed_query SELECT * FROM current.claimed_query WHERE true "
    "ON CONFLICT DO UPDATE SET time = max(time, excluded.time)",  # of two losses, the later
    "INSERT INTO main.quota SELECT * FROM current.quota WHERE true "
    "ON CONFLICT DO UPDATE SET used = max(used, excluded.used)",
    "INSERT INTO main.released SELECT * FROM current.released WHERE true "
    "ON CONFLICT DO UPDATE SET times = max(times, excluded.times)",
    "INSERT INTO main.deletion SELECT * FROM current.deletion WHERE true ON CONFLICT DO NOTHING",
    "INSERT INTO main.contested_event (subject_id, time) SELECT own.id, :now FROM current.subject AS other "
    "JOIN main.subject AS own USING (id, reference) WHERE other.contested AND NOT own.contested",
    "UPDATE main.subject SET contested = true WHERE (id, reference) IN "
    "(SELECT id, reference FROM current.subject WHERE contested)",
    "UPDATE main.store SET generation = 1 + max(generation, (SELECT generation FROM current.store)), "
    "rows = NULL, digest = NULL",  # counted when it is opened, as what was forgotten since is deleted now
)


def adopt_rows(copy: Path, source: Path, place: Path, made: list[Path]) -> None:
    """Copy the templates that belong to a copied database from `source` into `place`, beside others, under new names.

    So the database alone says which are the present ones, and replacing it replaces them. `made` gets what is made, one
    that fails halfway too. Raises `StoreCorrupted` if they are missing.
    """
    with closing(sqlite3.connect(copy)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(model)")]
        if "folder" not in columns:  # of an earlier version: they lie in the database
            return
        named = connection.execute("SELECT id, folder FROM model WHERE folder IS NOT NULL").fetchall()
        for model, folder in named:
            if not (source / folder).is_dir():
                raise StoreCorrupted(f"{source / folder} is missing: the templates of the backup lie there")
            fresh = secrets.token_hex(FOLDER_BYTES)
            made.append(place / fresh)
            copy_folder(source / folder, place / fresh)
            connection.execute("UPDATE model SET folder = ? WHERE id = ?", (fresh, model))


def bring_rows(source: Path, place: Path) -> list[Path]:
    """Copy the templates of a backup to where there are none, under their own names; gives what was made.

    Nothing where there are some: they are newer, and tell who was forgotten since. What this left when it was killed is
    no such thing: it is gone on with. Raises `StoreError`.
    """
    wanted = {folder.name for folder in source.iterdir()} if source.is_dir() else set()
    present = {folder.name for folder in place.iterdir()} if place.is_dir() else set()
    present = {name for name in present if not name.startswith(ASIDE)}
    left = {name for name in present if name.startswith(".") and name.endswith(COPYING)}
    there = present - left
    if there and not (left and there <= wanted):
        return []
    made: list[Path] = []
    try:
        for name in left:
            shutil.rmtree(place / name, ignore_errors=True)
        for name in sorted(wanted - there):
            made.append(place / name)
            copy_folder(source / name, made[-1])
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return made


def restoring(place: Path) -> Path:
    """Where a backup is made ready that is to take the place of a database."""
    return place.with_name(f".{place.name}-restoring")


def remove_database(database: Path) -> None:
    """Delete an SQLite database that nobody uses, if it is there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)


def keep_aside(path: Path, mark: str) -> list[Path]:
    """Let a database that is to be replaced lie beside its place as PATH.MARK; gives its files.

    Raises `StoreRefusal` if something lies there, `StoreFull`, `StoreUnavailable`; then nothing is put aside.
    """
    kept: list[Path] = []
    try:
        for suffix in ("", "-wal"):
            part, place = Path(f"{path}{suffix}"), Path(f"{path}.{mark}{suffix}")
            if part.is_file():
                with suppress(FileNotFoundError):  # a log goes when the last connection is closed
                    _link_or_copy(part, place)
                    kept.append(place)
    except BaseException as error:
        for place in kept:
            place.unlink()
        if isinstance(error, OSError):
            raise _not_put_aside(path, error) from None
        raise
    return kept


def _not_put_aside(path: Path, error: OSError) -> StoreError:
    if isinstance(error, FileExistsError):
        return StoreRefusal(f"{error.filename2 or error.filename} exists already")
    kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreUnavailable
    return kind(f"{path} cannot be put aside: {error.strerror}")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (
            errno.EPERM,
            errno.EOPNOTSUPP,
            errno.ENOSYS,
            errno.EMLINK,
        ):  # a file system without links
            raise
        copy_private(source, target)


def replace_database(path: Path, fresh: Path, state: State | None = None) -> None:
    """Put a database that nobody uses in the place of another, which is in a `state` still.

    Raises `StoreLocked` while anybody uses either, or if the other was changed since.
    """
    for database in (fresh, path):
        if not database.exists():
            continue
        try:
            with closing(sqlite3.connect(database, timeout=1)) as connection:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # once locked, it is until it is closed
                connection.execute("PRAGMA journal_mode = DELETE")  # fails as long as somebody else has it open
                if database == path and state is not None:
                    connection.isolation_level = None
                    connection.execute("BEGIN EXCLUSIVE")  # nobody changes it until it is replaced
                    if _state(connection, "main") != state:
                        raise StoreLocked(f"{path} was changed meanwhile: give the command again")
                    fresh.replace(path)
                    sync_folder(path.parent)
                    return
        except sqlite3.OperationalError as error:
            raise StoreLocked(f"{database} is in use: {error}") from None
        except sqlite3.DatabaseError:  # damaged: what is to be replaced
            for suffix in ("-wal", "-shm"):
                Path(f"{database}{suffix}").unlink(missing_ok=True)
    fresh.replace(path)
    sync_folder(path.parent)
