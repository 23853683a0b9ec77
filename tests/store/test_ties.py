"""Who can write to the database cannot have the template of one person released under the reference of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.store import Category, StorageKey, StoreCorrupted
from nodes.store.derived import DerivedGallery
from nodes.store.store import GalleryStore
from tests.kit.ring import RING
from tests.kit.stores import KEY, MODEL, NOW, WHAT, enrol_one, open_store, sql, templates

SWAP = 'UPDATE subject SET "row" = 1 - "row"'
JOIN = "UPDATE subject SET subject = (SELECT min(reference) FROM subject AS other WHERE other.id = 2) WHERE id = 1"


def released(store: GalleryStore) -> str:
    """The reference of the first row, as a search that it hits looks it up."""
    derived = DerivedGallery(store, RING)
    gallery = derived.current()
    lent = derived.lend(gallery.root, NOW, list(Category))
    assert lent is not None
    name = lent[0].references
    assert name is not None
    return name[0]


@pytest.mark.ring
@pytest.mark.parametrize("attack", [SWAP, JOIN], ids=["rows exchanged", "made another's"])
def test_a_row_is_not_released_under_another_reference(attack: str, url: str) -> None:
    with open_store(url) as store:
        first = enrol_one(store, 1)
        enrol_one(store, 2)
        assert released(store) == first
        store.verify(whole=True)
        sql(url, attack)
        sql(url, "UPDATE store SET rows = NULL, digest = NULL")  # counted anew: the attacker can do that too
    with open_store(url) as store:
        with pytest.raises(StoreCorrupted, match="row 0 is not the template of"):
            released(store)
        with pytest.raises(StoreCorrupted, match="is not the template of"):
            store.verify(whole=True)


@pytest.mark.ring
@pytest.mark.parametrize("attack", [SWAP, JOIN], ids=["rows exchanged", "made another's"])
def test_control_without_the_tie_it_is(attack: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StorageKey, "check_tie", lambda *_: None)
    with open_store(url) as store:
        enrol_one(store, 1)
        second = enrol_one(store, 2)
        sql(url, attack)
        sql(url, "UPDATE store SET rows = NULL, digest = NULL")
    with open_store(url) as store:
        store.verify(whole=True)
        assert released(store) == second


def test_a_second_subject_with_the_row_of_another_is_refused(url: str) -> None:
    with open_store(url) as store:
        enrol_one(store, 1)
        enrol_one(store, 2)
        sql(url, 'UPDATE subject SET "row" = 0')
        with pytest.raises(StoreCorrupted, match="row 0 is not the template of"):
            store.reference(MODEL, 0)


@pytest.mark.parametrize("row", ["NULL", "-1"])
def test_a_row_that_is_no_number_is_corruption_and_no_other_error(row: str, url: str) -> None:
    with open_store(url) as store:
        enrol_one(store, 1)
        sql(url, f'UPDATE subject SET "row" = {row}')
        with pytest.raises(StoreCorrupted, match="is not the template of"):
            store.verify(whole=True)


def test_ties_are_made_anew_under_a_new_key_and_a_wrong_one_is_not(sqlite_url: str, tmp_path: Path) -> None:
    new = StorageKey(b"n" * 32)
    with open_store(sqlite_url) as store:
        first = store.enrol_subject((), templates(3), **WHAT)
        for row in range(3):
            assert store.reference(MODEL, row) == first, "of all its rows"
        enrol_one(store, 4)
    with open_store(sqlite_url, new, retired=[KEY]) as store:
        store.rekey()
    with open_store(sqlite_url, new) as store:
        assert store.reference(MODEL, 2) == first
        store.verify(whole=True)
        sql(sqlite_url, 'UPDATE subject SET "row" = 3 - "row"')
    with (
        open_store(sqlite_url, KEY, retired=[new]) as store,
        pytest.raises(StoreCorrupted, match="is not the template"),
    ):
        store.rekey()
