"""What leaves the store or is doubted: forgetting, retention, contested accuracy; each change is a new generation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import VersionReader
from nodes.service.self_test import SelfTestFailed, self_test
from nodes.store import Category, DuplicatePhoto, Status, StoreRefusal, UnknownReference
from nodes.store.derived import DerivedGallery
from nodes.store.store import GalleryStore
from protocol.errors import QueryRefused
from tests.kit.ring import RING
from tests.kit.stores import DIM, NOW, TODAY, WHAT, enrol_one, open_store, sql, templates


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
    again = store.forget(gone, NOW + timedelta(days=1))
    assert (again.reference, again.time) == (gone, NOW), "asked again, it says when it was"
    assert [entry.act for entry in store.handled()].count("forget") == 1
    with pytest.raises(UnknownReference, match="ES-nobody"):
        store.forget("ES-nobody", NOW)
    assert store.snapshot(NOW).references == (kept,)
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
        sealed_photo = sql(sqlite_url, "SELECT sealed FROM photo")[0][0]
        (block,) = tmp_path.glob("store.db.rows/*/block-*")
        with_both = block.read_bytes()

        def on_disk(part: bytes) -> bool:
            return any(part in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

        assert on_disk(with_both[-500:])
        assert on_disk(sealed_photo[:500])
        store.forget(gone, NOW)
        assert not on_disk(with_both[-500:]), "the block is sealed anew, without the row"
        assert not on_disk(sealed_photo[:500])
        _, files = store.row_files(store.categories)
        rows = VersionReader(files, files.manifest().current.number).read(0, 2)
        assert rows.rows[0].any()
        assert not rows.rows[1].any()
        assert rows.erased.tolist() == [False, True]


def test_subject_past_retention_is_not_searched_and_then_deleted(store: GalleryStore) -> None:
    short = enrol_one(store, 1, b"photo", retain_until=TODAY)
    long = enrol_one(store, 2)
    assert store.snapshot(NOW).references == (short, long)
    assert store.snapshot(NOW).valid_through == TODAY
    assert store.delete_expired_subjects(NOW) == []
    tomorrow = NOW + timedelta(days=1)
    assert store.snapshot(tomorrow).references == (long,)
    (receipt,) = store.delete_expired_subjects(tomorrow)
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
        lambda: store.delete_expired_subjects(datetime(2031, 1, 2, tzinfo=timezone.utc)),
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
    assert store.delete_expired_subjects(NOW) == []
    assert store.generation == last


@pytest.mark.ring
def test_derived_gallery_follows_the_store(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store:
        first, second = enrol_one(store, 1), enrol_one(store, 2, retain_until=TODAY)
        derived = DerivedGallery(store, RING)
        gallery = derived.current()
        assert list(gallery.references or ()) == [first, second]
        assert derived.current() is gallery
        tomorrow, everybody = NOW + timedelta(days=1), store.categories
        assert found(derived, gallery.root, NOW) == [True, True]
        assert found(derived, gallery.root, tomorrow) == [True, False], "retention passed, though nothing was written"
        third = enrol_one(store, 3)
        later = derived.current()
        assert later.reference(2) == third
        assert found(derived, later.root, tomorrow) == [True, False, True]
        store.forget(first, NOW)
        assert derived.current() is later, "a root says which rows there were, not who may be found"
        assert found(derived, later.root, NOW) == [False, True, True]
        assert found(derived, gallery.root, NOW) == [False, True], "an earlier version is lent like the present one"
        assert derived.erase_gone(NOW) == 1
        assert [bool(row.any()) for row in gallery.templates] == [False, True]
        with pytest.raises(QueryRefused, match="forgotten"):
            later.reference(0)
        assert derived.lend(bytes(32), NOW, everybody) is None


def found(derived: DerivedGallery, root: bytes, now: datetime) -> list[bool]:
    """Who of a version may be found."""
    lent = derived.lend(root, now, list(Category))
    assert lent is not None
    derived.give_back(lent[1])
    return [bool(bit) for bit in lent[1]]


@pytest.mark.ring
@pytest.mark.parametrize("change", ["a note", "there and back"])
def test_a_search_is_told_who_is_forgotten_also_after_a_change_that_left_the_rows_as_they_were(
    change: str, sqlite_url: str
) -> None:
    with open_store(sqlite_url) as store:
        kept, gone = enrol_one(store, 1), enrol_one(store, 2)
        derived = DerivedGallery(store, RING)
        gallery = derived.current()
        lent = derived.lend(gallery.root, NOW, [Category.SUSPECT])
        assert lent is not None
        if change == "a note":
            store.flag_contested(kept, NOW)
            assert derived.current().root == gallery.root  # for a preparation beside the search
        else:
            passing = enrol_one(store, 3)
            assert derived.current().root != gallery.root
            store.forget(passing, NOW)
        store.forget(gone, NOW)
        derived.erase_gone(NOW)
        assert list(lent[1]) == [True, False]
        assert gallery.templates[1].any(), "the search still reads it"
        derived.give_back(lent[1])
        assert derived.erase_gone(NOW) >= 1
        assert not gallery.templates[1].any()


def test_a_hit_in_rows_of_a_model_that_was_replaced_names_nobody_of_the_next_one(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store:
        gone = [enrol_one(store, seed) for seed in (1, 2)]
        derived = DerivedGallery(store, RING)
        lent = derived.lend(derived.current().root, NOW, [Category.SUSPECT])
        assert lent is not None
        gallery, live = lent
        assert gallery.reference(1) == gone[1]  # the control
        store.forget_all(gone, NOW)
        others = [enrol_one(store, seed, model=bytes(32)) for seed in (3, 4)]
        later = derived.current()
        assert (later.model, later.reference(1)) == (bytes(32), others[1])
        with pytest.raises(QueryRefused, match="forgotten"):
            gallery.reference(1)
        derived.erase_gone(NOW)
        assert not live.any()
        derived.give_back(live)


@pytest.mark.ring
def test_whose_template_was_overwritten_is_not_live_again_though_the_clock_goes_back(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        enrol_one(store, 2, retain_until=TODAY)
        derived, tomorrow = DerivedGallery(store, RING), NOW + timedelta(days=1)
        root = derived.current().root
        assert derived.erase_gone(tomorrow) == 0, "past retention, and not deleted yet: it is not found, and lies there"
        assert found(derived, root, tomorrow) == [True, False]
        assert found(derived, root, NOW) == [True, True]
        store.delete_expired_subjects(tomorrow)
        assert derived.erase_gone(tomorrow) == 1
        assert found(derived, root, NOW) == [True, False]  # with zeros in its place a score would be random


@pytest.mark.ring
def test_who_is_forgotten_during_the_self_test_does_not_make_it_fail(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is erased under the comparison. A node that fails its self-test answers nobody until it restarts."""
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        gone = [enrol_one(store, 2)]
        derived = DerivedGallery(store, RING)
        equal = np.array_equal

        def late(*arrays: Any) -> bool:
            if gone:
                store.forget(gone.pop(), NOW)
                derived.erase_gone(NOW)
            return equal(*arrays)

        monkeypatch.setattr(np, "array_equal", late)
        self_test(derived)
        assert not gone
        assert derived.erase_gone(NOW) + int(not derived.current().templates[1].any()) >= 1
        memory = derived.resident.loaded
        assert memory is not None
        memory._memory.rows[0] = 0
        with pytest.raises(SelfTestFailed, match="not the one in the block files"):  # the control
            self_test(derived)
