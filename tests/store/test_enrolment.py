"""Enrolment into the holder's store, one by one and in bulk, and the gallery that a snapshot gives."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.store import (
    Category,
    CategoryNotAllowed,
    DuplicatePhoto,
    EmptyStore,
    EnrolmentConflict,
    Status,
    StorageKey,
    StoreRefusal,
    UnknownReference,
)
from nodes.store import store as store_module
from nodes.store.store import GalleryStore
from pets.errors import ModelMismatch, TemplateError
from tests.kit.stores import DIM, KEY, LATER, LAW, MODEL, NOW, WHAT, enrol_one, enrolling, open_store, sql, templates


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
    assert (result.skipped, result.added) == (0, 350)
    assert told == [100, 200, 300, 350]
    untold = store.enrol_many(rows, **WHAT, tell=False)
    assert (untold.references, untold.added) == ((), 350), "millions of them are not kept in memory"


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


@pytest.mark.slow
def test_enrolment_whose_process_was_killed_continues(sqlite_url: str) -> None:
    code = f"""
import os, signal
from nodes.store import store as store_module
from tests.kit.stores import WHAT, open_store, templates
store_module.BATCH_ROWS = 100
with open_store({sqlite_url!r}) as store:
    kill = lambda done: done == 200 and os.kill(os.getpid(), signal.SIGKILL)
    store.enrol_many(templates(350), **WHAT, source=bytes(32), progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == -9
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


def test_snapshot_sees_one_moment_while_subjects_are_enrolled(store: GalleryStore) -> None:
    store.enrol_many(templates(64), **WHAT)
    with enrolling(store):  # one transaction and one generation each
        for _ in range(8):
            snapshot = store.snapshot(NOW)
            assert len(snapshot.references) == 64 * snapshot.generation


def test_when_a_subject_was_enrolled_and_what_its_photos_are_called_is_kept(url: str) -> None:
    """The names encrypted, and under the new key after a change of keys."""
    names = ["planted-maria.jpg", "planted-maria 2019.jpg"]
    with open_store(url) as store:
        before = datetime.now(timezone.utc).replace(microsecond=0)
        reference = store.enrol_subject([b"one", b"two"], templates(1), **WHAT, names=names)
        nameless = store.enrol(b"three", templates(2)[1], **WHAT)
        enrolled = store.subject(reference).enrolled
        assert enrolled is not None
        assert before <= enrolled <= datetime.now(timezone.utc)
        assert store.photo_names(reference) == tuple(names)
        assert store.photo_names(nameless) == ()
        with pytest.raises(UnknownReference):
            store.photo_names("ES-0")
    stored = sql(url, "SELECT name FROM photo UNION ALL SELECT name FROM further_photo")
    assert len([name for (name,) in stored if name is not None]) == 2
    assert not any(b"planted" in bytes(name) for (name,) in stored if name is not None)
    fresh = StorageKey(b"n" * 32)
    with open_store(url, fresh, retired=[KEY]) as store:
        store.rekey()
    with open_store(url, fresh) as store:
        assert store.photo_names(reference) == tuple(names)
        assert store.subject(reference).enrolled == enrolled
