"""The holder's storage: the same test bodies on SQLite and on a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, event, text

from nodes.store import (
    Category,
    CategoryNotAllowed,
    DuplicatePhoto,
    EmptyStore,
    EnrolmentConflict,
    GalleryStore,
    QueryReplayed,
    QuotaExceeded,
    Status,
    StorageKey,
    StorageKeyError,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreRefusal,
    StoreUnavailable,
    StoreVersionError,
    UnknownReference,
    WrongStorageKey,
)
from nodes.store import store as store_module
from nodes.store.backup import copy_database
from nodes.store.database import Database
from nodes.store.errors import typed_errors
from nodes.store.migrations import upgrade
from nodes.store.tables import Base
from pets.errors import InputError, ModelMismatch, TemplateError
from pets.params import N4096, norm_bound
from tests.postgres import PostgresServer, find_binaries, why_not

DIM = 64
MODEL = bytes(range(32))
NOW = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
TODAY = NOW.date()
LATER = date(2031, 1, 1)
KEY = StorageKey(b"k" * 32)
LAW = dict.fromkeys(Category, "National Act 1/2025, section 3")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    with PostgresServer(binaries) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_schema()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def open_store(url: str, key: StorageKey = KEY, **options: Any) -> GalleryStore:
    return GalleryStore(url, key, state="ES", **options)


@pytest.fixture
def store(url: str) -> Iterator[GalleryStore]:
    with open_store(url) as opened:
        yield opened


def templates(rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int8]]:
    wide = np.random.default_rng(seed).standard_normal((rows, dim))
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: np.ndarray[Any, np.dtype[np.int8]] = (
        np.rint(unit * norm_bound(dim) ** 0.5 * 0.9).clip(-127, 127).astype(np.int8)
    )
    return scaled


WHAT: dict[str, Any] = {
    "category": Category.SUSPECT,
    "status": Status.IDENTIFIED,
    "retain_until": LATER,
    "model": MODEL,
}


def enrol_one(store: GalleryStore, seed: int = 0, photo: bytes | None = None, **changes: Any) -> str:
    return store.enrol(photo, templates(1, seed=seed)[0], **{**WHAT, **changes})


def sql(url: str, statement: str, **values: object) -> list[Any]:
    """Go behind the store's back."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []
    finally:
        engine.dispose()


# Enrolment and the gallery


def test_enrolled_subject_is_in_the_next_snapshot(store: GalleryStore) -> None:
    photo = secrets.token_bytes(5000)
    first = enrol_one(store, 1, photo, quality=71)
    second = enrol_one(store, 2)
    snapshot = store.snapshot(NOW)
    assert snapshot.references == (first, second)
    assert (snapshot.templates == np.concatenate([templates(1, seed=1), templates(1, seed=2)])).all()
    assert (snapshot.model, snapshot.generation, snapshot.valid_through) == (MODEL, 2, LATER)
    assert snapshot.templates.dtype == np.int8
    assert store.photo(first) == photo
    assert store.photo(second) is None
    subject = store.subject(first)
    assert (subject.category, subject.status, subject.quality) == (Category.SUSPECT, Status.IDENTIFIED, 71)
    assert (subject.model, subject.has_photo, subject.contested) == (MODEL, True, False)
    assert not store.subject(second).has_photo


def test_reference_is_random_and_names_only_the_state(store: GalleryStore) -> None:
    same = templates(1)[0]
    references = {store.enrol(None, same, **WHAT) for _ in range(3)}
    assert len(references) == 3
    assert all(re.fullmatch(r"ES-[0-9a-f]{32}", reference) for reference in references)


def test_data_survive_closing_and_opening(url: str) -> None:
    with open_store(url) as store:
        reference = enrol_one(store, photo=b"photo")
    with open_store(url) as store:
        assert store.snapshot(NOW).references == (reference,)
        assert store.photo(reference) == b"photo"


