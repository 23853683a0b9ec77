"""Two copies of a shard lie on different machines where there are two, also after one was lost and is back."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.blocks import BlockFiles
from nodes.cluster import gallery as gallery_module
from nodes.cluster.errors import WorkerLost
from nodes.cluster.gallery import Cluster, ClusterGallery
from nodes.cluster.places import Places
from nodes.cluster.shard import Shard
from tests.kit.blocks import BLOCK, DIM, MODEL, rows
from tests.kit.cluster import FakeCalls, cipher, config, holder

COUNT = 5 * BLOCK


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return holder(tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def calls() -> FakeCalls:
    return FakeCalls()


@pytest.fixture
def files(node: Path, tmp_path: Path) -> BlockFiles:
    made = BlockFiles.create(tmp_path / "g", cipher(node), dim=DIM, model=MODEL, block_rows=BLOCK)
    made.append(rows(COUNT))
    return made


@pytest.fixture
def gallery(node: Path, files: BlockFiles, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch) -> ClusterGallery:
    monkeypatch.setattr(gallery_module, "READ_SECONDS", 60)
    return ClusterGallery(files, calls, config(copies=2), node, unit=BLOCK, spare=BLOCK)


def pairs(gallery: ClusterGallery, calls: FakeCalls) -> list[tuple[str, ...]]:
    return [tuple(calls.lies[copy] for copy in part.copies) for part in gallery.shards.parts]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 8))
def test_copies_lie_apart_wherever_two_machines_have_room(room: list[int], threads: int, shards: int) -> None:
    """Against what the processors allow, and no machine is given more than it has."""
    places, processors = Places(threads), {f"m{k}": count for k, count in enumerate(room)}
    taken, lies = Counter[str](), dict[int, str]()

    def free() -> set[str]:
        return {machine for machine, count in processors.items() if count - threads * taken[machine] >= threads}

    for number in range(2 * shards):
        beside = number - 1 if number % 2 else None
        before = free()
        machine = places.choose(processors, beside)
        assert (machine is None) == (not before)
        if machine is None:
            return
        assert machine in before
        if beside is not None:
            apart = before - {lies[beside]}
            assert places.apart(processors, beside) == bool(apart)
            assert machine in (apart or before)
        lies[number] = machine
        taken[machine] += 1
        places.put(number, machine, first=beside is None)


def test_the_work_is_even_too(gallery: ClusterGallery, calls: FakeCalls) -> None:
    """The first copy does it: were all firsts on one machine, the other would do nothing."""
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls))
    firsts = Counter(first for first, _ in pairs(gallery, calls))
    assert sorted(firsts.values()) == [1, 2]


@pytest.mark.parametrize("looks", [True, False], ids=["", "control"])
def test_a_machine_that_is_back_has_copies_again(gallery: ClusterGallery, calls: FakeCalls, looks: bool) -> None:
    """The control: Ray alone leaves everything where it was begun anew."""
    calls.lose("A")
    gallery.spread()
    assert gallery.together == 3
    assert {machine for pair in pairs(gallery, calls) for machine in pair} == {"B"}
    calls.hosts["A'"] = 500
    with gallery.snapshot() as lent:
        if looks:
            gallery.spread()
        np.testing.assert_array_equal(lent.rows[:], rows(COUNT))
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls)) is looks
    firsts = Counter(first for first, _ in pairs(gallery, calls))
    assert len(firsts) == (2 if looks else 1)
    assert gallery.together == (0 if looks else 3)
    assert len(calls.shards) == 6
    for other in gallery.further(COUNT):
        np.testing.assert_array_equal(other[:], rows(COUNT))


def test_searches_go_on_and_who_is_forgotten_is_gone_everywhere_while_a_copy_moves(
    gallery: ClusterGallery, files: BlockFiles, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 500
    reads, go_on, hold = threading.Event(), threading.Event(), Shard.hold
    old = set(calls.shards)

    def slow(shard: Shard, count: int) -> Any:
        if shard not in [calls.shards.get(number) for number in old]:
            reads.set()
            assert go_on.wait(60)
        return hold(shard, count)

    monkeypatch.setattr(Shard, "hold", slow)
    moving = threading.Thread(target=gallery.spread)
    moving.start()
    assert reads.wait(60)
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[:], rows(COUNT))
    files.forget([3, 4 * BLOCK])
    gallery.refresh()
    go_on.set()
    moving.join()
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls))
    assert gallery.overwritten == 2
    for shard in calls.shards.values():
        for row in (3, 4 * BLOCK):
            place = row - shard._part.first
            assert not 0 <= place < shard._part.room or not shard._memory.rows[place].any()


def test_a_copy_that_cannot_be_read_elsewhere_stays_where_it_was(
    gallery: ClusterGallery, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 500
    old, before, get = set(calls.shards), pairs(gallery, calls), calls.get

    def dies(answer: Any, seconds: float) -> Any:
        if answer[0] not in old:
            raise WorkerLost("ActorDiedError")
        return get(answer, seconds)

    monkeypatch.setattr(calls, "get", dies)
    gallery.spread()
    assert (pairs(gallery, calls), gallery.together, set(calls.shards)) == (before, 3, old)
    monkeypatch.setattr(calls, "get", get)
    gallery.spread()
    assert gallery.together == 0


def test_a_copy_that_works_and_a_machine_without_room_are_left_alone(gallery: ClusterGallery, calls: FakeCalls) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 0
    before = pairs(gallery, calls)
    gallery.spread()
    assert (pairs(gallery, calls), gallery.together) == (before, 3)
    calls.hosts["A'"] = 500
    calls.busy = {gallery.shards.parts[0].copies[0]}
    gallery.spread()
    assert [len(set(pair)) for pair in pairs(gallery, calls)] == [1, 2, 2]
    calls.busy.clear()
    gallery.spread()
    assert [len(set(pair)) for pair in pairs(gallery, calls)] == [2, 2, 2]


def test_a_connection_that_is_lost_meanwhile_ends_nothing_else(gallery: ClusterGallery, calls: FakeCalls) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 500
    calls.vanish()
    gallery.spread()
    calls.is_down = False
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[:], rows(COUNT))
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls)), "they were made anew"


def test_the_operator_is_told(node: Path, files: BlockFiles, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "Link", lambda _: calls)
    monkeypatch.setattr(gallery_module, "READ_SECONDS", 60)
    cluster = Cluster(config(copies=2, shards=1), node)
    cluster.hold(files)
    cluster.spread()
    assert (cluster.alarms, cluster.told().together) == ([], 0)
    calls.lose("A")
    cluster.spread()
    assert (cluster.alarms, cluster.told().together) == ([], 1), "there is one machine, and status shows it"
    calls.hosts["A'"] = 0
    cluster.spread()
    assert cluster.alarms == ["cluster: both copies of 1 shards lie on one machine, and no other has room for one"]
