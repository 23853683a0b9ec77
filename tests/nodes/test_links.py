"""Connections that break, trickle or are never answered, over real TLS: nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import msgspec
import pytest

from benchmarks.faults import Tally, find_leaks, try_fault
from nodes.config.schema import load_config
from nodes.identity.identity import load_identity, load_peers
from nodes.identity.tls import client_context, server_name
from nodes.service import server as serve
from nodes.service.operator_api import HolderAnswer
from nodes.transport import client as http
from nodes.transport.client import HttpTransport
from nodes.transport.send_queue import PeerUnreachable
from nodes.transport.units import pack_units
from tests.kit.faults import During, Fault, in_turn
from tests.kit.federation import DE, ES, EU, FR, Federation, request
from tests.kit.leaks import Capture, captured_logs
from tests.kit.network import TlsNetwork, assert_clear, running

pytestmark = pytest.mark.slow

FEDERATION = {"read_timeout_seconds": 3}


@pytest.fixture
def logs() -> Iterator[Capture]:
    with captured_logs() as capture:
        yield capture


@pytest.mark.parametrize("during", ["preparing", "searching"])
@pytest.mark.parametrize(("link", "step"), [((FR, ES), 0), ((FR, ES), 6), ((EU, FR), 6)])
def test_a_connection_that_is_cut_in_the_middle_of_a_body_loses_nothing(
    link: tuple[str, str],
    step: int,
    during: During,
    federation: Federation,
    logs: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tally, broken, deliver = Tally(), [], HttpTransport.deliver

    async def watched(self: HttpTransport, peer: str, query: bytes, offset: int, units: http.Units) -> None:
        try:
            await deliver(self, peer, query, offset, units)
        except PeerUnreachable:
            broken.append((peer, offset))
            raise

    monkeypatch.setattr(HttpTransport, "deliver", watched)

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            fault = Fault("cut", link[0], step, link[1], during=during)
            await try_fault(network, fault, request(federation.people.hit, (ES,)), tally)
            find_leaks(federation, logs, network, tally)

    asyncio.run(body())
    assert tally.tried["cut"] == 1
    assert tally.ended == {"cut: candidates": 1}
    assert not step or any(peer == link[1] for peer, _ in broken), "no body broke: nothing was tried"
    assert not tally.lost
    assert not tally.leaked


@contextlib.asynccontextmanager
async def mute(federation: Federation, name: str) -> AsyncIterator[None]:
    """At a node's address somebody with its certificate takes every byte, and never answers."""

    writers: list[asyncio.StreamWriter] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await reader.read(2**16):
                pass

    config = load_config(federation.folder(name))
    server = await asyncio.start_server(
        listen, config.listen.host, config.listen.port, ssl=serve.server_context(config.tls)
    )
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)


def test_a_delivery_that_is_never_acknowledged_is_given_up(federation: Federation) -> None:
    identity = load_identity(federation.folder(FR))

    async def body() -> float:
        transport = HttpTransport(FR, load_peers(identity.config), identity.config.tls, read_seconds=1)
        try:
            async with mute(federation, ES):
                started = time.monotonic()
                with pytest.raises(PeerUnreachable, match="ReadTimeout"):
                    await transport.deliver(ES, bytes(16), 0, in_turn([b"unit"]))
                return time.monotonic() - started
        finally:
            await transport.close()

    assert 1 <= asyncio.run(body()) < 20


@pytest.mark.parametrize(("odd", "lost"), [(ES, {ES}), (EU, {ES, DE})], ids=["a holder", "the router"])
def test_a_node_that_never_acknowledges_is_unreachable_and_the_next_query_works(
    odd: str, lost: set[str], federation: Federation
) -> None:
    wanted = request(federation.people.hit)
    expected = federation.expected(wanted)

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            await network.kill(odd)
            async with mute(federation, odd):
                report = await network.search(wanted)
                assert report.answers == expected | dict.fromkeys(
                    lost, HolderAnswer("unreachable", reason="timeout", by=odd)
                )
                await network.settle(30)
                assert_clear(network)
            await network.start(odd)
            assert (await network.search(wanted)).answers == expected

    asyncio.run(body())


async def trickle(federation: Federation, query: int, pieces: AsyncIterator[bytes]) -> float:
    """EU posts a body to ES that never ends: the seconds until ES has had enough."""
    config, started = load_config(federation.folder(EU)), time.monotonic()
    context = await asyncio.to_thread(client_context, config.tls)
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as client:
        with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):  # the answer may be lost with the line
            response = await client.post(
                f"{load_config(federation.folder(ES)).address}/v1/queries/{query:032x}/units?offset=1",
                content=pieces,
                extensions={"sni_hostname": server_name(ES)},
            )
            assert response.status_code == 408
    return time.monotonic() - started


async def one_unit_then_crumbs() -> AsyncIterator[bytes]:
    yield pack_units([b"whole"]) + (1000).to_bytes(4, "big")
    while True:
        await asyncio.sleep(0.05)
        yield b"x"


async def small_units() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0.1)  # so that fewer wait after ten seconds than one peer may send ahead
        yield pack_units([b"x"])


def test_who_trickles_inside_an_open_body_is_cut_off_and_holds_nobody_up(
    federation: Federation, logs: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit must be whole within the read timeout, a body within the time that a query may take."""
    monkeypatch.setattr("nodes.config.schema.within", lambda *_: None)
    monkeypatch.setattr(serve, "HEADER_SECONDS", 0.5)  # for what comes behind the refusal
    wanted = request(federation.people.hit, (ES,))

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            node = network.nodes[ES]
            limits = msgspec.structs.replace(
                node.config.limits, read_timeout_seconds=3, query_timeout_seconds=10, concurrent_queries=8
            )
            node.config = msgspec.structs.replace(node.config, limits=limits)
            lorises = [
                asyncio.create_task(trickle(federation, number, pieces()))
                for number, pieces in enumerate([one_unit_then_crumbs] * 5 + [small_units] * 5)
            ]
            await asyncio.sleep(0.2)
            assert (await network.search(wanted)).answers == federation.expected(wanted)
            cut = await asyncio.gather(*lorises)
            assert 3 <= min(cut[:5]) < min(cut[5:])
            assert min(cut[5:]) >= 10
            assert logs.text.count('"code": "timeout"') == 10
            await network.settle()
            assert_clear(network)

    asyncio.run(body())
