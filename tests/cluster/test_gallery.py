"""A gallery in a cluster goes through the same stories as one in memory, while workers die and the cluster is lost."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import BlockFiles
from nodes.cluster import gallery as gallery_module
from nodes.cluster.errors import ClusterError, WorkerLost
from nodes.cluster.gallery import ClusterGallery
from nodes.cluster.shards import Shards
from pets.params import N4096
from protocol.errors import QueryRefused
from protocol.steps import Product
from protocol.work import perform
from tests.kit.blocks import BLOCK, DIM, MODEL, Model, check, rows, take
from tests.kit.cluster import ADDRESS, FakeCalls, cipher, config, holder

STORY = [
    ("append", 19), ("append", 12), ("correct", 3), ("forget", 5), ("append", 6), ("forget", 1000), ("compact", 0),
    ("correct", 9), ("append", 19), ("retire", 4), ("compact", 0), ("forget", 77), ("append", 40), ("correct", 11),
]  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return holder(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "READ_SECONDS", 60)


def new_files(node: Path, folder: Path) -> BlockFiles:
    return BlockFiles.create(folder, cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK)


def spread(files: BlockFiles, node: Path, calls: FakeCalls, **values: Any) -> ClusterGallery:
    return ClusterGallery(files, calls, config(**values), node, unit=BLOCK, spare=BLOCK)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("what", ["nothing", "workers die", "the cluster is lost"])
def test_whatever_changes_every_row_is_right(node: Path, tmp_path: Path, what: str, copies: int) -> None:
    files, model, calls, chance = new_files(node, tmp_path / "g"), Model(), FakeCalls(), random.Random(copies)
    gallery = spread(files, node, calls, copies=copies)
    for step, seed in STORY:
        take(files, model, step, seed)
        if what == "workers die":  # with the arguments of when they were made: before this change and others
            for shard in chance.sample(sorted(calls.shards), len(calls.shards) // 2):
                calls.kill(shard)
        if what == "the cluster is lost" and seed % 2:
            calls.vanish()
            calls.is_down = False
        check(files, model, gallery)
        for other in gallery.further(len(model.history[model.version])):
            with gallery.snapshot() as snapshot:
                np.testing.assert_array_equal(other[:], snapshot.rows[:])
    assert what != "workers die" or calls.deaths > 10


def test_new_rows_go_into_the_last_shard_and_then_into_others(node: Path, tmp_path: Path) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls)
    assert [part.range.room for part in gallery.shards.parts] == [BLOCK, BLOCK, 2 * BLOCK]
    for count, shards in ((BLOCK, 3), (1, 4), (2 * BLOCK - 1, 4), (5 * BLOCK, 7)):
        files.append(rows(count))
        with gallery.snapshot() as snapshot:
            assert snapshot.rows[:].any(axis=1).all()
        assert len(gallery.shards.parts) == shards
    assert len(calls.shards) == 7


def test_a_shard_that_is_not_allowed_costs_the_new_rows_only(node: Path, tmp_path: Path) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls(hosts={"A": 3})
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls)
    before = gallery.snapshot()
    files.append(rows(9 * BLOCK))
    with pytest.raises(ClusterError, match="has 3 processors, and 7 are needed"):
        gallery.snapshot()
    assert "7 are needed" in gallery.shards.fault, "for health"
    assert before.rows[:].any(axis=1).all()
    calls.hosts = {"A": 7}
    assert gallery.snapshot().rows.shape == (12 * BLOCK, DIM)


@pytest.mark.parametrize("refuses", [False, True], ids=["", "control"])
def test_a_new_shard_that_does_not_come_up_keeps_nobody_from_the_rows_there_are(
    refuses: bool, node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: every failure is taken for one of the rows that are searched."""
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls)
    first = set(calls.shards)
    real = calls.get

    def get(answer: Any, seconds: float) -> Any:
        if answer[0] not in first and not came_up:
            raise WorkerLost("ActorDiedError")
        return real(answer, seconds)

    came_up: list[bool] = []
    monkeypatch.setattr(calls, "get", get)
    monkeypatch.setattr("nodes.cluster.shards.START_SECONDS", 0.5)
    if refuses:
        monkeypatch.setattr(Shards, "_serves", False)
    files.append(rows(3 * BLOCK, seed=9))
    if refuses:
        with pytest.raises(ClusterError, match="no answer in time"):
            gallery.snapshot()
        return
    for _ in range(2):
        with gallery.snapshot() as lent:
            np.testing.assert_array_equal(lent.rows[:], rows(3 * BLOCK))
    assert gallery.shards.well
    assert "no answer in time" in gallery.shards.late, "for the operator"
    came_up.append(True)
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[3 * BLOCK :], rows(3 * BLOCK, seed=9))
    assert not gallery.shards.late


def test_what_is_lost_of_the_rows_there_are_is_a_fault_also_beside_new_ones(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls)
    monkeypatch.setattr("nodes.cluster.shards.START_SECONDS", 0.5)
    files.append(rows(3 * BLOCK, seed=9))
    calls.deaf = True
    with pytest.raises(ClusterError, match="no answer in time"):
        gallery.snapshot()
    assert gallery.shards.fault
    calls.deaf = False
    with gallery.snapshot() as lent:
        assert len(lent.rows) == 6 * BLOCK
    assert not gallery.shards.fault


