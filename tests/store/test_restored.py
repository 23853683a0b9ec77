"""Database and templates of different moments, after a restore: nobody forgotten comes back, nobody is lost unsaid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nodes.blocks import BlockFiles
from nodes.store import StoreCorrupted, enrolment
from nodes.store.backup import copy_database
from nodes.store.rows import RowFiles
from nodes.store.store import GalleryStore
from tests.kit.stores import KEY, NOW, WHAT, enrol_one, open_store, sql, templates


class Killed(BaseException):
    """The process ends here: nothing that follows in it happens."""


def put_back(copy: Path, database: Path) -> None:
    """What nobody should do: another moment of the database under the templates of now."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(copy, database)


def held_rows(database: Path) -> int:
    """Templates that are on disk."""
    (folder,) = database.with_name("store.db.rows").iterdir()
    manifest = BlockFiles(folder, KEY.blocks).manifest()
    return manifest.next_row - sum(state.erased for state in manifest.dead.values())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_who_was_forgotten_after_a_copy_of_the_database_is_not_held_again(sqlite_url: str, database: Path) -> None:
    copy = database.with_name("copy.db")
    with open_store(sqlite_url) as store:
        kept, gone = enrol_one(store, 1), enrol_one(store, 2, b"photo")
        copy_database(database, copy)
        store.forget(gone, NOW)
    put_back(copy, database)
    with pytest.raises(StoreCorrupted, match="the database is an older one"):  # one change is enough
        open_store(sqlite_url)
    with open_store(sqlite_url, ahead=True) as store:
        assert store.photo(gone) == b"photo", "the control: the copy brought the person back"
        assert [receipt.reference for receipt in store.reconcile(NOW).forgotten] == [gone]
    with open_store(sqlite_url) as store:
        assert store.snapshot(NOW).references == (kept,)
        assert store.find_photo(b"photo") is None
        assert store.forget(gone, NOW).reference == gone, "and has a receipt"
        assert store.verify().rows == 1