def test_same_photo_is_refused_and_the_reference_named(store: GalleryStore) -> None:
    reference = enrol_one(store, photo=b"the photo")
    with pytest.raises(DuplicatePhoto, match=reference) as caught:
        enrol_one(store, 1, photo=b"the photo")
    assert caught.value.reference == reference
    assert store.count() == 1
    assert store.find_photo(b"the photo") == reference
    assert store.find_photo(b"another") is None


def test_one_photo_from_many_threads_is_enrolled_once(store: GalleryStore) -> None:
    def attempt(_: int) -> str:
        try:
            return enrol_one(store, photo=b"one photo")
        except DuplicatePhoto:
            return ""

    with ThreadPoolExecutor(8) as pool:
        assert len([r for r in pool.map(attempt, range(16)) if r]) == 1
    assert store.count() == 1


@pytest.mark.parametrize("category", [Category.VICTIM, Category.MISSING, Category.REMAINS])
def test_category_needs_national_law(sqlite_url: str, category: Category) -> None:
    with open_store(sqlite_url) as store, pytest.raises(CategoryNotAllowed, match=category.value):
        enrol_one(store, category=category)
    with pytest.raises(CategoryNotAllowed, match="national law"):
        open_store(sqlite_url, categories=[category])
    with pytest.raises(CategoryNotAllowed, match="known categories"):
        open_store(sqlite_url, categories=["witness"])
    with open_store(sqlite_url, categories=[category], national_law=LAW) as store:
        enrol_one(store, category=category)
        with pytest.raises(CategoryNotAllowed, match="suspect"):
            enrol_one(store, category=Category.SUSPECT)


def test_category_that_is_no_longer_allowed_is_not_searched(url: str) -> None:
    everyone = list(Category)
    with open_store(url, categories=everyone, national_law=LAW) as store:
        suspect = enrol_one(store, 1)
        missing = enrol_one(store, 2, category=Category.MISSING)
        assert store.snapshot(NOW).references == (suspect, missing)
        assert store.snapshot(NOW, categories=[Category.MISSING]).references == (missing,)
    with open_store(url) as store:
        assert store.snapshot(NOW).references == (suspect,)
        with pytest.raises(CategoryNotAllowed):
            store.snapshot(NOW, categories=[Category.MISSING])


