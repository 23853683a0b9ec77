"""What waits at a node: handed out once, used once, within bounds, and gone when its time is over."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nodes.pool import Pool, UnknownPreparation
from nodes.pool.entry import Resting
from nodes.pool.files import SealedFiles
from nodes.pool.pool import STEP
from nodes.store import StoreFull, StoreLocked
from pets.params import N4096
from protocol.errors import PreparationSpent, QueryRefused
from protocol.preparation import HolderPreparation, Preparation, RequesterPreparation, RouterPreparation, pack
from tests.kit.parties import HOLDER, REQUESTER
from tests.kit.pools import DIM, HOUR, WANTED, PoolAtNode, fresh, made
from tests.kit.stores import open_store

ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))  # conversations
KINDS = (RequesterPreparation, RouterPreparation, HolderPreparation)


def now() -> float:
    return time.time()


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_taken_is_what_was_added(node: PoolAtNode, kind: type[Preparation], on_disk: bool) -> None:
    pool = node.restart(on_disk=on_disk)
    preparation = fresh(kind)  # type: ignore[type-var]
    before = pack(preparation)
    preparation_id = node.filled(preparation)
    assert pack(pool.take(preparation_id, now())) == before


def test_one_is_handed_out_once(node: PoolAtNode) -> None:
    preparation_id = node.filled()
    node.pool.take(preparation_id, now())
    with pytest.raises(UnknownPreparation, match="does not wait here") as refused:
        node.pool.take(preparation_id, now())
    assert refused.value.code == "unprepared"


class LetGo:
    """The lock of a pool, with what another thread does just when this one has let go of it."""

    def __init__(self, pool: Pool, once: Callable[[], bool], other: Callable[[], object]) -> None:
        self._lock, self._once, self._other = pool._lock, once, other

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._lock.__exit__(*raised)
        if self._once():
            self._once = lambda: False
            self._other()


class Unguarded(dict[bytes, Any]):
    """What was taken, reached by another thread as soon as it stands here: as if there were no lock."""

    other: Callable[[], object] = staticmethod(lambda: None)

    def __setitem__(self, key: bytes, value: Any) -> None:
        super().__setitem__(key, value)
        self.other()


@pytest.mark.parametrize("why", ["expired", "dropped"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_what_is_handed_out_is_not_erased_by_who_erases_what_waits(
    guarded: bool, node: PoolAtNode, kind: type[Preparation], why: str
) -> None:
    """Just as it grows too old, or its requester says that it has it no more: a search would begin with zeros."""
    preparation, pool = fresh(kind), node.pool  # type: ignore[type-var]
    before = pack(preparation)
    preparation_id = node.filled(preparation)
    erase = {"expired": lambda: pool.erase_expired(now() + 25 * HOUR), "dropped": lambda: pool.drop(preparation_id)}
    if guarded:
        pool._lock = LetGo(pool, lambda: preparation_id in pool._taken, erase[why])  # type: ignore[assignment]
    else:
        pool._taken = Unguarded()
        pool._taken.other = erase[why]
    assert (pack(pool.take(preparation_id, now())) == before) is guarded
    assert not pool.preparation_ids(preparation.requester)


def test_the_claim_is_on_disk_before_spend_returns(node: PoolAtNode) -> None:
    preparation_id = node.filled()
    node.pool.take(preparation_id, now())
    node.pool.spend(preparation_id)
    with open_store(node.url) as other:
        assert other.has_claimed(preparation_id, STEP)
    with pytest.raises(PreparationSpent, match="used already"):
        node.pool.spend(preparation_id)
    with pytest.raises(PreparationSpent, match="used already"):
        node.restart().spend(preparation_id)


def test_spending_one_that_still_waits_erases_it(node: PoolAtNode) -> None:
    preparation = fresh()
    chunk = preparation.rings[HOLDER].chunks[0]
    preparation_id = node.filled(preparation)
    node.pool.spend(preparation_id)
    assert not chunk.z.any()
    assert node.pool.standing() == []


def test_a_mark_that_cannot_be_written_refuses_and_erases(disk: PoolAtNode, monkeypatch: pytest.MonkeyPatch) -> None:
    preparation_id = disk.filled()
    disk.pool.take(preparation_id, now())

    def full(*_: object, **__: object) -> None:
        raise StoreFull("the disk is full")

    monkeypatch.setattr(disk.store, "claim_query", full)
    with pytest.raises(QueryRefused, match="full") as refused:
        disk.pool.spend(preparation_id)
    assert refused.value.code == "internal"
    assert disk.files == []
    assert disk.pool.counts.spent == 0


def test_a_store_that_cannot_be_read_hands_out_nothing_and_loses_nothing(
    node: PoolAtNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparation_id = node.filled()
    with monkeypatch.context() as patch:

        def locked(*_: object) -> bool:
            raise StoreLocked("locked by somebody else")

        patch.setattr(node.store, "has_claimed", locked)
        with pytest.raises(QueryRefused, match="locked"):
            node.pool.take(preparation_id, now())
        assert node.pool.find(**WANTED, now=now()) == preparation_id
        with pytest.raises(QueryRefused, match="locked"):
            node.pool.take(preparation_id, now())
    assert [one.preparation_id for one in node.pool.standing()] == [
        preparation_id
    ]  # else nobody finds it, and it takes a place
    assert node.pool.find(**WANTED, now=now()) == preparation_id
    assert node.pool.take(preparation_id, now()).preparation_id == preparation_id


def test_one_whose_store_does_not_say_whether_it_was_used_is_erased(
    node: PoolAtNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> bool:
        raise StoreLocked("locked by somebody else")

    preparation = fresh()
    chunk = preparation.rings[HOLDER].chunks[0]
    monkeypatch.setattr(node.store, "has_claimed", locked)
    node.pool.admit(ONE, REQUESTER, 10, now())
    with pytest.raises(StoreLocked):
        node.filled(preparation)
    assert not chunk.z.any()
    assert node.pool.standing() == []


def test_what_was_given_up_is_never_used(disk: PoolAtNode) -> None:
    preparation_id = disk.filled()
    disk.pool.drop(preparation_id)
    assert disk.files == []
    with pytest.raises(UnknownPreparation):
        disk.pool.take(preparation_id, now())
    with pytest.raises(PreparationSpent):
        disk.pool.spend(preparation_id)
    disk.pool.drop(preparation_id)
    disk.pool.drop(secrets.token_bytes(32))
    assert disk.pool.counts.dropped == 1


def test_the_oldest_that_covers_the_holders_is_found_and_by_one_only(node: PoolAtNode) -> None:
    younger, older = node.filled(made=now() - 10), node.filled(made=now() - 20)
    assert node.pool.find(**WANTED, now=now()) == older
    assert node.pool.find(**WANTED, now=now()) == younger
    assert node.pool.find(**WANTED, now=now()) is None


def test_what_is_ready_is_counted_and_the_oldest_of_the_others_named(node: PoolAtNode) -> None:
    fitting, older = node.filled(made=now() - 30), fresh()
    older.rings = {}
    other = node.filled(older, made=now() - 20)
    assert node.pool.ready(**WANTED, now=now()) == 1
    assert node.pool.oldest_besides(**WANTED) == other
    node.pool.drop(other)
    assert node.pool.oldest_besides(**WANTED) is None
    assert node.pool.find(**WANTED, now=now()) == fitting
    assert node.pool.ready(**WANTED, now=now()) == 0


@pytest.mark.parametrize(
    "other", [{"holders": [HOLDER, "XX"]}, {"dim": 2 * DIM}, {"preset": "other"}], ids=lambda other: next(iter(other))
)
def test_one_for_something_else_is_not_found(node: PoolAtNode, other: dict[str, object]) -> None:
    node.filled()
    assert node.pool.find(**{**WANTED, **other}, now=now()) is None


def test_one_of_another_model_is_not_found(node: PoolAtNode) -> None:
    preparation = fresh()
    preparation.model = b"m" * 32
    preparation_id = node.filled(preparation)
    assert node.pool.find(**{**WANTED, "model": b"n" * 32}, now=now()) is None
    assert node.pool.find(**{**WANTED, "model": b"m" * 32}, now=now()) == preparation_id


def test_what_is_too_old_is_neither_found_nor_taken_and_erased(disk: PoolAtNode) -> None:
    preparation_id = disk.filled(made=now() - 24 * HOUR - 1)
    assert disk.pool.find(**WANTED, now=now()) is None
    with pytest.raises(UnknownPreparation, match=r"expired: it was made 8640\d s ago, limit 86400"):
        disk.pool.take(preparation_id, now())
    assert disk.files == []
    disk.filled(made=now() - 24 * HOUR - 1)
    disk.filled(made=now() - 23 * HOUR)
    assert disk.pool.erase_expired(now()) == 1
    assert len(disk.files) == 1
    assert disk.pool.counts.expired == 1


def test_one_made_in_the_future_has_no_age(node: PoolAtNode) -> None:
    """The clock was set back: nobody can tell when it was made."""
    preparation_id = node.filled(made=now() + HOUR)
    with pytest.raises(UnknownPreparation, match="expired"):
        node.pool.take(preparation_id, now())


def test_a_place_is_kept_while_one_is_made_and_free_again_if_that_failed(node: PoolAtNode) -> None:
    pool = node.restart(ready=2)
    pool.admit(ONE, "FR", 10, now())
    pool.admit(TWO, "FR", 10, now())
    with pytest.raises(QueryRefused, match="2 preparations wait for FR, limit 2") as refused:
        pool.admit(THREE, "FR", 10, now())
    assert refused.value.code == "capacity"
    pool.release(ONE)
    pool.admit(THREE, "FR", 10, now())
    node.filled(fresh(requester="FR"), conversation=TWO)
    preparation_id = node.filled(fresh(requester="FR"), conversation=THREE)
    with pytest.raises(QueryRefused, match="limit 2"):
        pool.admit(THREE, "FR", 10, now())
    pool.take(preparation_id, now())
    pool.admit(THREE, "FR", 10, now())
    assert pool.counts.refused == 2


def test_bytes_are_bounded_for_what_waits_and_what_is_made(node: PoolAtNode) -> None:
    pool = node.restart(max_bytes=2**24)
    pool.admit(ONE, "FR", 2**23, now())
    with pytest.raises(QueryRefused, match=f"for FR would take {2**23 + 2**24} bytes, limit {2**24}") as refused:
        pool.admit(TWO, "FR", 2**24, now())
    assert refused.value.code == "capacity"
    node.filled(fresh(requester="FR"), conversation=ONE)
    waiting = pool.standing()[0].bytes
    assert waiting > 0
    pool.admit(TWO, "FR", 2**24 - waiting, now())
    with pytest.raises(QueryRefused):
        pool.admit(THREE, "FR", 1, now())


def test_one_that_turns_out_larger_goes_on_only_if_there_is_room_or_nothing_else(node: PoolAtNode) -> None:
    pool = node.restart(max_bytes=2**24)
    pool.admit(ONE, "FR", 0, now())
    pool.grow(ONE, 2**25, "ES")  # else who asks many large holders could not search at all
    pool.admit(THREE, "DE", 2**24, now())  # takes no other requester's room
    pool.release(ONE)
    pool.admit(ONE, "FR", 0, now())
    pool.admit(TWO, "FR", 0, now())
    pool.grow(ONE, 2**23, "ES")
    pool.grow(TWO, 2**23, "ES")
    with pytest.raises(QueryRefused, match=f"would take {2**24 + 1} bytes") as refused:
        pool.grow(TWO, 2**23 + 1, "ES")
    assert (refused.value.code, refused.value.by) == ("capacity", "ES")


def test_what_failed_gives_back_its_own_room_and_no_more(node: PoolAtNode) -> None:
    """Else one that is small and fails at once would free the room of a large one that is being made beside it."""
    pool = node.restart(max_bytes=2**24)
    pool.admit(ONE, "FR", 2**24 - 10, now())
    pool.admit(TWO, "FR", 10, now())
    pool.release(TWO)
    pool.release(TWO)
    with pytest.raises(QueryRefused, match=f"would take {2**24 + 1} bytes"):
        pool.admit(THREE, "FR", 11, now())
    pool.release(ONE)
    pool.admit(ONE, "FR", 2**24, now())


@pytest.mark.parametrize("fails", [False, True])
def test_its_place_is_kept_while_it_is_sealed_to_disk(
    disk: PoolAtNode, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes a while for a large one: its requester would get a place more just then."""
    pool, write, asked = disk.restart(ready=1), SealedFiles.write, []

    def and_another(*given: Any) -> int:
        with pytest.raises(QueryRefused, match="limit 1"):
            pool.admit(TWO, "FR", 10, now())
        asked.append(True)
        if fails:
            raise ValueError("whatever it is")
        return write(*given)

    monkeypatch.setattr(SealedFiles, "write", and_another)
    pool.admit(ONE, "FR", 10, now())
    if fails:
        with pytest.raises(ValueError, match="whatever"):
            disk.filled(fresh(requester="FR"), conversation=ONE)
    else:
        pool.take(disk.filled(fresh(requester="FR"), conversation=ONE), now())
    assert asked
    pool.admit(TWO, "FR", 10, now())


