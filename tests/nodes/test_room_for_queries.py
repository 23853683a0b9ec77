"""One state that asks much leaves places for the others."""

from __future__ import annotations

import asyncio

import pytest

from nodes.config.schema import Limits
from nodes.query.gate import has_room
from nodes.service import node as node_module
from tests.kit.federation import ES, found, request
from tests.kit.network import AsgiNetwork, running

pytestmark = pytest.mark.slow

PLACES = Limits().concurrent_queries


def taken_by(asker: str, others: list[str]) -> int:
    """How many places `asker` gets if it takes all it can."""
    askers = list(others)
    while has_room(asker, askers, PLACES):
        askers.append(asker)
    return len(askers) - len(others)


def test_who_takes_all_it_can_leaves_places_for_others() -> None:
    greedy = ["FR"] * taken_by("FR", [])
    assert 0 < len(greedy) < PLACES
    assert has_room("DE", greedy, PLACES)
    assert not has_room("FR", greedy, PLACES)


def test_all_places_can_be_used_and_no_more() -> None:
    askers: list[str] = []
    for number in range(2 * PLACES):
        if has_room(f"S{number}", askers, PLACES):
            askers.append(f"S{number}")
    assert len(askers) == PLACES


@pytest.mark.parametrize("places", [1, 2, 3])
def test_with_few_places_none_is_kept(places: int) -> None:
    assert has_room("FR", ["FR"] * (places - 1), places)
    assert not has_room("FR", ["FR"] * places, places)


@pytest.mark.parametrize("reserved", [True, False])
def test_a_node_full_of_one_states_queries_still_serves_another(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, reserved: bool
) -> None:
    """The control: without kept places the other state is refused."""
    federation = found(tmp_path_factory.mktemp("places"))
    if not reserved:
        monkeypatch.setattr(node_module, "has_room", lambda _, askers, places: len(askers) < places)

    async def run() -> None:
        async with running(AsgiNetwork(federation)) as network:
            node = network.nodes[ES]
            # Queries of another requester that never end, as many as it gets.
            while node_module.has_room("IT", node.askers.values(), PLACES):
                node.askers[len(node.askers).to_bytes(16, "big")] = "IT"
            wanted = request(federation.people.hit, (ES,))
            if reserved:
                assert (await network.search(wanted)).answers == federation.expected(wanted)
                await network.settle(60)  # the holder's part ends after the requester's
                assert "FR" not in node.askers.values()
            else:
                assert (await network.search(wanted)).answers[ES].reason == "capacity"

    asyncio.run(run())
