"""Units between nodes: cut from bodies whatever the pieces, sent in one open body, again after a break, never lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.query import driver
from nodes.service import peer_routes
from nodes.transport import send_queue, units
from nodes.transport.client import _delayed
from nodes.transport.send_queue import PeerRefused, PeerUnreachable, SendQueue
from nodes.transport.units import UnitReader, Units, pack_units
from pets.errors import LineupError
from protocol import mask
from protocol.errors import FrameTooLarge, MalformedFrame
from protocol.party import Party
from tests.kit.federation import ES, EU, FR, found, request
from tests.kit.network import AsgiNetwork, running
from tests.kit.ring import RING

pytestmark = pytest.mark.slow

QUERY = bytes(16)


@given(st.lists(st.binary(max_size=40), max_size=20), st.lists(st.integers(1, 60), max_size=40))
def test_units_are_cut_the_same_whatever_the_pieces(units: list[bytes], lengths: list[int]) -> None:
    body, reader, read = pack_units(units), UnitReader(), []
    for length in lengths:
        read += reader.feed(body[:length])
        body = body[length:]
    read += reader.feed(body)
    reader.end()
    assert read == units


def test_a_unit_that_is_cut_off_is_named() -> None:
    reader = UnitReader()
    assert reader.feed(pack_units([b"whole", b"cut off"])[:-1]) == [b"whole"]
    with pytest.raises(MalformedFrame, match="unit 1 is cut off"):
        reader.end()


def test_a_unit_that_says_it_is_too_long_is_refused_before_it_comes() -> None:
    with pytest.raises(FrameTooLarge, match=str(units.UNIT_LIMIT)):
        UnitReader().feed((units.UNIT_LIMIT + 1).to_bytes(4, "big"))


def test_a_body_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "BODY_LIMIT", 100)
    reader = UnitReader()
    reader.feed(pack_units([bytes(40)]))
    with pytest.raises(FrameTooLarge, match="100 bytes"):
        reader.feed(pack_units([bytes(60)]))


def test_too_many_units_in_one_body_are_refused() -> None:
    with pytest.raises(FrameTooLarge, match=f"{units.BODY_UNITS} units"):
        UnitReader().feed(pack_units([b""] * (units.BODY_UNITS + 1)))


class Line:
    """A transport that keeps bodies; `failures`: after how many units the first bodies break, or what refuses them."""

    def __init__(self, *failures: int | LineupError) -> None:
        self.failures = list(failures)
        self.bodies: list[tuple[int, list[bytes]]] = []

    async def deliver(self, peer: str, query: bytes, offset: int, units: Units) -> None:
        body: list[bytes] = []
        self.bodies.append((offset, body))
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, LineupError):
            raise failure
        async for some in units:
            body += some
            if failure is not None and len(body) >= failure:
                raise PeerUnreachable("the line broke")


def over(line: Line, body: Callable[[SendQueue], Awaitable[None]], patience: float = 5) -> list[LineupError]:
    """Run `body` with a send queue on a line. Returns why the peer was given up."""
    failed: list[LineupError] = []

    async def run() -> None:
        box = SendQueue(line, ES, QUERY, patience, lambda _, error: failed.append(error))
        await body(box)
        await box.flush(5)
        box.close()

    asyncio.run(run())
    return failed


async def say(box: SendQueue, *units: bytes) -> None:
    box.put(list(units))
    await asyncio.sleep(0.01)


def test_what_opens_a_query_goes_alone_and_the_rest_shares_a_body() -> None:
    line = Line()

    async def body(box: SendQueue) -> None:
        await say(box, b"hello", b"announce")
        for unit in (b"a", b"b", b"c"):
            await say(box, unit)

    assert not over(line, body)
    assert line.bodies == [(0, [b"hello", b"announce"]), (2, [b"a", b"b", b"c"])]


def test_a_body_that_waits_in_vain_ends_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_queue, "HELD_OPEN_SECONDS", 0.02)
    line = Line()

    async def body(box: SendQueue) -> None:
        await say(box, b"hello")
        await say(box, b"a")
        await asyncio.sleep(0.1)
        await say(box, b"b")

    assert not over(line, body)
    assert line.bodies == [(0, [b"hello"]), (1, [b"a"]), (2, [b"b"])]


def test_after_a_break_everything_that_was_not_acknowledged_is_sent_again() -> None:
    line = Line(9, 2)

    async def body(box: SendQueue) -> None:
        await say(box, b"hello")
        for unit in (b"a", b"b", b"c"):
            await say(box, unit)

    assert not over(line, body)
    assert line.bodies == [(0, [b"hello"]), (1, [b"a", b"b"]), (1, [b"a", b"b", b"c"])]


def test_a_full_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send_queue, "BODY_UNITS", 2)
    monkeypatch.setattr(send_queue, "BODY_BYTES", 10)
    line = Line()

    async def body(box: SendQueue) -> None:
        await say(box, b"hello")
        await say(box, b"a", b"b", b"c", bytes(10), b"d")

    assert not over(line, body)
    assert [units for _, units in line.bodies] == [[b"hello"], [b"a", b"b"], [b"c", bytes(10)], [b"d"]]


def test_a_refusal_is_final_and_told_once() -> None:
    refusal = PeerRefused(ES, "quota")
    line = Line(refusal)

    async def body(box: SendQueue) -> None:
        await say(box, b"hello")
        await say(box, b"a")

    assert over(line, body) == [refusal]
    assert len(line.bodies) == 1


def test_a_peer_that_takes_nothing_is_given_up_after_some_patience() -> None:
    line = Line(*[1] * 50)

    async def body(box: SendQueue) -> None:
        await say(box, b"hello")
        await asyncio.sleep(1)

    (error,) = over(line, body, patience=0.3)
    assert isinstance(error, PeerUnreachable)
    assert 2 <= len(line.bodies) < 50


def test_whatever_goes_wrong_with_a_peer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw must not leave the query waiting."""
    line = Line()

    async def broken(peer: str, query: bytes, offset: int, units: Units) -> None:
        raise RuntimeError("whatever it is")

    monkeypatch.setattr(line, "deliver", broken)

    async def body(box: SendQueue) -> None:
        await say(box, b"hello")

    (error,) = over(line, body)
    assert isinstance(error, PeerUnreachable)


