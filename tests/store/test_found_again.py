"""Who could find a forgotten person again? Somebody who puts back a row of the database, or the folder, or a block."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nodes.blocks import BlockFiles, BlocksCorrupted, VersionReader
from nodes.store import Category, StoreCorrupted
from nodes.store.derived import DerivedGallery
from nodes.store.rows import RowFiles
from tests.kit.ring import RING
from tests.kit.stores import KEY, NOW, enrol_one, open_store, sql, templates

ROW = 'reference, category, status, retain_until, contested, quality, model_id, key_id, template, enrolled, "row", tie'


class World:
    """A store with two people, the second to be forgotten; what the database and the folder were before."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.rows = url, folder / "store.db.rows"
        self.kept = folder / "kept"
        self.store = open_store(url)
        enrol_one(self.store, 1)
        self.gone = enrol_one(self.store, 2)
        self.derived = DerivedGallery(self.store, RING)
        self.root = self.derived.current().root
        shutil.copytree(self.rows, self.kept)
        sql(url, f"CREATE TABLE before AS SELECT * FROM subject WHERE reference = '{self.gone}'")

    def forget(self) -> None:
        self.store.forget(self.gone, NOW)

    def put_row_back(self) -> None:
        """Somebody who can write to the database; the number of changes rises, as with every change."""
        sql(self.url, f"INSERT INTO subject ({ROW}) SELECT {ROW} FROM before")
        sql(self.url, "UPDATE store SET generation = generation + 1")

    def put_folder_back(self) -> None:
        """Somebody who can write to the folder: manifest and blocks as they were, each properly sealed."""
        shutil.rmtree(self.rows)
        shutil.copytree(self.kept, self.rows)

    def found(self, derived: DerivedGallery | None = None) -> list[bool] | None:
        """Who is found, and with the template of whom."""
        derived = derived or self.derived
        lent = derived.lend(self.root, NOW, list(Category))
        if lent is None:
            return None
        gallery, live = lent
        has = [
            bool((row == templates(1, seed=seed)[0]).all()) for row, seed in zip(gallery.templates, (1, 2), strict=True)
        ]
        derived.give_back(live)
        return list(np.logical_and(live, has))


@pytest.fixture
def world(sqlite_url: str, tmp_path: Path) -> Iterator[World]:
    made = World(sqlite_url, tmp_path)
    with made.store:
        assert made.found() == [True, True]
        yield made


@pytest.mark.ring
def test_who_puts_back_the_row_finds_nobody_at_a_node_that_runs(world: World) -> None:
    world.forget()
    assert world.found() == [True, False]
    world.put_row_back()
    world.derived.erase_gone(NOW)
    assert world.found() == [True, False]


@pytest.mark.ring
@pytest.mark.parametrize("attacks", [(World.put_folder_back,), (World.put_row_back, World.put_folder_back)])
def test_a_folder_that_is_put_back_is_refused_at_a_node_that_runs(
    attacks: tuple[Callable[[World], None], ...], world: World
) -> None:
    world.forget()
    for attack in attacks:
        attack(world)
    with pytest.raises(StoreCorrupted, match="was exchanged"):
        world.found()
    with pytest.raises(StoreCorrupted, match="was exchanged"):
        world.store.verify()


@pytest.mark.ring
def test_who_was_enrolled_is_not_unfound_in_silence_by_an_older_folder(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO HIT for somebody who is held would be the worst answer. The control: without the look it is given."""
    enrol_one(world.store, 3)
    assert len(world.derived.current().references) == 3
    world.put_folder_back()
    with pytest.raises(StoreCorrupted, match="was exchanged"):
        world.derived.current()
    with pytest.raises(StoreCorrupted, match="was exchanged"):
        world.store.verify()
    monkeypatch.setattr(RowFiles, "not_older", lambda *_: None)
    assert len(world.derived.current().references) == 2
    world.store.verify()


@pytest.mark.ring
@pytest.mark.parametrize("attack", [World.put_row_back, World.put_folder_back], ids=["row", "folder"])
def test_a_start_after_one_of_them_is_refused(attack: Callable[[World], None], world: World) -> None:
    world.forget()
    world.store.close()
    attack(world)

    def start() -> None:
        with open_store(world.url) as store:
            store.verify()

    with pytest.raises(StoreCorrupted):
        start()


@pytest.mark.ring
def test_control_who_puts_back_both_finds_the_person_after_a_start(world: World, tmp_path: Path) -> None:
    """What the database says of itself has to be put back as well; the node's log tells (`nodes.evidence.ledger`)."""
    before = sql(world.url, "SELECT generation, rows, digest FROM store")[0]
    model = sql(world.url, "SELECT generation, next_row FROM model")[0]
    world.forget()
    world.store.close()
    world.put_row_back()
    world.put_folder_back()
    sql(world.url, f"UPDATE subject SET id = 2 WHERE reference = '{world.gone}'")
    sql(world.url, "UPDATE store SET generation = :a, rows = :b, digest = :c", **dict(zip("abc", before, strict=True)))
    sql(world.url, "UPDATE model SET generation = :a, next_row = :b", **dict(zip("ab", model, strict=True)))
    with open_store(world.url) as store:
        store.verify()
        assert world.found(DerivedGallery(store, RING)) == [True, True]


def test_a_block_file_of_before_does_not_open_in_the_place_of_the_present_one(world: World) -> None:
    world.forget()
    (folder,) = world.rows.iterdir()
    (old,) = world.kept.glob("*/block-*")
    (present,) = folder.glob("block-*")
    assert old.name != present.name
    files = BlockFiles(folder, KEY.blocks)
    reader = VersionReader(files, files.manifest().current.number)
    assert reader.read(0, 2).erased.tolist() == [False, True], "the control"
    shutil.copyfile(old, present)
    with pytest.raises(BlocksCorrupted, match="does not decrypt"):
        reader.read(0, 2)


def test_nothing_of_the_person_stays_in_the_folder_though_a_backup_was_killed(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup first makes a copy beside the folder, and dies with it there."""

    class Killed(BaseException):
        pass

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with open_store(sqlite_url) as store:
        enrol_one(store, 1)
        gone = enrol_one(store, 2)
        (block,) = tmp_path.glob("store.db.rows/*/block-*")
        with_both = block.read_bytes()[-500:]
        with monkeypatch.context() as patch:
            patch.setattr("nodes.store.backup.copy_folder", dies)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                store.backup(tmp_path / "backup.db")
        assert holding(tmp_path, with_both) == 2, "the control: it lies there twice"
        store.forget(gone, NOW)
        assert holding(tmp_path, with_both) == 0
        store.backup(tmp_path / "backup.db")


def test_a_copy_of_a_backup_under_way_is_not_taken_from_it(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nodes.store import backup as module

    real = module.copy_folder

    with open_store(sqlite_url) as store, open_store(sqlite_url) as other:
        first, gone = enrol_one(store, 1), enrol_one(store, 2)

        def slow(source: Path, target: Path) -> None:
            if other.count() == 2:
                other.forget(gone, NOW)
            real(source, target)

        monkeypatch.setattr(module, "copy_folder", slow)
        store.backup(tmp_path / "backup.db")
        assert store.snapshot(NOW).references == (first,)
    with open_store(f"sqlite:///{tmp_path}/backup.db") as backup:
        assert backup.count() == 2, "of one moment"
        assert backup.verify().rows == 2


def holding(folder: Path, part: bytes) -> int:
    """Files that hold some bytes."""
    return sum(part in path.read_bytes() for path in folder.rglob("*") if path.is_file())
