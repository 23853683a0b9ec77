"""Percentiles of the last searches and preparations: right, in bounded memory, at every node, for its operator only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nodes.config.schema import operator_name
from nodes.query.latency import REMEMBERED, Latency, Percentiles
from nodes.service.operator_api import PrepareRequest
from nodes.service.requester import RequesterNode
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import DIM, ES, EU, FR, found, people, request
from tests.kit.network import AsgiNetwork, running
from tests.kit.ring import RING


def test_percentiles_are_of_times_that_were_seen() -> None:
    seen = Latency()
    assert seen.percentiles is None
    seen.observe(2.0)
    assert seen.percentiles == Percentiles(1, 2.0, 2.0, 2.0)
    for hundredths in range(100, 0, -1):
        seen.observe(hundredths / 100)
    assert seen.percentiles == Percentiles(101, 0.51, 0.96, 1.0)


def test_only_the_last_ones_count() -> None:
    seen = Latency()
    for _ in range(REMEMBERED):
        seen.observe(50.0)
    for _ in range(REMEMBERED):
        seen.observe(1.0)
    assert len(seen._last) == REMEMBERED
    assert seen.percentiles == Percentiles(REMEMBERED, 1.0, 1.0, 1.0)


@pytest.mark.slow
def test_every_node_tells_its_operator_how_long_searches_and_preparations_took(tmp_path: Path) -> None:
    federation = found(tmp_path, people(rows=130))

    async def latencies(network: AsgiNetwork, name: str) -> dict[str, Any]:
        async with network.client(operator_name(name), name) as client:
            told: dict[str, Any] = (await client.get("/operator/v1/status")).json()["latencies"]
            return told

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            asking = network.nodes[FR]
            assert isinstance(asking, RequesterNode)
            assert await latencies(network, FR) == {"searches": None, "preparations": None}
            await asking.supply.prepare(PrepareRequest((ES,), 2, DIM, SYNTHETIC_MODEL, RING.preset))
            await network.search(request(federation.people.hit, (ES,)))
            refused = request(federation.people.hit, (ES,), ladder="0.005")
            assert (await network.search(refused)).answers[ES].status == "refused"  # not an answer, so not counted
            await network.settle()
            for name in (FR, EU, ES):
                told = await latencies(network, name)
                assert (told["searches"]["count"], told["preparations"]["count"]) == (1, 2)
                for seen in told.values():
                    assert 0 < seen["p50"] <= seen["p95"] <= seen["p99"] < 60
                metrics = network.nodes[name].metrics.render().decode()
                assert f'lineup_search_seconds_count{{node="{name}"' in metrics
                for what in ("search", "preparation"):
                    assert f'lineup_{what}_quantile_seconds{{node="{name}"' in metrics
                    assert metrics.count(f"lineup_{what}_quantile_seconds{{") == 3

    asyncio.run(body())
