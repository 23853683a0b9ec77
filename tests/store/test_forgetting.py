"""What leaves the store or is doubted: forgetting, retention, contested accuracy; each change is a new generation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.service.self_test import SelfTestFailed, self_test
from nodes.store import Category, DuplicatePhoto, GalleryStore, Status, StoreRefusal, UnknownReference
from nodes.store.derived import DerivedGallery
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
        gallery = derived.current(NOW)
        assert gallery.references == (first, second)
        assert len(gallery.templates) == 2
        assert derived.current(NOW) is gallery
        tomorrow = NOW + timedelta(days=1)
        assert derived.current(tomorrow).references == (first,)  # retention passed, though nothing was written
        third = enrol_one(store, 3)
        assert derived.current(tomorrow).references == (first, third)
        store.forget(first, NOW)
        assert derived.current(tomorrow).references == (third,)
        assert gallery.references == (first, second)  # a query that runs keeps its own


@pytest.mark.ring
@pytest.mark.parametrize("change", ["a note", "there and back"])
def test_a_search_is_told_who_is_forgotten_also_after_a_change_that_left_the_rows_as_they_were(
    change: str, sqlite_url: str
) -> None:
    with open_store(sqlite_url) as store:
        kept, gone = enrol_one(store, 1), enrol_one(store, 2)
        derived = DerivedGallery(store, RING)
        gallery = derived.current(NOW)
        lent = derived.lend(gallery.root, NOW, [Category.SUSPECT])
        assert lent is not None
        if change == "a note":
            store.flag_contested(kept, NOW)
        else:
            passing = enrol_one(store, 3)
            assert derived.current(NOW).root != gallery.root
            store.forget(passing, NOW)
        assert derived.current(NOW).root == gallery.root  # for a preparation beside the search
        store.forget(gone, NOW)
        derived.erase_gone(NOW)
        assert list(lent[1]) == [True, False]
        assert gallery.templates[1].any(), "the search still reads it"
        derived.give_back(lent[1])
        assert derived.erase_gone(NOW) == 1
        assert not gallery.templates[1].any()


@pytest.mark.ring
def test_whose_template_was_overwritten_is_not_live_again_though_the_clock_goes_back(sqlite_url: str) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        enrol_one(store, 2, retain_until=TODAY)
        derived = DerivedGallery(store, RING)
        root = derived.current(NOW).root
        assert derived.erase_gone(NOW + timedelta(days=1)) == 1
        lent = derived.lend(root, NOW, [Category.SUSPECT])  # with zeros in its place a score would be random
        assert lent is not None
        assert list(lent[1]) == [True, False]
        again = derived.current(NOW)  # read from the store, which still has it
        assert again.templates.any(axis=1).all()
        lent = derived.lend(again.root, NOW, [Category.SUSPECT])
        assert lent is not None
        assert list(lent[1]) == [True, True]


@pytest.mark.ring
def test_who_is_forgotten_during_the_self_test_does_not_make_it_fail(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is overwritten under the comparison. A node that fails its self-test answers nobody until it restarts."""
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        gone = [enrol_one(store, 2)]
        derived = DerivedGallery(store, RING)
        equal = np.array_equal

        def late(*arrays: Any) -> bool:
            if gone:
                store.forget(gone.pop(), NOW)
                assert derived.erase_gone(NOW) == 1
            return equal(*arrays)

        monkeypatch.setattr(np, "array_equal", late)
        self_test(store, derived, NOW)
        assert not gone
        derived.current(NOW).templates.flags.writeable = True
        derived.current(NOW).templates[0] = 0
        with pytest.raises(SelfTestFailed, match="not the one in the database"):  # the control
            self_test(store, derived, NOW)