def test_a_delayed_line_is_longer_and_not_thinner() -> None:
    async def pieces() -> object:
        for number in range(5):
            yield bytes([number])

    async def run() -> tuple[bytes, float]:
        started = asyncio.get_running_loop().time()
        got = b"".join([piece async for piece in _delayed(pieces(), 0.1)])  # type: ignore[arg-type]
        return got, asyncio.get_running_loop().time() - started

    got, seconds = asyncio.run(run())
    assert got == bytes(range(5))
    assert 0.1 <= seconds < 0.4  # one after the other they would take 0.5


def test_what_opens_a_query_is_taken_while_the_rest_of_the_body_is_under_way(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a peer could have 64 MB kept for each body that it begins and does not end; and it may begin so many."""
    federation = found(tmp_path_factory.mktemp("opening"))
    monkeypatch.setattr(peer_routes, "STREAMS_OF_ONE_PEER", 1)

    async def run() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            taken: list[tuple[int, int]] = []
            node, more = network.nodes[ES], asyncio.Event()

            async def accept(peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
                taken.append((offset, len(units)))
                more.set()

            node.accept = accept  # type: ignore[method-assign]
            path = f"/v1/queries/{QUERY.hex()}/units?offset=0"

            async def body() -> AsyncIterator[bytes]:
                yield pack_units([b"hello"])
                assert not taken
                yield pack_units([b"announce"])
                await asyncio.wait_for(more.wait(), 10)
                async with network.client(EU, ES) as second:
                    assert (await second.post(path, content=b"")).status_code == 503
                async with network.client(FR, ES) as other:
                    assert (await other.post(path, content=b"")).status_code == 202
                yield pack_units([b"a", b"b"])

            async with network.client(EU, ES) as client:
                assert (await client.post(path, content=body())).status_code == 202
                assert (await client.post(path, content=b"")).status_code == 202
            assert taken == [(0, 2), (0, 0), (2, 2), (0, 0)]

    asyncio.run(run())


def test_no_more_is_read_while_too_much_waits(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow query holds its sender up; it is not refused, and memory stays bounded."""
    part = next(name for name in ("MASK_PART", "PROBE_PART") if hasattr(mask, name))
    monkeypatch.setattr(mask, part, 4)  # 32 parts
    federation = found(tmp_path_factory.mktemp("slow"))

    async def run() -> int:
        """The largest number of bytes that waited at ES."""
        async with running(AsgiNetwork(federation)) as network:
            most, real = [0], network.nodes[ES].drive

            def slow(machine: Party) -> driver.QueryDriver:
                made = real(machine)
                take = made._take

                def watched(peer: str, unit: bytes) -> None:
                    most.append(made._waiting_bytes)
                    if len(unit) >= 2**17:
                        time.sleep(0.01)
                    take(peer, unit)

                made._take = watched  # type: ignore[method-assign]
                return made

            network.nodes[ES].drive = slow  # type: ignore[method-assign]
            wanted = request(federation.people.hit, (ES,))
            assert (await network.search(wanted)).answers == federation.expected(wanted)
            return max(most)

    monkeypatch.setattr(driver, "INBOUND_BYTES", 1)
    assert asyncio.run(run()) < 2 * 4 * 8 * RING.n  # one part
    monkeypatch.setattr(driver, "INBOUND_BYTES", 2**40)  # the control
    assert asyncio.run(run()) > 2**21
