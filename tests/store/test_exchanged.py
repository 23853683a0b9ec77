"""A block file of another history does not open, and no template lies in a folder that the database does not name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.blocks import BlockFiles, VersionReader
from nodes.blocks import block as block_module
from nodes.store import StorageKey, StoreCorrupted, StoreFull, enrolment, moving
from nodes.store.database import Database
from nodes.store.migrations import upgrade
from nodes.store.rows import RowFiles
from nodes.store.store import GalleryStore
from tests.kit.stores import DIM, KEY, MODEL, NOW, WHAT, enrol_one, open_store, sql, templates


def die(*_: object, **__: object) -> None:
    """As a kill or a power cut: nothing that follows happens, and nothing cleans up."""
    os._exit(9)


def killed(work: Callable[[], object]) -> None:
    """Do something in a process that dies in it."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def block_of(folder: Path) -> Path:
    (block,) = folder.glob("*/block-*")
    return block


# Block files of two histories


def two_histories(url: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """X is being enrolled when the process dies, then Y is enrolled. Somebody puts the first file under the second's
    name: the two are of one gallery, one number and one generation."""
    with open_store(url) as store:
        enrol_one(store, 1)
    with patch.context() as dying:
        dying.setattr("nodes.blocks.change.write_manifest", die)

        def enrol() -> None:
            with open_store(url) as store:
                enrol_one(store, 2)

        killed(enrol)
    kept = {path.name: path.read_bytes() for path in folder.glob("*/block-*")}
    with open_store(url) as store:
        enrol_one(store, 3)
    block = block_of(folder)
    block.write_bytes(kept[block.name])


def test_a_block_file_of_another_history_does_not_open(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_histories(sqlite_url, tmp_path / "store.db.rows", monkeypatch)
    with open_store(sqlite_url) as store, pytest.raises(StoreCorrupted, match="does not decrypt"):
        store.snapshot(NOW)


def test_control_without_its_mark_it_opens_under_the_reference_of_another(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = block_module._what
    monkeypatch.setattr(block_module, "_what", lambda *given: what(*given)[:-1])
    two_histories(sqlite_url, tmp_path / "store.db.rows", monkeypatch)
    with open_store(sqlite_url) as store:
        assert (store.snapshot(NOW).templates[1] == templates(1, seed=2)[0]).all(), "Y goes by the template of X"


# Folders that the database does not name


def unnamed(store: GalleryStore, row: bytes) -> int:
    """Folders beside the store's own in which a template can be read."""
    found = 0
    for folder in store.unnamed_rows():
        files = BlockFiles(folder, KEY.blocks)
        rows = VersionReader(files, files.manifest().current.number).blocks()
        found += any(row in part.rows.tobytes() for part in rows)
    return found


def first_enrolment(url: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(enrolment, "_insert", die)

    def enrol() -> None:
        with open_store(url) as store:
            store.enrol_many(templates(5), **WHAT)

    killed(enrol)


def first_move(url: str, patch: pytest.MonkeyPatch) -> None:
    """Of the templates of version 7, which lie in the database."""
    database = Database(url)
    upgrade(database, "0007")
    database.close()
    check = KEY.seal(b"blind-lineup storage key check", "check", KEY.fingerprint)
    sql(url, "INSERT INTO store (id, state, generation) VALUES (1, 'ES', 7)")
    sql(url, "INSERT INTO storage_key (fingerprint, check_value) VALUES (:a, :b)", a=KEY.fingerprint, b=check)
    sql(url, "INSERT INTO model (digest, dim) VALUES (:digest, :dim)", digest=MODEL, dim=DIM)
    for number, template in enumerate(templates(5)):
        name = f"ES-{number:032x}"
        sealed = KEY.seal(template.tobytes(), "template", name, MODEL)
        sql(
            url,
            "INSERT INTO subject (reference, category, status, retain_until, model_id, key_id, template) "
            "VALUES (:name, 'suspect', 'identified', '2031-01-01', 1, 1, :sealed)",
            name=name,
            sealed=sealed,
        )
    append = RowFiles.append

    def dies(files: RowFiles, *given: object) -> None:
        append(files, *given)  # type: ignore[arg-type]
        die()

    patch.setattr(RowFiles, "append", dies)
    killed(lambda: open_store(url))


def as_it_was(patch: pytest.MonkeyPatch) -> None:
    """The folder is made in the transaction that puts rows in it."""

    def make(session: object, files: RowFiles) -> None:
        pass

    append = RowFiles.append

    def appends(files: RowFiles, model: object, rows: object) -> object:
        if model.folder is None:  # type: ignore[attr-defined]
            files.create(model)  # type: ignore[arg-type]
        return append(files, model, rows)  # type: ignore[arg-type]

    patch.setattr(moving, "make_folders", make)
    patch.setattr(RowFiles, "append", appends)
    known = enrolment.known_model
    seen = []

    def late(*given: object) -> object:
        seen.append(given)
        return known(*given) if len(seen) > 1 else None  # type: ignore[arg-type]

    patch.setattr(enrolment, "known_model", late)


@pytest.mark.parametrize("dying", [first_enrolment, first_move])
def test_a_first_enrolment_or_a_move_that_is_killed_leaves_no_template_that_nobody_erases(
    dying: Callable[[str, pytest.MonkeyPatch], None], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        dying(sqlite_url, patch)
    with open_store(sqlite_url) as store:
        store.settle()
        assert unnamed(store, templates(5)[0].tobytes()) == 0


@pytest.mark.parametrize("dying", [first_enrolment, first_move])
def test_control_made_with_the_rows_the_folder_is_nobodys_and_a_start_deletes_it(
    dying: Callable[[str, pytest.MonkeyPatch], None], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        as_it_was(patch)
        dying(sqlite_url, patch)
    row = templates(5)[0].tobytes()
    with open_store(sqlite_url) as store:
        if dying is first_enrolment:
            store.enrol_many(templates(5), **WHAT)
        gone = store.snapshot(NOW).references[0]
        store.forget(gone, NOW)
        store.verify()
        assert unnamed(store, row) == 1, "who is forgotten is still there"
    with GalleryStore(sqlite_url, StorageKey(b"n" * 32), state="ES", retired=[KEY]) as store:
        store.rekey()
        assert unnamed(store, row) == 1, "under the old key"
        assert store.drop_unnamed_rows() == 1
        assert unnamed(store, row) == 0
        assert store.verify().rows == 4


def test_a_first_enrolment_that_fails_leaves_one_folder(store: GalleryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(enrolment, "_insert", full)
        for _ in range(3):
            with pytest.raises(StoreFull):
                enrol_one(store, 1)
    assert store.unnamed_rows() == []
    kept = enrol_one(store, 1)
    assert store.snapshot(NOW).references == (kept,)


def test_only_folders_of_templates_are_deleted(sqlite_url: str, tmp_path: Path) -> None:
    rows = tmp_path / "store.db.rows"
    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        (own,) = rows.iterdir()
        names = ["important", "0123456789abcdef0", f".{'a' * 16}-copying", "b" * 16]
        for name in names:
            shutil.copytree(own, rows / name)
        assert store.drop_unnamed_rows() == 2
        assert sorted(path.name for path in rows.iterdir()) == sorted([own.name, *names[:2]])
        assert store.verify().rows == 1
