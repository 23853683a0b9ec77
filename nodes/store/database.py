"""One database: SQLite in a file, or PostgreSQL. Transactions that read, transactions that write, typed errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry

from nodes.store.errors import StoreCorrupted, StoreError, StoreFull, StoreLocked, StoreRefusal, StoreUnavailable

BEGIN = "lineup_begin"  # execution option: how SQLite begins a transaction; "" for none
CHECKPOINT_MILLISECONDS = 1000
BUSY_SECONDS = 30.0
SQLITE_PRAGMAS = (
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",
    "trusted_schema = OFF",
    "cache_size = -65536",  # KiB
)


class Database:
    """Engine and transactions.

    `url`: `sqlite:////absolute/file.db`, or `postgresql://user@host/name`. A new SQLite file is readable by its owner
    only; it runs with a write-ahead log, full synchronisation, foreign keys, and overwrites what is deleted.
    `lock_seconds`: how long to wait for others. Raises `StoreRefusal` for another kind of URL, `StoreUnavailable`.
    """

    def __init__(self, url: str, *, lock_seconds: float = BUSY_SECONDS) -> None:
        parsed = _parse(url)
        self.path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
        self.lock_seconds = lock_seconds
        self._closed = False
        # one writer at a time inside this process, in turn: SQLite's own waiting is unfair and wakes late
        self._turn = threading.Lock() if self.path else None
        if self.path:
            _create_private(self.path)
            self.engine = create_engine(
                parsed, hide_parameters=True, connect_args={"timeout": lock_seconds}, pool_timeout=lock_seconds
            )
            event.listen(self.engine, "connect", self._set_up_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
            self._reader = self.engine
        else:
            self.engine = create_engine(
                parsed, hide_parameters=True, pool_pre_ping=True, pool_timeout=lock_seconds, pool_size=10
            )
            event.listen(self.engine, "connect", self._set_up_postgresql)
            self._reader = self.engine.execution_options(isolation_level="REPEATABLE READ")
        event.listen(self.engine, "checkin", self._take_back)
        self._writer = self.engine.execution_options(**{BEGIN: "BEGIN IMMEDIATE"})

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one moment of the database. Raises `StoreError`."""
        with typed_errors(), Session(self._reader) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that takes effect whole or not at all. Raises `StoreError`."""
        with self._take_turn(), typed_errors(), Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction for migrations. SQLite changes a table by putting another in its place: what hangs on the old
        one is not deleted with it."""
        with self._take_turn(), typed_errors(), self._writer.connect() as connection:
            driver: Any = connection.connection.driver_connection
            if self.path:
                driver.execute("PRAGMA foreign_keys = OFF")  # in a transaction it would have no effect
            try:
                with connection.begin():
                    yield connection
            finally:
                if self.path:
                    driver.execute("PRAGMA foreign_keys = ON")

    def wipe_log(self) -> None:
        """Bring deletions from SQLite's write-ahead log into the file, and empty the log, unless a reader needs it."""
        if not self.path:
            return
        with typed_errors(), self.engine.execution_options(**{BEGIN: ""}).connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
            try:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * self.lock_seconds)}")

    def check(self, whole: bool) -> None:
        """SQLite's own check of the file, the quick one or the `whole` one. Raises `StoreCorrupted`."""
        if not self.path:
            return
        pragma = "integrity_check" if whole else "quick_check"
        with typed_errors(), self.engine.execution_options(**{BEGIN: ""}).connect() as connection:
            found = connection.exec_driver_sql(f"PRAGMA {pragma}(1)").scalar_one()
        if found != "ok":
            raise StoreCorrupted(f"{self.path} fails SQLite's {pragma}")

    def close(self) -> None:
        """Close all connections; one that is in use when it is given back."""
        self._closed = True
        self.engine.dispose()

    def _take_back(self, _connection: object, record: ConnectionPoolEntry) -> None:
        if self._closed:
            record.invalidate()

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=self.lock_seconds):
            raise StoreLocked(f"other writers of this process took longer than {self.lock_seconds} s")
        try:
            yield
        finally:
            self._turn.release()

    def _set_up_sqlite(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin in `_begin_sqlite`
        try:
            for pragma in SQLITE_PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._use_log(connection)
        except BaseException:
            connection.close()  # SQLAlchemy leaves it open where a set-up fails
            raise

    def _use_log(self, connection: Any) -> None:
        """SQLite does not wait here: of several that open a new file at once, some would be told that it is locked."""
        deadline = time.monotonic() + self.lock_seconds
        while True:
            try:
                if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                    return
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                if mode != "wal":
                    raise StoreUnavailable(f"the file system of {self.path} supports no write-ahead log (got {mode!r})")

    def _set_up_postgresql(self, connection: Any, _record: object) -> None:
        connection.autocommit = True  # else a rollback would undo the settings
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {round(1000 * self.lock_seconds)}")
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute("SET DateStyle = 'ISO, YMD'")  # days are digested as text (`nodes.store.content`)
        connection.autocommit = False


def is_empty(url: str) -> bool:
    """Whether a database has no tables yet: opening it as a store would make them. Raises `StoreError`."""
    database = Database(url)
    try:
        with database.reading() as session:
            return not inspect(session.connection()).get_table_names()
    finally:
        database.close()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError:  # its text repeats the URL, which may hold a password
        raise StoreRefusal(
            "the storage URL is malformed; examples: sqlite:////var/lib/lineup/store.db, "
            "postgresql://lineup@db.example/lineup"
        ) from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StoreRefusal("SQLite needs a file, as in sqlite:////var/lib/lineup/store.db")
        return parsed
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise StoreRefusal(f"the storage is SQLite or PostgreSQL, got {backend!r}")


def _create_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # the log beside it gets the same mode
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be opened: {error.strerror}") from error


def _begin_sqlite(connection: Connection) -> None:
    statement = connection.get_execution_options().get(BEGIN, "BEGIN")
    if statement:
        connection.exec_driver_sql(statement)


def is_postgresql(engine: Engine | Connection) -> bool:
    """Whether the database is PostgreSQL (else SQLite)."""
    return engine.dialect.name == "postgresql"


def insert_into(session: Session, table: type[DeclarativeBase]) -> Any:
    """An INSERT that knows `on_conflict_do_update` and `on_conflict_do_nothing`, which both databases have."""
    return (postgresql if is_postgresql(session.connection()) else sqlite).insert(table)


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn database errors into `StoreError`, without the cause: its text may hold values."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _typed(error) from None


_LOCKED = {"55P03", "57014", "40001", "40P01"}
_FULL = {"53000", "53100"}
_CORRUPTED = {"XX001", "XX002"}


def _typed(error: SQLAlchemyError) -> StoreError:
    if isinstance(error, PoolTimeout):
        return StoreLocked("all database connections were busy for longer than the limit")
    if not isinstance(error, DBAPIError):
        return StoreError(f"the database cannot be used: {type(error).__name__}")
    # PostgreSQL tells a code, SQLite a fixed text; PostgreSQL's texts may quote values and are not repeated
    state = getattr(error.orig, "sqlstate", None)
    text = "" if state else str(error.orig).lower()
    if state in _LOCKED or "is locked" in text or "lock timeout" in text:
        return StoreLocked("the database was locked by somebody else for longer than the limit")
    if state in _FULL or "disk is full" in text:
        return StoreFull("the disk is full; nothing of this step was stored")
    if state in _CORRUPTED or "malformed" in text or "not a database" in text:
        return StoreCorrupted("the database file is damaged or is not a database")
    reason = f"{type(error.orig).__name__}" + (f" {state}" if state else "")
    if isinstance(error, (OperationalError, InterfaceError)):
        return StoreUnavailable(f"the database is unavailable ({reason}); nothing of this step was stored")
    return StoreError(f"the database refused a statement ({reason}); nothing of this step was stored")
