"""Database and block files keep step: crashes between the two, folders that are older, another's or gone, migration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import BlockFiles, VersionReader
from nodes.store import StoreCorrupted, StoreFull, StoreRefusal, enrolment, moving
from nodes.store.database import Database
from nodes.store.migrations import upgrade
from nodes.store.rows import RowFiles
from nodes.store.store import GalleryStore
from tests.kit.stores import DIM, KEY, MODEL, NOW, WHAT, enrol_one, open_store, rows_folder, sql, templates


class Killed(BaseException):
    """The process ends here: nothing that follows in it happens."""


def place(url: str) -> Path:
    return rows_folder(url) or Path(url.removeprefix("sqlite:///") + ".rows")


def on_disk(store: GalleryStore) -> list[bool]:
    """Which rows of the newest version are there."""
    _, files = store.row_files(store.categories)
    version = files.manifest().current
    erased = VersionReader(files, version.number).read(0, version.rows).erased
    return [not gone for gone in erased.tolist()]


def kill(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: bool = False) -> None:
    """End the process before (or after) a step, and let nothing clean up behind it."""
    real = getattr(owner, name)

    def killed(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        monkeypatch.setattr(RowFiles, "settle", killed_already)
        raise Killed

    def killed_already(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(owner, name, killed)


@pytest.mark.parametrize("step", [(RowFiles, "append", True), (BlockFiles, "append", False)])
def test_an_enrolment_that_is_killed_leaves_nobody_and_no_row(
    step: tuple[Any, str, bool], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(url) as store:
        first = enrol_one(store, 1)
        before = store.content
        with monkeypatch.context() as patch:
            kill(patch, *step)
            with pytest.raises(Killed):
                store.enrol_many(templates(5), **WHAT)
    with open_store(url) as store:
        assert store.verify() == before
        assert store.snapshot(NOW).references == (first,)
        appended = on_disk(store)
        assert appended in ([True], [True, *[True] * 5])
        assert store.settle() == len(appended) - 1, "rows without a subject are erased"
        assert on_disk(store)[1:] == [False] * (len(appended) - 1)
        added = store.enrol_many(templates(5), **WHAT).references
        assert store.snapshot(NOW).references == (first, *added)
        assert (store.snapshot(NOW).templates[1:] == templates(5)).all()


@pytest.mark.parametrize("step", [(RowFiles, "settle", False), (BlockFiles, "forget", False)])
def test_a_deletion_that_is_killed_is_brought_to_its_end(
    step: tuple[Any, str, bool], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(url) as store:
        kept, gone = enrol_one(store, 1), enrol_one(store, 2)
        with monkeypatch.context() as patch:
            kill(patch, *step)
            with pytest.raises(Killed):
                store.forget(gone, NOW)
        assert on_disk(store) == [True, True], "the template is still there"
        assert store.standing(MODEL).gone.tolist() == [1], "and is not found"
    with open_store(url) as store:
        assert store.snapshot(NOW).references == (kept,)
        assert store.settle() == 1
        assert on_disk(store) == [True, False]
        assert store.standing(MODEL).gone.tolist() == []
        assert store.settle() == 0


def test_a_deletion_whose_rows_cannot_be_erased_yet_gives_its_receipt(
    store: GalleryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = enrol_one(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(RowFiles, "settle", _full)
        assert store.forget(gone, NOW).reference == gone
    assert store.standing(MODEL).gone.tolist() == [0]
    assert on_disk(store) == [True]
    assert store.delete_expired_subjects(NOW) == []
    assert on_disk(store) == [False], "the daily look erases it"


def test_an_enrolment_that_fails_leaves_no_row(store: GalleryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    enrol_one(store, 1)
    for _ in range(8):  # more than a crash may leave behind
        with monkeypatch.context() as patch:
            patch.setattr(enrolment, "_insert", _full)
            with pytest.raises(StoreFull):
                enrol_one(store, 2)
    assert on_disk(store) == [True, *[False] * 8]
    assert store.reference(MODEL, 0).startswith("ES-")
    enrol_one(store, 3)
    assert len(store.snapshot(NOW).references) == 2


def _full(*_: object) -> None:
    raise StoreFull("planted")


def older(folder: Path, url: str) -> None:
    """As the folder was before the last enrolment."""
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("kept"), folder)


def another(folder: Path, url: str) -> None:
    """The folder of another store under the same key."""
    other = folder.with_name("other.db")
    with open_store(f"sqlite:///{other}") as store:
        for seed in range(4):
            enrol_one(store, seed)
    (name,) = (path.name for path in folder.iterdir())
    shutil.rmtree(folder / name)
    shutil.copytree(next(other.with_name("other.db.rows").iterdir()), folder / name)


def missing(folder: Path, url: str) -> None:
    shutil.rmtree(folder)


LOSSES: list[tuple[Callable[[Path, str], None], str]] = [
    (older, "it has 1 of the 2 rows that the database knows"),
    (another, "holds the templates of another database"),
    (missing, "is gone: the templates lay there"),
]


@pytest.mark.parametrize(("loss", "says"), LOSSES)
def test_a_folder_that_is_not_what_it_was_is_refused(
    loss: Callable[[Path, str], None], says: str, url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    with open_store(url, rows=folder) as store:
        enrol_one(store, 1)
    shutil.copytree(folder, tmp_path / "kept")
    with open_store(url, rows=folder) as store:
        enrol_one(store, 2)
    open_store(url, rows=folder).close()  # the control
    loss(folder, url)
    with pytest.raises(StoreCorrupted, match=says):
        open_store(url, rows=folder)


def test_a_database_that_is_older_than_its_templates_is_refused_and_destroys_none(
    sqlite_url: str, tmp_path: Path
) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        store.backup(tmp_path / "old.db")
        for seed in range(6):
            enrol_one(store, seed)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{tmp_path}/store.db{suffix}").unlink(missing_ok=True)
    shutil.copyfile(tmp_path / "old.db", tmp_path / "store.db")
    with pytest.raises(StoreCorrupted, match="the database is an older one than the templates"):
        open_store(sqlite_url)
    with open_store(f"sqlite:///{tmp_path}/old.db") as store:
        assert store.count() == 1
    folder = next((tmp_path / "store.db.rows").iterdir())
    assert BlockFiles(folder, KEY.blocks).manifest().next_row == 7


def test_templates_beside_a_postgresql_database_need_a_folder(url: str, tmp_path: Path) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has a file, beside which they lie")
    with open_store(url, rows=None) as store, pytest.raises(StoreRefusal, match=r"storage\.rows"):
        enrol_one(store)


def test_templates_of_an_earlier_version_are_moved_once_and_a_kill_loses_none(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = templates(10)
    database = Database(url)
    upgrade(database, "0007")
    database.close()
    sql(url, "INSERT INTO store (id, state, generation) VALUES (1, 'ES', 7)")
    check = KEY.seal(b"blind-lineup storage key check", "check", KEY.fingerprint)
    sql(url, "INSERT INTO storage_key (fingerprint, check_value) VALUES (:f, :c)", f=KEY.fingerprint, c=check)
    sql(url, "INSERT INTO model (digest, dim) VALUES (:model, :dim)", model=MODEL, dim=DIM)
    references = [f"ES-{number:032x}" for number in range(10)]
    for reference, row in zip(references, rows, strict=True):
        sealed = KEY.seal(row.tobytes(), "template", reference, MODEL)
        sql(
            url,
            "INSERT INTO subject (reference, category, status, retain_until, model_id, key_id, template)"
            " VALUES (:reference, 'suspect', 'identified', '2031-01-01', 1, 1, :template)",
            reference=reference,
            template=sealed,
        )
    monkeypatch.setattr(moving, "BATCH_ROWS", 4)
    with monkeypatch.context() as patch:
        real = RowFiles.append

        def second(files: RowFiles, model: Any, part: Any) -> range:
            numbers = real(files, model, part)
            if numbers.start:
                kill(patch, RowFiles, "settle")
                raise Killed
            return numbers

        patch.setattr(RowFiles, "append", second)
        with pytest.raises(Killed):
            open_store(url)
    assert [len(bytes(found)) == 0 for (found,) in sql(url, "SELECT template FROM subject ORDER BY id")] == (
        [True] * 4 + [False] * 6
    )
    with open_store(url) as store:
        snapshot = store.snapshot(NOW)
        assert snapshot.references == tuple(references)
        assert np.array_equal(snapshot.templates, rows)
        assert store.verify().rows == 10
        assert on_disk(store) == [True] * 4 + [False] * 4 + [True] * 6, "what the kill left is erased"
    assert all(len(bytes(found)) == 0 for (found,) in sql(url, "SELECT template FROM subject"))


def test_versions_that_nobody_needs_are_retired(store: GalleryStore) -> None:
    for seed in range(3):
        enrol_one(store, seed)
    _, files = store.row_files(store.categories)
    versions = files.manifest().versions
    assert store.retire_versions(versions[0].time - 1) == 0
    assert files.manifest().versions == versions
    store.retire_versions(versions[-1].time + 1)
    assert files.manifest().versions == versions[-1:]
    enrol_one(store, 9)  # the database has kept step


@pytest.mark.parametrize(
    "step", [(RowFiles, "compact", True), (BlockFiles, "compact", True), (BlockFiles, "compact", False)]
)
def test_a_compaction_that_is_killed_loses_nobody_and_is_done_the_next_time(
    step: tuple[Any, str, bool], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(url) as store:
        references = store.enrol_many(templates(9), **WHAT).references
        store.forget_all(references[2:5], NOW)
        kept = (*references[:2], *references[5:])
        with monkeypatch.context() as patch:
            kill(patch, *step)
            with pytest.raises(Killed):
                store.compact()
    with open_store(url) as store:
        assert store.verify().rows == 6
        assert store.compact() == (0 if step[2] else 3)
        assert on_disk(store) == [True] * 6
        assert store.snapshot(NOW).references == kept
        assert (store.snapshot(NOW).templates == np.delete(templates(9), [2, 3, 4], axis=0)).all()
        assert store.settle() == 0
        added = enrol_one(store, 77)
        assert store.snapshot(NOW).references == (*kept, added)


def test_nobody_else_on_the_machine_can_look_into_the_folder_of_the_rows(url: str, tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with open_store(url) as store:
            enrol_one(store, 1)
            if rows_folder(url) is None:
                store.backup(tmp_path / "copy")
    finally:
        os.umask(old)
    made = [place(url), *([] if rows_folder(url) else [tmp_path / "copy.rows"])]
    for folder in (*made, *(inner for outer in made for inner in outer.rglob("*") if inner.is_dir())):
        assert folder.stat().st_mode & 0o077 == 0, folder
