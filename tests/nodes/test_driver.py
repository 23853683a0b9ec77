"""A driver ends whatever moment it is stopped at: whoever waits for it hears of it."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import nodes.query.driver
import nodes.query.scorer
from nodes.query.driver import INBOUND_BYTES, QueryDriver, Silence
from nodes.query.scorer import Scorer
from nodes.query.turns import Turns
from pets.errors import LineupError
from protocol import wire
from protocol.machine import Machine
from protocol.messages import Abort, AnyMessage, Signature
from protocol.roles import Role
from protocol.session import State
from protocol.steps import Product, Receive, Scored, Step
from tests.kit.federation import DE, ES, EU, FR

PATIENCE = 0.4
QUERY = bytes(16)
ABORT = Abort("timeout")  # of a session that is over: there may be any number of them


def test_a_driver_that_is_closed_before_its_first_step_is_over_all_the_same() -> None:
    """Its task is cancelled before it runs, and with it what it would do at its end."""

    async def body() -> None:
        ended: list[QueryDriver] = []

        async def end(driver: QueryDriver) -> None:
            ended.append(driver)

        machine: Any = SimpleNamespace(sessions={})
        nothing: Any = None
        driver = QueryDriver(machine, nothing, nothing, nothing, nothing, 1, 1, end)
        waiting = asyncio.create_task(driver.until_finished())
        await driver.close()
        await asyncio.wait_for(waiting, 5)
        assert ended == [driver]

    asyncio.run(body())


def test_nobody_waits_for_ever_for_a_driver_that_never_runs() -> None:
    """As its loop ends everything is cancelled, and what has not begun never runs."""

    async def body() -> None:
        async def end(_: QueryDriver) -> None:
            pass

        machine: Any = SimpleNamespace(sessions={})
        nothing: Any = None
        driver = QueryDriver(machine, nothing, nothing, nothing, nothing, 1, 1, end)
        released: list[bool] = []

        def release() -> None:
            released.append(True)
            driver.finished = True
            driver.changed.set()

        driver.task.cancel()
        asyncio.get_running_loop().call_later(1, release)
        await driver.break_off(OSError("the disk is full"))
        assert not released

    asyncio.run(body())


class Waiting(Machine):
    """A requester that waits for ES in one session, again and again, and in another for nobody. `work`: before that."""

    role = Role.REQUESTER
    parties = SimpleNamespace(requester=FR)

    def __init__(self, work: Product | None = None) -> None:
        super().__init__(FR, QUERY, 1)
        self.waiting, self.later = self.open(ES, (ES, EU)), self.open(DE, (DE, ES, EU))
        self.work, self.got = work, 0

    def start(self) -> None:
        self.begin(self.waiting, self._receive(), lambda _: None)

    def _receive(self) -> Step[None]:
        if self.work is not None:
            yield self.work
            yield Scored()
        while True:
            yield Receive(ES, Signature)
            self.got += 1

    def role_of(self, peer: str) -> Role:
        return Role.ROUTER if peer == EU else Role.HOLDER


class Talk:
    """What others say to a machine that a driver runs. `turns`: the driver computes in one of them."""

    def __init__(self, driver: QueryDriver, turns: Turns) -> None:
        self.driver, self.turns = driver, turns
        self._said: Counter[tuple[str, str]] = Counter()

    def say(self, sender: str, session: str, message: AnyMessage | None = None) -> None:
        """The next message of a sender in a session: a signature, if nothing else."""
        number = self._said[sender, session]
        self._said[sender, session] += 1
        said = message or Signature("offline", bytes(32), bytes(64))
        frame = wire.encode(wire.Envelope(wire.VERSION, QUERY, session, sender, FR, number, said))
        self.driver.call(lambda: self.driver.machine.handle(frame, sender))

    @property
    def given_up(self) -> bool:
        return self.driver.machine.sessions[ES].state.over


def driven(
    body: Callable[[Talk], Awaitable[None]], lifetime: float = 30, patience: float = PATIENCE, work: Any = None
) -> tuple[Waiting, dict[str, LineupError]]:
    """Run `body` while a driver runs a machine; gives the machine, and who was given up."""

    class SlowScorer:
        async def score(self, _: Any) -> None:
            await asyncio.sleep(2 * patience)

    async def ended(_: QueryDriver) -> None:
        pass

    async def everything() -> tuple[Waiting, dict[str, LineupError]]:
        machine: Any = Waiting(work)
        turns, scorer, nothing = Turns(1), SlowScorer(), SimpleNamespace(sealing_keys={})
        given: tuple[Any, ...] = (machine, nothing, nothing, scorer, turns, patience, lifetime, ended)
        driver = QueryDriver(*given)
        try:
            await body(Talk(driver, turns))
        finally:
            await driver.close()
        return machine, driver.failed_peers

    return asyncio.run(everything())


async def trickle(talk: Talk, sender: str, session: str, message: AnyMessage | None = None) -> None:
    """A frame now and then, for six times as long as the driver is patient, or until it has given up."""
    for _ in range(18):
        if not talk.given_up:
            talk.say(sender, session, message)
            await asyncio.sleep(PATIENCE / 3)


async def another_state(talk: Talk) -> None:
    """It has its node compute nearly all the time."""
    while True:
        async with talk.turns.of("another state"):
            await asyncio.sleep(PATIENCE / 2)


async def trickle_while_busy(talk: Talk, sender: str, session: str, message: AnyMessage | None = None) -> None:
    """The same, at a node that is busy."""
    busy = asyncio.create_task(another_state(talk))
    await trickle(talk, sender, session, message)
    busy.cancel()


async def flood_while_busy(talk: Talk, *_: Any) -> None:
    """So much that a node reads nothing any more while it waits for its turn, which it does nearly all the time."""
    driver, until = talk.driver, time.monotonic() + 6 * PATIENCE
    busy = asyncio.create_task(another_state(talk))
    while time.monotonic() < until and not talk.given_up:
        driver._waiting_bytes += INBOUND_BYTES + 1
        driver.call(lambda: None, INBOUND_BYTES + 1)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(driver.room(), until - time.monotonic())
    busy.cancel()


async def flood(talk: Talk, *_: Any) -> None:
    """There is always something to be done."""
    until = time.monotonic() + 4 * PATIENCE
    while time.monotonic() < until and not talk.given_up:
        talk.driver.call(lambda: None)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("attack", "sender", "session", "message"),
    [
        (trickle, DE, DE, None),
        (trickle, ES, DE, None),
        (trickle, EU, ES, None),
        (trickle, EU, DE, ABORT),
        (trickle_while_busy, DE, DE, None),
        (flood,) * 4,
        (flood_while_busy,) * 4,
    ],
    ids=["another", "itself", "router", "aborts", "busy", "flood", "flood while busy"],
)
def test_what_nobody_waits_for_does_not_put_off_the_end_of_patience(
    attack: Any, sender: str, session: str, message: AnyMessage | None
) -> None:
    machine, failed = driven(lambda talk: attack(talk, sender, session, message))
    assert machine.waiting.state is State.ABORTED
    assert isinstance(failed[ES], Silence)


@pytest.mark.parametrize("attack", [trickle_while_busy, flood_while_busy])
def test_control_where_every_wait_for_a_turn_is_made_good_a_busy_node_puts_it_off(
    attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.query.driver, "max", lambda *times: sum(times), raising=False)
    machine, failed = driven(lambda talk: attack(talk, DE, DE))
    assert machine.waiting.state is State.RUNNING
    assert not failed


@pytest.mark.parametrize("attack", [trickle, flood])
def test_control_where_all_that_is_done_counts_it_puts_it_off_as_long_as_it_likes(
    attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = QueryDriver._act

    def counted(driver: QueryDriver, actions: Any) -> Any:
        driver.machine.moves += 1
        return act(driver, actions)

    monkeypatch.setattr(QueryDriver, "_act", counted)
    machine, failed = driven(lambda talk: attack(talk, DE, DE))
    assert machine.waiting.state is State.RUNNING
    assert not failed


def test_nor_does_it_put_off_the_end_of_the_time_that_a_query_may_take() -> None:
    machine, _ = driven(flood, lifetime=PATIENCE, patience=30)
    assert machine.waiting.state is State.ABORTED
    assert "took more than" in str(machine.waiting.failure)


def test_who_says_what_is_waited_for_just_in_time_is_not_given_up() -> None:
    async def body(talk: Talk) -> None:
        for _ in range(5):
            await asyncio.sleep(PATIENCE / 2)
            talk.say(ES, ES)
        await asyncio.sleep(PATIENCE / 2)

    machine, failed = driven(body)
    assert (machine.waiting.state, machine.got) == (State.RUNNING, 5)
    assert not failed


def test_patience_begins_when_this_node_has_scored() -> None:
    async def body(talk: Talk) -> None:
        await asyncio.sleep(1.5 * PATIENCE)
        talk.say(DE, DE)
        await asyncio.sleep(PATIENCE)
        talk.say(ES, ES)
        await asyncio.sleep(PATIENCE / 2)

    machine, failed = driven(body, work=Product(*[None] * 5))  # type: ignore[arg-type]
    assert (machine.waiting.state, machine.got) == (State.RUNNING, 1)
    assert not failed


def test_what_came_while_this_node_was_busy_is_done_before_anybody_is_given_up() -> None:
    async def body(talk: Talk) -> None:
        talk.driver.call(lambda: time.sleep(2 * PATIENCE))
        await asyncio.sleep(PATIENCE)
        talk.say(ES, ES)
        await asyncio.sleep(1.5 * PATIENCE)

    machine, failed = driven(body)
    assert (machine.waiting.state, machine.got) == (State.RUNNING, 1)
    assert not failed


def test_nobody_is_given_up_for_the_time_in_which_this_node_waited_for_its_turn() -> None:
    async def body(talk: Talk) -> None:
        await asyncio.sleep(PATIENCE / 6)
        async with talk.turns.of("another state"):
            talk.say(DE, DE)
            await asyncio.sleep(2 * PATIENCE)
        await asyncio.sleep(PATIENCE / 2)
        talk.say(ES, ES)
        await asyncio.sleep(PATIENCE / 6)

    machine, failed = driven(body)
    assert (machine.waiting.state, machine.got) == (State.RUNNING, 1)
    assert not failed


def test_nor_is_that_made_good_once_more_after_a_session_went_on() -> None:
    async def body(talk: Talk) -> None:
        async with talk.turns.of("another state"):
            talk.say(DE, DE)
            await asyncio.sleep(2 * PATIENCE)
        talk.say(ES, ES)
        await asyncio.sleep(2 * PATIENCE)

    machine, failed = driven(body)
    assert (machine.waiting.state, machine.got) == (State.ABORTED, 1)
    assert isinstance(failed[ES], Silence)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "control"])
def test_units_without_bytes_hold_their_sender_up_as_well(counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes memory while it waits: a body of 4 KB may bring a thousand."""
    monkeypatch.setattr(nodes.query.driver, "INBOUND_BYTES", 2**20)
    if not counted:
        monkeypatch.setattr(nodes.query.driver, "UNIT_BYTES", 0)
    held_up: list[bool] = []

    async def body(talk: Talk) -> None:
        async with talk.turns.of("another state"):
            tracemalloc.start()
            try:
                for number in range(20):
                    talk.driver.accept(ES, 1000 * number, [b""] * 1000)
                    assert tracemalloc.get_traced_memory()[0] < 2**21 or not counted
                    with anyio.move_on_after(0.01) as waits:
                        await talk.driver.room()
                    if waits.cancelled_caught:
                        break
            finally:
                tracemalloc.stop()
        held_up.append(waits.cancelled_caught)

    driven(body, patience=30)
    assert held_up == [counted]


