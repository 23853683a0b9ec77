"""Who may connect, what a slow or greedy peer gets, and which routes are whose: over real TLS sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodes.config.schema import TlsFiles, load_config, operator_name
from nodes.identity.authority import Authority, Issued
from nodes.identity.identity import load_identity, load_peers
from nodes.identity.tls import client_context, running_out, server_name
from nodes.private_files import write_private, write_public
from nodes.service import reload
from nodes.service import server as serve
from nodes.transport import units
from nodes.transport.client import HttpTransport
from nodes.transport.send_queue import PeerUnreachable
from nodes.transport.units import BODY_UNITS, UNIT_LIMIT, pack_units
from tests.kit.faults import in_turn
from tests.kit.federation import DE, ES, EU, FR, Federation, found, free_ports, request
from tests.kit.network import TlsNetwork, assert_clear, hang_up

pytestmark = pytest.mark.slow

FEDERATION = {"read_timeout_seconds": 30}

QUERY = "0" * 32
UNITS = f"/v1/queries/{QUERY}/units?offset=0"


def serving(federation: Federation, body: Callable[[TlsNetwork], Awaitable[None]], *names: str) -> None:
    """Run a body while nodes serve; ES alone unless others are named."""

    async def run() -> None:
        network = TlsNetwork(federation)
        try:
            await network.start(*(names or (ES,)))
            await body(network)
        finally:
            await network.close()

    asyncio.run(run())


def files(folder: Path, issued: Issued, like: TlsFiles) -> TlsFiles:
    folder.mkdir(parents=True)
    write_private(folder / "key", issued.key)
    write_public(folder / "certificate", issued.certificate)
    return replace(like, key=folder / "key", certificate=folder / "certificate")


async def get(federation: Federation, tls: TlsFiles, path: str, receiver: str = ES) -> httpx.Response:
    context = await asyncio.to_thread(client_context, tls)
    return await get_with(federation, context, path, receiver)


async def get_with(federation: Federation, context: ssl.SSLContext, path: str, receiver: str = ES) -> httpx.Response:
    address = load_config(federation.folder(receiver)).address
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        return await client.get(address + path, extensions={"sni_hostname": server_name(receiver)})


def config(federation: Federation, name: str) -> TlsFiles:
    return load_config(federation.folder(name)).tls


def test_only_certificates_that_hold_may_connect(federation: Federation, tmp_path: Path) -> None:
    own = config(federation, FR)
    stranger = Authority.create(tmp_path / "stranger")
    authority = Authority.open(federation.root / "authority")
    now = datetime.now(timezone.utc)
    past, tomorrow = now - timedelta(days=3), now + timedelta(days=1)
    bad = {
        "of another authority": files(tmp_path / "a", stranger.issue(FR, "https://127.0.0.1:1"), own),
        "expired": files(tmp_path / "b", authority.issue(FR, "https://127.0.0.1:1", days=1, now=past), own),
        "not yet valid": files(tmp_path / "c", authority.issue(FR, "https://127.0.0.1:1", now=tomorrow), own),
    }

    async def body(network: TlsNetwork) -> None:
        assert (await get(federation, own, "/health")).json() == {"status": "ok"}
        for tls in bad.values():
            with pytest.raises(httpx.TransportError):
                await get(federation, tls, "/health")
        naked = ssl.create_default_context(cafile=str(own.ca))
        with pytest.raises(httpx.TransportError):
            await get_with(federation, naked, "/health")

    serving(federation, body)


def test_a_node_with_another_nodes_name_is_unreachable(federation: Federation) -> None:
    """DE answers where ES should be: the handshake ends it before a byte is sent."""
    identity = load_identity(federation.folder(FR))
    peers = load_peers(identity.config)
    peers[ES] = replace(peers[ES], address=peers[DE].address)

    async def body(network: TlsNetwork) -> None:
        transport = HttpTransport(FR, peers, config(federation, FR))
        try:
            with pytest.raises(PeerUnreachable):
                await transport.deliver(ES, bytes(16), 0, in_turn([b"unit"]))
        finally:
            await transport.close()

    serving(federation, body, DE)


def test_a_revoked_node_is_cut_off_although_its_connection_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "RELOAD_SECONDS", 0.2)
    federation = found(tmp_path)
    tls = config(federation, DE)

    async def body(network: TlsNetwork) -> None:
        server = network.servers[ES][0]
        reloading = asyncio.create_task(reload.Reload(server, network._transports[ES]).run_for_ever())
        context = client_context(tls)
        address = load_config(federation.folder(ES)).address
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:

            async def ask() -> httpx.Response:
                return await client.get(address + "/health", extensions={"sni_hostname": server_name(ES)})

            assert (await ask()).status_code == 200
            Authority.open(federation.root / "authority").revoke(DE)

            async def ask_for(seconds: float) -> None:
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline:
                    await ask()
                    await asyncio.sleep(0.05)

            with pytest.raises(httpx.TransportError):
                await ask_for(10)
        # ES asks no more of DE either: its own connections use the new list
        with pytest.raises(PeerUnreachable):
            await network._transports[ES].deliver(DE, bytes(16), 0, in_turn([b"unit"]))
        reloading.cancel()

    serving(federation, body, ES, DE)


def test_peers_and_operators_each_have_their_own_routes(federation: Federation) -> None:
    node, operator = config(federation, FR), load_config(federation.folder(FR)).operator_tls
    foreign = load_config(federation.folder(ES)).operator_tls

    async def body(network: TlsNetwork) -> None:
        address = load_config(federation.folder(FR)).address

        async def ask(tls: TlsFiles, method: str, path: str) -> httpx.Response:
            context = await asyncio.to_thread(client_context, tls)
            async with httpx.AsyncClient(verify=context, trust_env=False) as client:
                return await client.request(
                    method, address + path, content=b"", extensions={"sni_hostname": server_name(FR)}
                )

        status = await ask(operator, "GET", "/operator/v1/status")
        assert status.status_code == 200
        assert status.json() == {
            "name": FR,
            "role": "requester",
            "address": address,
            "queries_running": 0,
            "subjects": 0,
            "draining": False,
            "peers": [DE, ES, EU, FR],
        } | {key: value for key, value in status.json().items() if key not in ("name", "role", "address")}
        for tls in (node, foreign, config(federation, ES)):
            for method, path in (("GET", "status"), ("POST", "search"), ("GET", "searches"), ("POST", "hold")):
                assert (await ask(tls, method, f"/operator/v1/{path}")).status_code == 403
        for tls in (operator, foreign):
            assert (await ask(tls, "POST", UNITS)).status_code == 403
        assert (await ask(config(federation, ES), "POST", UNITS)).status_code == 202  # nothing, from a peer
        for tls in (node, foreign, config(federation, ES)):  # counts and times tell of queries of others
            assert (await ask(tls, "GET", "/metrics")).status_code == 403
            assert (await ask(tls, "GET", "/health")).json() == {"status": "ok"}
        assert (await ask(operator, "GET", "/metrics")).status_code == 200
        assert (await ask(operator, "GET", "/health")).json() == {"status": "ok", "contradicting_logs": 0, "alarms": []}

    serving(federation, body, FR)


def test_an_operators_certificate_cannot_serve(federation: Federation) -> None:
    """The extended key usage keeps it from standing in for the node."""
    operator = load_config(federation.folder(ES)).operator_tls
    assert operator_name(ES) == "ES-OPERATOR"

    async def body(network: TlsNetwork) -> None:
        context = serve.server_context(operator)
        (port,) = free_ports(1)
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port, ssl=context)
        async with server:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(
                    "127.0.0.1", port, ssl=client_context(config(federation, FR)), server_hostname=server_name(ES)
                )

    serving(federation, body)


async def connect(federation: Federation) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = load_config(federation.folder(ES)).listen.port
    context = client_context(config(federation, FR))
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name(ES))


async def until(condition: Callable[[], bool]) -> None:
    """Wait, for twenty seconds at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def trickle(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, seconds: float) -> float:
    """Send a byte every 50 ms until the other side has had enough; seconds it took, or fail."""
    started = time.monotonic()
    ended = asyncio.create_task(reader.read(-1))
    try:
        while not ended.done() and time.monotonic() - started < seconds:
            writer.write(b"x")
            await asyncio.sleep(0.05)
    except ConnectionError:
        pass
    assert ended.done(), f"still connected after {seconds} s"
    ended.exception()
    return time.monotonic() - started


