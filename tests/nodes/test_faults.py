"""A party dies, or the network breaks a delivery: answers are whole or named, nodes clear, the next query works.

A sample of what `python -m benchmarks.faults` sweeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import protocol.preparing
import protocol.searching
from benchmarks.faults import Tally, burst, find_leaks, sweep_link, try_fault
from nodes.query.driver import Silence
from nodes.service.operator_api import HolderAnswer
from nodes.service.requester import RequesterNode
from pets.errors import LineupError
from protocol.errors import MissingMessage, QueryRefused
from protocol.roles import Seat
from tests.kit.faults import During, Fault, Kind
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.leaks import Capture, captured_logs
from tests.kit.network import Network, assert_clear, run_asgi

pytestmark = pytest.mark.slow


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Of each test: what all of them wrote would be verified at every start, and searched for leaks."""
    return found(tmp_path / "nodes", read_timeout_seconds=3)


@pytest.fixture
def logs() -> Iterator[Capture]:
    with captured_logs() as capture:
        yield capture


@pytest.fixture(autouse=True)
def uses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[bytes]]:
    """How often each preparation was used by the requester: whatever breaks, never twice."""
    counted: Counter[bytes] = Counter()
    draw = protocol.searching.draw_mask

    def drawn(seed: bytes, identity: bytes, *rest: Any) -> Any:
        counted[identity] += 1
        return draw(seed, identity, *rest)

    monkeypatch.setattr(protocol.searching, "draw_mask", drawn)
    yield counted
    assert all(number == 1 for number in counted.values())


@pytest.mark.parametrize(
    ("kind", "party", "step", "holders", "during"),
    [
        ("kill", ES, 3, (ES, DE), "preparing"),
        ("kill", ES, 14, (ES, DE), "preparing"),
        ("kill", EU, 12, (ES,), "preparing"),
        ("kill", FR, 9, (ES,), "preparing"),
        ("kill", ES, 3, (ES, DE), "searching"),
        ("kill", ES, 12, (ES, DE), "searching"),
        ("kill", EU, 9, (ES,), "searching"),
        ("kill", FR, 7, (ES,), "searching"),
        ("restart", ES, 12, (ES, DE), "preparing"),
        ("restart", ES, 13, (ES, DE), "searching"),
        ("restart", EU, 9, (ES,), "searching"),
    ],
)
def test_a_party_that_dies_leaves_no_half_answer(
    kind: Kind, party: str, step: int, holders: tuple[str, ...], during: During, federation: Federation, logs: Capture
) -> None:
    tally = Tally()

    async def body(network: Network) -> None:
        fault = Fault(kind, party, step, during=during)
        await try_fault(network, fault, request(federation.people.hit, holders), tally)
        find_leaks(federation, logs, network, tally)

    run_asgi(federation, body)
    assert tally.tried[kind] == 1
    assert not tally.lost
    assert not tally.leaked


@pytest.mark.parametrize(
    ("kind", "link", "step", "during"),
    [
        ("drop", (FR, ES), 0, "preparing"),
        ("drop", (FR, ES), 0, "searching"),
        ("lose-answer", (FR, EU), 0, "preparing"),
        ("duplicate", (ES, FR), 3, "searching"),
        ("reorder", (EU, ES), 1, "preparing"),
        ("corrupt", (ES, EU), 2, "searching"),
        ("truncate", (FR, ES), 3, "preparing"),
    ],
)
def test_a_broken_delivery_is_mended_or_named(
    kind: Kind, link: tuple[str, str], step: int, during: During, federation: Federation, logs: Capture
) -> None:
    tally = Tally()

    async def body(network: Network) -> None:
        fault = Fault(kind, link[0], step, link[1], during=during)
        await try_fault(network, fault, request(federation.people.hit, (ES,)), tally)
        find_leaks(federation, logs, network, tally)

    run_asgi(federation, body)
    assert tally.tried[kind] == 1
    assert not tally.lost
    assert not tally.leaked


def test_a_holder_that_is_not_there_is_unreachable_and_the_others_answer_comes(federation: Federation) -> None:
    wanted = request(federation.people.nobody)

    async def body(network: Network) -> None:
        await network.kill(ES)
        report = await network.search(wanted)
        assert report.answers[ES] == HolderAnswer("unreachable", reason="timeout", by=ES)
        assert report.answers[DE] == federation.expected(wanted)[DE]
        assert len(report.queries) == 1  # ES was missed before anything was searched for

    run_asgi(federation, body)


