"""Holder and router, where who asks, or the end of the node, comes at the wrong moment."""

from __future__ import annotations

import asyncio
import gc
import secrets
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace as replaced

import nodes.service.answering
from nodes.evidence.recorder import read_records
from nodes.pool import Pool, UnknownPreparation
from nodes.service.answering import ROUTER_ROW_BYTES
from nodes.service.operator_api import PrepareRequest
from protocol.announcing import Plan
from protocol.channel import SendingChannel
from protocol.errors import QueryRefused
from protocol.messages import JoinedPreparation, Search
from protocol.session import WHOLE
from protocol.terms import SYNTHETIC_MODEL
from protocol.wire import VERSION, Envelope, encode
from tests.kit.federation import DE, DIM, ES, EU, FR, Federation, found, people, request
from tests.kit.network import AsgiNetwork, run_asgi
from tests.kit.ring import RING

PREPARED = PrepareRequest((ES,), 1, DIM, SYNTHETIC_MODEL, RING.preset)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path / "nodes", people(rows=130))


@pytest.mark.parametrize("threads", ["free", "busy"])
def test_the_records_of_a_search_are_whole_though_its_node_is_closed_as_it_ends(
    threads: str, federation: Federation
) -> None:
    """Whoever can choose when a search ends would else have a node that is shut down keep nothing of it."""
    kept: list[bytes] = []

    async def body(network: AsgiNetwork) -> None:
        node, begun, free = network.nodes[ES], threading.Event(), threading.Event()
        put_away, loop = node._put_away, asyncio.get_running_loop()

        def slowly(machine: Any) -> None:
            begun.set()
            time.sleep(0.3)
            put_away(machine)
            kept.append(machine.query)

        async def end(driver: Any) -> None:
            if threads == "busy":
                for _ in range(32):  # as many as there are at most
                    loop.run_in_executor(None, free.wait, 10)
                begun.set()
                loop.call_later(0.2, free.set)
            await ended(driver)

        wanted = request(federation.people.hit, (ES,))
        asking: Any = network.nodes[FR]
        assert (await asking.supply.prepare(PREPARED)).made == 1
        await network.settle()
        ended, node._ended, node._put_away = node._ended, end, slowly  # type: ignore[method-assign]
        search = asyncio.create_task(network.search(wanted))
        while not begun.is_set():
            await asyncio.sleep(0.005)
        await network.kill(ES)
        (query,) = kept
        assert (await search).queries == (query.hex(),)

    run_asgi(federation, body)
    (query,) = kept
    records = read_records(federation.folder(ES) / "evidence" / query.hex())
    assert "Release" in {record.kind for record in records}


async def being_made(network: AsgiNetwork, free: threading.Event) -> bytes:
    """FR has made a preparation with ES, which puts its part away until it is let go on; gives its ID."""
    node: Any = network.nodes[ES]
    put_away = node._put_away

    def slowly(machine: Any) -> None:
        assert free.wait(20)
        put_away(machine)

    node._put_away = slowly
    asking: Any = network.nodes[FR]
    assert (await asking.supply.prepare(PREPARED)).made == 1
    (waits,) = asking.pool.standing()
    preparation_id: bytes = waits.preparation_id
    return preparation_id


def opening(network: AsgiNetwork, preparation_id: bytes) -> tuple[bytes, list[bytes]]:
    """What opens a search of FR's at ES with a preparation, without a warrant; its reference, and the units."""
    asking, query = network.nodes[FR], secrets.token_bytes(16)
    channel = SendingChannel(query, FR, ES, asking.peers[ES].sealing_key, asking.keyring)
    announce = Search(
        FR, EU, (ES,), bytes(32), "0.55", 10, "0", RING.preset, DIM, SYNTHETIC_MODEL, preparation_id
    )  # fmt: skip
    frame = encode(Envelope(VERSION, query, WHOLE, FR, ES, 0, announce))
    return query, [channel.hello, channel.seal(frame)]


class Forgetful(set[bytes]):
    """Without the defence."""

    def __contains__(self, _: object) -> bool:
        return False

    def remove(self, element: bytes) -> None:
        self.discard(element)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "control"])
