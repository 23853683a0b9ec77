"""Two copies of a shard lie on different machines where there are two, also after one was lost and is back."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.blocks import BlockFiles
from nodes.cluster import gallery as gallery_module
from nodes.cluster.errors import Silent, WorkerLost
from nodes.cluster.gallery import Cluster, ClusterGallery
from nodes.cluster.places import Places
from nodes.cluster.shard import Shard
from nodes.cluster.spreading import FULL, Together
from nodes.service import server
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
        apart = before if beside is None else before - {lies[beside]}
        assert beside is None or places.apart(processors, beside) == bool(apart)
        machine = places.take(number, processors, beside)
        assert (machine is None) == (not before)
        if machine is None:
            return
        assert machine in (apart or before)
        lies[number] = machine
        taken[machine] += 1


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.integers(1, 3), st.integers(1, 8))
def test_all_copies_lie_apart_if_there_is_a_way(room: list[int], threads: int, shards: int) -> None:
    """There is one if the machines, each of them with no more than one copy of a shard, have room for all."""
    places, processors = Places(threads), {f"m{k}": count for k, count in enumerate(room)}
    while sum(min(count // threads, shards) for count in room) < 2 * shards:
        shards -= 1
    for first in range(0, 2 * shards, 2):
        pair = {places.take(first, processors), places.take(first + 1, processors, first)}
        assert len(pair - {None}) == 2


def test_no_machine_is_given_more_than_it_has_by_many_at_once() -> None:
    places, processors, threads = Places(1), {f"m{k}": 40 for k in range(4)}, 8
    taken: list[str | None] = []

    def take(start: int) -> None:
        for number in range(start, start + 40, 2):
            taken.extend([places.take(number, processors), places.take(number + 1, processors, number)])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=take, args=(40 * k,)) for k in range(threads)]
        for one in running:
            one.start()
        for one in running:
            one.join()
    finally:
        sys.setswitchinterval(interval)
    assert Counter(taken) == processors | {None: 160}


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
    assert gallery.together == Together(3, FULL)
    assert {machine for pair in pairs(gallery, calls) for machine in pair} == {"B"}
    calls.hosts["A'"] = 500
    with gallery.snapshot() as lent:
        if looks:
            gallery.spread()
        np.testing.assert_array_equal(lent.rows[:], rows(COUNT))
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls)) is looks
    firsts = Counter(first for first, _ in pairs(gallery, calls))
    assert len(firsts) == (2 if looks else 1)
    assert gallery.together.ranges == (0 if looks else 3)
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

    def waits(answer: Any, seconds: float) -> Any:
        if answer[0] not in old and answer[1] == "forget":
            raise Silent("it reads, and does this later")
        return get(answer, seconds)

    get = calls.get
    monkeypatch.setattr(calls, "get", waits)
    monkeypatch.setattr(Shard, "hold", slow)
    moving = threading.Thread(target=gallery.spread)
    moving.start()
    assert reads.wait(60)
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[:], rows(COUNT))
    files.forget([3, 4 * BLOCK])
    gallery.refresh()
    assert gallery.overwritten == 2, "nobody waits for the copy that reads: who waits holds the gallery"
    go_on.set()
    moving.join()
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls))
    assert kept(calls, 3) == kept(calls, 4 * BLOCK) == 0
    assert kept(calls, 5) == 2, "the control"


def kept(calls: FakeCalls, row: int) -> int:
    """In how many processes a row still lies."""
    inside = [shard for shard in calls.shards.values() if 0 <= row - shard._part.first < shard._part.room]
    return sum(bool(shard._memory.rows[row - shard._part.first].any()) for shard in inside)


def test_who_is_forgotten_before_a_new_copy_is_known_is_in_none(
    gallery: ClusterGallery, files: BlockFiles, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 500
    make = calls.make

    def made(*given: Any, **named: Any) -> int:
        number = make(*given, **named)
        if kept(calls, 3) == 3:
            files.forget([3])
            gallery.refresh()
        return number

    monkeypatch.setattr(calls, "make", made)
    gallery.spread()
    assert gallery.overwritten == 1
    assert (kept(calls, 3), kept(calls, 5), len(calls.shards)) == (0, 2, 6)
    gallery.spread()
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls))
    assert (kept(calls, 3), kept(calls, 5), len(calls.shards)) == (0, 2, 6)


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
    assert (pairs(gallery, calls), set(calls.shards)) == (before, old)
    assert gallery.together == Together(3, "another did not read the rows: ActorDiedError")
    monkeypatch.setattr(calls, "get", get)
    gallery.spread()
    assert gallery.together == Together()


def test_a_copy_that_works_and_a_machine_without_room_are_left_alone(gallery: ClusterGallery, calls: FakeCalls) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 0
    before = pairs(gallery, calls)
    gallery.spread()
    assert (pairs(gallery, calls), gallery.together) == (before, Together(3, FULL))
    calls.hosts["A'"] = 500
    calls.busy = {gallery.shards.parts[0].copies[0]}
    gallery.spread()
    assert [len(set(pair)) for pair in pairs(gallery, calls)] == [1, 2, 2]
    calls.busy.clear()
    gallery.spread()
    assert [len(set(pair)) for pair in pairs(gallery, calls)] == [2, 2, 2]


@pytest.fixture
def meanwhile(calls: FakeCalls, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens, each once, when a new copy is asked to read."""
    get, happens = calls.get, list[Callable[[], object]]()

    def watched(answer: Any, seconds: float) -> Any:
        if happens and answer[1] == "hold" and answer[0] >= 6:  # the gallery made the others
            happens.pop()()
        return get(answer, seconds)

    monkeypatch.setattr(calls, "get", watched)
    return happens


