"""Who refused: the router's failures are not the holder's, an alarm names who may have lied, words say what to do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

import nodes.service.preparer
import nodes.service.requester
import protocol.admitting
import protocol.searching
from nodes.config.schema import operator_name
from nodes.query.driver import Silence
from nodes.service.node import REQUESTER_PATIENCE
from nodes.service.operator_api import REFUSALS, HolderAnswer, PrepareRequest, explained
from nodes.service.preparer import Making
from nodes.service.requester import RequesterNode
from nodes.transport.send_queue import PeerUnreachable
from pets.errors import LineupError
from protocol.announcing import Plan
from protocol.compute import Ring, open_bit
from protocol.errors import Disagreement, PeerAborted, QueryRefused
from protocol.machine import Machine
from protocol.messages import ABORT_CODES, Joined, JoinedPreparation, Signature
from protocol.party import Context
from protocol.preparing import PreparingRequester
from protocol.roles import Parties, Seat
from protocol.searching import SearchingHolder, SearchingRouter
from protocol.session import Session
from protocol.steps import Sign, receive
from protocol.terms import SYNTHETIC_MODEL
from protocol.wire import VERSION
from tests.kit.federation import DE, DIM, ES, EU, FR, HOLDERS, Federation, found, people, request
from tests.kit.leaks import captured_logs
from tests.kit.network import AsgiNetwork, TlsNetwork, running
from tests.kit.ring import RING


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path / "nodes", people(rows=130), read_timeout_seconds=30)


def run(federation: Federation, body: Callable[[Any], Coroutine[Any, Any, None]], kind: type = AsgiNetwork) -> None:
    async def everything() -> None:
        async with running(kind(federation)) as network:
            await body(network)

    asyncio.run(everything())


@pytest.mark.parametrize("holders", [(ES,), HOLDERS])
def test_the_routers_quota_is_the_routers(holders: tuple[str, ...], federation: Federation) -> None:
    federation.configure(EU, quota_unidentified_per_day=1)

    async def body(network: AsgiNetwork) -> None:
        await network.search(request(federation.people.nobody, (DE,)))
        report = await network.search(request(federation.people.hit, holders))
        assert report.answers == dict.fromkeys(holders, HolderAnswer("refused", reason="quota", by=EU))

    with captured_logs() as logs:
        run(federation, body)
    refused = [line for line in map(json.loads, logs.text.splitlines()) if line["message"] == "refused"]
    assert {line["peer"] for line in refused} == {FR}
    assert all(len(line["query"]) == 32 for line in refused)


def test_control_the_holders_quota_is_the_holders(federation: Federation) -> None:
    federation.configure(ES, quota_unidentified_per_day=1)

    async def body(network: AsgiNetwork) -> None:
        await network.search(request(federation.people.nobody, (ES,)))
        report = await network.search(request(federation.people.hit))
        assert report.answers[ES] == HolderAnswer("refused", reason="quota", by=ES)
        assert report.answers[DE].status == "candidates"

    run(federation, body)


@pytest.mark.parametrize(
    ("holders", "again"), [((ES,), False), ((ES,), True), (HOLDERS, False)], ids=["dies", "restarts", "joint"]
)
@pytest.mark.parametrize("kind", ["PublicPart", "PreparedBlocks", "MaskedScores"])
def test_the_routers_death_is_the_routers(
    holders: tuple[str, ...], again: bool, kind: str, federation: Federation
) -> None:
    async def body(network: TlsNetwork) -> None:
        killed: list[str] = []
        loop = asyncio.get_running_loop()

        def fatal(peer: str, message: str) -> None:
            if message == kind and not killed:
                killed.append(peer)
                loop.call_soon_threadsafe(network.kill_soon, EU, again)
                loop.call_soon_threadsafe(impatient, network, 3)

        watch_router(network, fatal)
        report = await network.search(request(federation.people.hit, holders))
        assert killed
        for answer in report.answers.values():
            assert answer.status in {"refused", "unreachable"}
            assert answer.by == EU, answer
        await network.settle(30)

    run(federation, body, TlsNetwork)


def test_as_many_holders_as_like_may_have_restarted(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked alone with what waited, which it lost: that one did takes no other's turn.

    With one try more: three holders would do as well, with two.
    """
    monkeypatch.setattr(nodes.service.requester, "MOST_LOST", 1)

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        for name in HOLDERS:
            assert (await node.supply.prepare(prepared_with(name))).made == 1
        await network.settle()
        for name in HOLDERS:
            await network.restart(name)
        drive = network.nodes[ES].drive

        def stops(machine: Any) -> Any:
            driver = drive(machine)
            if len(machine.parties.holders) > 1:
                driver.call(lambda: machine.abort(machine.whole, Disagreement("it says so")))
            return driver

        network.nodes[ES].drive = stops  # type: ignore[method-assign]
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        assert len(report.queries) == 2 * len(HOLDERS)

    run(federation, body)


