"""Checkpoints exchanged between running nodes: a log with two histories is found while they run."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import Response

from nodes.config.schema import operator_name
from nodes.config.storage import open_store
from nodes.evidence.archive import Archive
from nodes.evidence.export import export_bundle
from nodes.evidence.witnesses import WitnessDamaged, Witnesses
from nodes.identity.identity import load_identity, load_peers
from nodes.logs.checkpoints import Checkpoint
from nodes.logs.entries import ArticleForty, Entry, Kind, TranscriptEntry
from nodes.service import gossip
from nodes.service.app import make_app
from nodes.service.node import Node
from nodes.verify import decode_bundle, load_trust, verify_bundles
from nodes.verify.format import Witnessed
from tests.kit.federation import DE, ES, EU, FR, ROLES, Federation, found, people, request
from tests.kit.leaks import captured_logs
from tests.kit.network import AsgiNetwork, TlsNetwork, running
from tests.kit.transports import over_asgi

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found(tmp_path_factory.mktemp("gossip"), people(rows=130))


@pytest.fixture(scope="module")
def searched(made: Federation) -> Federation:
    """One query over, and nobody has met anybody."""
    over_asgi(made)(request(made.people.hit))
    return made


@pytest.fixture
def federation(searched: Federation) -> Any:
    """Without what an earlier test witnessed."""
    yield searched
    for name in ROLES:
        shutil.rmtree(searched.folder(name) / "witnessed", ignore_errors=True)


@asynccontextmanager
async def nodes(federation: Federation) -> AsyncIterator[AsgiNetwork]:
    async with running(AsgiNetwork(federation)) as network:
        assert isinstance(network, AsgiNetwork)
        yield network


def run(federation: Federation, body: Callable[[AsgiNetwork], Coroutine[Any, Any, None]]) -> None:
    async def everything() -> None:
        async with nodes(federation) as network:
            await body(network)

    asyncio.run(everything())


def log_something(node: Node, number: int, kind: Kind = "transcript") -> None:
    """An entry and a checkpoint more."""
    now = int(time.time() * 1000)
    entry: Entry = TranscriptEntry(bytes(16), "query", "sent", FR, "Joined", number, bytes(32), None, now)
    if kind == "article-40":
        entry = ArticleForty(FR, number, None, (ES,), ())
    node.archive.logs[kind].append([entry], now)
    node.archive.logs[kind].checkpoint(now)


@asynccontextmanager
async def forked(
    network: AsgiNetwork, deceived: str, folder: Path, more: int, kind: Kind = "transcript"
) -> AsyncIterator[None]:
    """ES tells `deceived` another history: of a copy of its log that went on otherwise, by `more` entries."""
    shutil.copytree(network.federation.folder(ES), folder)
    identity = load_identity(folder)
    peers = load_peers(identity.config)
    other = Node(identity, peers, open_store(identity.config), network._transport(ES, peers), Archive(identity, folder))
    for number in range(more):
        log_something(other, 100 + number, kind)
    honest, lying = network.apps[ES], make_app(other)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asks = scope["lineup_peer"] == deceived and scope["path"] in ("/v1/checkpoints", "/v1/consistency")
        await (lying if asks else honest)(scope, receive, send)

    network.apps[ES] = app
    try:
        yield
    finally:
        await other.close()


def newest(node: Node, owner: str, kind: Kind = "transcript") -> Checkpoint | None:
    shown = node.archive.witnesses.newest(owner, kind)
    return shown and shown.checkpoint


def accused(network: AsgiNetwork) -> dict[str, list[str]]:
    """Node -> the logs that showed it two histories."""
    found = {name: node.gossip.accused for name, node in network.nodes.items()}
    return {name: [f"{kind} of {owner}" for owner, kind in logs] for name, logs in found.items() if logs}


# Honest nodes.


def test_after_a_query_the_parties_have_each_others_checkpoints(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "PAUSE_SECONDS", 0.05)
    query = ""

    async def body(network: AsgiNetwork) -> None:
        nonlocal query
        report = await network.search(request(federation.people.hit))
        query = report.queries[-1]
        await network.settle()
        deadline = time.monotonic() + 20
        while any(len(node.archive.witnesses.all()) < 6 for node in network.nodes.values()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        for name, node in network.nodes.items():
            for other in network.nodes:
                if other != name:
                    await node.gossip.meet(other)
        assert accused(network) == {}
        for name, node in network.nodes.items():
            for other in network.nodes.values():
                for kind, log in other.archive.logs.items():
                    if other.name != name:
                        assert newest(node, other.name, kind) == log.last_checkpoint

    run(federation, body)
    files = [export_bundle(federation.folder(name), query) for name in ROLES]
    assert {shown.header.owner for shown in decode_bundle(files[0])[1].witnessed} == {ES, DE, EU}
    report = verify_bundles(files, load_trust(federation.root / "authority" / "peers"))
    assert [check.status for check in report.checks if check.id == "log-consistency"] == ["pass"]
    assert report.holds


def test_it_goes_over_tls_too(federation: Federation) -> None:
    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            await network.nodes[FR].gossip.meet(ES)
            log_something(network.nodes[ES], 1)
            await network.nodes[FR].gossip.meet(ES)
            assert newest(network.nodes[FR], ES) == network.nodes[ES].archive.transcript.last_checkpoint
            await network.kill(ES)
            with captured_logs() as captured:
                await network.nodes[FR].gossip.meet(ES)
            assert "PeerUnreachable" in captured.text

    asyncio.run(body())


def test_a_log_that_grows_is_followed_with_one_proof_each_time(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        asked: list[str] = []
        transport = network.nodes[FR].gossip._transport
        ask = transport.ask

        async def watched(peer: str, path: str) -> bytes:
            asked.append(path)
            return await ask(peer, path)

        transport.ask = watched  # type: ignore[method-assign]
        for number in range(3):
            log_something(network.nodes[ES], number)
            await network.nodes[FR].gossip.meet(ES)
        size = network.nodes[ES].archive.transcript.size
        assert asked == [
            "/v1/checkpoints", "/v1/checkpoints", f"/v1/consistency?log=transcript&first={size - 2}&second={size - 1}",
            "/v1/checkpoints", f"/v1/consistency?log=transcript&first={size - 1}&second={size}",
        ]  # fmt: skip
        assert accused(network) == {}
        await network.nodes[FR].gossip.meet(ES)
        assert len(asked) == 6, "what is known is not proven again"

    run(federation, body)


# A node with two histories.


@pytest.mark.parametrize(("kind", "more"), [("transcript", 1), ("transcript", 3), ("article-40", 1)])
def test_a_split_view_between_two_peers_is_found_when_they_meet(
    federation: Federation, tmp_path: Path, kind: Kind, more: int
) -> None:
    """`more` entries: in two histories of one size, and of two."""
    lie = f"{kind} of ES"

    async def body(network: AsgiNetwork) -> None:
        async with forked(network, EU, tmp_path / ES, more, kind):
            log_something(network.nodes[ES], 1, kind)
            await network.nodes[FR].gossip.meet(ES)
            await network.nodes[EU].gossip.meet(ES)
            assert accused(network) == {}, "each history is sound by itself"
            with captured_logs() as captured:
                await network.nodes[FR].gossip.meet(EU)
            assert accused(network) == {FR: [lie]}
            assert '"a log showed two histories"' in captured.text
            assert '"peer": "ES"' in captured.text
            async with network.client(operator_name(FR), FR) as client:
                assert (await client.get("/health")).json() == {"status": "ok", "contradicting_logs": 1, "alarms": []}
                metrics = (await client.get("/metrics")).text
                assert 'lineup_contradicting_logs{node="FR",role="requester"} 1.0' in metrics
            await network.nodes[DE].gossip.meet(FR)
            assert accused(network) == {FR: [lie], DE: [lie]}, "and who is told can see for itself"
            await network.nodes[FR].gossip.meet(ES)
        kept = network.nodes[FR].archive.witnesses.all()
        assert len({x.checkpoint.root for x in kept if (x.header.owner, x.header.kind) == (ES, kind)}) == 2, "both stay"

    run(federation, body)
    query = next(iter((federation.folder(FR) / "evidence").iterdir())).name
    trust = load_trust(federation.root / "authority" / "peers")
    report = verify_bundles([export_bundle(federation.folder(FR), query)], trust)
    assert [check.id for check in report.failed] == ["log-consistency"], "one bundle shows it offline"
    assert "ES" in report.failed[0].details[0]


def test_control_without_the_exchange_the_split_view_stays_unseen(federation: Federation, tmp_path: Path) -> None:
    """Nodes that only look at their own peers' logs, and pass nothing on."""

    async def body(network: AsgiNetwork) -> None:
        for node in network.nodes.values():
            node.gossip.tell = lambda node=node: msgspec.msgpack.encode(  # type: ignore[method-assign]
                (node.gossip._own_newest("transcript"),)
            )
        async with forked(network, EU, tmp_path / ES, 1):
            log_something(network.nodes[ES], 1)
            for name in (FR, EU, DE):
                for other in (FR, EU, DE):
                    if other != name:
                        await network.nodes[name].gossip.meet(ES)
                        await network.nodes[name].gossip.meet(other)
        assert accused(network) == {}

    run(federation, body)


