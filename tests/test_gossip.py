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

from nodes import gossip
from nodes.evidence import export_bundle
from nodes.gossip import Told
from nodes.identity import load_identity, load_peers
from nodes.keeper import Keeper
from nodes.log_entries import TranscriptEntry
from nodes.node import Node
from nodes.serve import open_store
from nodes.service import make_app
from nodes.verify import decode_bundle, load_trust, verify_bundles
from nodes.witnesses import WitnessDamaged, Witnesses
from tests.network import DE, ES, EU, FR, ROLES, AsgiNetwork, Federation, captured_logs, found, people, request, running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found(tmp_path_factory.mktemp("gossip"), people(rows=130))


@pytest.fixture(scope="module")
def searched(made: Federation) -> Federation:
    """One query over, and nobody has met anybody."""

    async def body() -> None:
        async with running(AsgiNetwork(made)) as network:
            await network.search(request(made.people.hit))
            await network.settle()

    asyncio.run(body())
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


def log_something(node: Node, number: int) -> None:
    """An entry and a checkpoint more."""
    now = int(time.time() * 1000)
    entry = TranscriptEntry(bytes(16), "query", "sent", FR, "Joined", number, bytes(32), None, now)
    node.keeper.transcript.append([entry], now)
    node.keeper.transcript.checkpoint(now)


@asynccontextmanager
async def forked(network: AsgiNetwork, deceived: str, folder: Path, more: int) -> AsyncIterator[None]:
    """ES tells `deceived` another history: of a copy of its log that went on otherwise, by `more` entries."""
    shutil.copytree(network.federation.folder(ES), folder)
    identity = load_identity(folder)
    peers = load_peers(identity.config)
    other = Node(identity, peers, open_store(identity.config), network._transport(ES, peers), Keeper(identity, folder))
    for number in range(more):
        log_something(other, 100 + number)
    honest, lying = network.apps[ES], make_app(other)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asks = scope["lineup_peer"] == deceived and scope["path"] in ("/v1/checkpoint", "/v1/consistency")
        await (lying if asks else honest)(scope, receive, send)

    network.apps[ES] = app
    try:
        yield
    finally:
        await other.close()


