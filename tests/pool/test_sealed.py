"""Preparations sealed on disk: they outlive a restart, and what was used, changed or is not ours never comes back."""

from __future__ import annotations

import logging
import secrets
import stat
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from nodes.pool import FOLDER, Pool, UnknownPreparation, reseal
from nodes.pool.files import SealedFiles
from nodes.store import StorageKey, StoreCorrupted
from protocol.errors import PreparationSpent
from protocol.preparation import HolderPreparation, Preparation, RequesterPreparation, RouterPreparation, pack
from tests.kit.parties import HOLDER
from tests.kit.pools import HOUR, WANTED, PoolAtNode, fresh
from tests.kit.stores import KEY, open_store

KINDS = (RequesterPreparation, RouterPreparation, HolderPreparation)


def now() -> float:
    return time.time()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_it_outlives_a_restart(disk: PoolAtNode, kind: type[Preparation]) -> None:
    preparation = fresh(kind)  # type: ignore[type-var]
    before = pack(preparation)
    preparation_id = disk.filled(preparation)
    known = disk.pool.standing()
    pool = disk.restart()
    assert pool.standing() == known
    assert pool.find(**WANTED, now=now()) == preparation_id
    assert pack(pool.take(preparation_id, now())) == before


def test_what_waits_in_memory_does_not_outlive_a_restart(node: PoolAtNode) -> None:
    preparation_id = node.filled()
    with pytest.raises(UnknownPreparation):
        node.restart().take(preparation_id, now())


def test_memory_is_freed_and_only_the_owner_may_read_the_file(disk: PoolAtNode) -> None:
    preparation = fresh()
    chunk = preparation.rings[HOLDER].chunks[0]
    preparation_id = disk.filled(preparation)
    assert not chunk.z.any()
    (file,) = disk.files
    assert file.name == preparation_id.hex()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_one_handed_out_and_not_used_when_the_node_died_is_there_again(disk: PoolAtNode) -> None:
    preparation_id = disk.filled()
    disk.pool.take(preparation_id, now())
    assert disk.restart().take(preparation_id, now()).preparation_id == preparation_id


def test_using_one_deletes_its_file(disk: PoolAtNode) -> None:
    preparation_id = disk.filled()
    disk.pool.take(preparation_id, now())
    assert len(disk.files) == 1
    disk.pool.spend(preparation_id)
    assert disk.files == []


def test_a_crash_between_mark_and_deletion_costs_one_and_allows_no_second_use(
    disk: PoolAtNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation_id = disk.filled()
    with monkeypatch.context() as patch:
        patch.setattr(SealedFiles, "remove", lambda *_: None)
        disk.pool.spend(preparation_id)
    assert len(disk.files) == 1
    pool = disk.restart()
    assert pool.standing() == []
    assert disk.files == []
    with pytest.raises(PreparationSpent):
        pool.spend(preparation_id)


def test_what_grew_too_old_while_the_node_was_down_is_deleted(disk: PoolAtNode) -> None:
    disk.filled(made=now() - 25 * HOUR)
    assert disk.restart().standing() == []
    assert disk.files == []


def test_what_was_made_before_claims_were_lost_is_deleted(disk: PoolAtNode) -> None:
    disk.filled(made=now() - 60)
    disk.store.note_loss(datetime.fromtimestamp(now() - 30, timezone.utc))
    later = disk.filled(made=now() - 10)
    pool = disk.restart()
    assert [waiting.preparation_id for waiting in pool.standing()] == [later]
    assert len(disk.files) == 1


def test_a_loss_that_is_noted_while_the_node_runs_is_met_too(disk: PoolAtNode) -> None:
    preparation_id = disk.filled(made=now() - 60)
    disk.store.note_loss(datetime.fromtimestamp(now() - 30, timezone.utc))
    with pytest.raises(UnknownPreparation, match="restore"):
        disk.pool.take(preparation_id, now())


def other_key(file: Path) -> bytes:
    return StorageKey(b"o" * 32).seal(KEY.unseal(file.read_bytes(), "preparation", file.name), "preparation", file.name)


def other_content(file: Path) -> bytes:
    return KEY.seal(b"\x90", "preparation", file.name)


BROKEN = {
    "cut": lambda file: file.read_bytes()[:-1],
    "a bit": lambda file: file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]),
    "empty": lambda file: b"",
    "another key": other_key,
    "another version": other_content,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_does_not_open_is_dropped_with_a_line_and_stops_nobody(
    disk: PoolAtNode, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = disk.filled(), disk.filled()
    file = disk.folder / FOLDER / bad.hex()
    file.write_bytes(BROKEN[how](file))
    with caplog.at_level(logging.WARNING, "lineup.pool"):
        pool = disk.restart()
    assert "cannot be read is dropped" in caplog.text
    assert [waiting.preparation_id for waiting in pool.standing()] == [good]
    assert len(disk.files) == 1


def test_a_file_that_breaks_while_the_node_runs_is_dropped_when_it_is_wanted(disk: PoolAtNode) -> None:
    preparation_id = disk.filled()
    disk.files[0].write_bytes(b"")
    with pytest.raises(UnknownPreparation, match="cannot be read"):
        disk.pool.take(preparation_id, now())
    assert disk.files == []


def test_one_under_the_name_of_another_does_not_open(disk: PoolAtNode) -> None:
    disk.filled()
    disk.files[0].rename(disk.folder / FOLDER / secrets.token_hex(32))
    assert disk.restart().standing() == []


def test_what_is_no_preparation_is_passed_over_and_half_written_ones_are_deleted(
    disk: PoolAtNode, caplog: pytest.LogCaptureFixture
) -> None:
    preparation_id = disk.filled()
    folder = disk.folder / FOLDER
    (folder / f".{secrets.token_hex(32)}").write_bytes(b"half")
    (folder / "notes.txt").write_text("of somebody")
    (folder / secrets.token_hex(32)).mkdir()
    with caplog.at_level(logging.WARNING, "lineup.pool"):
        pool = disk.restart()
    assert [waiting.preparation_id for waiting in pool.standing()] == [preparation_id]
    assert "notes.txt" in caplog.text
    assert sorted(path.is_file() for path in folder.iterdir()) == [False, True, True]
    assert (folder / "notes.txt").exists()


def test_a_folder_that_cannot_be_read_stops_nobody(disk: PoolAtNode, caplog: pytest.LogCaptureFixture) -> None:
    (disk.folder / FOLDER).write_text("not a folder")
    with caplog.at_level(logging.WARNING, "lineup.pool"):
        pool = disk.restart()
        preparation_id = disk.filled()
    assert "waits in memory" in caplog.text
    assert pool.take(preparation_id, now()).preparation_id == preparation_id


def test_a_new_storage_key_opens_what_waited_and_the_old_one_does_not(disk: PoolAtNode) -> None:
    preparation_id, broken = disk.filled(), disk.filled()
    (disk.folder / FOLDER / broken.hex()).write_bytes(b"neither")
    disk.stop()
    new = StorageKey(b"n" * 32)
    assert reseal(disk.folder / FOLDER, KEY, new) == 1
    assert reseal(disk.folder / FOLDER, KEY, new) == 0
    disk.store = open_store(disk.url)
    disk.pool = Pool(disk.folder / FOLDER, new, disk.store, disk.policy)
    assert [waiting.preparation_id for waiting in disk.pool.standing()] == [preparation_id]
    data = (disk.folder / FOLDER / preparation_id.hex()).read_bytes()
    with pytest.raises(StoreCorrupted):
        KEY.unseal(data, "preparation", preparation_id.hex())
