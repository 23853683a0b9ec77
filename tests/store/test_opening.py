"""A start reads the database once: checked, and beside that the templates and who is held. Bad lines are refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks.block import BlockReader
from nodes.store import Category, Status, StoreCorrupted
from nodes.store.derived import DerivedGallery
from nodes.store.holdings import Holdings
from nodes.store.lines import CATEGORY_CODES, LAST_DAY, held, line
from nodes.store.opening import verify_and_read
from nodes.store.resident import ReadingStopped, Resident
from nodes.store.store import GalleryStore
from pets.params import N4096
from tests.kit.stores import LAW, MODEL, NOW, TODAY, WHAT, enrol_one, open_store, rows_folder, sql, templates

EPOCH = date(1970, 1, 1)


def written(rows: list[tuple[str, date, int]]) -> str:
    return "\n".join(line(f"ES-{row:x}", kind, "identified", str(day), row) for kind, day, row in rows)


def test_lines_are_read_as_python_reads_them() -> None:
    rng = np.random.default_rng(5)
    days = [EPOCH + timedelta(int(day)) for day in rng.integers(0, LAST_DAY, 500)]
    days += [date(2024, 2, 29), date(2000, 12, 31), date(2149, 6, 6), date(2149, 6, 7), date(9999, 12, 31), EPOCH]
    kinds = rng.choice([category.value for category in Category], len(days)).tolist()
    numbers = [0, 9, 10, 2**40, *rng.integers(0, 2**31, len(days) - 4).tolist()]
    found = held(written(list(zip(kinds, days, numbers, strict=True))), len(days), 2**40 + 1)
    assert found.rows.tolist() == numbers
    assert found.categories.tolist() == [CATEGORY_CODES[Category(kind)] for kind in kinds]
    assert found.days.tolist() == [min((day - EPOCH).days, LAST_DAY) for day in days]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ES-1|suspect|identified|2030-01-01|7", "row 7 of 7"),
        ("ES-1|suspect|identified|2030-01-01|", "without a number"),
        ("ES-1|suspect|identified|2030-01-01|1234567890123456789", "too long"),
        ("ES-1|suspect|identified|2030-01-01|x", "whose number is none"),
        ("ES-1|suspect|identified|-30-01-01|1", "retention date"),
        ("ES|1|suspect|identified|2030-01-01|1", "a bar or a line break"),
        ("ES-1|suspect|iden\ntified|2030-01-01|1", "a bar or a line break"),
        ("ES-1|suspect|identified|2030-01-01|5\nES-1|suspect|identified|2030-01-01|1", "a bar or a line break"),
        ("ES-1|suspect|identified|9999-zz-01|1", "retention date"),
        ("ES-1|suspect|identified|2030.01.01|1", "retention date"),
        ("ES-1|suspect|identified|2030-13-01|1", "retention date"),
        ("ES-1|suspect|identified|2030-01-00|1", "retention date"),
        ("ES-1|suspect|identified|2030-01-32|1", "retention date"),
    ],
)
def test_lines_that_were_never_written_are_refused(text: str, what: str) -> None:
    good = "ES-1|suspect|identified|2030-01-01|6"
    assert held(good, 1, 7).rows.tolist() == [6]  # the control
    with pytest.raises(StoreCorrupted, match=what):
        held(f"{good}\n{text}", 2, 7)


def test_a_category_that_is_none_is_nobodys() -> None:
    text = "\n".join(f"ES-1|{kind}|identified|2030-01-01|1" for kind in ("suspect", "suspicious", "victims", "?"))
    assert held(text, 4, 2).categories.tolist() == [CATEGORY_CODES[Category.SUSPECT], 0, 0, 0]


def fill(url: str) -> GalleryStore:
    store = open_store(url, categories=Category, national_law=LAW)
    for category in Category:
        status = Status.UNIDENTIFIED if category is Category.UNIDENTIFIED else Status.IDENTIFIED
        what = {"category": category, "status": status, "retain_until": TODAY + timedelta(len(category))}
        store.enrol_many(templates(3), **{**WHAT, **what})
    store.forget(store.snapshot(NOW).references[4], NOW)
    return store


def test_who_was_seen_in_the_check_is_held_as_if_it_was_read_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with fill(url) as store:
        resident = Resident(store)
        verify_and_read(resident, Category)
        asked: list[int] = []
        standing = store.standing
        monkeypatch.setattr(store, "standing", lambda model, after: (asked.append(after), standing(model, after))[1])
        seen, again = resident._of(MODEL), Holdings(store, MODEL)
        enrol_one(store, 7)
        for categories in (list(Category), [Category.VICTIM]):
            for now in (NOW, NOW + timedelta(days=7)):
                expected = again.bits(now, categories).first(30)
                np.testing.assert_array_equal(seen.bits(now, categories).first(30), expected)
        assert seen.bits(NOW, list(Category)).first(30).sum() == 18
        assert len(asked) == 2


def test_subjects_of_whole_parts_are_not_read_twice(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.store.content.PART", 4)
    with fill(sqlite_url) as store:
        resident, asked, standing = Resident(store), [], store.standing
        store.verify(seen=resident.see)
        monkeypatch.setattr(store, "standing", lambda model, after: (asked.append(after), standing(model, after))[1])
        assert resident._of(MODEL).bits(NOW, list(Category)).first(30).sum() == 17
        assert asked == [15], "of 18 subjects, those of the last part, in which others may have come"


def test_a_start_has_the_rows_at_hand(store: GalleryStore) -> None:
    for seed in range(3):
        enrol_one(store, seed)
    resident = Resident(store, threads=2)
    assert verify_and_read(resident, store.categories).rows == 3
    assert resident.loaded is not None
    gallery = DerivedGallery(store, N4096, resident=resident).current()
    np.testing.assert_array_equal(gallery.templates, np.concatenate([templates(1, seed=seed) for seed in range(3)]))
    resident.stop()
    assert resident.loaded is None


def test_a_store_without_anybody_is_opened(store: GalleryStore) -> None:
    resident = Resident(store)
    assert verify_and_read(resident, store.categories).rows == 0
    assert resident.loaded is None


def lose_a_row(url: str) -> None:
    sql(url, "DELETE FROM subject WHERE id = 2")


def exchange_rows(url: str) -> None:
    sql(url, 'UPDATE subject SET "row" = 3 - "row" WHERE id IN (2, 3)')


@pytest.mark.parametrize("damage", [lose_a_row, exchange_rows])
def test_a_damaged_database_is_refused_and_its_rows_are_read_no_further(
    damage: Callable[[str], None], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, reading, begun = 20, threading.Event(), []
    with open_store(sqlite_url) as store:
        for _ in range(blocks):
            store.enrol_many(templates(4096, 64), **WHAT)
    read = BlockReader.read

    def slow(self: Any, block: Any, once: bool = False) -> Any:
        begun.append(block.number)
        reading.set()
        assert stopped.wait(60)
        return read(self, block, once)

    with open_store(sqlite_url) as store:
        verify_and_read(Resident(store), store.categories)  # the control
    damage(sqlite_url)
    stopped = threading.Event()
    monkeypatch.setattr(BlockReader, "read", slow)
    stop = Resident.stop
    monkeypatch.setattr(Resident, "stop", lambda self: (stop(self), reading.wait(60), stopped.set()))
    with open_store(sqlite_url) as store:
        resident = Resident(store)
        with pytest.raises(StoreCorrupted, match="subjects, and the"):
            verify_and_read(resident, store.categories)
        assert len(begun) == 1
        assert resident.loaded is None
        with pytest.raises(ReadingStopped):
            resident.rows(store.categories)


def test_a_damaged_block_is_told_when_the_rows_are_asked_for(sqlite_url: str, tmp_path: Path) -> None:
    assert rows_folder(sqlite_url) is None, "they lie beside the database"
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        (block,) = tmp_path.glob("store.db.rows/*/block-*")
        content = block.read_bytes()
        block.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        resident = Resident(store)
        assert verify_and_read(resident, store.categories).rows == 1
        with pytest.raises(StoreCorrupted, match="does not decrypt"):
            DerivedGallery(store, N4096, resident=resident).current()
