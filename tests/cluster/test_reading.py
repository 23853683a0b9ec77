"""Searches go on in the version that is held while shards read new rows; what was forgotten meanwhile is zero."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import BlockFiles
from nodes.cluster import gallery as gallery_module
from nodes.cluster import shard as shard_module
from nodes.cluster.errors import ClusterError
from nodes.cluster.gallery import ClusterGallery
from nodes.cluster.shard import Range, Shard
from nodes.store.derived import DerivedGallery
from nodes.store.resident import Resident
from pets.params import N4096
from protocol.steps import Product
from protocol.work import perform
from tests.kit.blocks import BLOCK, DIM, MODEL, rows
from tests.kit.cluster import FakeCalls, cipher, config, holder
from tests.kit.stores import NOW, WHAT, templates

SOON = 5.0  # seconds; whoever waits for the rows waits until `going_on`


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return holder(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def going_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Rows that are read from now on lie in memory, and are at hand only once this is set."""
    event, read_on = threading.Event(), Shard._read_on

    def slow(self: Shard) -> tuple[int, int]:
        if self._generation < 0 and not event.is_set() and threading.current_thread().name != "lineup-reader":
            raise OSError("it is being made, and with Ray nobody waits for that: `hold` is asked")
        read = read_on(self)
        assert event.wait(60)
        return read

    event.set()
    monkeypatch.setattr(Shard, "_read_on", slow)
    monkeypatch.setattr(gallery_module, "READ_SECONDS", 0.2)
    yield event
    event.set()


def spread(files: BlockFiles, node: Path, calls: FakeCalls, **values: Any) -> ClusterGallery:
    return ClusterGallery(files, calls, config(**values), node, unit=BLOCK, spare=BLOCK)


def product(array: Any, of: int) -> Any:
    return perform([Product(array, np.arange(DIM, dtype=np.int32), N4096, 0, 1)], 1)[:, :of]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def until_read(gallery: ClusterGallery, count: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with gallery.snapshot() as newest:
            if len(newest.rows) == count:
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("added", "processes"), [(3, 3), (5 * BLOCK, 5)], ids=["in a shard", "in shards of their own"])
def test_searches_of_the_version_before_go_on_while_new_rows_are_read(
    node: Path, tmp_path: Path, going_on: threading.Event, added: int, processes: int
) -> None:
    files, calls = BlockFiles.create(tmp_path / "g", cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK), FakeCalls()
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls)
    waiting = gallery.snapshot()
    expected = product(waiting.rows, 3 * BLOCK)
    going_on.clear()
    files.append(rows(added, seed=9))
    for _ in range(3):
        with within(SOON), gallery.snapshot() as lent:
            assert len(lent.rows) == 3 * BLOCK, "nobody is given rows that are not at hand"
            assert lent.live().all()
            np.testing.assert_array_equal(product(lent.rows, 3 * BLOCK), expected)
            assert lent.rows[[0, 5]].any(axis=1).all()
    files.forget([1])
    with within(SOON):
        assert not waiting.live()[1], "who is forgotten meanwhile is not found"
        waiting.close()
    assert not gallery.shards.fault
    going_on.set()
    until_read(gallery, 3 * BLOCK + added)
    with gallery.snapshot() as newest:
        np.testing.assert_array_equal(newest.rows[3 * BLOCK :], rows(added, seed=9))
        assert not newest.rows[1:2].any()
    assert len(calls.shards) == processes


def test_control_where_the_lock_is_held_while_rows_are_read_all_wait(
    node: Path, tmp_path: Path, going_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = BlockFiles.create(tmp_path / "g", cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK)
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, FakeCalls())
    waiting = gallery.snapshot()

    def locked(self: ClusterGallery) -> None:
        with self._lock:
            self.shards.reach(self._manifest.current.rows)

    monkeypatch.setattr(ClusterGallery, "_read", locked)
    going_on.clear()
    files.append(rows(3, seed=9))
    begun = threading.Thread(target=gallery.refresh)
    begun.start()
    time.sleep(0.3)
    other = threading.Thread(target=waiting.live)
    other.start()
    other.join(1)
    assert other.is_alive()
    going_on.set()
    begun.join(60)
    other.join(60)