def test_what_is_being_made_is_waited_for_by_one_search(defended: bool, federation: Federation) -> None:
    """It serves no other. Else whoever makes one, and names it again and again, has places for searches that no quota
    counts, and that it has no warrant for."""

    async def body(network: AsgiNetwork) -> None:
        node, free = network.nodes[ES], threading.Event()
        if not defended:
            node._awaited = Forgetful()
        preparation_id = await being_made(network, free)
        asked = [
            asyncio.create_task(node.accept(FR, query, 0, units))
            for query, units in (opening(network, preparation_id) for _ in range(4))
        ]
        over, wait = await asyncio.wait(asked, timeout=1)
        assert [code_of(task) for task in over] == (["unprepared"] * 3 if defended else [])
        assert len(wait) == len(node.askers) == (1 if defended else 4)
        free.set()
        await asyncio.wait(wait)
        assert {code_of(task) for task in wait} == {"warrant"}
        assert not node.askers

    run_asgi(federation, body)


def code_of(task: asyncio.Task[None]) -> str | None:
    return getattr(task.exception(), "code", None)


def test_nobody_waits_for_what_is_made_for_another(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        free, node = threading.Event(), network.nodes[ES]
        preparation_id = await being_made(network, free)
        for driver in node.drivers.values():
            driver.machine.parties = replace(driver.machine.parties, requester="IT")
        query, units = opening(network, preparation_id)
        with pytest.raises(UnknownPreparation, match="not for this search of FR"):
            await asyncio.wait_for(node.accept(FR, query, 0, units), 5)
        free.set()

    run_asgi(federation, body)


def test_what_opens_a_query_while_its_node_is_closed_is_over_before_its_store_is(federation: Federation) -> None:
    """Else a query would begin at a node whose logs are closed."""

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[ES]
        loop, machine, begun = asyncio.get_running_loop(), node.answering.machine, asyncio.Event()
        free = threading.Event()
        closed: list[bool] = []
        known: list[bool] = []

        def slowly(*given: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            assert free.wait(10)
            known.append(not closed)
            return machine(*given)

        close = node.store.close

        def noted() -> None:
            closed.append(True)
            close()

        node.store.close = noted
        node.answering.machine = slowly
        asking: Any = network.nodes[FR]
        preparing = asyncio.create_task(asking.supply.prepare(PREPARED))
        await asyncio.wait_for(begun.wait(), 10)
        loop.call_later(0.2, free.set)
        await network.kill(ES)
        assert (known, node._opening, node._live) == ([True], {}, set())
        preparing.cancel()
        await asyncio.wait({preparing})

    run_asgi(federation, body)


def test_what_is_refused_is_read_though_nobody_waits_for_it(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[ES]
        query, units = opening(network, bytes(32))
        asking = asyncio.create_task(node.accept(FR, query, 0, units))
        while not node._opening:
            await asyncio.sleep(0)
        asking.cancel()
        while node._opening:
            await asyncio.sleep(0.01)
        gc.collect()

    run_asgi(federation, body)
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "control"])
def test_a_router_that_knew_no_size_keeps_no_more_than_its_limit(
    defended: bool, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How large they are is told only once they are begun, and they may be begun side by side."""
    monkeypatch.setattr(nodes.service.answering, "ROUTER_ROW_BYTES", 2500)  # 10 MB for each
    federation.configure(EU, max_bytes=2**24)
    if not defended:
        monkeypatch.setattr(Pool, "grow", lambda *_: None)

    async def body(network: AsgiNetwork) -> None:
        asking: Any = network.nodes[FR]
        report = await asking.supply.prepare(replaced(PREPARED, count=2))
        await network.settle()
        assert len(network.nodes[EU].pool.standing()) == report.made == (1 if defended else 2)
        if defended:
            assert report.refused[ES].reason == "capacity"

    run_asgi(federation, body)


@pytest.mark.parametrize(("waits", "named"), [(0, None), (2**22, ES)], ids=["alone", "beside another"])
def test_of_several_holders_the_one_that_told_most_is_named(
    waits: int, named: str | None, federation: Federation
) -> None:
    """Not who told last: else a holder that fills the room with what it says would have another left out."""
    federation.configure(EU, max_bytes=2**24)

    async def body(network: AsgiNetwork) -> None:
        node, conversation = network.nodes[EU], bytes(16)
        announce: Any = SimpleNamespace(requester=FR, holders=(ES, DE))
        node.pool.admit(b"another preparation", FR, waits, time.time())
        node.pool.admit(conversation, FR, 0, time.time())
        told = node.answering._measure(announce, conversation, Plan(RING, DIM))
        most = int((2**24 - waits) / (ROUTER_ROW_BYTES * RING.n))  # as many blocks as there is room for
        refused = None
        for peer, blocks in ((ES, most), (DE, 1)):
            message = JoinedPreparation(bytes(32), bytes(32), blocks)
            event: Any = SimpleNamespace(direction="received", peer=peer, message=message)
            try:
                told(event)
            except QueryRefused as error:
                refused = error.by
        assert refused == named

    run_asgi(federation, body)
