"""Work side by side: where one of it fails nothing goes on that nobody waits for, and what was half made is erased."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import nodes.service.requester
import nodes.service.supply
from nodes.query.driver import QueryDriver
from nodes.service.operator_api import PrepareRequest
from nodes.service.preparer import Preparer
from nodes.service.together import together
from protocol.announcing import Plan
from protocol.errors import Disagreement
from protocol.preparing import PreparingRequester
from protocol.searching import SearchingRequester
from protocol.session import State
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import DE, DIM, ES, FR, HOLDERS, Federation, found, people, request
from tests.kit.network import AsgiNetwork, run_asgi
from tests.kit.ring import RING


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path / "nodes", people(rows=130))


async def all_at_once(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Without the defence."""
    await asyncio.gather(*work)


def drivers_of(network: AsgiNetwork, kind: type) -> list[QueryDriver]:
    return [driver for name, driver in network.drivers if name == FR and isinstance(driver.machine, kind)]


async def search_that_fails(network: AsgiNetwork) -> list[QueryDriver]:
    """ES stops what both are asked together; of the two that are asked alone then, one fails once the other has begun.

    Gives the drivers of those that began.
    """
    stop_joint(network, ES)
    node: Any = network.nodes[FR]
    for name in HOLDERS:
        await node.supply.prepare(wanted((name,)))
    begun: list[bytes] = []

    def begins(query: bytes) -> None:
        begun.append(query)
        if len(begun) == 2:
            while not drivers_of(network, SearchingRequester):
                time.sleep(0.001)
            raise OSError("the disk is full")

    asked = request(network.federation.people.hit)
    with pytest.raises(OSError, match="full"):
        await node.search(asked, replace(node._unapproved(asked), begins=begins))
    return drivers_of(network, SearchingRequester)


def stop_joint(network: AsgiNetwork, name: str) -> None:
    node, drive = network.nodes[name], network.nodes[name].drive

    def stops(machine: Any) -> Any:
        driver = drive(machine)
        if len(machine.parties.holders) > 1:
            driver.call(lambda: machine.abort(machine.whole, Disagreement("it says so")))
        return driver

    node.drive = stops  # type: ignore[method-assign]


def wanted(holders: tuple[str, ...] = HOLDERS, count: int = 1) -> PrepareRequest:
    return PrepareRequest(holders, count, DIM, SYNTHETIC_MODEL, RING.preset)