def test_what_is_too_old_takes_no_room(node: PoolAtNode) -> None:
    pool = node.restart(ready=1)
    node.filled(fresh(requester="FR"), made=now() - 25 * HOUR)
    pool.admit(ONE, "FR", 10, now())


def test_what_was_made_for_another_version_of_the_gallery_is_dropped(node: PoolAtNode) -> None:
    preparation = fresh()
    preparation.rings[HOLDER].root = b"o" * 32
    old, current = node.filled(preparation), node.filled()
    root = made().holders[HOLDER].rings[HOLDER].root
    assert node.pool.roots == {root, b"o" * 32}
    assert node.pool.presets == {N4096.preset}
    assert node.pool.drop_where(gallery_root_not_in={root, bytes(32)}) == 1
    assert [waiting.preparation_id for waiting in node.pool.standing()] == [current]
    with pytest.raises(PreparationSpent):
        node.pool.spend(old)


def test_a_requester_that_lost_its_own_frees_only_its_own_places(node: PoolAtNode) -> None:
    lost, kept = (node.filled(fresh(requester="FR")) for _ in range(2))
    other = node.filled(fresh(requester="DE"))
    assert node.pool.retain("FR", [kept]) == 1
    assert {waiting.preparation_id for waiting in node.pool.standing()} == {kept, other}
    with pytest.raises(UnknownPreparation):
        node.pool.take(lost, now())