def test_a_connection_that_its_peer_resets_is_closed_here_too(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not left to the garbage collector, which closes it at some later time, and warns."""
    made: list[asyncio.BaseTransport] = []
    connected = serve.PeerProtocol.connection_made

    def watched(self: serve.PeerProtocol, transport: Any) -> None:
        made.append(transport)
        connected(self, transport)

    monkeypatch.setattr(serve.PeerProtocol, "connection_made", watched)

    async def body(network: TlsNetwork) -> None:
        server, _ = network.servers[ES]
        _, writer = await connect(federation)
        await until(lambda: bool(server.server_state.connections))
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it ends without a word
        writer.transport.abort()
        await until(lambda: not server.server_state.connections)
        assert [transport.is_closing() for transport in made] == [True]

    serving(federation, body)


HEAD = b"GET /health HTTP/1.1\r\nhost: es\r\n"
POST = f"POST {UNITS} HTTP/1.1\r\nhost: es\r\n".encode()


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (b"GET /hea", b""),
        (HEAD + b"\r\n" + b"GET /health HTTP/1.1\r\nslow: ", b"200"),
        (POST + b"content-length: 99999999999\r\n\r\n", b"413"),
        (POST + b"content-length: 1000\r\n\r\nxxx", b"408"),
    ],
    ids=["a first head", "a second head", "behind an answer", "a body"],
)
def test_who_trickles_is_cut_off(
    first: bytes, answer: bytes, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "HEADER_SECONDS", 0.6)
    federation.configure(ES, read_timeout_seconds=1)

    async def body(network: TlsNetwork) -> None:
        reader, writer = await connect(federation)
        writer.write(first)
        if answer:
            got = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) if answer != b"408" else b""
            assert answer in got or answer == b"408"
        assert await trickle(writer, reader, 60) < 60
        await hang_up(writer)

    serving(federation, body)


@pytest.mark.parametrize(
    "first",
    [
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\ncontent-length: 0\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: es\n\n",
        HEAD + b"a: b\nc: d\r\n\r\n",
        HEAD + b"a: b\rc: d\r\n\r\n",
        HEAD + b"a: b\r\n c\r\n\r\n",
        HEAD + b"a: b\r\n\tc\r\n\r\n",
        HEAD + b"\r\n" + HEAD + b"a: b\r\n c\r\n\r\n",
    ],
    ids=[
        "two lengths",
        "two lengths, a space",
        "bare LF",
        "one bare LF",
        "bare CR",
        "folded",
        "folded, a tab",
        "behind",
    ],
)
def test_a_head_that_two_programs_may_read_differently_ends_the_connection(
    first: bytes, federation: Federation
) -> None:
    async def body(network: TlsNetwork) -> None:
        reader, writer = await connect(federation)
        writer.write(first + HEAD + b"\r\n")  # what comes behind must not be answered
        answer = await asyncio.wait_for(reader.read(-1), 20)
        assert b"HTTP/1.1 400" in answer
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1") == first.count(b"\r\n\r\nGET") + 1
        await hang_up(writer)
        reader, writer = await connect(federation)  # control: a plain head, in two pieces
        writer.write(HEAD + b"a: b\r")
        await asyncio.sleep(0.05)
        writer.write(b"\nc: d\r\n\r\n")
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 20)
        await hang_up(writer)

    serving(federation, body)


def test_what_ends_within_a_week_is_told_to_the_operator(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = config(federation, ES)

    async def told(network: TlsNetwork) -> list[str]:
        tls = load_config(federation.folder(ES)).operator_tls
        answer: list[str] = (await get(federation, tls, "/health")).json().get("running_out", [])
        return answer

    async def body(network: TlsNetwork) -> None:
        assert await told(network) == []  # control
        monkeypatch.setattr("nodes.identity.tls.WARN_AHEAD", timedelta(days=31))
        (line,) = await told(network)
        assert line.startswith(f"revocation list {own.crl} ends on ")
        assert "`lineup node revoke --authority FOLDER`, without a name, signs a fresh one for 30 days" in line
        metrics = await get(federation, load_config(federation.folder(ES)).operator_tls, "/metrics")
        assert 'lineup_running_out{node="ES",role="holder"} 1.0' in metrics.text
        assert "running_out" not in (await get(federation, config(federation, FR), "/health")).json()  # a peer

    serving(federation, body)


def test_the_operators_certificate_is_warned_of_as_the_services_is(federation: Federation) -> None:
    """Without it the node does not start, and its operator cannot ask it anything."""
    config, now = load_config(federation.folder(ES)), datetime.now(timezone.utc)
    kinds = ["certificate", "operator's certificate", "revocation list"]
    for days, told in ((1, []), (24, kinds[2:]), (357, kinds[2:]), (358.5, kinds), (366, kinds)):
        lines = running_out(config, now + timedelta(days=days))
        assert [line.split(" /")[0] for line in lines] == told, days
    assert all("`lineup node renew --dir DIR --authority FOLDER`" in line for line in lines[:2])
    assert [" ended on " in line for line in lines] == [True, True, True]


def test_no_answer_repeats_the_host_that_was_asked_for(federation: Federation) -> None:
    async def body(network: TlsNetwork) -> None:
        for path in (b"/health/", b"/metrics/", b"/operator/v1/status/", b"/health"):
            reader, writer = await connect(federation)
            writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(-1), 20)
            assert b"evil.example" not in answer
            assert b"location" not in answer.lower()
            assert (b" 200 " if path == b"/health" else b" 404 ") in answer.split(b"\r\n")[0]
            await hang_up(writer)

    serving(federation, body)


def test_a_body_that_is_too_slow_gets_a_408(federation: Federation) -> None:
    federation.configure(ES, read_timeout_seconds=1)

    async def body(network: TlsNetwork) -> None:
        reader, writer = await connect(federation)
        writer.write(POST + b"content-length: 1000\r\n\r\nxxx")
        assert b"408" in await asyncio.wait_for(reader.readline(), 60)
        await hang_up(writer)

    serving(federation, body)


def test_what_is_too_large_is_refused(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    many, long = pack_units([b"x"] * (BODY_UNITS + 1)), struct.pack(">I", UNIT_LIMIT + 1) + b"x"
    monkeypatch.setattr(units, "BODY_LIMIT", 100_000)

    async def body(network: TlsNetwork) -> None:
        context = client_context(config(federation, FR))
        address = load_config(federation.folder(ES)).address
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:

            async def send(content: object, path: str = UNITS, **headers: str) -> int:
                response = await client.post(
                    address + path,
                    content=content,  # type: ignore[arg-type]
                    headers=headers,
                    extensions={"sni_hostname": server_name(ES)},
                )
                return response.status_code

            async def endless() -> object:
                for _ in range(1000):
                    yield bytes(10_000)

            assert await send(b"x" * 200_000) == 413
            assert await send(endless()) == 413
            assert await send(many) == 413
            assert await send(long) == 413
            assert await send(struct.pack(">I", 9) + b"x") == 400
            assert await send(b"", path="/v1/queries/xyz/units?offset=0") == 400
            assert await send(b"", path=UNITS.replace("offset=0", "offset=-1")) == 400
            assert await send(b"", path=UNITS.replace("offset=0", "offset=" + "9" * 30)) == 400
            with contextlib.suppress(httpx.TransportError):  # an answer, or cut off; what comes in one piece is read
                assert await send(b"", huge="x" * 2**20) in (400, 431)
        assert not network.nodes[ES].drivers

    serving(federation, body)


def test_a_peer_that_answers_without_end_is_unreachable(federation: Federation) -> None:
    """What a peer answers is limited in size and time as well."""
    identity = load_identity(federation.folder(FR))
    peers = load_peers(identity.config)

    async def body(network: TlsNetwork) -> None:
        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n")
            try:
                while True:
                    writer.write(b"1\r\nx\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            except ConnectionError:
                pass
            finally:
                await hang_up(writer)

        (port,) = free_ports(1)
        context = serve.server_context(config(federation, ES))
        server = await asyncio.start_server(endless, "127.0.0.1", port, ssl=context)
        peers[ES] = replace(peers[ES], address=f"https://127.0.0.1:{port}")
        transport = HttpTransport(FR, peers, config(federation, FR), read_seconds=1)
        try:
            with pytest.raises(PeerUnreachable):
                await transport.deliver(ES, bytes(16), 0, in_turn([b"unit"]))
        finally:
            await transport.close()
            server.close()
            await server.wait_closed()

    serving(federation, body, DE)


def test_metrics_count_and_health_tells_and_the_next_query_works(federation: Federation) -> None:
    federation.configure(ES, read_timeout_seconds=30)
    wanted = request(federation.people.hit, (ES,))

    def counts(text: str) -> dict[str, float]:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {sample.name + json.dumps(sorted(sample.labels.items())): sample.value for sample in samples}

    async def metrics(name: str) -> httpx.Response:
        return await get(federation, load_config(federation.folder(name)).operator_tls, "/metrics", name)

    async def body(network: TlsNetwork) -> None:
        before = counts((await metrics(ES)).text)
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        refused = await network.search(msgspec.structs.replace(wanted, purpose="REMAINS"))
        assert refused.answers[ES].reason == "purpose"
        await network.settle()
        assert_clear(network)
        response = await metrics(ES)
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        after = counts(response.text)

        def grew(name: str) -> float:
            return sum(after[key] - before.get(key, 0) for key in after if key.startswith(name + "["))

        assert grew("lineup_received_bytes_total") > 100_000
        assert grew("lineup_sessions_total") >= 1
        assert (
            grew("lineup_refusals_total")
            + counts((await metrics(EU)).text).get(
                'lineup_refusals_total[["code", "purpose"], ["node", "EU"], ["role", "router"]]', 0
            )
            >= 1
        )
        assert sum(value for key, value in after.items() if key.startswith("lineup_queries_running[")) == 0
        network.nodes[ES].draining = True
        assert (await get(federation, config(federation, FR), "/health")).status_code == 503
        draining = await network.search(wanted)
        assert (draining.answers[ES].status, draining.answers[ES].reason) == ("refused", "capacity")
        network.nodes[ES].draining = False
        assert (await network.search(wanted)).answers == federation.expected(wanted)
        await network.settle()

    serving(federation, body, FR, ES, EU)