class Forgotten(set[Any]):
    """What is under way, where nobody looks at the end."""

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "control"])
def test_what_a_query_wanted_scored_is_not_scored_once_it_is_over(
    cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever begins queries and stops them has work wait that takes memory, and the passes of the others."""
    done: list[str] = []
    free = threading.Event()

    def perform(works: Any, _: int) -> list[None]:
        assert free.wait(10)
        done.extend(works)
        return [None] * len(works)

    monkeypatch.setattr(nodes.query.scorer, "passes", lambda items, _: [[item] for item in items])
    monkeypatch.setattr(nodes.query.scorer, "perform", perform)

    async def ended(_: QueryDriver) -> None:
        pass

    async def body() -> None:
        scorer, machine = Scorer(1), Waiting("of the query that is stopped")  # type: ignore[arg-type]
        nothing: Any = SimpleNamespace(sealing_keys={})
        given: tuple[Any, ...] = (machine, nothing, nothing, scorer, Turns(1), 30, 30, ended)
        other = asyncio.create_task(scorer.score("of another"))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        driver = QueryDriver(*given)
        if not cancelled:
            driver._scoring = Forgotten()
        while not driver._scoring:
            await asyncio.sleep(0.01)
        driver.stop(Silence("its requester stopped it"))
        await driver.until_finished()
        last = asyncio.create_task(scorer.score("of a third"))  # type: ignore[arg-type]
        free.set()
        await asyncio.gather(other, last)
        await driver.close()

    asyncio.run(body())
    stopped = [] if cancelled else ["of the query that is stopped"]
    assert done == ["of another", *stopped, "of a third"]
