"""What a store says that it holds follows every change, on both databases, and a row changed behind it is found."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, text

from nodes.store import Category, Status, StorageKey, StoreCorrupted
from nodes.store.database import Database
from nodes.store.migrations import upgrade
from nodes.store.store import GalleryStore
from tests.kit.postgres import PostgresServer
from tests.kit.stores import KEY, LATER, MODEL, NOW, database_name, open_store, sql, templates
from tests.kit.stores import store as store
from tests.kit.stores import url as url

DETAILS: dict[str, Any] = {
    "category": Category.SUSPECT,
    "status": Status.IDENTIFIED,
    "retain_until": LATER,
    "model": MODEL,
}


def fill(store: GalleryStore) -> list[str]:
    return list(store.enrol_many(templates(20), **DETAILS).references)


def test_it_follows_every_change_and_an_unchanged_row_is_the_same_again(store: GalleryStore) -> None:
    empty = store.verify()
    assert (empty.rows, empty.digest) == (0, bytes(32))
    references = fill(store)
    twenty = store.verify(whole=True)
    assert twenty.rows == 20
    store.enrol_subject((b"one", b"two"), templates(3, seed=1), **DETAILS)
    assert store.verify().rows == 23
    store.forget_all([store.snapshot(NOW).references[-1], *references[:5]], NOW)
    assert store.verify().rows == 15
    store.flag_contested(references[7], NOW)
    assert store.verify().rows == 15
    day_after = NOW.replace(year=LATER.year, month=LATER.month, day=LATER.day + 1)
    assert len(store.delete_expired_subjects(day_after)) == 15
    last = store.verify()
    assert (last.rows, last.digest, last.database_id) == (0, bytes(32), empty.database_id)
    assert last.generation > twenty.generation > empty.generation


def test_rekeying_keeps_the_account(url: str) -> None:
    with open_store(url) as opened:
        fill(opened)
        opened.enrol_subject((b"one", b"two"), templates(2, seed=1), **DETAILS)
        before = opened.content
    new = StorageKey(b"n" * 32)
    with open_store(url, new, retired=[KEY]) as opened:
        opened.rekey()
        after = opened.verify()
        assert (after.rows, after.database_id) == (before.rows, before.database_id)
        assert after.digest == before.digest, "it covers the numbers of rows, not what is sealed"
        assert opened.find_photo(b"two") is not None
    with open_store(url, new) as opened:
        assert opened.find_photo(b"two") is not None


@pytest.mark.parametrize(
    "behind",
    [
        "DELETE FROM subject WHERE id > 15",
        "UPDATE subject SET retain_until = '2032-01-01' WHERE id = 3",
        'UPDATE subject SET "row" = 3 WHERE id = 3',
    ],
)
def test_a_row_changed_behind_its_back_is_found(behind: str, url: str) -> None:
    with open_store(url) as opened:
        fill(opened)
        opened.verify()  # the control
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text(behind))
    engine.dispose()
    with open_store(url) as opened, pytest.raises(StoreCorrupted, match="the database says 20 subjects"):
        opened.verify()


def test_a_store_of_an_earlier_version_is_counted_when_it_is_opened(url: str) -> None:
    database = Database(url)
    upgrade(database, "0003")
    with database.alone() as connection:
        connection.execute(text("INSERT INTO store (id, state, generation) VALUES (1, 'ES', 7)"))
    database.close()
    with open_store(url) as opened:
        assert opened.verify().generation == 8
        fill(opened)
        assert opened.verify().rows == 20


@pytest.mark.parametrize("style", ["German", "SQL, DMY"])
def test_a_server_that_writes_days_otherwise_changes_no_digest(style: str, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with open_store(url) as opened:
        fill(opened)
    sql(url, f"ALTER DATABASE {database_name(url)} SET DateStyle = '{style}'")
    assert sql(url, "SELECT format('%s', DATE '2031-02-01')") == [({"German": "01.02.2031"}.get(style, "01/02/2031"),)]
    with open_store(url) as opened:
        assert opened.verify().rows == 20, "what was enrolled before"
        assert {subject.retain_until for subject in opened.subjects()} == {LATER}
        fill(opened)
        assert opened.verify().rows == 40
