"""Who enrolled, deleted, contested or looked up whom is written down with it, and cannot be taken out in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodes.store import StorageKey, StoreCorrupted, StoreRefusal, handling
from nodes.store.handling import Handler
from nodes.store.store import GalleryStore
from nodes.store.subjects import utc_seconds
from tests.kit.stores import KEY, NOW, TODAY, WHAT, enrol_one, open_store, sql, templates
from tests.kit.stores import sqlite_url as sqlite_url
from tests.kit.stores import store as store
from tests.kit.stores import url as url

CARLA = Handler("carla", "case 2026/17")


def told(store: GalleryStore) -> list[tuple[str, str | None, str, int]]:
    return [(one.act, one.person, one.reason, len(one.references)) for one in store.handled()]


def test_each_act_is_written_down_with_person_reason_and_whom(url: str) -> None:
    with open_store(url, handler=CARLA) as store:
        one = enrol_one(store, 1)
        store.enrol_many(templates(3, seed=5), **WHAT)
        store.flag_contested(one, NOW)
        store.clear_contested(one, "court 7", NOW)
        store.consulted([one])
        store.forget(one, NOW)
        assert told(store) == [
            ("enrol", "carla", "case 2026/17", 1), ("enrol", "carla", "case 2026/17", 3),
            ("contest", "carla", "case 2026/17", 1), ("clear", "carla", "case 2026/17", 1),
            ("consult", "carla", "case 2026/17", 1), ("forget", "carla", "case 2026/17", 1),
        ]  # fmt: skip
        assert {act.references for act in store.handled() if len(act.references) == 1} == {(one,)}
        assert store.handled()[-1].time == NOW


def test_what_was_refused_is_not_written_down(store: GalleryStore) -> None:
    with pytest.raises(StoreRefusal):
        store.clear_contested(enrol_one(store), "court 7", NOW)
    store.forget_all(["ES-nobody"], NOW)
    assert told(store) == [("enrol", None, "", 1)]


def test_what_the_node_expires_is_nobodys_act_and_old_entries_go(store: GalleryStore) -> None:
    enrol_one(store, retain_until=TODAY)
    store.delete_expired_subjects(NOW + timedelta(days=2))
    assert [act for act, *_ in told(store)] == ["enrol", "expire"]
    store.delete_expired_subjects(datetime.now(timezone.utc) + timedelta(days=1099))
    assert told(store) == []


def test_nobody_is_named_in_the_database(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url, handler=CARLA) as store:
        one = enrol_one(store)
        store.forget(one, NOW)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert b"carla" not in path.read_bytes()
        assert b"2026/17" not in path.read_bytes()


def test_an_entry_taken_out_or_exchanged_is_found(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(url, handler=CARLA) as store:
        for seed in range(4):
            enrol_one(store, seed)
        second, third = (sql(url, "SELECT sealed FROM handling WHERE id = :i", i=i)[0][0] for i in (2, 3))
        sql(url, "UPDATE handling SET sealed = :s WHERE id = 3", s=second)
        with pytest.raises(StoreCorrupted, match="entry 3"):
            store.handled()
        sql(url, "UPDATE handling SET sealed = :s WHERE id = 3", s=third)
        sql(url, "DELETE FROM handling WHERE id = 2")
        with pytest.raises(StoreCorrupted, match="before entry 3"):
            store.handled()
        # control: without the hashes nobody would see that one is missing
        monkeypatch.setattr(handling, "_digest", lambda plain: b"")
    sql(url, "DELETE FROM handling")
    with open_store(url, handler=CARLA) as store:
        for seed in range(4, 7):
            enrol_one(store, seed)
        sql(url, "DELETE FROM handling WHERE id = (SELECT max(id) - 1 FROM handling)")
        assert len(store.handled()) == 2


def test_a_new_key_keeps_the_log(url: str) -> None:
    with open_store(url, handler=CARLA) as store:
        one = enrol_one(store)
    new = StorageKey(b"n" * 32)
    with open_store(url, new, retired=[KEY]) as store:
        store.forget(one, NOW)
        before = told(store)
        store.rekey()
        assert told(store) == before
    with open_store(url, new) as store:
        assert told(store) == before == [("enrol", "carla", "case 2026/17", 1), ("forget", None, "", 1)]


def test_a_restore_keeps_who_did_what_since_the_backup(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url, handler=CARLA) as store:
        one = enrol_one(store)
        store.backup(tmp_path / "backup.db")
        store.forget(one, NOW)
        since = store.handling_contents()
    with open_store(f"sqlite:///{tmp_path}/backup.db") as restored:
        for _ in range(2):  # once more adds nothing
            restored.add_handling(since)
            assert [act for act, *_ in told(restored)] == ["enrol", "forget"]


def test_logs_that_went_on_apart_become_one_that_can_be_read(sqlite_url: str, tmp_path: Path) -> None:
    """Their entries have the same numbers and other predecessors."""
    with open_store(sqlite_url, handler=CARLA) as store:
        one = enrol_one(store, 1)
        store.backup(tmp_path / "backup.db")
        for _ in range(3):
            store.consulted([one])
        since = store.handling_contents()
    with open_store(f"sqlite:///{tmp_path}/backup.db") as restored:
        restored.flag_contested(one, NOW)
        restored.add_handling(since)
        assert [act for act, *_ in told(restored)] == ["enrol", "contest", "consult", "consult", "consult"]
        restored.add_handling(since)
        assert len(told(restored)) == 5


def day(number: int) -> datetime:
    return NOW + timedelta(days=number)


@contextmanager
def joined(url: str, folder: Path) -> Iterator[GalleryStore]:
    """What was taken over lies behind entries that are newer."""
    with open_store(url) as store:
        names = store.enrol_many(templates(5), **WHAT).references
        sql(url, "DELETE FROM handling")  # of today
        store.backup(folder / "backup.db")
        store.flag_contested(names[0], day(50))
        store.flag_contested(names[1], day(150))
        since = store.handling_contents()
    with open_store(f"sqlite:///{folder}/backup.db") as restored:
        restored.flag_contested(names[2], day(40))
        restored.flag_contested(names[3], day(200))
        restored.add_handling(since)
        restored.flag_contested(names[4], day(220))
        yield restored


def test_old_entries_of_a_joined_log_go_without_a_gap(sqlite_url: str, tmp_path: Path) -> None:
    with joined(sqlite_url, tmp_path) as store:
        times = [act.time for act in store.handled()]
        assert times == [day(40), day(200), day(50), day(150), day(220)]
        for before, kept in ((30, 5), (180, 4), (210, 1), (220, 1), (221, 0)):
            with store._database.writing() as session:
                assert handling.purge(session, utc_seconds(day(before))) == len(times) - kept
            times = times[len(times) - kept :]
            assert [act.time for act in store.handled()] == times


def test_control_by_their_time_alone_they_would_leave_one(sqlite_url: str, tmp_path: Path) -> None:
    with joined(sqlite_url, tmp_path) as store:
        sql(f"sqlite:///{tmp_path}/backup.db", "DELETE FROM handling WHERE time < :t", t=utc_seconds(day(180)))
        with pytest.raises(StoreCorrupted, match="an entry is missing"):
            store.handled()


def test_an_entry_that_was_taken_out_is_still_missing_after_a_restore(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url, handler=CARLA) as store:
        one = enrol_one(store, 1)
        store.backup(tmp_path / "backup.db")
        for _ in range(3):
            store.consulted([one])
        sql(sqlite_url, "DELETE FROM handling WHERE id = 3")
        since = store.handling_contents()
    with open_store(f"sqlite:///{tmp_path}/backup.db") as restored:
        restored.add_handling(since)
        with pytest.raises(StoreCorrupted, match="an entry is missing"):
            restored.handled()


@pytest.mark.parametrize(("person", "reason"), [("", "x"), ("p" * 201, ""), ("p", "r" * 201)])
def test_a_handler_has_a_name_and_short_texts(person: str, reason: str) -> None:
    with pytest.raises(StoreRefusal, match="200"):
        Handler(person, reason)
