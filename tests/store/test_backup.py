"""Migrations of the database, its backups, and what is read back."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nodes import private_files
from nodes.blocks.files import link_file
from nodes.store import (
    DuplicatePhoto,
    QueryReplayed,
    StorageKey,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreRefusal,
    StoreUnavailable,
    StoreVersionError,
    WrongStorageKey,
    backup,
)
from nodes.store import rows as row_files
from nodes.store.backup import adopt_rows, bring_rows, copy_database, keep_aside, replace_database
from nodes.store.database import Database
from nodes.store.migrations import upgrade
from tests.kit.postgres import PostgresServer
from tests.kit.stores import (
    KEY,
    MODEL,
    NOW,
    WHAT,
    database_name,
    enrol_one,
    enrolling,
    open_store,
    rows_folder,
    sql,
    templates,
)

# Migrations


def test_old_version_is_brought_up_with_its_data(url: str) -> None:
    database = Database(url)
    upgrade(database, "0001")
    database.close()
    reference = "ES-" + "a" * 32
    row = templates(1)[0]
    for statement in (
        "INSERT INTO store (id, state, generation) VALUES (1, 'ES', 7)",
        "INSERT INTO storage_key (fingerprint, check_value) VALUES (:fingerprint, :check)",
        "INSERT INTO model (digest, dim) VALUES (:model, 64)",
        "INSERT INTO subject (reference, category, status, retain_until, model_id, key_id, template)"
        " VALUES (:reference, 'convicted', 'identified', '2031-01-01', 1, 1, :template)",
        "INSERT INTO photo (subject_id, mac, sealed) VALUES (1, :mac, :photo)",
        "INSERT INTO claimed_query (query_id, step, digest, time) VALUES (:query, 'query', :query, 1)",
    ):
        values = {
            "fingerprint": KEY.fingerprint,
            "check": KEY.seal(b"blind-lineup storage key check", "check", KEY.fingerprint),
            "model": MODEL,
            "reference": reference,
            "template": KEY.seal(row.tobytes(), "template", reference, MODEL),
            "mac": KEY.mac("photo", b"photo"),
            "photo": KEY.seal(b"photo", "photo", reference),
            "query": b"q" * 32,
        }
        sql(url, statement, **{name: value for name, value in values.items() if f":{name}" in statement})
    with open_store(url) as store:
        snapshot = store.snapshot(NOW)
        assert (snapshot.references, snapshot.generation) == ((reference,), 9)
        assert (snapshot.templates == row).all()
        assert store.photo(reference) == b"photo"
        assert not store.subject(reference).contested
        assert store.subject(reference).enrolled is None
        assert store.photo_names(reference) == ()
        with pytest.raises(DuplicatePhoto):
            enrol_one(store, photo=b"photo")
        with pytest.raises(QueryReplayed):
            store.claim_query(b"q" * 32, b"d" * 32, NOW)


def test_failed_migration_leaves_the_database_as_it_was(url: str) -> None:
    database = Database(url)
    upgrade(database, "0001")
    sql(url, "CREATE TABLE enrolment_run (id INTEGER)")  # the last thing version 2 wants to create
    with pytest.raises(StoreError):
        upgrade(database)
    database.close()
    assert sql(url, "SELECT version_num FROM alembic_version") == [("0001",)]
    sql(url, "DROP TABLE enrolment_run")
    with open_store(url) as store:
        enrol_one(store)


def test_database_of_a_newer_version_is_refused(url: str) -> None:
    open_store(url).close()
    sql(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreVersionError, match="9999"):
        open_store(url)


def test_new_database_may_be_opened_by_many_at_once(url: str) -> None:
    def open_and_enrol(number: int) -> None:
        with open_store(url) as store:
            enrol_one(store, number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_and_enrol, range(4)))
    with open_store(url) as store:
        assert store.count() == 4


def test_who_opens_a_new_database_waits_for_who_writes_in_it_and_not_for_ever(sqlite_url: str, tmp_path: Path) -> None:
    """SQLite itself waits for no writer when it begins a log beside a file."""
    with closing(sqlite3.connect(tmp_path / "store.db", check_same_thread=False)) as writer:
        writer.isolation_level = None
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked):
            open_store(sqlite_url, lock_seconds=0.2)
        ends = threading.Timer(0.5, writer.rollback)
        ends.start()
        with open_store(sqlite_url) as store:
            assert store.count() == 0
        ends.join()


# Backup and restore


def test_backup_during_enrolment_is_restored_and_read(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url) as store:
        kept, gone = enrol_one(store, 1, b"photo"), enrol_one(store, 2)
        with enrolling(store):
            store.backup(tmp_path / "backup.db")
        store.forget(gone, NOW)
        forgotten = store.deletions()
        with pytest.raises(StoreRefusal, match="never overwrites"):
            store.backup(tmp_path / "backup.db")
    assert stat.S_IMODE((tmp_path / "backup.db").stat().st_mode) == 0o600
    shutil.rmtree(tmp_path / "store.db.rows")
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    copy_database(tmp_path / "backup.db", tmp_path / "store.db")
    adopt_rows(tmp_path / "store.db", tmp_path / "backup.db.rows", tmp_path / "store.db.rows", [])
    with open_store(sqlite_url) as store:
        snapshot = store.snapshot(NOW)
        assert snapshot.references[:2] == (kept, gone)  # back from the dead, until the list is applied
        assert len(snapshot.references) == 2 + 64 * (snapshot.generation - 2)
        assert [receipt.reference for receipt in store.forget_all(forgotten, NOW)] == [gone]
        assert gone not in store.snapshot(NOW).references
        assert store.photo(kept) == b"photo"
    with pytest.raises(WrongStorageKey):
        open_store(f"sqlite:///{tmp_path}/backup.db", StorageKey(b"w" * 32))
    assert not list(tmp_path.glob(".*"))


def test_pg_dump_is_restored_and_read(postgres: PostgresServer, tmp_path: Path) -> None:
    old, new = postgres.new_database(), postgres.new_database()
    with open_store(old) as store:
        reference = enrol_one(store, photo=b"photo")
        store.backup(tmp_path / "backup")
        assert not (tmp_path / "backup").exists(), "that is for pg_dump"
        assert [one.name for one in tmp_path.iterdir()] == ["backup.rows"]
        store.enrol_many(templates(64), **WHAT)
        with enrolling(store):
            postgres.run("pg_dump", "--format=custom", f"--file={tmp_path}/dump", database_name(old))
    postgres.run("pg_restore", f"--dbname={database_name(new)}", "--exit-on-error", str(tmp_path / "dump"))
    with open_store(old) as store:
        store.enrol_many(templates(5), **WHAT)
        gone = store.snapshot(NOW).references[40]  # the dump holds it
        store.forget(gone, NOW)
        for seed in range(6):  # more than a crash may leave the database behind
            enrol_one(store, seed)
    rows = rows_folder(old)  # goes on: the database that is restored is older than it
    with pytest.raises(StoreCorrupted, match="the database is an older one"):
        open_store(new, rows=rows)
    with open_store(new, rows=rows, ahead=True) as store:
        assert gone in store.subject(gone).reference, "the dump brought it back"
        found = store.reconcile(NOW)
        assert [receipt.reference for receipt in found.forgotten] == [gone]
        assert found.lost >= 11
        assert gone not in store.snapshot(NOW).references, "who was forgotten since the dump is forgotten again"
        assert store.verify().rows == store.count()
    with open_store(new, rows=rows) as store:
        snapshot = store.snapshot(NOW)
        assert snapshot.references[0] == reference
        assert len(snapshot.references) % 64 == 0
        assert store.photo(reference) == b"photo"
        enrol_one(store, 9)  # numbering goes on after the restored rows


def test_nobody_comes_between_the_lock_of_a_database_and_its_replacement(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they wrote would be lost, and their log would lie beside a database that it is not of."""
    path, fresh = tmp_path / "store.db", tmp_path / "fresh.db"
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        copy_database(path, fresh)
    with closing(sqlite3.connect(path)) as connection:
        state = backup._state(connection, "main")
    came: list[object] = []

    class Watched(sqlite3.Connection):
        def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
            if statement == "BEGIN EXCLUSIVE":
                try:
                    came.append(open_store(sqlite_url, lock_seconds=0.2))
                except StoreError as error:
                    came.append(error)
            return super().execute(statement, *given)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    replace_database(path, fresh, state)
    assert [type(one) for one in came] == [StoreLocked]
    assert [one.name for one in tmp_path.glob("*.db-*")] == []
    with open_store(sqlite_url) as store:
        assert store.verify(whole=True).rows == 1


