"""Nodes whose holder names a cluster in node.toml: they search as without one. Ray is played by `FakeCalls`."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import ResidentGallery
from nodes.cli.cluster import cluster_line
from nodes.cluster.errors import ClusterError
from nodes.config.schema import operator_name
from nodes.config.storage import holder_store
from nodes.service.operator_api import HolderAnswer, PrepareRequest
from nodes.service.requester import RequesterNode
from nodes.service.server import build_node
from nodes.store import Category, Status
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.cluster import ADDRESS, FakeCalls, name_cluster, play
from tests.kit.federation import DIM, ES, FR, Federation, found, people, request
from tests.kit.galleries import near
from tests.kit.network import AsgiNetwork, run_asgi
from tests.kit.ring import RING

pytestmark = pytest.mark.slow

ROWS = 130
NO_HIT = HolderAnswer("no hit", (), "0.55")
REFUSED = HolderAnswer("refused", reason="internal", by=ES)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> FakeCalls:
    played = FakeCalls()
    play(monkeypatch, played, RING.n)
    return played


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = found(tmp_path / "nodes", people(rows=ROWS), read_timeout_seconds=20)
    name_cluster(made.folder(ES), ADDRESS, tmp_path / "token", copies=2, patience_seconds=2)
    return made


async def let_wait(network: AsgiNetwork) -> None:
    node = network.nodes[FR]
    assert isinstance(node, RequesterNode)
    report = await node.supply.prepare(PrepareRequest((ES,), 1, DIM, SYNTHETIC_MODEL, RING.preset))
    assert (report.made, report.refused) == (1, {})
    await network.settle()


def enrol(federation: Federation, like: Any) -> str:
    with holder_store(federation.folder(ES)) as store:
        return store.enrol(
            None,
            near(np.random.default_rng(8), like, 1, np.array([0.9]))[0],
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=datetime.now(timezone.utc).date() + timedelta(30),
            model=SYNTHETIC_MODEL,
        )


def forget(federation: Federation, reference: str) -> None:
    with holder_store(federation.folder(ES)) as store:
        store.forget(reference, datetime.now(timezone.utc))


async def asked(network: AsgiNetwork, path: str) -> tuple[int, dict[str, Any]]:
    network.nodes[ES]._health_until = 0
    async with network.client(operator_name(ES), ES) as client:
        answer = await client.get(path)
        return answer.status_code, answer.json()


def test_searches_find_who_is_held_while_people_come_and_go_and_workers_die(
    federation: Federation, calls: FakeCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise AssertionError("rows in this process")

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network)
        monkeypatch.setattr(ResidentGallery, "__init__", nothing)
        wanted = request(federation.people.hit, (ES,))
        report = await network.search(wanted)
        assert (report.prepared, report.answers) == ("waiting", federation.expected(wanted))
        someone = request(federation.people.nobody, (ES,))
        await let_wait(network)
        reference = await asyncio.to_thread(enrol, federation, federation.people.nobody)
        assert (await network.search(someone)).answers == {ES: NO_HIT}, "it was prepared before"
        assert (await network.search(someone)).answers[ES].references == (reference,)
        await let_wait(network)
        await asyncio.to_thread(forget, federation, reference)
        for shard in list(calls.shards):
            calls.kill(shard)
        assert (await network.search(someone)).answers == {ES: NO_HIT}
        calls.dies = lambda k: k % 3 == 1
        assert (await network.search(wanted)).answers == federation.expected(wanted)
        assert calls.deaths > 2

    run_asgi(federation, body)


def test_a_forgotten_template_is_overwritten_in_every_copy_and_the_daily_look_reads_each(
    federation: Federation, calls: FakeCalls
) -> None:
    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[ES]
        await let_wait(network)
        assert len(calls.shards) == 2
        await asyncio.to_thread(forget, federation, federation.references[ES][115])
        await asyncio.to_thread(node.follow_gallery)
        for shard in calls.shards.values():
            assert not shard._memory.rows[115].any()
            assert shard._memory.rows[114].any()
        await asyncio.to_thread(node.inspect)
        assert (await asked(network, "/health"))[0] == 200
        list(calls.shards.values())[1]._memory.rows[3, 0] ^= 1  # the control, in the second copy
        await asyncio.to_thread(node.inspect)
        assert (await asked(network, "/health"))[1]["failing"] == ["self-test"]
        assert (await network.search(request(federation.people.hit, (ES,)))).answers == {ES: REFUSED}

    run_asgi(federation, body)


def test_the_operator_is_told_where_the_gallery_lies(federation: Federation, calls: FakeCalls) -> None:
    async def body(network: AsgiNetwork) -> None:
        told = (await asked(network, "/operator/v1/status"))[1]["cluster"]
        expected = {"address": ADDRESS, "shards": 1, "processes": 2, "rows": ROWS, "machines": 2, "together": 0}
        assert told == {**expected, "fault": None}
        assert cluster_line(told) == f"{ADDRESS}: {ROWS} rows in 1 shards, 2 processes, 2 machines"
        assert "both copies on one machine: 1 shards" in cluster_line({**told, "together": 1})
        calls.vanish()
        told = (await asked(network, "/operator/v1/status"))[1]["cluster"]
        assert told["machines"] is None
        assert "CANNOT BE USED: the connection to the cluster at" in cluster_line(told)
        async with network.client(operator_name(FR), FR) as client:
            assert "cluster" not in (await client.get("/operator/v1/status")).json()

    run_asgi(federation, body)


def test_a_cluster_that_is_lost_refuses_by_name_shows_in_health_and_is_used_again(
    federation: Federation, calls: FakeCalls
) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[ES]
        await let_wait(network)
        calls.vanish()
        assert (await network.search(wanted)).answers == {ES: REFUSED}
        status, health = await asked(network, "/health")
        assert (status, health["failing"]) == (503, ["cluster"])
        assert ADDRESS in json.dumps(health["alarms"])
        with pytest.raises(ClusterError, match=ADDRESS):
            await asyncio.to_thread(node.follow_gallery)
        calls.is_down = False
        await asyncio.to_thread(node.follow_gallery)  # what a running node does every few seconds
        assert (await asked(network, "/health"))[0] == 200
        assert (await network.search(wanted)).answers == federation.expected(wanted)

    run_asgi(federation, body)


def test_one_that_is_lost_in_the_middle_of_a_search_is_internal_and_nobody_is_accused(
    federation: Federation, calls: FakeCalls
) -> None:
    async def body(network: AsgiNetwork) -> None:
        await let_wait(network)
        asked_before = next(calls._asked)

        def die(k: int) -> bool:
            if k > asked_before + 1:
                calls.vanish()
            return False

        calls.dies = die  # the product is answered; then it is gone
        report = await network.search(request(federation.people.hit, (ES,)))
        assert report.answers == {ES: REFUSED}

    run_asgi(federation, body)


def test_a_node_does_not_start_without_its_cluster_and_names_it(federation: Federation, calls: FakeCalls) -> None:
    async def body() -> None:
        node, transport = build_node(federation.folder(ES))
        try:
            calls.is_down = True
            with pytest.raises(ClusterError, match=f"no cluster at {ADDRESS}"):
                await asyncio.to_thread(node.warm)
            calls.is_down = False
            await asyncio.to_thread(node.warm)  # the control
            assert calls.shards
        finally:
            await node.close()
            await transport.close()

    asyncio.run(body())