def test_a_rewritten_log_is_found_by_a_peer_that_comes_back(federation: Federation, tmp_path: Path) -> None:
    async def body(network: AsgiNetwork) -> None:
        shutil.copytree(federation.folder(ES) / "logs", tmp_path / "logs")
        log_something(network.nodes[ES], 1)
        await network.nodes[FR].gossip.meet(ES)
        await network.kill(ES)
        shutil.rmtree(federation.folder(ES) / "logs")
        shutil.copytree(tmp_path / "logs", federation.folder(ES) / "logs")
        await network.start(ES)
        log_something(network.nodes[ES], 2)
        log_something(network.nodes[ES], 3)
        await network.nodes[ES].gossip.meet(FR)
        assert accused(network) == {ES: ["transcript of ES"]}, (
            "it is shown its own checkpoint, and cannot prove that it goes on from it"
        )
        await network.nodes[FR].gossip.meet(ES)
        assert accused(network) == {ES: ["transcript of ES"], FR: ["transcript of ES"]}

    run(federation, body)


# What is not a contradiction.


def test_a_forged_checkpoint_accuses_nobody(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        fr, eu = network.nodes[FR], network.nodes[EU]
        await eu.gossip.meet(ES)
        real = eu.archive.witnesses.newest(ES, "transcript")
        assert real is not None
        forged = msgspec.structs.replace(real.checkpoint, root=bytes(32))
        eu.archive.witnesses.keep(Witnessed(real.header, forged))
        await fr.gossip.meet(ES)
        with captured_logs() as captured:
            await fr.gossip.meet(EU)
        assert accused(network) == {}
        assert "did not sign" in captured.text
        assert fr.archive.witnesses.newest(ES, "transcript") == real

    run(federation, body)


def test_a_checkpoint_under_another_logs_name_accuses_nobody(federation: Federation) -> None:
    """ES signed both, but its header says which log is which."""

    async def body(network: AsgiNetwork) -> None:
        fr, eu = network.nodes[FR], network.nodes[EU]
        await fr.gossip.meet(ES)
        one, other = (fr.archive.witnesses.newest(ES, kind) for kind in ("transcript", "article-40"))
        assert one is not None
        assert other is not None
        swapped = [Witnessed(one.header, other.checkpoint), Witnessed(other.header, one.checkpoint)]
        eu.gossip.tell = lambda: msgspec.msgpack.encode(swapped)  # type: ignore[method-assign]
        await fr.gossip.meet(EU)
        assert accused(network) == {}

    run(federation, body)


def test_of_one_log_no_more_than_two_are_heard(federation: Federation) -> None:
    """A peer that told a thousand could have a thousand proofs asked for, each as slow as it likes."""

    async def body(network: AsgiNetwork) -> None:
        fr, es = network.nodes[FR], network.nodes[ES]
        await fr.gossip.meet(ES)
        told = []
        for number in range(5):
            log_something(es, number)
            told.append(es.gossip._own_newest("transcript"))
        es.gossip.tell = lambda: msgspec.msgpack.encode(told)  # type: ignore[method-assign]
        await fr.gossip.meet(ES)
        assert newest(fr, ES) == told[1].checkpoint

    run(federation, body)


def test_who_cannot_be_reached_is_met_another_time(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        fr = network.nodes[FR]
        await fr.gossip.meet(ES)
        before = newest(fr, ES)
        log_something(network.nodes[ES], 1)
        await network.nodes[EU].gossip.meet(ES)
        app = network.apps.pop(ES)
        await fr.gossip.meet(ES)
        await fr.gossip.meet(EU)  # it has seen a later checkpoint, and nobody can prove it now
        assert accused(network) == {}
        assert newest(fr, ES) == before
        network.apps[ES] = app
        await fr.gossip.meet(EU)
        assert newest(fr, ES) == network.nodes[ES].archive.transcript.last_checkpoint

    run(federation, body)


@pytest.mark.parametrize(("status", "content"), [(404, b"Not Found"), (413, b'{"code": "bad-frame"}'), (200, b"no")])
def test_who_gives_no_proof_for_another_reason_is_not_accused(
    status: int, content: bytes, federation: Federation
) -> None:
    """As a node of an earlier version would, or something between the two."""

    async def body(network: AsgiNetwork) -> None:
        fr, honest = network.nodes[FR], network.apps[ES]
        await fr.gossip.meet(ES)
        log_something(network.nodes[ES], 1)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            other = Response(content, status)
            await (other if scope["path"] == "/v1/consistency" else honest)(scope, receive, send)

        network.apps[ES] = app
        await fr.gossip.meet(ES)
        assert accused(network) == {}
        network.apps[ES] = honest
        await fr.gossip.meet(ES)
        assert newest(fr, ES) == network.nodes[ES].archive.transcript.last_checkpoint

    run(federation, body)


def test_one_peer_does_not_keep_a_node_from_meeting_the_others(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "PAUSE_SECONDS", 0)

    async def body(network: AsgiNetwork) -> None:
        fr = network.nodes[FR]
        ask = fr.gossip._transport.ask

        async def bad(peer: str, path: str) -> bytes:
            if peer == DE:
                raise RuntimeError("whatever it is")
            return await ask(peer, path)

        fr.gossip._transport.ask = bad  # type: ignore[method-assign]
        fr.gossip.meet_soon((DE, ES))
        assert fr.gossip._meeting is not None
        await asyncio.wait({fr.gossip._meeting})
        assert newest(fr, ES) is not None

    run(federation, body)


def test_only_peers_are_told_and_only_what_the_log_has(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        for caller in (None, "IT", "ES.operator"):
            async with network.client(caller, ES) as client:
                for path in ("/v1/checkpoints", "/v1/consistency?log=transcript&first=0&second=0"):
                    assert (await client.get(path)).status_code == 403
        async with network.client(FR, ES) as client:
            path = "/v1/consistency?log=transcript"
            for sizes in ("", "&first=1", "&first=-1&second=2", "&first=1&second=x", f"&first=1&second={'9' * 20}",
                          "&first=2&second=1", "&first=1&second=1000000000"):  # fmt: skip
                assert (await client.get(path + sizes)).status_code == 400, sizes
            assert (await client.get("/v1/consistency?log=entries&first=1&second=2")).status_code == 400
            assert (await client.get(f"{path}&first=1&second=2")).status_code == 200

    run(federation, body)


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"\x92\x01\x02", bytes(2 << 20)])
def test_nonsense_is_no_checkpoint(federation: Federation, answer: bytes) -> None:
    async def body(network: AsgiNetwork) -> None:
        network.nodes[ES].gossip.tell = lambda: answer  # type: ignore[method-assign]
        await network.nodes[FR].gossip.meet(ES)
        assert accused(network) == {}
        assert network.nodes[FR].archive.witnesses.all() == ()

    run(federation, body)


def test_a_node_that_stops_meets_nobody(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "PAUSE_SECONDS", 60)

    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[FR]
        node.gossip.meet_soon((ES,))
        assert node.gossip._meeting is not None
        await network.kill(FR)
        node.gossip.meet_soon((ES,))
        assert node.gossip._meeting.cancelled()

    run(federation, body)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ES.transcript").write_bytes(b"no")
    with pytest.raises(WitnessDamaged, match=r"ES\.transcript is not a checkpoint"):
        Witnesses(tmp_path).all()
    assert Witnesses(tmp_path / "absent").all() == ()