def test_a_copy_made_before_a_deletion_was_erased_is_not_taken_for_a_crash_once_others_were_enrolled(
    sqlite_url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = database.with_name("copy.db")
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        gone = enrol_one(store, 2)
        with monkeypatch.context() as patch:
            patch.setattr(GalleryStore, "settle", lambda self: 0)  # the disk is full, say
            store.forget(gone, NOW)
        copy_database(database, copy)
        store.settle()
    put_back(copy, database)
    with open_store(sqlite_url) as store:
        assert store.settle() == 0, "the control: erased and not noted, as a crash leaves it"
        enrol_one(store, 3)
    put_back(copy, database)
    with pytest.raises(StoreCorrupted, match="the database is an older one"):
        open_store(sqlite_url)
    assert held_rows(database) == 2, "and nobody's template is erased"


def test_control_a_copy_of_both_brings_them_back(sqlite_url: str, database: Path) -> None:
    copy, rows = database.with_name("copy.db"), database.with_name("store.db.rows")
    with open_store(sqlite_url) as store:
        gone = enrol_one(store, 2)
        copy_database(database, copy)
        shutil.copytree(rows, rows.with_name("kept"))
        store.forget(gone, NOW)
    put_back(copy, database)
    shutil.rmtree(rows)
    shutil.copytree(rows.with_name("kept"), rows)
    with open_store(sqlite_url) as store:
        assert store.snapshot(NOW).references == (gone,), "only the log of the node tells (nodes.evidence.ledger)"


def test_an_older_database_is_told_from_a_crash_and_no_template_is_erased(sqlite_url: str, database: Path) -> None:
    copy, newer = database.with_name("copy.db"), database.with_name("newer.db")
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        copy_database(database, copy)
        later = enrol_one(store, 2)
        copy_database(database, newer)
    put_back(copy, database)
    with pytest.raises(StoreCorrupted, match="the database is an older one"):
        open_store(sqlite_url)
    assert held_rows(database) == 2
    put_back(newer, database)
    with open_store(sqlite_url) as store:
        assert later in store.snapshot(NOW).references, "the right one, put back, has lost nothing"


def test_control_with_the_note_of_a_change_it_would_be_taken_for_a_crash(sqlite_url: str, database: Path) -> None:
    copy = database.with_name("copy.db")
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        copy_database(database, copy)
        enrol_one(store, 2)
    put_back(copy, database)
    sql(sqlite_url, "UPDATE store SET changing = true")
    with open_store(sqlite_url) as store:
        store.settle()
    assert held_rows(database) == 1


def test_an_enrolment_that_is_killed_again_and_again_is_still_a_crash(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(url) as store:
        first = enrol_one(store, 1)

    def killed(*_: Any) -> None:
        raise Killed

    settle = RowFiles.settle
    for _ in range(6):
        with monkeypatch.context() as patch:

            def end(*arguments: Any) -> None:  # nothing cleans up behind it
                patch.setattr(RowFiles, "settle", killed)
                raise Killed

            patch.setattr(enrolment, "_insert", end)
            with open_store(url) as store, pytest.raises(Killed):
                store.enrol_many(templates(5), **WHAT)
    assert RowFiles.settle is settle
    with open_store(url) as store:
        assert store.snapshot(NOW).references == (first,)
        assert store.settle() == 5, "what the last one left"
        assert len(store.enrol_many(templates(5), **WHAT).references) == 5


def two_histories(url: str, database: Path) -> None:
    """Row 1 was given, a copy of then was brought back, and row 1 was given again. Then the copy of between is put
    back, which knows the first row 1, over the templates that have the second."""
    rows = database.with_name("store.db.rows")
    old, between, kept = (database.with_name(name) for name in ("old.db", "between.db", "kept"))
    with open_store(url) as store:
        enrol_one(store, 1)
        copy_database(database, old)
        shutil.copytree(rows, kept)
        enrol_one(store, 2)
        copy_database(database, between)
    put_back(old, database)
    shutil.rmtree(rows)
    shutil.copytree(kept, rows)
    with open_store(url, ahead=True) as store:
        store.reconcile(NOW)
        enrol_one(store, 3)
    put_back(between, database)


def test_known_limit_a_copy_made_during_an_enrolment_is_taken_for_a_crash(
    sqlite_url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It carries the note of a change. Only the log of a node tells, which looks there before it settles anything."""
    copy, append = database.with_name("copy.db"), BlockFiles.append

    def copied(*given: Any) -> range:
        copy_database(database, copy)
        return append(*given)

    with open_store(sqlite_url) as store:
        first = enrol_one(store, 1)
        with monkeypatch.context() as patch:
            patch.setattr(BlockFiles, "append", copied)
            enrol_one(store, 2)
        enrol_one(store, 3)
    put_back(copy, database)
    with open_store(sqlite_url) as store:
        assert store.settle() == 2
        assert store.snapshot(NOW).references == (first,)


def test_known_limit_two_copies_that_went_on_apart_are_taken_for_one(sqlite_url: str, database: Path) -> None:
    rows, other = database.with_name("store.db.rows"), database.with_name("other.db")
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
    shutil.copyfile(database, other)
    shutil.copytree(rows, rows.with_name("other.db.rows"))
    with open_store(f"sqlite:///{other}") as store:
        enrol_one(store, 2)
    with open_store(sqlite_url) as store:
        enrol_one(store, 3)
    shutil.rmtree(rows)
    shutil.copytree(rows.with_name("other.db.rows"), rows)
    with open_store(sqlite_url) as store:
        store.verify()
        assert (store.snapshot(NOW).templates[1] == templates(1, seed=2)[0]).all(), "another's template"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_number_that_was_given_twice_is_not_taken_for_the_other_person(
    ahead: bool, sqlite_url: str, database: Path
) -> None:
    two_histories(sqlite_url, database)
    with pytest.raises(StoreCorrupted, match="goes on from an older one: it has 1 of the 2 rows"):
        open_store(sqlite_url, ahead=ahead)


def test_control_without_lines_a_reference_has_the_template_of_another(
    sqlite_url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockFiles, "branch", lambda *_: None)
    two_histories(sqlite_url, database)
    with open_store(sqlite_url, ahead=True) as store:
        assert (store.snapshot(NOW).templates[1] == templates(1, seed=3)[0]).all()


def test_who_was_enrolled_since_is_said_to_be_lost_and_a_later_copy_is_refused(sqlite_url: str, database: Path) -> None:
    """As after pg_restore: the folder stays, and goes on."""
    old, newer = database.with_name("old.db"), database.with_name("newer.db")
    with open_store(sqlite_url) as store:
        kept = enrol_one(store, 1)
        copy_database(database, old)
        enrol_one(store, 2)
        copy_database(database, newer)
    put_back(old, database)
    with open_store(sqlite_url, ahead=True) as store:
        assert store.reconcile(NOW).lost == 1
        fresh = enrol_one(store, 3)
        assert store.snapshot(NOW).references == (kept, fresh)
    assert held_rows(database) == 2, "a template without a subject is not kept"
    put_back(newer, database)
    with pytest.raises(StoreCorrupted, match="it has 1 of the 2 rows"):
        open_store(sqlite_url, ahead=True)


@pytest.mark.parametrize("compacted", [False, True])
def test_who_was_enrolled_since_and_forgotten_again_is_not_lost(
    compacted: bool, sqlite_url: str, database: Path
) -> None:
    copy = database.with_name("copy.db")
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        copy_database(database, copy)
        store.forget_all(store.enrol_many(templates(3), **WHAT).references, NOW)
        if compacted:
            assert store.compact() == 3
        enrol_one(store, 5)
    put_back(copy, database)
    with open_store(sqlite_url, ahead=True) as store:
        assert store.reconcile(NOW).lost == 1, "the control: one that nobody forgot"


def test_a_reconciliation_that_is_killed_is_made_again(
    sqlite_url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = database.with_name("copy.db")
    with open_store(sqlite_url) as store:
        kept, gone = enrol_one(store, 1), enrol_one(store, 2)
        copy_database(database, copy)
        store.forget(gone, NOW)
        enrol_one(store, 3)
    put_back(copy, database)
    for name in ("forget", "branch"):
        for after in (False, True):
            with monkeypatch.context() as patch, open_store(sqlite_url, ahead=True) as store:
                patch.setattr(BlockFiles, name, dying(name, after))
                with pytest.raises(Killed):
                    store.reconcile(NOW)
            with pytest.raises(StoreCorrupted, match="the database is an older one"):
                open_store(sqlite_url)
    with open_store(sqlite_url, ahead=True) as store:
        assert [receipt.reference for receipt in store.reconcile(NOW).forgotten] == [gone]
    with open_store(sqlite_url) as store:
        assert store.snapshot(NOW).references == (kept,)
        assert store.verify().rows == 1


def dying(name: str, after: bool) -> Any:
    real = getattr(BlockFiles, name)

    def dies(*arguments: Any) -> None:
        if after:
            real(*arguments)
        raise Killed

    return dies


def test_a_subject_without_a_template_is_found_by_the_daily_look(store: GalleryStore) -> None:
    enrol_one(store, 1)
    enrol_one(store, 2)
    assert store.verify().rows == 2  # the control
    _, files = store.row_files(store.categories)
    files.forget([1])
    with pytest.raises(StoreCorrupted, match="holds 1 subjects whose templates were deleted"):
        store.verify()