def accused(network: AsgiNetwork) -> dict[str, list[str]]:
    return {name: node.gossip.accused for name, node in network.nodes.items() if node.gossip.accused}


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
        while any(len(node.keeper.witnesses.all()) < 3 for node in network.nodes.values()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        for name, node in network.nodes.items():
            for other in network.nodes:
                if other != name:
                    await node.gossip.meet(other)
        assert accused(network) == {}
        for name, node in network.nodes.items():
            for other in network.nodes.values():
                newest = other.keeper.transcript.last_checkpoint
                assert other.name == name or node.keeper.witnesses.newest(other.name) == newest

    run(federation, body)
    files = [export_bundle(federation.folder(name), query) for name in ROLES]
    assert {shown.peer for shown in decode_bundle(files[0])[1].witnessed} == {ES, DE, EU}
    report = verify_bundles(files, load_trust(federation.root / "authority" / "peers"))
    assert [check.status for check in report.checks if check.id == "log-consistency"] == ["pass"]
    assert report.holds


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
        size = network.nodes[ES].keeper.transcript.size
        assert asked == [
            "/v1/checkpoint", "/v1/checkpoint", f"/v1/consistency?first={size - 2}&second={size - 1}",
            "/v1/checkpoint", f"/v1/consistency?first={size - 1}&second={size}",
        ]  # fmt: skip
        assert accused(network) == {}
        await network.nodes[FR].gossip.meet(ES)
        assert len(asked) == 6, "what is known is not proven again"

    run(federation, body)


# A node with two histories.


@pytest.mark.parametrize("more", [1, 3], ids=["of one size", "of two sizes"])
def test_a_split_view_between_two_peers_is_found_when_they_meet(
    federation: Federation, tmp_path: Path, more: int
) -> None:
    async def body(network: AsgiNetwork) -> None:
        async with forked(network, EU, tmp_path / ES, more):
            log_something(network.nodes[ES], 1)
            await network.nodes[FR].gossip.meet(ES)
            await network.nodes[EU].gossip.meet(ES)
            assert accused(network) == {}, "each history is sound by itself"
            with captured_logs() as captured:
                await network.nodes[FR].gossip.meet(EU)
            assert accused(network) == {FR: [ES]}
            assert '"a log showed two histories"' in captured.text
            assert '"peer": "ES"' in captured.text
            async with network.client(EU, FR) as client:
                assert (await client.get("/health")).json() == {"status": "ok", "contradicting_logs": 1}
                assert (
                    'lineup_contradicting_logs{node="FR",role="requester"} 1.0' in (await client.get("/metrics")).text
                )
            await network.nodes[DE].gossip.meet(FR)
            assert accused(network) == {FR: [ES], DE: [ES]}, "and who is told can see for itself"
            await network.nodes[FR].gossip.meet(ES)
        two = [shown.checkpoint for shown in network.nodes[FR].keeper.witnesses.all() if shown.peer == ES]
        assert len({(checkpoint.size, checkpoint.root) for checkpoint in two}) == 2, "both stay"

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
            newest = node.keeper.transcript
            node.gossip.tell = lambda log=newest: msgspec.msgpack.encode(  # type: ignore[method-assign]
                Told(log.last_checkpoint, ())
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
        assert accused(network) == {ES: [ES]}, (
            "it is shown its own checkpoint, and cannot prove that it goes on from it"
        )
        await network.nodes[FR].gossip.meet(ES)
        assert accused(network) == {ES: [ES], FR: [ES]}

    run(federation, body)


# What is not a contradiction.


def test_a_forged_checkpoint_accuses_nobody(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        fr, eu = network.nodes[FR], network.nodes[EU]
        await eu.gossip.meet(ES)
        real = eu.keeper.witnesses.newest(ES)
        assert real is not None
        forged = msgspec.structs.replace(real, root=bytes(32))
        eu.keeper.witnesses.keep(ES, forged)
        await fr.gossip.meet(ES)
        with captured_logs() as captured:
            await fr.gossip.meet(EU)
        assert accused(network) == {}
        assert "did not sign" in captured.text
        assert fr.keeper.witnesses.newest(ES) == real

    run(federation, body)


def test_who_cannot_be_reached_is_met_another_time(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        fr = network.nodes[FR]
        await fr.gossip.meet(ES)
        before = fr.keeper.witnesses.newest(ES)
        log_something(network.nodes[ES], 1)
        await network.nodes[EU].gossip.meet(ES)
        app = network.apps.pop(ES)
        await fr.gossip.meet(ES)
        await fr.gossip.meet(EU)  # it has seen a later checkpoint, and nobody can prove it now
        assert accused(network) == {}
        assert fr.keeper.witnesses.newest(ES) == before
        network.apps[ES] = app
        await fr.gossip.meet(EU)
        assert fr.keeper.witnesses.newest(ES) == network.nodes[ES].keeper.transcript.last_checkpoint

    run(federation, body)


def test_only_peers_are_told_and_only_what_the_log_has(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        for caller in (None, "IT", "ES.operator"):
            async with network.client(caller, ES) as client:
                for path in ("/v1/checkpoint", "/v1/consistency?first=0&second=0"):
                    assert (await client.get(path)).status_code == 403
        async with network.client(FR, ES) as client:
            for query in ("", "?first=1", "?first=-1&second=2", "?first=1&second=x", f"?first=1&second={'9' * 20}"):
                assert (await client.get(f"/v1/consistency{query}")).status_code == 400
            for first, second in ((2, 1), (1, 10**9)):
                answer = await client.get(f"/v1/consistency?first={first}&second={second}")
                assert answer.status_code == 400
            assert (await client.get("/v1/consistency?first=1&second=2")).status_code == 200

    run(federation, body)


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"\x92\x01\x02", bytes(2 << 20)])
def test_nonsense_is_no_checkpoint(federation: Federation, answer: bytes) -> None:
    async def body(network: AsgiNetwork) -> None:
        network.nodes[ES].gossip.tell = lambda: answer  # type: ignore[method-assign]
        await network.nodes[FR].gossip.meet(ES)
        assert accused(network) == {}
        assert network.nodes[FR].keeper.witnesses.all() == ()

    run(federation, body)


def test_a_node_that_stops_meets_nobody(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "PAUSE_SECONDS", 60)

    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[FR]
        node.gossip.meet_soon((ES,))
        assert node.gossip._tasks
        await network.kill(FR)
        await asyncio.sleep(0)
        node.gossip.meet_soon((ES,))
        assert not node.gossip._tasks

    run(federation, body)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ES).write_bytes(b"no")
    with pytest.raises(WitnessDamaged, match=str(tmp_path / ES)):
        Witnesses(tmp_path).newest(ES)
    assert Witnesses(tmp_path / "absent").all() == ()