def test_bulk_enrolment_keeps_rows_in_order(store: GalleryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BATCH_ROWS", 100)
    rows = templates(350)
    told: list[int] = []
    result = store.enrol_many(rows, **WHAT, progress=told.append)
    snapshot = store.snapshot(NOW)
    assert (snapshot.templates == rows).all()
    assert snapshot.references == result.references
    assert result.skipped == 0
    assert told == [100, 200, 300, 350]


def test_interrupted_enrolment_continues_after_the_last_stored_row(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BATCH_ROWS", 100)
    rows, source = templates(350), b"s" * 32

    def interrupt(done: int) -> None:
        if done == 200:
            raise KeyboardInterrupt

    with open_store(url) as store, pytest.raises(KeyboardInterrupt):
        store.enrol_many(rows, **WHAT, source=source, progress=interrupt)
    with open_store(url) as store:
        assert store.count() == 200
        with pytest.raises(EnrolmentConflict, match="350 rows"):
            store.enrol_many(rows[:300], **WHAT, source=source)
        with pytest.raises(EnrolmentConflict, match="suspect"):
            store.enrol_many(rows, **{**WHAT, "category": Category.CONVICTED}, source=source)
        result = store.enrol_many(rows, **WHAT, source=source)
        assert (result.skipped, len(result.references)) == (200, 150)
        assert store.enrol_many(rows, **WHAT, source=source).skipped == 350
        assert (store.snapshot(NOW).templates == rows).all()


def test_source_enrolled_twice_at_once_is_stored_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BATCH_ROWS", 100)
    rows = templates(350)
    with open_store(url) as one, open_store(url) as two:

        def meanwhile(done: int) -> None:
            assert two.enrol_many(rows, **WHAT, source=bytes(32)).skipped == done

        with pytest.raises(EnrolmentConflict, match="another process"):
            one.enrol_many(rows, **WHAT, source=bytes(32), progress=meanwhile)
        assert (one.snapshot(NOW).templates == rows).all()


def test_enrolment_whose_process_was_killed_continues(sqlite_url: str) -> None:
    code = f"""
import os, signal
from tests.test_store import *
store_module.BATCH_ROWS = 100
with open_store({sqlite_url!r}) as store:
    kill = lambda done: done == 200 and os.kill(os.getpid(), signal.SIGKILL)
    store.enrol_many(templates(350), **WHAT, source=bytes(32), progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == -9
    with open_store(sqlite_url) as store:
        assert store.enrol_many(templates(350), **WHAT, source=bytes(32)).skipped == 200
        assert (store.snapshot(NOW).templates == templates(350)).all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": Status.IDENTIFIED, "category": Category.UNIDENTIFIED}, StoreRefusal),
        ({"model": b"short"}, StoreRefusal),
        ({"quality": 101}, StoreRefusal),
        ({"retain_until": NOW}, StoreRefusal),
        ({"photo": b""}, StoreRefusal),
    ],
)
def test_bad_particulars_are_refused(sqlite_url: str, changes: dict[str, Any], error: type[Exception]) -> None:
    with open_store(sqlite_url) as store:
        with pytest.raises(error):
            enrol_one(store, **changes)
        assert store.count() == 0


def test_bad_templates_are_refused_without_their_values(sqlite_url: str) -> None:
    long = np.full(DIM, 101, np.int8)
    with open_store(sqlite_url) as store:
        arrays: list[Any] = [
            long,
            np.zeros(DIM, np.int8),
            np.zeros(DIM, np.int16),
            np.ones(DIM + 1, np.int8),
            templates(2),
        ]
        for bad in arrays:
            with pytest.raises(TemplateError) as caught:
                store.enrol(None, bad, **WHAT)
            assert "101" not in str(caught.value)
        assert store.count() == 0


def test_models_are_never_mixed(store: GalleryStore) -> None:
    other = b"m" * 32
    with pytest.raises(EmptyStore):
        store.snapshot(NOW)
    first = enrol_one(store, 1)
    second = enrol_one(store, 2, model=other)
    with pytest.raises(ModelMismatch, match="2 models"):
        store.snapshot(NOW)
    assert store.snapshot(NOW, model=MODEL).references == (first,)
    assert store.snapshot(NOW, model=other).references == (second,)
    with pytest.raises(EmptyStore):
        store.snapshot(NOW, model=b"x" * 32)
    with pytest.raises(ModelMismatch, match="dimension 64, got 72"):
        store.enrol(None, templates(1, 72)[0], **WHAT)
    store.forget(first, NOW)
    assert store.snapshot(NOW).references == (second,)


# Forgetting, retention, contested accuracy


def test_forgotten_subject_is_gone_from_the_next_snapshot(store: GalleryStore) -> None:
    kept, gone = enrol_one(store, 1), enrol_one(store, 2, b"photo")
    before = store.generation
    receipt = store.forget(gone, NOW)
    assert (receipt.reference, receipt.time, receipt.reason) == (gone, NOW, "forgotten")
    assert receipt.generation == store.generation == before + 1
    assert store.snapshot(NOW).references == (kept,)
    for ask in (store.subject, store.photo, store.contested_history):
        with pytest.raises(UnknownReference):
            ask(gone)
    with pytest.raises(UnknownReference, match=gone):
        store.forget(gone, NOW)
    assert store.generation == before + 1 or store.snapshot(NOW).references == (kept,)
    assert store.deletions() == {gone: NOW}
    assert enrol_one(store, 3, b"photo") != gone  # its photo is not remembered either


def test_last_subject_forgotten_leaves_an_empty_gallery(store: GalleryStore) -> None:
    store.forget(enrol_one(store), NOW)
    snapshot = store.snapshot(NOW)
    assert snapshot.templates.shape == (0, DIM)
    assert (snapshot.references, snapshot.valid_through) == ((), None)


def test_forgotten_bytes_are_overwritten_in_the_file(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        gone = enrol_one(store, 2, b"photo" * 1000)
        sealed = sql(sqlite_url, "SELECT template FROM subject WHERE reference = :r", r=gone)[0][0]
        sealed_photo = sql(sqlite_url, "SELECT sealed FROM photo")[0][0]

        def on_disk(part: bytes) -> bool:
            return any(part in path.read_bytes() for path in tmp_path.iterdir())

        assert on_disk(sealed)
        assert on_disk(sealed_photo[:500])
        store.forget(gone, NOW)
        assert not on_disk(sealed)
        assert not on_disk(sealed_photo[:500])


def test_subject_past_retention_is_not_searched_and_then_deleted(store: GalleryStore) -> None:
    short = enrol_one(store, 1, b"photo", retain_until=TODAY)
    long = enrol_one(store, 2)
    assert store.snapshot(NOW).references == (short, long)
    assert store.snapshot(NOW).valid_through == TODAY
    assert store.expire(NOW) == []
    tomorrow = NOW + timedelta(days=1)
    assert store.snapshot(tomorrow).references == (long,)
    (receipt,) = store.expire(tomorrow)
    assert (receipt.reference, receipt.reason, receipt.generation) == (short, "expired", store.generation)
    assert store.count() == 1
    assert store.find_photo(b"photo") is None


def test_time_without_a_zone_is_refused(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store)
        with pytest.raises(StoreRefusal, match="zone"):
            store.snapshot(NOW.replace(tzinfo=None))


def test_contested_flag_is_cleared_only_on_a_recorded_authority(url: str) -> None:
    with open_store(url) as store:
        reference = enrol_one(store)
        store.flag_contested(reference, NOW)
        store.flag_contested(reference, NOW + timedelta(hours=1))
        assert store.subject(reference).contested
        assert store.snapshot(NOW).references == (reference,)
        for authority in ("", "  ", "x" * 201):
            with pytest.raises(StoreRefusal, match="named"):
                store.clear_contested(reference, authority, NOW)
        assert store.subject(reference).contested
        store.clear_contested(reference, "AEPD decision 17/2026", NOW + timedelta(hours=2))
        assert not store.subject(reference).contested
        with pytest.raises(StoreRefusal, match="not contested"):
            store.clear_contested(reference, "AEPD decision 18/2026", NOW)
    with open_store(url) as store:
        history = [(event.time, event.authority) for event in store.contested_history(reference)]
        assert history == [(NOW, None), (NOW + timedelta(hours=2), "AEPD decision 17/2026")]
        store.forget(reference, NOW)
    assert sql(url, "SELECT * FROM contested_event") == []


def test_every_change_raises_the_generation_and_no_refusal_does(store: GalleryStore) -> None:
    reference = enrol_one(store, photo=b"p")
    seen = [store.generation]
    steps: list[Callable[[], object]] = [
        lambda: store.enrol_many(templates(3), **WHAT),
        lambda: store.flag_contested(reference, NOW),
        lambda: store.clear_contested(reference, "decision 1", NOW),
        lambda: store.forget(reference, NOW),
        lambda: store.expire(datetime(2031, 1, 2, tzinfo=timezone.utc)),
    ]
    for step in steps:
        step()
        seen.append(store.generation)
    assert seen == sorted(set(seen))
    enrol_one(store, photo=b"q")
    last = store.generation
    with pytest.raises(DuplicatePhoto):
        enrol_one(store, photo=b"q")
    with pytest.raises(UnknownReference):
        store.flag_contested("ES-0", NOW)
    store.take_quota("FR", Status.IDENTIFIED, TODAY, 5)
    assert store.expire(NOW) == []
    assert store.generation == last


def test_snapshot_sees_one_moment_while_subjects_are_enrolled(store: GalleryStore) -> None:
    store.enrol_many(templates(64), **WHAT)
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set():
            store.enrol_many(templates(64), **WHAT)  # one transaction and one generation each

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(8):
            snapshot = store.snapshot(NOW)
            assert len(snapshot.references) == 64 * snapshot.generation
    finally:
        stop.set()
        thread.join()


# Encryption at rest


def dump(url: str) -> bytes:
    """Everything in the database, as bytes."""
    rows = [row for table in Base.metadata.sorted_tables for row in sql(url, f"SELECT * FROM {table.name}")]
    return b"|".join(bytes(v) if isinstance(v, (bytes, memoryview)) else str(v).encode() for row in rows for v in row)


def test_database_holds_no_template_photo_or_plain_hash(url: str, tmp_path: Path) -> None:
    import hashlib

    row, photo = templates(1)[0], b"recognisable photo bytes"
    with open_store(url) as store:
        reference = store.enrol(photo, row, **WHAT)
        store.flag_contested(reference, NOW)
        store.clear_contested(reference, "planted authority", NOW)
        store.enrol_many(templates(1, seed=5), **WHAT, source=b"q" * 32)
        everything = dump(url) + b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    assert reference.encode() in everything  # the control: what is stored in the clear is found
    for secret in (row.tobytes(), photo, hashlib.sha256(photo).digest(), b"planted authority", b"q" * 32, b"k" * 32):
        assert secret not in everything


def test_wrong_key_is_refused_at_open(url: str) -> None:
    with open_store(url) as store:
        enrol_one(store)
    with pytest.raises(WrongStorageKey, match=KEY.fingerprint):
        open_store(url, StorageKey(b"w" * 32))
    with open_store(url) as store:
        assert store.count() == 1


def test_damaged_check_value_is_refused_at_open(url: str) -> None:
    open_store(url).close()
    sql(url, "UPDATE storage_key SET check_value = :v", v=bytes(60))
    with pytest.raises(WrongStorageKey, match="check value"):
        open_store(url)


def test_store_without_its_key_check_is_refused(url: str) -> None:
    with open_store(url) as store:
        enrol_one(store)
    sql(url, "UPDATE subject SET key_id = key_id")
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:  # SQLite leaves foreign keys alone here, PostgreSQL must be told
        if engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE subject DROP CONSTRAINT fk_subject_key_id"))
        connection.execute(text("DELETE FROM storage_key"))
    engine.dispose()
    with pytest.raises(StoreCorrupted, match="no check value"):
        open_store(url)


@pytest.mark.parametrize("how", ["flipped", "short", "swapped", "other model"])
def test_damaged_or_exchanged_template_is_named_by_its_reference(url: str, how: str) -> None:
    with open_store(url) as store:
        first, second = enrol_one(store, 1), enrol_one(store, 2)
        sealed = bytes(sql(url, "SELECT template FROM subject WHERE reference = :r", r=second)[0][0])
        if how == "other model":
            enrol_one(store, 3, model=b"m" * 32)
            sql(url, "UPDATE subject SET model_id = 1")
            second = store.snapshot  # type: ignore[assignment]
        else:
            bad = {"flipped": sealed[:-1] + bytes([sealed[-1] ^ 1]), "short": sealed[:10], "swapped": sealed}[how]
            sql(url, "UPDATE subject SET template = :t WHERE reference = :r", t=bad, r=first)
        with pytest.raises(StoreCorrupted, match=r"ES-[0-9a-f]{32}") as caught:
            store.snapshot(NOW, model=MODEL)
        if how != "other model":
            assert first in str(caught.value)


def test_damaged_photo_is_named_by_its_reference(store: GalleryStore, url: str) -> None:
    reference = enrol_one(store, photo=b"photo")
    sql(url, "UPDATE photo SET sealed = :v", v=bytes(50))
    with pytest.raises(StoreCorrupted, match=reference):
        store.photo(reference)


def test_rekeying_moves_every_record_even_after_an_interruption(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nodes.store import rekey

    monkeypatch.setattr(rekey, "BATCH_ROWS", 4)
    new = StorageKey(b"n" * 32)
    with open_store(url) as store:
        reference = enrol_one(store, photo=b"photo")
        store.flag_contested(reference, NOW)
        store.clear_contested(reference, "decision 5", NOW)
        store.enrol_many(templates(20), **WHAT, source=bytes(32))
        before = store.snapshot(NOW)
    with pytest.raises(WrongStorageKey):
        open_store(url, new)

    def interrupt(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with open_store(url, new, retired=[KEY]) as store, pytest.raises(KeyboardInterrupt):
        store.rekey(interrupt)
    with open_store(url, new, retired=[KEY]) as store:  # half and half: everything still works
        assert store.find_photo(b"photo") == reference
        assert store.snapshot(NOW).references == before.references
        with pytest.raises(DuplicatePhoto):
            enrol_one(store, photo=b"photo")
        assert store.rekey() == 13
        assert store.generation == before.generation
    with pytest.raises(WrongStorageKey):
        open_store(url)
    with open_store(url, new) as store:
        assert (store.snapshot(NOW).templates == before.templates).all()
        assert store.photo(reference) == b"photo"
        assert store.find_photo(b"photo") == reference
        assert store.contested_history(reference)[1].authority == "decision 5"
        assert store.enrol_many(templates(20), **WHAT, source=bytes(32)).skipped == 20


def test_storage_key_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "storage.key"
    key = StorageKey.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert StorageKey.from_file(path).fingerprint == key.fingerprint
    with pytest.raises(StorageKeyError, match="cannot be created"):
        StorageKey.create(path)
    monkeypatch.setenv("LINEUP_STORAGE_KEY", path.read_text())
    assert StorageKey.from_environment().fingerprint == key.fingerprint
    assert path.read_text().strip() not in repr(key)
    path.chmod(0o640)
    with pytest.raises(StorageKeyError, match="0640"):
        StorageKey.from_file(path)
    path.chmod(0o600)
    path.write_text("planted")
    with pytest.raises(StorageKeyError, match="64 hexadecimal") as caught:
        StorageKey.from_file(path)
    assert "planted" not in str(caught.value)
    with pytest.raises(StorageKeyError):
        StorageKey.from_file(tmp_path / "none")
    with pytest.raises(StorageKeyError, match="not set"):
        StorageKey.from_environment("LINEUP_NO_SUCH")
    with pytest.raises(StorageKeyError, match="32 bytes, got 3"):
        StorageKey(b"abc")


def test_database_file_is_private(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store)
        files = list(tmp_path.glob("store.db*"))
        assert len(files) == 3
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


# Quotas and answers


def test_two_hundred_callers_share_a_quota_of_fifty(url: str) -> None:
    with open_store(url) as one, open_store(url) as two:

        def ask(number: int) -> int:
            try:
                return (one, two)[number % 2].take_quota("FR", Status.IDENTIFIED, TODAY, 50)
            except QuotaExceeded as error:
                return -error.limit

        start = threading.Barrier(200)
        results: list[int] = []

        def caller(number: int) -> None:
            start.wait()
            results.append(ask(number))

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [-50] * 150 + list(range(1, 51))
        assert one.quota_used("FR", Status.IDENTIFIED, TODAY) == 50


def test_quotas_are_apart_by_state_kind_and_day(store: GalleryStore) -> None:
    assert store.take_quota("FR", Status.IDENTIFIED, TODAY, 1) == 1
    with pytest.raises(QuotaExceeded, match=r"FR.*1 queries.*2026-05-04.*identified"):
        store.take_quota("FR", Status.IDENTIFIED, TODAY, 1)
    assert store.take_quota("FR", Status.UNIDENTIFIED, TODAY, 1) == 1
    assert store.take_quota("DE", Status.IDENTIFIED, TODAY, 1) == 1
    assert store.take_quota("FR", Status.IDENTIFIED, TODAY + timedelta(days=1), 1) == 1
    assert store.take_quota("FR", Status.IDENTIFIED, TODAY, 2) == 2
    with pytest.raises(QuotaExceeded):
        store.take_quota("AT", Status.IDENTIFIED, TODAY, 0)
    assert store.quota_used("AT", Status.IDENTIFIED, TODAY) == 0
    with pytest.raises(StoreRefusal, match="two capital letters"):
        store.take_quota("fr", Status.IDENTIFIED, TODAY, 1)


def test_query_is_claimed_once_across_restarts(url: str) -> None:
    query, digest = b"q" * 32, b"d" * 32
    with open_store(url) as store:
        store.claim_query(query, digest, NOW)
        store.claim_query(query, digest, NOW, step="open")
    with open_store(url) as store:
        with pytest.raises(QueryReplayed, match="same message") as caught:
            store.claim_query(query, digest, NOW)
        assert caught.value.same_message
        with pytest.raises(QueryReplayed, match="another message") as caught:
            store.claim_query(query, b"e" * 32, NOW)
        assert not caught.value.same_message
        store.claim_query(b"r" * 32, digest, NOW + timedelta(days=2))
        assert store.purge_claims(NOW + timedelta(days=1)) == 2
        with pytest.raises(QueryReplayed):
            store.claim_query(b"r" * 32, digest, NOW)
        with pytest.raises(StoreRefusal, match="16 to 64"):
            store.claim_query(b"short", digest, NOW)


REFERENCE, OTHER, THIRD = ("ES-" + letter * 32 for letter in "abc")


def test_releases_at_once_are_all_counted_even_around_midnight(url: str) -> None:
    with open_store(url) as one, open_store(url) as two:

        def release(number: int) -> int:
            day = TODAY + timedelta(days=number % 4 // 2)
            return (one, two)[number % 2].take_releases("FR", [REFERENCE], day, 30)

        with ThreadPoolExecutor(20) as pool:
            assert sorted(pool.map(release, range(40))) == list(range(1, 41))
    with open_store(url) as again:
        assert again.take_releases("FR", [REFERENCE], TODAY + timedelta(days=1), 30) == 41


def test_releases_are_apart_by_state_and_reference_and_leave_the_window(store: GalleryStore) -> None:
    def take(state: str, references: list[str], later: int = 0, days: int = 3) -> int:
        return store.take_releases(state, references, TODAY + timedelta(days=later), days)

    assert take("FR", []) == 0
    assert [take("FR", [REFERENCE]), take("FR", [OTHER]), take("FR", [OTHER, REFERENCE])] == [1, 1, 2]
    assert take("DE", [OTHER]) == 1
    assert take("FR", [REFERENCE], 1) == 3
    assert take("FR", [THIRD], 1) == 3  # the most of any, not of what is released now
    assert [take("FR", [], later) for later in (2, 3, 4)] == [3, 1, 0]
    assert take("FR", [], 3, days=4) == 3
    assert store.purge_releases(TODAY + timedelta(days=1)) == 3
    assert take("FR", [], 1) == 1
    with pytest.raises(StoreRefusal, match="state"):
        take("fr", [])


def test_admission_takes_claim_and_quota_both_or_neither(store: GalleryStore) -> None:
    peer = ("FR", Status.IDENTIFIED, 1, NOW)
    assert store.admit_query(b"q" * 32, b"d" * 32, *peer) == 1
    with pytest.raises(QueryReplayed):
        store.admit_query(b"q" * 32, b"d" * 32, "FR", Status.IDENTIFIED, 9, NOW)
    assert store.quota_used("FR", Status.IDENTIFIED, TODAY) == 1
    with pytest.raises(QuotaExceeded):
        store.admit_query(b"r" * 32, b"d" * 32, *peer)
    store.claim_query(b"r" * 32, b"d" * 32, NOW)


def test_one_of_many_concurrent_claims_wins(url: str) -> None:
    with open_store(url) as one, open_store(url) as two:

        def claim(number: int) -> bool:
            try:
                (one, two)[number % 2].claim_query(b"q" * 32, secrets.token_bytes(32), NOW)
            except QueryReplayed:
                return False
            return True

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(claim, range(40))) == 1


# Migrations


def test_migrations_end_at_the_tables_of_the_code(url: str) -> None:
    database = Database(url)
    upgrade(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


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
        assert (snapshot.references, snapshot.generation) == ((reference,), 7)
        assert (snapshot.templates == row).all()
        assert store.photo(reference) == b"photo"
        assert not store.subject(reference).contested
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


# Backup and restore


@contextmanager
def enrolling(store: GalleryStore) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            store.enrol_many(templates(64), **WHAT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    copy_database(tmp_path / "backup.db", tmp_path / "store.db")
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
        with pytest.raises(StoreRefusal, match="pg_dump"):
            store.backup(tmp_path / "backup")
        with enrolling(store):
            postgres.run("pg_dump", "--format=custom", f"--file={tmp_path}/dump", _name(old))
    postgres.run("pg_restore", f"--dbname={_name(new)}", "--exit-on-error", str(tmp_path / "dump"))
    with open_store(new) as store:
        snapshot = store.snapshot(NOW)
        assert snapshot.references[0] == reference
        assert len(snapshot.references) == 1 + 64 * (snapshot.generation - 1)
        assert store.photo(reference) == b"photo"
        enrol_one(store, 9)  # numbering goes on after the restored rows


def _name(url: str) -> str:
    return url.split("/")[3].split("?")[0]


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


# Faults


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
import resource
from tests.test_store import *
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
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
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
            n=_name(url),
        )
        assert store.count() == 1


def test_nothing_personal_is_logged(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(1)
    with open_store(url) as store:
        reference = enrol_one(store, photo=b"planted photo")
        with pytest.raises(DuplicatePhoto):
            enrol_one(store, photo=b"planted photo")
        store.snapshot(NOW)
        store.forget(reference, NOW)
    out, err = capfd.readouterr()
    said = caplog.text + out + err
    assert "planted" not in said
    assert reference not in said
    assert str(templates(1)[0].tolist())[1:20] not in said


# The NTT form


def test_derived_gallery_follows_the_store(sqlite_url: str) -> None:
    from nodes.store.derived import DerivedGallery

    with open_store(sqlite_url) as store:
        first, second = enrol_one(store, 1), enrol_one(store, 2, retain_until=TODAY)
        derived = DerivedGallery(store, N4096)
        gallery = derived.current(NOW)
        assert gallery.references == (first, second)
        assert gallery.encoded.rows == 2
        assert derived.current(NOW) is gallery
        tomorrow = NOW + timedelta(days=1)
        assert derived.current(tomorrow).references == (first,)  # retention passed, though nothing was written
        third = enrol_one(store, 3)
        assert derived.current(tomorrow).references == (first, third)
        store.forget(first, NOW)
        assert derived.current(tomorrow).references == (third,)
        assert gallery.references == (first, second)  # a query that runs keeps its own


def test_bulk_enrolment_is_fast_enough(sqlite_url: str) -> None:
    import time

    rows = np.tile(templates(1000, 512), (10, 1))
    with open_store(sqlite_url) as store:
        start = time.process_time()
        store.enrol_many(rows, **WHAT)
        spent = time.process_time() - start
    assert len(rows) / spent > 10_000  # a third of what is measured; processor time, for the disk is shared


def test_sqlite_connections_are_as_documented(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store, store._database.engine.connect() as connection:
        values = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("synchronous", "foreign_keys")}
        assert values == {"synchronous": 2, "foreign_keys": 1}
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert os.path.exists(sqlite_url.removeprefix("sqlite:///"))