def test_where_one_attempt_fails_the_others_are_stopped_before_the_search_is_over(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        (other,) = await search_that_fails(network)
        machine: Any = other.machine
        assert other.finished
        assert not machine.answers
        assert {session.state for session in machine.sessions.values()} == {State.ABORTED}
        await network.settle()
        assert drivers_of(network, SearchingRequester) == [other]  # nothing began afterwards

    run_asgi(federation, body)


def test_control_left_alone_the_others_go_on(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.service.requester, "together", all_at_once)

    async def body(network: AsgiNetwork) -> None:
        (other,) = await search_that_fails(network)
        machine: Any = other.machine
        assert not other.finished
        await network.settle()
        assert machine.answers

    run_asgi(federation, body)


async def preparing_that_fails(network: AsgiNetwork) -> list[QueryDriver]:
    """Of two side by side the second cannot begin."""
    node: Any = network.nodes[FR]
    drive, begun = node.drive, []

    def fails(machine: Any) -> Any:
        begun.append(machine)
        if len(begun) == 2:
            raise OSError("the disk is full")
        return drive(machine)

    node.drive = fails
    with pytest.raises(OSError, match="full"):
        await node.supply.prepare(wanted(count=2))
    return drivers_of(network, PreparingRequester)


def test_nor_is_a_preparation_made_that_nobody_puts_by(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        (other,) = await preparing_that_fails(network)
        machine: Any = other.machine
        assert other.finished
        assert machine.preparation is None
        await network.settle()
        assert not any(node.pool.standing() for node in network.nodes.values())

    run_asgi(federation, body)


def test_control_left_alone_its_peers_keep_what_nobody_uses(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.service.supply, "together", all_at_once)

    async def body(network: AsgiNetwork) -> None:
        (other,) = await preparing_that_fails(network)
        assert not other.finished
        await network.settle()
        assert network.nodes[DE].pool.standing()

    run_asgi(federation, body)


@pytest.mark.parametrize(
    ("defended", "times"), [(True, 1), (True, 3), (False, 1)], ids=["defended", "again and again", "control"]
)
def test_an_attempt_that_is_cancelled_is_over_before_what_it_uses_is_erased(
    defended: bool, times: int, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its machine would go on with zeros in place of its shares."""
    erased: list[bool] = []

    async def at_once(*_: object) -> None:
        pass

    if not defended:
        monkeypatch.setattr(QueryDriver, "break_off", at_once)

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        give_up = node._preparer.give_up

        def watched(made: Any) -> None:
            (driver,) = drivers_of(network, SearchingRequester)
            erased.append(driver.finished)
            give_up(made)

        monkeypatch.setattr(node._preparer, "give_up", watched)
        search = asyncio.create_task(node.search(request(federation.people.hit)))
        while not drivers_of(network, SearchingRequester):
            await asyncio.sleep(0.01)
        for _ in range(times):
            search.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({search})
        assert search.cancelled()

    run_asgi(federation, body)
    assert erased == [defended]


def test_nor_is_what_a_failed_attempt_uses_erased_under_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended in its set-up, but its node has not put it away so far."""
    erased: list[bool] = []

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        assert (await node.supply.prepare(wanted())).made == 1
        await network.settle()
        stop_joint(network, ES)
        give_up = node._preparer.give_up

        def watched(made: Any) -> None:
            machines: list[tuple[Any, bool]] = [
                (one.machine, one.finished) for one in drivers_of(network, SearchingRequester)
            ]
            erased.extend(finished for machine, finished in machines if machine.preparation is made)
            give_up(made)

        monkeypatch.setattr(node._preparer, "give_up", watched)
        report = await node.search(request(federation.people.hit))
        assert report.answers == federation.expected(request(federation.people.hit))

    run_asgi(federation, body)
    assert erased == [True] * 3


@pytest.mark.parametrize(
    ("defended", "times"), [(True, 1), (True, 3), (False, 1)], ids=["defended", "again and again", "control"]
)
def test_what_is_found_for_a_search_that_was_cancelled_meanwhile_is_given_up(
    defended: bool, times: int, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its secrets stay, and its places at the peers are taken, until it is too old."""

    async def in_a_thread(preparer: Any, *given: Any) -> Any:
        return await asyncio.to_thread(preparer.waiting, *given)

    if not defended:
        monkeypatch.setattr(Preparer, "find", in_a_thread)

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        assert (await node.supply.prepare(wanted())).made == 1
        await network.settle()
        take, taking, cancelled = node.pool.take, threading.Event(), threading.Event()
        taken: list[Any] = []

        def slowly(*given: Any) -> Any:
            taking.set()
            assert cancelled.wait(10)
            taken.append(take(*given))
            return taken[0]

        monkeypatch.setattr(node.pool, "take", slowly)
        search = asyncio.create_task(node.search(request(federation.people.hit)))
        assert await asyncio.to_thread(taking.wait, 10)
        for _ in range(times):
            search.cancel()
            await asyncio.sleep(0)
        cancelled.set()
        await asyncio.wait({search})
        assert search.cancelled()
        while not taken:
            await asyncio.sleep(0.01)
        assert bool(node.pool.preparation_ids(FR)) is not defended
        assert bool(taken[0].rings) is not defended

    run_asgi(federation, body)


def test_what_could_not_be_put_by_takes_no_place_at_its_holders_once_more_is_prepared(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]

        def fails(_: object) -> bool:
            raise OSError("the disk is full")

        with monkeypatch.context() as full:
            full.setattr(node._preparer, "put_by", fails)
            with pytest.raises(OSError, match="full"):
                await node.supply.prepare(wanted())
        await network.settle()
        assert all(len(network.nodes[name].pool.standing()) == 1 for name in HOLDERS)
        assert (await node.supply.prepare(wanted())).made == 1
        await network.settle()
        (waits,) = node.pool.standing()
        for name in HOLDERS:
            assert [one.preparation_id for one in network.nodes[name].pool.standing()] == [waits.preparation_id]

    run_asgi(federation, body)


def test_the_first_error_is_raised_when_all_are_over() -> None:
    over: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            over.append("waited")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise OSError("first")

    with pytest.raises(OSError, match="first"):
        asyncio.run(together([waits(), fails()]))
    assert over == ["waited"]
    asyncio.run(together([]))


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_cancelled_is_cancelled_once(times: int) -> None:
    """Whoever is the first to be over does not have the others disturbed while they put away what they did.

    And all are over before whoever asked for them is, however often that is cancelled.
    """
    put_away: list[float] = []

    async def takes(seconds: float) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(seconds)
            put_away.append(seconds)

    async def everything() -> None:
        work = asyncio.create_task(together(takes(seconds) for seconds in (0, 0.01, 0.02)))
        await asyncio.sleep(0.01)
        for _ in range(times):
            work.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({work})
        assert work.cancelled()
        assert put_away == [0, 0.01, 0.02]

    asyncio.run(everything())


def busy_threads_and_cancelled(task: asyncio.Task[Any]) -> None:
    """All threads of the loop are busy for a moment, and meanwhile a task is cancelled."""
    loop, free = asyncio.get_running_loop(), threading.Event()
    for _ in range(32):  # as many as there are at most
        loop.run_in_executor(None, free.wait, 10)
    loop.call_soon(task.cancel)
    loop.call_later(0.1, free.set)


def test_what_was_taken_is_given_up_though_its_search_is_cancelled_while_all_threads_are_busy(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a thread is never done once whoever waits for it is cancelled."""

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        assert (await node.supply.prepare(wanted())).made == 1
        await network.settle()

        async def fails(*_: object) -> None:
            busy_threads_and_cancelled(search)
            raise OSError("the disk is full")

        monkeypatch.setattr(node, "_query", fails)
        search = asyncio.create_task(node.search(request(federation.people.hit)))
        await asyncio.wait({search})
        assert search.cancelled()
        assert not node.pool.preparation_ids(FR)

    run_asgi(federation, body)


def test_what_was_made_waits_though_its_making_is_cancelled_while_all_threads_are_busy(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]

        def why(*_: object) -> dict[str, Any]:
            busy_threads_and_cancelled(preparing)
            return {}

        monkeypatch.setattr(node.supply, "_why", why)
        preparing = asyncio.create_task(node.supply._make(wanted()))
        await asyncio.wait({preparing})
        assert preparing.cancelled()
        assert len(node.pool.standing()) == 1

    run_asgi(federation, body)


def test_what_is_found_is_given_up_though_its_search_is_cancelled_again_while_all_threads_are_busy(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        assert (await node.supply.prepare(wanted())).made == 1
        await network.settle()
        take, loop = node.pool.take, asyncio.get_running_loop()

        def take_and_be_busy(*given: Any) -> Any:
            taken = take(*given)
            loop.call_soon_threadsafe(busy_threads_and_cancelled, search)
            loop.call_soon_threadsafe(loop.call_later, 0.05, search.cancel)
            return taken

        monkeypatch.setattr(node.pool, "take", take_and_be_busy)
        search = asyncio.create_task(node.search(request(federation.people.hit)))
        await asyncio.wait({search})
        assert search.cancelled()
        assert not node.pool.preparation_ids(FR)

    run_asgi(federation, body)


def test_nor_is_what_is_not_used_after_a_false_refusal_kept_then(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        assert (await node.supply.prepare(wanted())).made == 1
        await network.settle()
        made = await node._preparer.find(HOLDERS, Plan(RING, DIM, SYNTHETIC_MODEL))

        def refused_falsely(_: object) -> bool:
            busy_threads_and_cancelled(asking)
            return True

        search: Any = SimpleNamespace(refused_falsely=refused_falsely)
        asking = asyncio.create_task(node._ask_with(search, HOLDERS, made, "waiting"))
        await asyncio.wait({asking})
        assert asking.cancelled()
        assert not node.pool.preparation_ids(FR)

    run_asgi(federation, body)