@pytest.mark.parametrize("is_back", [True, False])
def test_a_connection_that_is_lost_meanwhile_ends_nothing_else(
    gallery: ClusterGallery, calls: FakeCalls, meanwhile: list[Callable[[], object]], is_back: bool
) -> None:
    def happens() -> None:
        calls.vanish()
        calls.is_down = False
        if is_back:
            gallery.refresh()

    calls.lose("A")
    calls.hosts["A'"] = 500
    meanwhile.append(happens)
    gallery.spread()
    assert (meanwhile, gallery.together) == ([], Together())
    assert len(calls.shards) == (6 if is_back else 0)
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[:], rows(COUNT))
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls)), "they were made anew"
    assert len(calls.shards) == 6


def test_rows_that_are_let_go_of_meanwhile_leave_no_process(
    gallery: ClusterGallery, calls: FakeCalls, meanwhile: list[Callable[[], object]]
) -> None:
    calls.lose("A")
    calls.hosts["A'"] = 500
    meanwhile.append(gallery.close)
    gallery.spread()
    assert (meanwhile, gallery.together, calls.shards) == ([], Together(), {})


def test_a_compaction_meanwhile_leaves_no_process_of_before(
    gallery: ClusterGallery, files: BlockFiles, calls: FakeCalls, meanwhile: list[Callable[[], object]]
) -> None:
    def happens() -> None:
        files.forget([1, 2])
        files.compact()
        gallery.refresh()

    calls.lose("A")
    calls.hosts["A'"] = 500
    meanwhile.append(happens)
    gallery.spread()
    assert (meanwhile, len(calls.shards)) == ([], 2 * len(gallery.shards.parts))
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(lent.rows[:], np.delete(rows(COUNT), [1, 2], axis=0))


def test_a_fault_that_nobody_thought_of_leaves_no_third_process(
    gallery: ClusterGallery, calls: FakeCalls, meanwhile: list[Callable[[], object]]
) -> None:
    def happens() -> None:
        raise RuntimeError

    calls.lose("A")
    calls.hosts["A'"] = 500
    before = pairs(gallery, calls)
    meanwhile.append(happens)
    with pytest.raises(RuntimeError):
        gallery.spread()
    assert (pairs(gallery, calls), len(calls.shards)) == (before, 6)


def test_what_was_begun_anew_while_others_moved_is_left_alone(
    gallery: ClusterGallery, calls: FakeCalls, meanwhile: list[Callable[[], object]]
) -> None:
    """To move a shard takes minutes; what was known of the next ones is old by then."""

    def happens() -> None:
        for part in gallery.shards.parts[1:]:
            calls.kill(part.copies[1])
            calls.lies[part.copies[1]] = "A'"

    calls.lose("A")
    calls.hosts["A'"] = 500
    copies = [part.copies for part in gallery.shards.parts[1:]]
    meanwhile.append(happens)
    gallery.spread()
    assert [part.copies for part in gallery.shards.parts[1:]] == copies
    assert all(len(set(pair)) == 2 for pair in pairs(gallery, calls))


def test_a_node_looks_again_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    class Faulty:
        def spread(self) -> None:
            looked.append(len(looked))
            raise RuntimeError

    async def body() -> None:
        looking = asyncio.create_task(server._spread_copies(node))
        while len(looked) < 3:
            await asyncio.sleep(0.01)
            assert not looking.done()
        looking.cancel()

    node: Any = SimpleNamespace(name="ES", galleries=SimpleNamespace(cluster=Faulty()))
    monkeypatch.setattr(server, "SPREAD_SECONDS", 0.001)
    asyncio.run(asyncio.wait_for(body(), 60))
    node.galleries.cluster = None
    asyncio.run(asyncio.wait_for(server._spread_copies(node), 60))


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
    assert cluster.alarms == ["cluster: shards of which both copies lie on one machine: 1; no other has room for one"]