def test_what_an_operator_is_told(disk: PoolAtNode) -> None:
    moment = now()
    conversation = b"c" * 16
    preparation = fresh()
    disk.pool.add(conversation, preparation, moment)
    (waiting,) = disk.pool.standing()
    assert (waiting.conversation, waiting.requester, waiting.holders) == (conversation, REQUESTER, (HOLDER,))
    assert (waiting.made, waiting.expires) == (moment, moment + 24 * HOUR)
    assert waiting.on_disk
    assert waiting.bytes == disk.files[0].stat().st_size


def test_many_threads_at_once_use_each_once(node: PoolAtNode) -> None:
    preparation_ids = [node.filled() for _ in range(4)]
    used: list[bytes] = []
    failed: list[Exception] = []
    start = threading.Barrier(8)

    def work(pool: Pool) -> None:
        start.wait()
        while (preparation_id := pool.find(**WANTED, now=now())) is not None:
            try:
                pool.take(preparation_id, now())
                pool.spend(preparation_id)
                used.append(preparation_id)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(node.pool,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sorted(used) == sorted(preparation_ids)


def test_many_threads_that_take_and_spend_the_same_one(node: PoolAtNode) -> None:
    preparation_id = node.filled()
    taken: list[bool] = []
    spent: list[bool] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            node.pool.take(preparation_id, now())
            taken.append(True)
        except UnknownPreparation:
            pass
        try:
            node.pool.spend(preparation_id)
            spent.append(True)
        except PreparationSpent:
            pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken) <= 1, len(spent)) == (True, 1)


