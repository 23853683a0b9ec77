"""Locks, full disks, lost connections and other faults of the database are reported, and nothing is half done."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import create_engine, event, text

from nodes.store import Status, StoreCorrupted, StoreError, StoreFull, StoreLocked, StoreRefusal, StoreUnavailable
from nodes.store.backup import moment
from nodes.store.database import typed_errors
from nodes.store.store import GalleryStore
from pets.errors import InputError
from tests.kit.postgres import PostgresServer
from tests.kit.stores import KEY, TODAY, WHAT, database_name, enrol_one, open_store, sql, templates


def test_lock_held_by_somebody_else_is_reported(url: str) -> None:
    with open_store(url, lock_seconds=0.2) as store:
        enrol_one(store)
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as other:
            if engine.dialect.name == "sqlite":
                other.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                other.exec_driver_sql("LOCK TABLE store, quota IN ACCESS EXCLUSIVE MODE")
            for work in (lambda: enrol_one(store, 1), lambda: store.take_quota("FR", Status.IDENTIFIED, TODAY, 9)):
                with pytest.raises(StoreLocked):
                    work()
            other.rollback()
        engine.dispose()
        enrol_one(store, 1)
        assert store.count() == 2


def test_full_database_is_reported_and_the_step_undone(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store)
        limit = [60]
        engine = store._database.engine
        event.listen(engine, "checkout", lambda dbapi, *_: dbapi.execute(f"PRAGMA max_page_count = {limit[0]}"))
        with pytest.raises(StoreFull):
            store.enrol_many(templates(3000), **WHAT)
        assert (store.count(), store.generation) == (1, 1)
        limit[0] = 1_000_000
        store.enrol_many(templates(3000), **WHAT)
        assert store.count() == 3001


def test_disk_that_takes_no_more_bytes_is_reported_and_the_step_undone(sqlite_url: str) -> None:
    code = f"""
import pytest, resource
from nodes.store import StoreUnavailable
from tests.kit.stores import WHAT, enrol_one, open_store, templates
with open_store({sqlite_url!r}) as store:
    enrol_one(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    with pytest.raises(StoreUnavailable) as caught:
        store.enrol_many(templates(5000), **WHAT)
    assert "planted" not in str(caught.value), caught
    assert (store.count(), store.generation) == (1, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.enrol_many(templates(5000), **WHAT)
    assert store.count() == 5001
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_database_that_is_none_or_cannot_be_reached_is_reported(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 1000)
    with pytest.raises(StoreCorrupted):
        open_store(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(StoreUnavailable):
        open_store(f"sqlite:///{tmp_path}/no/such/folder.db")
    with pytest.raises(StoreUnavailable) as caught:
        open_store(f"postgresql://somebody:planted@/x?host={tmp_path}")
    assert "planted" not in str(caught.value)
    for bad in ("sqlite://", "sqlite:///:memory:", "mysql://u:planted@h/d", "planted"):
        with pytest.raises(InputError) as refused:
            open_store(bad)
        assert "planted" not in str(refused.value)


def test_store_of_another_state_is_refused(url: str) -> None:
    open_store(url).close()
    with pytest.raises(StoreRefusal, match="belongs to ES, not to DE"):
        GalleryStore(url, KEY, state="DE")


def test_messages_of_the_database_are_not_repeated(url: str) -> None:
    statement = text("INSERT INTO deletion (reference, time) VALUES (:r, 1), (:r, 2)")
    with open_store(url) as store, store._database.reading() as session:
        with pytest.raises(StoreError) as caught, typed_errors():
            session.execute(statement, {"r": "planted reference"})
        session.rollback()
    assert "planted" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_lost_connections_are_replaced(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with open_store(url) as store:
        enrol_one(store)
        sql(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = :n",
            n=database_name(url),
        )
        assert store.count() == 1


def test_sqlite_connections_are_as_documented(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store, store._database.engine.connect() as connection:
        values = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("synchronous", "foreign_keys")}
        assert values == {"synchronous": 2, "foreign_keys": 1}
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert os.path.exists(sqlite_url.removeprefix("sqlite:///"))


class Kept(sqlite3.Connection):
    """One that says whether it was closed."""

    made: ClassVar[list[Kept]] = []

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.closed = False
        self.made.append(self)

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Kept]:
    """Those that are made from now on."""
    monkeypatch.setattr(Kept, "made", [])
    monkeypatch.setattr(sqlite3.dbapi2, "connect", partial(sqlite3.connect, factory=Kept))
    monkeypatch.setattr(sqlite3, "connect", sqlite3.dbapi2.connect)
    return Kept.made


def test_a_connection_in_use_when_the_store_is_closed_is_closed_when_it_is_given_back(
    sqlite_url: str, connections: list[Kept]
) -> None:
    with open_store(sqlite_url) as store, store._database.reading() as session:
        session.execute(text("SELECT 1"))
        store._database.close()
        assert [one.closed for one in connections].count(False) == 1, "the control: it is in use"
    assert connections
    assert all(one.closed for one in connections)


def test_nothing_stays_open_of_a_file_that_is_no_database(sqlite_url: str, connections: list[Kept]) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    path.write_bytes(b"no database at all, but quite some bytes" * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError):
        open_store(sqlite_url)
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        moment(path)
    assert len(connections) >= 2
    assert all(one.closed for one in connections)