def test_copies_that_do_not_hear_what_to_forget_are_waited_for_together(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, six deaf copies would hold the gallery for six times as long."""
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls, copies=2)
    monkeypatch.setattr("nodes.cluster.shards.FORGET_SECONDS", 1.0)
    waited: list[float] = []

    def deaf(answer: Any, seconds: float) -> Any:
        waited.append(seconds)
        time.sleep(seconds)
        raise WorkerLost("silence")

    monkeypatch.setattr(calls, "get", deaf)
    began = time.monotonic()
    assert not gallery.shards.forget(np.array([0, BLOCK, 2 * BLOCK]))
    assert len(waited) == 6
    assert sum(waited) < time.monotonic() - began + 1 < 4


def product(array: Any, of: int) -> Any:
    return perform([Product(array, np.arange(DIM, dtype=np.int32), N4096, 0, 1)], 1)[:, :of]


def test_a_snapshot_stays_as_it_was_while_rows_come_and_the_files_are_compacted(node: Path, tmp_path: Path) -> None:
    files, calls, held = new_files(node, tmp_path / "g"), FakeCalls(), rows(5 * BLOCK)
    files.append(held)
    gallery = ClusterGallery(files, calls, config(), node, unit=4096)
    lent = gallery.snapshot()
    files.append(rows(BLOCK, seed=9))
    files.forget([3])
    files.compact()
    assert not gallery.refresh(), "it is still read"
    np.testing.assert_array_equal(lent.rows[:], held)
    assert not lent.live()[3]
    expected = product(lent.rows, len(held))
    (shard,) = calls.shards
    calls.kill(shard)  # and reads a version of the old epoch, of which row 3 is gone
    again = product(lent.rows, len(held))
    assert (np.delete(again, 3, axis=1) == np.delete(expected, 3, axis=1)).all()
    assert not again[:, 3].any()
    assert not lent.rows[3:4].any()
    lent.close()
    assert lent.rows.shape == (0, DIM)
    with gallery.snapshot() as newest:
        np.testing.assert_array_equal(newest.rows[:], np.concatenate([np.delete(held, 3, 0), rows(BLOCK, seed=9)]))


def test_who_reads_without_a_snapshot_is_told_that_the_rows_moved(node: Path, tmp_path: Path) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(5 * BLOCK))
    gallery = spread(files, node, calls)
    with gallery.snapshot() as snapshot:
        preparing = snapshot.rows
    files.forget([3])
    files.compact()
    gallery.refresh()
    with pytest.raises(ClusterError, match="compacted"):
        product(preparing, 1)


def test_who_is_forgotten_is_let_go_of_before_a_worker_that_reads_zeros_is_believed(node: Path, tmp_path: Path) -> None:
    files, calls, events = new_files(node, tmp_path / "g"), FakeCalls(), []
    files.append(rows(5 * BLOCK))
    gallery = spread(files, node, calls)
    product(gallery.snapshot().rows, 1)
    gallery.watch(lambda: events.append("told"))
    lent = gallery.snapshot()
    files.forget([3])
    before = product(lent.rows, 5 * BLOCK)
    assert events == [], "the search reads the row as it was"
    assert before[0, 3] == product(lent.rows, 4)[0, 3] != 0
    for shard in sorted(calls.shards):
        calls.kill(shard)
    after = product(lent.rows, 5 * BLOCK)
    assert events == ["told"]
    assert after[0, 3] == 0
    assert gallery.overwritten == 0
    with pytest.raises(QueryRefused, match="forgotten during the search"):
        lent.rows[[2, 3]]
    assert lent.rows[[2, 4]].any(axis=1).all()


def test_a_row_is_overwritten_when_nobody_reads_it_and_again_where_a_copy_did_not_hear(
    node: Path, tmp_path: Path
) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(5 * BLOCK))
    gallery = spread(files, node, calls, copies=2)
    with gallery.snapshot() as lent:
        files.forget([3])
        gallery.refresh()
        assert lent.rows[3:4].any()
        calls.deaf = True
    assert gallery.overwritten == 0
    assert all(shard._memory.rows[3].any() for shard in calls.shards.values() if shard._part.first == 0)
    calls.deaf = False
    gallery.refresh()
    assert gallery.overwritten == 1
    assert not any(shard._memory.rows[3].any() for shard in calls.shards.values() if shard._part.first == 0)


def test_a_gallery_that_is_closed_ends_its_processes_when_nobody_reads_it(node: Path, tmp_path: Path) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls()
    files.append(rows(5 * BLOCK))
    gallery = spread(files, node, calls)
    lent = gallery.snapshot()
    gallery.close()
    assert lent.rows[:].any(axis=1).all()
    lent.close()
    assert not calls.shards


def test_nobody_waits_long_while_the_rows_are_read_again(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, calls, going_on = new_files(node, tmp_path / "g"), FakeCalls(), threading.Event()
    files.append(rows(5 * BLOCK))
    gallery = spread(files, node, calls)
    calls.vanish()
    calls.is_down = False
    monkeypatch.setattr(gallery_module, "READ_SECONDS", 0.1)
    calls.dies = lambda _: not going_on.wait(60)  # until then nobody answers
    for _ in range(2):
        with pytest.raises(ClusterError, match="the rows are being read"):
            gallery.snapshot()
    assert gallery.shards.fault
    going_on.set()
    monkeypatch.setattr(gallery_module, "READ_SECONDS", 60)
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[:], rows(5 * BLOCK))
    assert not gallery.shards.fault


def test_a_cluster_that_is_not_there_leaves_no_process(node: Path, tmp_path: Path) -> None:
    files, calls = new_files(node, tmp_path / "g"), FakeCalls(is_down=True)
    files.append(rows(5 * BLOCK))
    with pytest.raises(ClusterError, match=f"no cluster at {ADDRESS}"):
        spread(files, node, calls)
    calls.is_down, calls.deaf = False, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nodes.cluster.shards.START_SECONDS", 0.5)
        with pytest.raises(ClusterError, match="no answer in time"):
            spread(files, node, calls)
    assert not calls.shards