def test_closing_erases_what_is_only_in_memory(node: PoolAtNode) -> None:
    preparation = fresh()
    chunk = preparation.rings[HOLDER].chunks[0]
    node.filled(preparation)
    node.pool.close()
    assert not chunk.z.any()
    assert preparation.seed == bytes(32)


def test_a_waiting_one_takes_at_most_16_bytes_a_row_besides_the_mask() -> None:
    rng = np.random.default_rng(5)
    rows = 4 * N4096.n
    preparation = fresh()
    chunk = preparation.rings[HOLDER].chunks[0]
    preparation.scoring_probe()
    masked = rng.integers(0, 2**24, rows, dtype=np.uint32)
    words = rows // 64
    chunk.z, chunk.pairs = np.zeros((2, 24, words), np.uint64), np.zeros((2, 11, words), np.uint64)
    chunk.masked = masked.copy()
    fixed = preparation.mask.nbytes + preparation.public.nbytes
    ring = preparation.rings[HOLDER]
    fixed += ring.admission.nbytes + (0 if ring.known is None else ring.known.nbytes)
    resting = Resting(preparation)
    assert "_probe" not in preparation.__dict__
    assert (resting.bytes - fixed) / rows == 11.75
    awake = resting.wake().rings[HOLDER].chunks[0].masked
    assert np.array_equal(awake, masked)  # type: ignore[arg-type]