def test_who_is_forgotten_while_the_row_is_read_is_overwritten(
    node: Path, tmp_path: Path, going_on: threading.Event
) -> None:
    files, calls = BlockFiles.create(tmp_path / "g", cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK), FakeCalls()
    files.append(rows(3 * BLOCK))
    gallery = spread(files, node, calls)
    (last,) = [shard for shard in calls.shards.values() if shard._part.first == 2 * BLOCK]
    going_on.clear()
    files.append(rows(3, seed=9))
    gallery.refresh()
    deadline = time.monotonic() + 60
    while not last._memory.rows[BLOCK + 1].any():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    files.forget([3 * BLOCK + 1])
    gallery.refresh()
    assert last._memory.rows[BLOCK + 1].any(), "the control: it was read before it was erased"
    going_on.set()
    until_read(gallery, 3 * BLOCK + 3)
    assert not last._memory.rows[BLOCK + 1].any()
    assert last._memory.rows[BLOCK].any()


def test_a_shard_that_reads_still_hears_what_to_forget_and_answers(
    node: Path, tmp_path: Path, going_on: threading.Event
) -> None:
    files = BlockFiles.create(tmp_path / "g", cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK)
    files.append(rows(4))
    shard = Shard(str(node), str(tmp_path / "g"), 0, Range(0, 2 * BLOCK), DIM, 1)
    going_on.clear()
    files.append(rows(5, seed=9))
    assert shard.hold(9) == (2, 4)
    deadline = time.monotonic() + 60
    while not shard._memory.rows[8].any():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with within(SOON):
        shard.forget(np.array([1, 8]))
        assert shard.take(4, np.array([0]))[1].any()
    going_on.set()
    while shard.hold(9)[1] < 9:
        assert time.monotonic() < deadline
    _, found = shard.take(9, np.arange(9))
    assert found.any(axis=1).tolist() == [True, False, True, True, True, True, True, True, False]


def test_a_shard_tells_what_kept_it_from_reading(node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = BlockFiles.create(tmp_path / "g", cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK)
    files.append(rows(4))
    monkeypatch.setattr(shard_module, "HOLD_SECONDS", 60)
    shard = Shard(str(node), str(tmp_path / "g"), 0, Range(0, 2 * BLOCK), DIM, 1)
    with pytest.raises(ClusterError, match="5 rows from 0 on are asked for"):
        shard.hold(5)
    files.append(rows(1, seed=9))
    for block in (tmp_path / "g").glob("block-*"):
        block.rename(f"{block}.away")
    with pytest.raises(Exception, match="is missing"):
        shard.hold(5)
    for block in (tmp_path / "g").glob("block-*"):
        block.rename(str(block).removesuffix(".away"))
    assert shard.hold(5)[1] == 5


def test_a_holder_lends_a_version_while_another_preparation_waits_for_new_rows(
    node: Path, going_on: threading.Event
) -> None:
    from nodes.config.storage import holder_store

    with holder_store(node) as store:
        store.enrol_many(templates(20, DIM), **WHAT)
        calls, made = FakeCalls(), []

        def hold(files: BlockFiles) -> ClusterGallery:
            made.append(ClusterGallery(files, calls, config(), node, unit=BLOCK, spare=BLOCK))
            return made[0]

        derived = DerivedGallery(store, N4096, resident=Resident(store, hold=hold))
        root = derived.current().root
        going_on.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gallery_module, "READ_SECONDS", 30)
            store.enrol_many(templates(5, DIM, seed=3), **WHAT)
            newest: list[bytes] = []
            preparing = threading.Thread(target=lambda: newest.append(derived.current().root))
            preparing.start()
            time.sleep(0.3)
            with within(SOON):
                lent = derived.lend(root, NOW, store.categories)
                assert lent is not None
                gallery, live = lent
                assert (len(gallery.templates), int(live.sum())) == (20, 20)
                assert derived.erase_gone(NOW) == 0
                derived.give_back(live)
            assert preparing.is_alive()
            going_on.set()
            preparing.join(60)
        assert newest
        assert newest != [root]