def test_damaged_backup_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url) as store:
        store.enrol_many(templates(500), **WHAT)
        store.backup(tmp_path / "backup.db")
    raw = bytearray((tmp_path / "backup.db").read_bytes())
    raw[4096 * 20 : 4096 * 24] = secrets.token_bytes(4096 * 4)
    (tmp_path / "bad.db").write_bytes(raw)
    (tmp_path / "text.db").write_text("no database " * 1000)
    for name in ("bad.db", "text.db"):
        with pytest.raises(StoreCorrupted):
            copy_database(tmp_path / name, tmp_path / "new.db")
        assert not (tmp_path / "new.db").exists()
    with pytest.raises(StoreUnavailable):
        copy_database(tmp_path / "none.db", tmp_path / "new.db")
    with pytest.raises(StoreUnavailable):
        copy_database(tmp_path / "backup.db", tmp_path / "no" / "folder.db")


class Killed(BaseException):
    """The process ends here: nothing that follows in it happens."""


@pytest.mark.parametrize("after", range(4))
def test_templates_are_brought_whole_after_one_that_was_killed(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, place = tmp_path / "backup.rows", tmp_path / "store.rows"
    for name in ("ab" * 8, "cd" * 8):
        (source / name).mkdir(parents=True)
        for part in ("blocks", "manifest"):
            (source / name / part).write_text(name)
    copied: list[tuple[Path, ...]] = []

    def killed(*files: Path) -> None:
        if len(copied) == after:
            raise Killed
        copied.append(files)
        link_file(*files)

    with monkeypatch.context() as patch:
        patch.setattr(row_files, "link_file", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            bring_rows(source, place)
    assert any(path.name.endswith("-copying") for path in place.iterdir()), "the control: it left something"
    assert bring_rows(source, place)
    held = {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}
    assert held == {f"{name}/{part}": name for name in ("ab" * 8, "cd" * 8) for part in ("blocks", "manifest")}
    assert {path.name for path in place.iterdir()} == {"ab" * 8, "cd" * 8}


def test_templates_are_not_brought_over_others(tmp_path: Path) -> None:
    """Those tell who was forgotten since; also with what another copy left beside them."""
    source, place = tmp_path / "backup.rows", tmp_path / "store.rows"
    (source / ("ab" * 8)).mkdir(parents=True)
    (place / ("ef" * 8)).mkdir(parents=True)
    (place / f".{'ab' * 8}-copying").mkdir()
    assert bring_rows(source, place) == []
    assert not (place / ("ab" * 8)).exists()


# Put aside


@pytest.fixture
def no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with a log, on a file system that has no second names for a file."""

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    for name in ("kept.db", "kept.db-wal"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        (tmp_path / name).chmod(0o600)
    return tmp_path / "kept.db"


def test_a_copy_that_is_put_aside_is_nobody_elses_from_its_first_moment(
    no_links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    def watched(source: Any, target: Any) -> None:
        modes.append(stat.S_IMODE(os.fstat(target.fileno()).st_mode))
        target.write(source.read())

    monkeypatch.setattr(private_files.shutil, "copyfileobj", watched)
    before = os.umask(0)
    try:
        kept = keep_aside(no_links, "lost-1")
        (no_links.with_name("control")).write_bytes(b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(no_links.with_name("control").stat().st_mode) == 0o666, "what a plain copy begins with"
    assert modes == [0o600, 0o600]
    assert [path.read_bytes() for path in kept] == [b"kept.db" * 1000, b"kept.db-wal" * 1000]
    with pytest.raises(StoreRefusal, match=r"kept.db.lost-1 exists already"):
        keep_aside(no_links, "lost-1")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreUnavailable)])
def test_what_cannot_be_put_aside_whole_is_not_put_aside(
    number: int, kind: type[StoreError], no_links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfileobj

    def fails_at_the_log(source: Any, target: Any) -> None:
        if source.name.endswith("-wal"):
            raise OSError(number, os.strerror(number))
        copy(source, target)

    monkeypatch.setattr(private_files.shutil, "copyfileobj", fails_at_the_log)
    with pytest.raises(kind, match=r"kept.db cannot be put aside"):
        keep_aside(no_links, "lost-1")
    assert not list(no_links.parent.glob("*.lost-1*"))