def test_one_that_was_used_does_not_wait_again(node: PoolAtNode) -> None:
    preparation_id = node.filled()
    preparation = node.pool.take(preparation_id, now())
    node.pool.spend(preparation_id)
    with pytest.raises(PreparationSpent):
        node.pool.add(b"c" * 16, preparation, now())
    assert preparation.spent


def test_one_that_was_handed_out_and_not_used_may_wait_again(node: PoolAtNode) -> None:
    preparation_id = node.filled()
    node.filled(node.pool.take(preparation_id, now()))
    assert node.pool.find(**WANTED, now=now()) == preparation_id


def test_a_disk_that_is_full_leaves_it_in_memory_and_says_so(
    disk: PoolAtNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nodes.private_files._write", full)
    with caplog.at_level(logging.WARNING, "lineup.pool"):
        preparation_id = disk.filled()
    assert "could not be sealed and waits in memory" in caplog.text
    assert disk.files == []
    (waiting,) = disk.pool.standing()
    assert not waiting.on_disk
    assert disk.pool.take(preparation_id, now()).preparation_id == preparation_id


def test_what_was_prepared_with_a_peer_that_is_gone_is_erased(node: PoolAtNode) -> None:
    pool = node.restart(on_disk=True)
    ours, another = node.filled(), node.filled(fresh(requester="OTHER"))
    assert pool.drop_with("NOBODY") == 0  # control
    assert pool.drop_with("OTHER") == 1
    assert {waiting.preparation_id for waiting in pool.standing()} == {ours}
    with pytest.raises(UnknownPreparation):
        pool.take(another, now())
    assert len(node.files) == 1
    assert pool.drop_with(HOLDER) == 1
    node.filled()
    assert pool.drop_with(None) == 1
    assert node.files == []