@pytest.mark.parametrize(
    ("step", "attempts"),
    [("holder_confirms", 1), ("holder_filters", 1), ("join_ring", 2)],
    ids=["after the verdict", "after admission", "control: before it said anything"],
)
def test_a_holder_that_read_something_before_it_fell_silent_is_not_asked_again(
    step: str, attempts: int, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a holder that cheats, or a router, would compute with the same probe twice for one search."""
    wanted = request(federation.people.hit)
    where: Any = protocol.preparing if step == "join_ring" else protocol.searching
    original, silent = getattr(where, step), []

    def once_silent(*args: Any) -> Any:
        names = args[1] if step == "join_ring" else getattr(args[0], "ring", args[0]).names
        holders = step != "join_ring" or args[0] is Seat.HOLDER
        if names[0] == ES and holders and not silent:
            silent.append(step)
            raise QueryRefused("timeout", "a holder that pretends")
        return (yield from original(*args))

    monkeypatch.setattr(where, step, once_silent)

    async def body(network: Network) -> None:
        report = await network.search(wanted)
        expected = federation.expected(wanted)
        assert silent
        assert report.answers[DE] == expected[DE]
        assert report.answers[ES] == (
            expected[ES] if attempts == 2 else HolderAnswer("unreachable", reason="timeout", by=ES)
        )
        assert len(set(report.queries)) == attempts

    run_asgi(federation, body)


def test_a_holder_that_stops_once_it_has_the_numbers_is_not_asked_again(federation: Federation) -> None:
    """A second query would give it as many chosen numbers of the same probe again, without anybody having asked."""
    wanted = request(federation.people.hit)

    async def body(network: Network) -> None:
        archive = network.nodes[ES].archive
        keep = archive.keep_holder

        def stops(holder: Any) -> None:
            keep(holder)
            if holder.sealed is not None and holder.sealed.answers:
                raise Silence("the others said nothing, it claims")

        archive.keep_holder = stops  # type: ignore[method-assign]
        report = await network.search(wanted)
        assert report.answers == {
            **federation.expected(wanted),
            ES: HolderAnswer("unreachable", reason="timeout", by=ES),
        }
        assert len(report.queries) == 1
        await network.settle()
        assert_clear(network)

    run_asgi(federation, body)


def test_a_requester_that_is_stopped_ends_its_searches(federation: Federation) -> None:
    """Whoever waits for a search hears that it was stopped, and does not wait for ever."""

    async def body(network: Network) -> None:
        searching = asyncio.create_task(network.search(request(federation.people.hit, (ES,))))
        while not network.drivers:
            await asyncio.sleep(0.01)
        await network.kill(FR)
        report = await asyncio.wait_for(searching, 30)
        assert {answer.status for answer in report.answers.values()} == {"refused"}

    run_asgi(federation, body)


def test_a_search_at_a_node_that_shuts_down_is_refused(federation: Federation) -> None:
    async def body(network: Network) -> None:
        running_search = asyncio.create_task(network.search(request(federation.people.hit, (ES,))))
        while not network.drivers:
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(network.nodes[FR].drain(20))
        await asyncio.sleep(0)
        node = network.nodes[FR]
        assert isinstance(node, RequesterNode)
        with pytest.raises(LineupError, match="capacity"):
            await network.search(request(federation.people.hit, (ES,)))
        report = await running_search
        assert report.answers == federation.expected(request(federation.people.hit, (ES,)))
        await draining
        assert node.idle

    run_asgi(federation, body)


def test_a_query_that_outlives_its_limit_is_ended_and_the_peers_told(federation: Federation) -> None:
    """Somebody who says a little from time to time does not hold a node's places for ever."""

    async def body(network: Network) -> None:
        real = network.nodes[ES].drive

        def short(machine: Any) -> Any:
            driver = real(machine)
            driver._lifetime = 0.05
            return driver

        network.nodes[ES].drive = short  # type: ignore[method-assign]
        report = await network.search(request(federation.people.hit, (ES,)))
        assert report.answers[ES].status == "unreachable"
        await network.settle()
        assert_clear(network)

    run_asgi(federation, body)


def test_early_frames_of_one_peer_are_not_held_against_another(federation: Federation) -> None:
    """The router's frames come before the announcement, with a gap: it is the router who is at fault."""

    async def body(network: Network) -> None:
        node = network.nodes[ES]
        real = node._first_contact

        async def first_contact(peer: str, query: bytes, units: list[bytes]) -> Any:
            node._keep_early(EU, query, 7, [b"x"])
            return await real(peer, query, units)

        node._first_contact = first_contact  # type: ignore[method-assign]
        try:
            report = await network.search(request(federation.people.hit, (ES,)))
        except MissingMessage:
            pytest.fail("the requester was told")
        assert report.answers[ES].status in ("refused", "unreachable")
        await network.settle()
        assert_clear(network)

    run_asgi(federation, body)


def test_a_result_that_waits_in_the_queue_is_not_computed_again(federation: Federation) -> None:
    """Else the second result would be taken for the answer to the next question, and rows be missed."""

    async def body(network: Network) -> None:
        wanted = request(federation.people.hit, (ES,))
        asked: list[Any] = []
        scorer = network.nodes[ES]._scorer
        real = scorer.score

        async def score(want: Any) -> Any:
            asked.append(want)
            return await real(want)

        scorer.score = score  # type: ignore[method-assign]
        real_drive = network.nodes[ES].drive

        def drive(machine: Any) -> Any:
            driver = real_drive(machine)
            call = driver.call

            def busy(action: Any, size: int = 0) -> None:
                for _ in range(3):  # other work, in the queue before the result
                    call(lambda: None)
                call(action, size)

            driver.call = busy
            return driver

        network.nodes[ES].drive = drive  # type: ignore[method-assign]
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        assert len(asked) == len(set(map(id, asked))) == 1  # the product: a confirmation is no pass over the rows

    run_asgi(federation, body)


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "control"])
def test_no_checkpoint_is_signed_while_another_query_writes_to_the_log(locked: bool, tmp_path: Path) -> None:
    """Size and root of two moments under one signature would make a log that looks tampered with when it is opened."""
    federation = found(tmp_path)

    async def body(network: Network) -> None:
        wanted = request(federation.people.hit, (ES,))
        await network.search(wanted)
        await network.settle()
        archive = network.nodes[ES].archive
        if not locked:
            archive.writing = archive._recorder._writing = contextlib.nullcontext()  # type: ignore[assignment]
        log, writing, overlaps = archive.transcript, threading.Event(), []
        append = log.append

        def slow(*values: Any) -> Any:
            writing.set()
            other = SimpleNamespace(query=secrets.token_bytes(16))
            archive._started[other.query] = 0
            ending = threading.Thread(target=archive.end, args=(other,))  # another query ends just now
            ending.start()
            ending.join(0.05)
            writing.clear()
            return append(*values)

        log.append = slow  # type: ignore[method-assign]
        log.checkpoint = lambda _: overlaps.append(writing.is_set())  # type: ignore[assignment, method-assign]
        assert (await network.search(wanted)).answers == federation.expected(wanted)
        await network.settle()
        assert len(overlaps) > 3
        assert any(overlaps) is not locked

    run_asgi(federation, body)


def test_of_a_burst_exactly_the_quota_passes_and_the_rest_is_refused_by_name(tmp_path: Path) -> None:
    federation = found(tmp_path, read_timeout_seconds=60, concurrent_queries=64)
    federation.configure(ES, quota_unidentified_per_day=2)
    tally = Tally()

    async def body(network: Network) -> None:
        await burst(network, request(federation.people.hit, (ES,)), 6, 2, tally)

    run_asgi(federation, body)
    assert not tally.lost
    assert tally.ended["burst: refused quota"] == 4, "there are places for all"


def test_a_fault_that_is_not_reached_changes_nothing(federation: Federation) -> None:
    """The control of the sweeps: they stop where a fault no longer fires."""
    tally = Tally()

    async def body(network: Network) -> None:
        await sweep_link(network, "drop", (FR, ES), [10_000], request(federation.people.hit, (ES,)), tally)

    run_asgi(federation, body)
    assert not tally.tried
    assert Fault("drop", FR, 0).fired is False
