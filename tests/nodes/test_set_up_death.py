"""A holder dies while it signs the set-up of a joint search: some of the others have its signature, others never will.

The holder beside it has done nothing wrong, and its answer comes. Nobody but the dead one is named, no preparation
serves twice, and no warrant is answered twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime, timezone
from typing import Any

import pytest

import nodes.service.requester
import protocol.announcing
import protocol.searching
from nodes.evidence.export import export_bundle
from nodes.query.gate import Gate
from nodes.service.operator_api import HolderAnswer, SearchReport
from nodes.store import Status
from nodes.transport.units import Units
from nodes.verify import verify_bundles
from protocol.messages import Joined, Signature
from protocol.searching import _Searching
from protocol.session import WHOLE, Event
from tests.kit.federation import DE, ES, EU, FR, Federation, request
from tests.kit.network import AsgiNetwork, Network, assert_clear, assert_healthy, running

pytestmark = pytest.mark.slow

FEDERATION = {"read_timeout_seconds": 3}
OTHERS = (FR, EU, DE)
DEAD = HolderAnswer("unreachable", reason="timeout", by=ES)


class Dying:
    """ES dies once those in `reached` have taken its signature of a search's set-up, and the others all but that.

    Units that are lost wait at ES and die with it. `again`: it is there again at once. One search only.
    """

    def __init__(self, network: Network, reached: frozenset[str], again: bool) -> None:
        self.died = False
        self._network, self._reached, self._again = network, reached, again
        self._query = b""
        self._signature: dict[str, int] = {}  # the number of the unit, by receiver
        self._taken: Counter[str] = Counter()  # units, by receiver
        self._watch_sender()
        for name in OTHERS:
            self._watch_receiver(name)

    def _watch_sender(self) -> None:
        node: Any = self._network.nodes[ES]
        recorder, deliver = node.recorder, node.transport._inner.deliver

        def watched(query: bytes, *given: Any) -> Any:
            record = recorder(query, *given)

            def recorded(event: Event) -> None:
                record(event)
                if event.direction == "sent" and isinstance(event.message, Joined):
                    self._query = self._query or query
                if query == self._query and event.session == WHOLE and _signs(event):
                    self._signature[event.peer] = event.sequence + 1  # the first unit is the channel's own

            return recorded

        async def dying(peer: str, query: bytes, offset: int, units: Units) -> None:
            if query != self._query or peer in self._reached:
                await deliver(peer, query, offset, units)
                return
            held: list[bool] = []
            await deliver(peer, query, offset, self._before(peer, offset, units, held))
            if held:
                self._look()
                await asyncio.Event().wait()

        node.recorder, node.transport._inner.deliver = watched, dying

    async def _before(self, peer: str, number: int, units: Units, held: list[bool]) -> Units:
        """What comes before the signature; with it the body ends, and the rest is held."""
        async for some in units:
            for unit in some:
                if number == self._signature.get(peer):
                    held.append(True)
                    return
                yield [unit]
                number += 1

    def _watch_receiver(self, name: str) -> None:
        node: Any = self._network.nodes[name]
        accept = node.accept

        async def watched(peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
            await accept(peer, query, offset, units)
            if peer == ES and query == self._query:
                self._taken[name] = max(self._taken[name], offset + len(units))
                self._look()

        node.accept = watched

    def _look(self) -> None:
        due = {name: self._signature.get(name, 99) + (name in self._reached) for name in OTHERS}
        if not self.died and all(self._taken[name] >= number for name, number in due.items()):
            self.died = True
            self._network.kill_soon(ES, self._again)


def _signs(event: Event) -> bool:
    return event.direction == "sent" and isinstance(event.message, Signature)


class Counts:
    """How often each party marked a preparation as used, a mask was drawn for a u, and a warrant was answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used: Counter[tuple[str, bytes]] = Counter()
        self.drawn: Counter[bytes] = Counter()
        self.answered: Counter[str] = Counter()
        use, draw, answer = _Searching._use, protocol.searching.draw_mask, Gate.answer

        def using(machine: _Searching) -> None:
            self.used[machine.name, machine.preparation.preparation_id] += 1
            use(machine)

        def drawing(seed: bytes, preparation_id: bytes, *rest: Any) -> Any:
            self.drawn[preparation_id] += 1
            return draw(seed, preparation_id, *rest)

        def answering(gate: Gate, announce: Any) -> None:
            self.answered[gate._name] += 1
            answer(gate, announce)

        monkeypatch.setattr(_Searching, "_use", using)
        monkeypatch.setattr(protocol.searching, "draw_mask", drawing)
        monkeypatch.setattr(Gate, "answer", answering)


