"""A peer that says of everything that waits that its part is lost does not use up what others grant a state."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nodes.pool import Waiting
from nodes.service import drops
from nodes.service import supply as supplying
from nodes.service.drops import Drops
from nodes.service.operator_api import PrepareRequest
from nodes.service.supply import Supply
from pets.params import N4096
from protocol.terms import SYNTHETIC_MODEL

HOUR, DAY = 3600.0, 86400.0
START = 1_000_000.0
PER_DAY = 500  # what router and holders grant a state by default


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now

    monotonic = perf_counter = time


class FakePool:
    def __init__(self, clock: Clock) -> None:
        self.clock, self.waiting = clock, list[Any]()
        self.made = 0

    def add(self, holders: tuple[str, ...]) -> bool:
        self.made += 1
        name = self.made.to_bytes(32, "big")
        one = SimpleNamespace(preparation_id=name, made=self.clock.now, holders=holders, requester="FR")
        self.waiting.append(one)
        return True

    def standing(self) -> list[Waiting]:
        return list(self.waiting)

    def drop(self, preparation_id: bytes) -> None:
        self.waiting = [one for one in self.waiting if one.preparation_id != preparation_id]

    def ready(self, holders: tuple[str, ...], *_: object) -> int:
        return sum(set(holders) <= set(one.holders) for one in self.waiting)

    def preparation_ids(self, name: str, roots: object, holder: str | None) -> frozenset[bytes]:
        return frozenset(one.preparation_id for one in self.waiting if holder is None or holder in one.holders)

    def erase_expired(self, now: float) -> int:
        return 0

    def oldest_besides(self, *_: object) -> None:
        return None


def supplied(folder: Path, clock: Clock, liar: str | None, every: float = 0.0) -> tuple[Supply, FakePool]:
    """A requester's supply; what is asked of `liar` is lost, at most once in `every` seconds."""
    pool, last = FakePool(clock), {"lied": START}

    async def tell(peer: str, _: str, listed: bytes) -> bytes:
        if peer != liar or clock.now - last["lied"] < every:
            return msgspec.msgpack.encode([])
        last["lied"] = clock.now
        return listed

    async def make(router: str, holders: tuple[str, ...], *_: object) -> SimpleNamespace:
        return SimpleNamespace(holders=holders, router_failed=False)

    node = SimpleNamespace(
        name="FR", router="EU", pool=pool, transport=SimpleNamespace(tell=tell), draining=False, drivers={},
        searching=False, archive=SimpleNamespace(folder=folder),
        config=SimpleNamespace(preparations=SimpleNamespace(ready=4)),
    )  # fmt: skip
    preparer: Any = SimpleNamespace(make=make, put_by=lambda making: pool.add(making.holders))
    supply = Supply(node, preparer, lambda making, holders: {})  # type: ignore[arg-type]
    return supply, pool


def made_in_a_day(
    folder: Path, monkeypatch: pytest.MonkeyPatch, liar: str | None, every: float = 0.0, holders: tuple[str, ...] = ()
) -> int:
    clock = Clock()
    monkeypatch.setattr(supplying, "time", clock)
    supply, pool = supplied(folder, clock, liar, every)
    supply.want(PrepareRequest(holders or ("DE", "ES"), 1, 512, SYNTHETIC_MODEL, N4096.preset))

    async def body() -> None:
        while clock.now < START + DAY:
            assert await supply.round()
            clock.now += 30.0

    asyncio.run(body())
    return pool.made


@pytest.mark.parametrize("liar", ["ES", "EU"])
@pytest.mark.parametrize("defended", [True, False], ids=["defended", "control"])
def test_a_peer_that_always_says_lost_leaves_most_of_a_day_s_preparations(
    liar: str, defended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not defended:
        monkeypatch.setattr(drops, "LONGEST_PAUSE_SECONDS", 0.0)
    made = made_in_a_day(tmp_path, monkeypatch, liar)
    assert (made < PER_DAY / 4) if defended else (made > PER_DAY)


def test_a_holder_that_always_says_lost_keeps_no_other_from_being_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(supplying, "time", clock)
    supply, pool = supplied(tmp_path, clock, "ES")
    supply.want(PrepareRequest(("DE", "ES"), 1, 512, SYNTHETIC_MODEL, N4096.preset))
    ready = []

    async def body() -> None:
        while clock.now < START + 8 * HOUR:
            await supply.round()
            ready.append(pool.ready(("DE",)))
            clock.now += 30.0

    asyncio.run(body())
    assert min(ready[120:]) == 4  # from an hour on


def test_who_does_not_need_the_liar_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made_in_a_day(tmp_path, monkeypatch, "ES", holders=("DE",)) == 4
    clock, late = Clock(), Drops()
    for _ in range(9):
        late.note("ES", clock.now)
    assert late.pause(("EU", "DE"), clock.now) == 0
    assert late.pause(("EU", "DE", "ES"), clock.now) > 0


def test_a_gallery_that_changes_a_few_times_a_day_has_no_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pauses = made_in_a_day(tmp_path, monkeypatch, "ES", 4 * HOUR)
    monkeypatch.setattr(drops, "LONGEST_PAUSE_SECONDS", 0.0)
    assert with_pauses == made_in_a_day(tmp_path, monkeypatch, "ES", 4 * HOUR) == 4 * 6


def test_pauses_double_up_to_hours_and_are_forgotten() -> None:
    noted, now = Drops(), START
    pauses = []
    for _ in range(7):
        noted.note("ES", now)
        pauses.append(noted.pause(("ES",), now))
        now += pauses[-1] + 600
    assert pauses == [0, 600, 1200, 2400, 4800, 7200, 7200]
    noted.note("ES", now + drops.FORGOTTEN_SECONDS)
    assert noted.pause(("ES",), now + drops.FORGOTTEN_SECONDS) == 0
    assert drops.LONGEST_PAUSE_SECONDS + supplying.COMPARE_SECONDS < drops.FORGOTTEN_SECONDS