def test_once_a_holder_lost_its_part_no_other_that_waits_is_tried(federation: Federation) -> None:
    """It has restarted, and lost all of them."""

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        both = msgspec.structs.replace(JOINT, count=2)
        assert (await node.supply.prepare(both)).made == 2
        await network.settle()
        await network.restart(ES)
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        assert (report.prepared, len(report.queries)) == ("now", 2)

    run(federation, body)


class LostByAnybody(Counter[str]):
    """Who lost something is not told apart."""

    def __getitem__(self, name: str) -> int:
        return max(self.values(), default=0)


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "control"])
def test_who_says_that_it_lost_its_part_has_nothing_prepared_anew_with_others(
    defended: bool, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is asked alone, one after the other: what waits with the second one is used."""
    monkeypatch.setattr(nodes.service.requester, "SIDE_BY_SIDE", 1)
    if not defended:
        begin = partial(nodes.service.requester._Search, lost=LostByAnybody())
        monkeypatch.setattr(nodes.service.requester, "_Search", begin)

    async def body(network: AsgiNetwork) -> None:
        node: Any = network.nodes[FR]
        for name in HOLDERS:
            assert (await node.supply.prepare(prepared_with(name))).made == 1
        await network.settle()
        drive = network.nodes[ES].drive

        def lying(machine: Any) -> Any:
            driver = drive(machine)
            if len(machine.parties.holders) > 1:
                driver.call(lambda: machine.abort(machine.whole, Disagreement("it says so")))
            elif isinstance(machine, SearchingHolder):
                driver.call(lambda: machine.abort(machine.whole, QueryRefused("unprepared", "it says so", ES)))
            return driver

        network.nodes[ES].drive = lying  # type: ignore[method-assign]
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert report.answers[ES] == HolderAnswer("refused", reason="unprepared", by=ES)
        assert report.answers[DE] == federation.expected(wanted)[DE]
        assert network.nodes[DE].pool.counts.made == (1 if defended else 2)

    run(federation, body)


def prepared_with(name: str) -> PrepareRequest:
    return PrepareRequest((name,), 1, DIM, SYNTHETIC_MODEL, RING.preset)


def test_a_holder_that_names_another_does_not_silence_it(federation: Federation) -> None:
    """It stops every query of several holders, and says that the other one did."""

    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[ES]
        drive = node.drive

        def lying(machine: Any) -> Any:
            driver = drive(machine)
            if len(machine.parties.holders) > 1:
                driver.call(lambda: machine.abort(machine.whole, PeerAborted(DE, "quota")))
            return driver

        node.drive = lying  # type: ignore[method-assign]
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert report.answers[DE] == federation.expected(wanted)[DE]

    run(federation, body)


@pytest.mark.parametrize("name", [ES, EU])
def test_who_says_that_it_lost_its_part_has_the_others_asked_three_times_more(
    name: str, federation: Federation
) -> None:
    """Twice with all, for that may be so, and then alone: what the threat model says of quotas."""
    asked: list[tuple[str, ...]] = []

    async def body(network: AsgiNetwork) -> None:
        liar, other = network.nodes[name], network.nodes[DE]
        drive, drive_other = liar.drive, other.drive

        def lying(machine: Any) -> Any:
            driver = drive(machine)
            if isinstance(machine, (SearchingHolder, SearchingRouter)):
                driver.call(lambda: machine.abort(machine.whole, QueryRefused("unprepared", "it says so", name)))
            return driver

        def counted(machine: Any) -> Any:
            if isinstance(machine, SearchingHolder):
                asked.append(machine.parties.holders)
            return drive_other(machine)

        liar.drive = lying  # type: ignore[method-assign]
        other.drive = counted  # type: ignore[method-assign]
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        refused = HolderAnswer("refused", reason="unprepared", by=name)
        assert report.answers[ES] == refused
        assert report.answers[DE] == (refused if name == EU else federation.expected(wanted)[DE])

    run(federation, body)
    assert asked == [HOLDERS, HOLDERS, HOLDERS, (DE,)]


class LiesToOne:
    """`liar` tells one alone something else, in the set-up of every joint preparation, or search."""

    def __init__(self, where: str, liar: str, what: str, monkeypatch: pytest.MonkeyPatch, one: str = DE) -> None:
        self.told = 0
        sign, send = Machine._sign, Machine._send

        def lies(machine: Any, to: str) -> bool:
            searches = isinstance(machine, (SearchingRouter, SearchingHolder))
            return (
                (machine.name, to) == (liar, one)
                and len(machine.parties.holders) > 1
                and searches == (where == "search")
            )

        def signs(machine: Machine, session: Session, effect: Sign) -> None:
            if what == "signature" and session.whole and lies(machine, effect.to):
                self.told += 1
                forged = Signature(effect.phase, session.chains["sent", effect.to], bytes(3373))
                send(machine, session, effect.to, forged)
            else:
                sign(machine, session, effect)

        def sends(machine: Machine, session: Session, to: str, message: Any) -> None:
            if what == "nonce" and isinstance(message, (Joined, JoinedPreparation)) and lies(machine, to):
                self.told += 1
                message = msgspec.structs.replace(message, nonce=bytes(32))
            send(machine, session, to, message)
            if what == "version" and isinstance(message, (Joined, JoinedPreparation)) and lies(machine, to):
                self.told += 1
                frame = machine.outgoing[-1][1]
                machine.outgoing[-1] = to, frame[:1] + bytes([VERSION - 1]) + frame[2:]

        monkeypatch.setattr(Machine, "_sign", signs)
        monkeypatch.setattr(Machine, "_send", sends)


@pytest.mark.parametrize(  # each pair of two things; all three at once took too long
    ("where", "liar", "what"),
    [
        ("preparation", ES, "signature"),
        ("preparation", EU, "nonce"),
        ("preparation", ES, "version"),
        ("search", EU, "signature"),
        ("search", ES, "nonce"),
        ("search", EU, "version"),
    ],
)
def test_a_holder_that_was_lied_to_alone_is_not_left_out(
    where: str, liar: str, what: str, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops what all were asked together, for it found something wrong. Each is asked alone then, and answers."""
    assert left_out(where, liar, what, federation, monkeypatch) == {}


@pytest.mark.parametrize("liar", [ES, EU])
@pytest.mark.parametrize("where", ["preparation", "search"])
def test_control_who_stops_taken_for_who_is_at_fault_it_would_be_left_out(
    where: str, liar: str, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.service.requester, "FOUND_IN_OTHERS", ("timeout",))
    assert left_out(where, liar, "signature", federation, monkeypatch) == {
        DE: HolderAnswer("refused", reason="crypto", by=DE)
    }


def left_out(
    where: str, liar: str, what: str, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> dict[str, HolderAnswer]:
    """Who does not answer as it should, where DE is lied to, and what came instead."""
    wanted = request(federation.people.hit)
    expected = federation.expected(wanted)
    missing: dict[str, HolderAnswer] = {}

    async def body(network: AsgiNetwork) -> None:
        lying = LiesToOne(where, liar, what, monkeypatch)
        report = await network.search(wanted)
        assert lying.told
        missing.update({name: report.answers[name] for name in HOLDERS if report.answers[name] != expected[name]})

    run(federation, body)
    return missing


def stop_every_joint(network: AsgiNetwork, name: str, error: LineupError | None = None) -> None:
    """A party stops whatever several are asked together."""
    told = Disagreement("it says so") if error is None else error
    node, drive = network.nodes[name], network.nodes[name].drive

    def stops(machine: Any) -> Any:
        driver = drive(machine)
        if len(machine.parties.holders) > 1:
            driver.call(lambda: machine.abort(machine.whole, told))
        return driver

    node.drive = stops  # type: ignore[method-assign]


JOINT = PrepareRequest(HOLDERS, 1, DIM, SYNTHETIC_MODEL, RING.preset)


def test_a_holder_that_stops_every_joint_preparation_does_not_keep_the_others_from_waiting(
    federation: Federation,
) -> None:
    """Nobody knows who was at fault, so each is asked alone; what is wanted of all is tried again after a pause.

    What waits then is left as it is: it is not made anew at each try.
    """
    federation.configure(FR, ready=1)

    async def body(network: AsgiNetwork) -> None:
        stop_every_joint(network, ES)
        node: Any = network.nodes[FR]
        node.supply.want(JOINT)
        assert not await node.supply.round()
        ready = {one.holders: one.preparation_id for one in node.pool.standing()}
        assert set(ready) == {(ES,), (DE,)}
        await network.settle()
        assert not await node.supply.round()
        assert {one.holders: one.preparation_id for one in node.pool.standing()} == ready

    run(federation, body)


async def waiting_alone(network: AsgiNetwork) -> set[tuple[str, ...]]:
    """For whom the requester has something ready after one round."""
    node: Any = network.nodes[FR]
    node.supply.want(JOINT)
    assert not await node.supply.round()
    return {one.holders for one in node.pool.standing()}


@pytest.mark.parametrize("code", ["timeout", "capacity"])
@pytest.mark.parametrize("named", [EU, FR])
def test_nor_does_one_that_names_router_or_requester(named: str, code: str, federation: Federation) -> None:
    federation.configure(FR, ready=1)

    async def body(network: AsgiNetwork) -> None:
        stop_every_joint(network, ES, QueryRefused(code, "it says so", named))
        assert await waiting_alone(network) == {(ES,), (DE,)}

    run(federation, body)


@pytest.mark.parametrize("to", [FR, EU])
def test_nor_does_one_that_lies_to_requester_or_router(
    to: str, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was lied to finds out, and the requester does not know who of them lied."""
    federation.configure(FR, ready=1)

    async def body(network: AsgiNetwork) -> None:
        lying = LiesToOne("preparation", ES, "signature", monkeypatch, to)
        assert await waiting_alone(network) == {(ES,), (DE,)}
        assert lying.told

    run(federation, body)


def test_control_whoever_stops_it_taken_for_who_is_at_fault_nobody_would_be_asked_alone(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.configure(FR, ready=1)
    monkeypatch.setattr(nodes.service.preparer, "FOUND_IN_OTHERS", ())

    async def body(network: AsgiNetwork) -> None:
        LiesToOne("preparation", ES, "signature", monkeypatch, EU)
        assert await waiting_alone(network) == set()

    run(federation, body)


def test_a_router_that_is_silent_may_be_waiting_for_a_holder() -> None:
    """Two holders that say what it waits for just in time, one after the other, keep it waiting for long enough."""
    machine = PreparingRequester(Context(FR, bytes(16), Parties(FR, EU, HOLDERS)), Plan(RING, DIM))
    failed: dict[str, LineupError] = {EU: Silence("it says nothing", EU)}
    making = Making(SimpleNamespace(failed_peers=failed), machine)  # type: ignore[arg-type]
    assert not making.router_failed
    failed[EU] = PeerUnreachable("it is not there")
    assert making.router_failed


def test_where_the_router_stops_it_nobody_is_asked_alone(federation: Federation) -> None:
    federation.configure(FR, ready=1)

    async def body(network: AsgiNetwork) -> None:
        stop_every_joint(network, EU, QueryRefused("capacity", "it says so", EU))
        assert await waiting_alone(network) == set()

    run(federation, body)


@pytest.mark.parametrize("ready", [1, 2])
def test_a_holder_that_stops_every_joint_preparation_does_not_fill_the_router(
    ready: int, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router has room for four times what a requester keeps ready: of many holders not each one is asked alone.

    With all of its room taken it would refuse a search of all, for which one is made now.
    """
    federation.configure(FR, ready=ready)
    many = tuple(f"{letter}X" for letter in "ABCDEFGHIJK")
    asked: list[tuple[str, ...]] = []

    async def body(network: AsgiNetwork) -> None:
        supply = network.nodes[FR].supply  # type: ignore[attr-defined]

        async def make(wanted: PrepareRequest) -> tuple[dict[str, HolderAnswer], bool]:
            asked.append(wanted.holders)
            stopped = HolderAnswer("refused", reason="disagreement", by=many[0])
            return dict.fromkeys(wanted.holders, stopped) if wanted.holders == many else {}, False

        async def compare() -> None:
            pass

        monkeypatch.setattr(supply, "_make_one", make)
        monkeypatch.setattr(supply, "compare", compare)
        supply.want(msgspec.structs.replace(JOINT, holders=many))
        assert not await supply.round()

    run(federation, body)
    assert asked == [many, *((name,) for name in many[: 2 * ready])]


def impatient(network: TlsNetwork, seconds: int) -> None:
    """From now on nobody waits longer than this: not before, because a busy machine may be silent for longer."""
    for node in network.nodes.values():
        limits = msgspec.structs.replace(node.config.limits, read_timeout_seconds=seconds)
        node.config = msgspec.structs.replace(node.config, limits=limits)
    for _, driver in network.drivers:
        driver._patience = seconds * (REQUESTER_PATIENCE if driver.machine.role == "requester" else 1)
        driver._reach = seconds
        for send_queue in driver._send_queues.values():
            send_queue._patience = seconds
        driver._quiet_since = asyncio.get_running_loop().time()
        driver.call(lambda: None)  # it waits anew


def watch_router(network: Any, told: Callable[[str, str], None]) -> None:
    """Tell of each message that the router sends or takes."""
    node = network.nodes[EU]
    recorder = node.recorder

    def watched(*given: Any) -> Callable[[Any], None]:
        record = recorder(*given)

        def recorded(event: Any) -> None:
            record(event)
            told(event.peer, type(event.message).__name__)

        return recorded

    node.recorder = watched


# --- a lie about a probe that was checked ---


def lies_in_admission(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router adds 2^31 to its input of the comparison with the bound: the probe then looks too long."""
    sharing = protocol.admitting.share_inputs

    def lying(ring: Ring, masks: Any, planes: Any, kind: Any) -> Any:
        if ring.seat == Seat.ROUTER:
            planes = planes.copy()
            planes[-1] ^= 1
        return (yield from sharing(ring, masks, planes, kind))

    monkeypatch.setattr(protocol.admitting, "share_inputs", lying)


async def seen_by_operator(network: AsgiNetwork) -> tuple[dict[str, Any], str]:
    async with network.client(operator_name(FR), FR) as client:
        health: httpx.Response = await client.get("/health")
        return health.json(), (await client.get("/metrics")).text


def test_a_false_refusal_raises_an_alarm(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(network: AsgiNetwork) -> None:
        lies_in_admission(monkeypatch)  # once every node is warm
        report = await network.search(request(federation.people.hit))
        assert set(report.answers.values()) == {HolderAnswer("refused", reason="false-refusal")}
        assert len(report.queries) == 1, "nobody is asked again with the same probe"
        health, metrics = await seen_by_operator(network)
        (alarm,) = health["alarms"]
        assert report.queries[0] in alarm
        assert "or EU lied" in alarm
        assert 'lineup_false_refusals_total{node="FR",role="requester"} 1.0' in metrics

    with captured_logs() as logs:
        run(federation, body)
    lines = [line for line in map(json.loads, logs.text.splitlines()) if line["message"] == "false refusal"]
    assert [line["level"] for line in lines] == ["error"]


class StopsRing:
    """The router stops DE's ring of the first search before DE sent anything: it says that it found something wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stopped = 0
        serve = SearchingRouter._serve

        def serves(machine: SearchingRouter, holder: str) -> Any:
            if holder == DE and not self.stopped:
                self.stopped += 1
                raise Disagreement("it says so")
            return (yield from serve(machine, holder))

        monkeypatch.setattr(SearchingRouter, "_serve", serves)


def test_after_a_false_refusal_nobody_is_asked_again_whose_ring_was_stopped_before(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each false refusal tells the router something of the probe. It would keep rings back for later guesses.

    Nor is anything prepared for that.
    """

    async def body(network: AsgiNetwork) -> None:
        stops = StopsRing(monkeypatch)
        lies_in_admission(monkeypatch)
        report = await network.search(request(federation.people.hit))
        assert stops.stopped
        await network.settle()
        assert network.nodes[DE].pool.counts.made == 1
        assert set(report.answers.values()) == {HolderAnswer("refused", reason="false-refusal")}
        assert len(report.queries) == 1
        health, _ = await seen_by_operator(network)
        assert len(health["alarms"]) == 1

    run(federation, body)


def test_control_had_the_requester_not_looked_for_lies_it_would_be_asked_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequesterNode, "_look_for_lies", lambda *_: False)

    async def body(network: AsgiNetwork) -> None:
        StopsRing(monkeypatch)
        lies_in_admission(monkeypatch)
        assert len((await network.search(request(federation.people.hit))).queries) == 2

    run(federation, body)


def test_known_limit_a_router_that_keeps_the_refusal_back_has_others_asked_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has both others' components of the bit, and stops the ring before the requester has them all."""
    told: list[str] = []

    def keeps_back(ring: Ring, bit: Any, kind: Any, phase: str | None = None) -> Any:
        if ring.seat != Seat.ROUTER:
            return (yield from open_bit(ring, bit, kind, phase))
        component = (yield from receive(ring.previous, kind)).component
        own = [bool(part[0, 0] & np.uint64(1)) for part in bit.parts]
        assert not own[0] ^ own[1] ^ component, "refused"
        told.append(ring.names[Seat.HOLDER])
        raise Disagreement("it says so")

    async def body(network: AsgiNetwork) -> None:
        StopsRing(monkeypatch)
        lies_in_admission(monkeypatch)
        monkeypatch.setattr(protocol.searching, "open_bit", keeps_back)
        report = await network.search(request(federation.people.hit))
        assert told == [ES, DE], "one comparison for each holder, and no more"
        assert len(report.queries) == 2
        health, _ = await seen_by_operator(network)
        assert health["alarms"] == []

    run(federation, body)


def test_control_without_a_lie_it_is_asked_again(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(network: AsgiNetwork) -> None:
        stops = StopsRing(monkeypatch)
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert stops.stopped
        assert report.answers == federation.expected(wanted)
        assert len(report.queries) == 2

    run(federation, body)


def test_control_an_honest_query_raises_none(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        await network.search(request(federation.people.hit, (ES,)))
        health, metrics = await seen_by_operator(network)
        assert health["alarms"] == []
        assert 'lineup_false_refusals_total{node="FR",role="requester"} 0.0' in metrics

    run(federation, body)


# --- words ---


@pytest.mark.parametrize("code", [*ABORT_CODES, "false-refusal"])
def test_an_officer_reads_who_can_do_what_and_whether_to_ask_again(code: str) -> None:
    words = explained(ES, HolderAnswer("refused", reason=code, by=EU))
    assert words.startswith(f"{code}, by EU, not ES: ")
    assert len(REFUSALS[code]) > 40
    assert any(word in REFUSALS[code] for word in ("again", "anew")), REFUSALS[code]