def quotas(network: Network) -> Counter[str]:
    today = datetime.now(timezone.utc).date()
    return Counter({n: network.nodes[n].store.quota_used(FR, Status.UNIDENTIFIED, today) for n in (EU, ES, DE)})


async def search(network: Network, reached: tuple[str, ...], again: bool = False) -> SearchReport:
    dying = Dying(network, frozenset(reached), again)
    report = await asyncio.wait_for(network.search(request(network.federation.people.hit)), 60)
    assert dying.died
    await network.settle(20)
    return report


@pytest.mark.parametrize(
    ("reached", "again"),
    [((FR,), False), ((FR, DE), False), ((FR, EU), False), ((EU, DE), False), ((FR, DE), True)],
    ids=["FR", "FR and DE", "FR and EU", "EU and DE", "FR and DE, again there at once"],
)
def test_the_other_holder_answers(
    reached: tuple[str, ...], again: bool, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once more, with another preparation. A holder that forgot the search may be left out by name."""
    expected = federation.expected(request(federation.people.hit))

    async def body() -> SearchReport:
        async with running(AsgiNetwork(federation)) as network:
            before, counts = quotas(network), Counts(monkeypatch)
            report = await search(network, reached, again)
            assert report.answers[DE] == expected[DE]
            back = again and report.answers[ES] == expected[ES]
            assert back or report.answers[ES] == DEAD
            assert counts.answered == ({DE: 1, ES: 1} if back else {DE: 1}), "each warrant once"
            assert set(counts.used.values()) == set(counts.drawn.values()) == {1}, "each preparation once"
            assert len(counts.drawn) == len(report.queries) - 1, "nothing that depends on the probe left in the first"
            attempts = Counter({EU: len(report.queries), ES: 1 + back, DE: 2})
            if not again:
                await network.start(ES)
            assert quotas(network) - before == attempts, "each attempt that a party took part in counts once"
            assert_clear(network)
            assert_healthy(network)
            later = await network.search(request(federation.people.hit))
            assert later.answers == expected
            return report

    report = asyncio.run(body())
    kept = [(name, query) for query in report.queries for name in (FR, EU, DE) if keeps(federation, name, query)]
    assert {query for _, query in kept} == set(report.queries)
    assert verify_bundles([export_bundle(federation.folder(name), query) for name, query in kept]).holds


def test_a_holder_that_dies_once_all_have_its_signature_costs_nobody_else_anything(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = federation.expected(request(federation.people.hit))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            counts = Counts(monkeypatch)
            report = await search(network, OTHERS)
            assert report.answers == {**expected, ES: DEAD}
            assert report.answered_in[DE] == report.queries[0]
            assert set(counts.used.values()) == set(counts.drawn.values()) == {1}

    asyncio.run(body())


def test_control_had_the_requester_not_waited_the_difference_would_leave_in_vain(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holder answers all the same, once it is asked again: it computes nothing before the router begins."""
    monkeypatch.setattr(protocol.announcing, "_signatures_before", lambda *_: ())

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            counts = Counts(monkeypatch)
            report = await search(network, (FR, DE))
            assert report.answers[DE] == federation.expected(request(federation.people.hit))[DE]
            assert len(counts.drawn) == len(report.queries)

    asyncio.run(body())


def test_control_were_it_not_asked_again_either_the_other_holders_answer_would_be_lost(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.announcing, "_signatures_before", lambda *_: ())
    monkeypatch.setattr(nodes.service.requester, "_may_ask_again", lambda *_: False)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            report = await search(network, (FR, DE))
            assert report.answers[DE].status == "unreachable"
            assert report.answers[DE].by in (ES, EU), "of whom EU only waited as well"

    asyncio.run(body())


def keeps(federation: Federation, name: str, query: str) -> bool:
    """Whether a party took part in a query, and so keeps evidence of it."""
    return (federation.folder(name) / "evidence" / query).is_file()
