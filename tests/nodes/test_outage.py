"""A planned outage: told to peers while the node is there, known while it is gone, forgotten when it is over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from nodes.config.schema import load_config, operator_name
from nodes.console import texts
from nodes.console.oversight import Oversight, _planned
from nodes.console.web import environment
from nodes.identity.identity import load_identity, load_peers
from nodes.operator import client
from nodes.operator.client import NodeNotRunning
from nodes.service import outage
from nodes.service.outage import Known, Outage, announce, announced, ask_peers
from pets.errors import InputError
from tests.kit.commands import as_json
from tests.kit.commands import folder as folder
from tests.kit.commands import run as run
from tests.kit.federation import ES, EU, FR, Federation, found
from tests.kit.network import AsgiNetwork, running

NOW = datetime.now(timezone.utc)
PLANNED = Outage(NOW + timedelta(hours=1), NOW + timedelta(hours=5), "planted: new disks")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found(tmp_path_factory.mktemp("outage"))


def test_peers_are_told_before_and_know_while_the_node_is_gone(federation: Federation) -> None:
    async def body() -> None:
        network = AsgiNetwork(federation)
        async with running(network):
            asking = network.nodes[FR]
            await ask_peers(asking)
            assert asking.outages == {}  # control: nothing is planned
            announce(federation.folder(ES), PLANNED)
            await ask_peers(asking)
            await ask_peers(network.nodes[EU])
            assert asking.outages == network.nodes[EU].outages == {ES: PLANNED}
            await network.kill(ES)
            await ask_peers(asking)
            assert asking.outages == {ES: PLANNED}
            await network.start(ES)
            announce(federation.folder(ES), None)
            await ask_peers(asking)
            assert asking.outages == {}

    asyncio.run(body())


def test_who_is_no_peer_is_told_nothing_and_a_peers_junk_is_left(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        network = AsgiNetwork(federation)
        async with running(network):
            announce(federation.folder(ES), PLANNED)
            for caller, status in ((None, 403), ("XX", 403), (FR, 200)):
                async with network.client(caller, ES) as client:
                    assert (await client.get(outage.PATH)).status_code == status
            (federation.folder(ES) / outage.FILE).write_text('{"begins": 7}')
            with pytest.raises(InputError, match="damaged"):
                announced(federation.folder(ES), NOW)
            asking = network.nodes[FR]
            await ask_peers(asking)
            assert asking.outages == {}
            announce(federation.folder(ES), PLANNED)
            asking.outages[ES] = Outage(NOW - timedelta(hours=2), NOW - timedelta(hours=1), "over")
            await network.kill(ES)
            await ask_peers(asking)
            assert asking.outages == {}  # what is over goes, also of a node that is gone

    asyncio.run(body())


@pytest.mark.parametrize("ends", ["9999-12-31T23:59:59-14:00", "2101-01-01T00:00:00Z"])
def test_a_time_that_no_calendar_holds_is_not_taken_from_a_peer(
    federation: Federation, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = f'{{"outage":{{"begins":"2099-12-01T00:00:00Z","ends":"{ends}","why":"x"}}}}'.encode()

    async def told() -> dict[str, Outage]:
        network = AsgiNetwork(federation)
        async with running(network):
            asking = network.nodes[FR]

            async def lies(peer: str, path: str) -> bytes:
                return lie

            monkeypatch.setattr(asking.transport, "ask", lies)
            await ask_peers(asking)
            return asking.outages

    assert asyncio.run(told()) == {}
    monkeypatch.setattr(outage, "YEARS", range(1, 10_000))  # control: unbounded, it is kept
    kept = asyncio.run(told())[ES]
    if ends.startswith("9999"):
        with pytest.raises(OverflowError):  # and breaks whoever shows it in UTC
            _planned(kept)


def test_a_silent_peer_hides_no_other_peers_outage(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        network = AsgiNetwork(federation)
        async with running(network):
            announce(federation.folder(ES), PLANNED)
            asking = network.nodes[FR]
            ask = asking.transport.ask

            async def silent(peer: str, path: str) -> bytes:
                return await (asyncio.Event().wait() if peer == EU else ask(peer, path))  # type: ignore[return-value]

            monkeypatch.setattr(asking.transport, "ask", silent)
            waiting = asyncio.create_task(ask_peers(asking))
            while ES not in asking.outages:
                await asyncio.sleep(0.01)
            assert not waiting.done()  # control: who waits for every peer waits
            async with network.client(operator_name(FR), FR) as operator:
                answer = await operator.get("/operator/v1/outages")
            told = msgspec.json.decode(answer.content, type=Known)
            assert told.planned == {ES: PLANNED}
            assert EU in told.unheard
            assert ES not in told.unheard
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            monkeypatch.setattr(outage, "PEER_SECONDS", 0.05)
            await asyncio.wait_for(ask_peers(asking), 30)  # it is given up
            monkeypatch.setattr(asking.transport, "ask", ask)
            await ask_peers(asking)
            assert outage.known(asking).unheard == ()
            announce(federation.folder(ES), None)

    asyncio.run(body())


def test_what_is_over_is_not_told(tmp_path: Path) -> None:
    announce(tmp_path, PLANNED)
    assert announced(tmp_path, NOW) == PLANNED
    assert announced(tmp_path, PLANNED.ends) is None


@pytest.mark.parametrize(
    ("begins", "ends", "why"),
    [(1, 1, "x"), (2, 1, "x"), (1, 2, ""), (1, 2, "x" * 201), (1, 2, "a\nb"), (1, 2, "\x1b[31m")],
)  # fmt: skip
def test_an_outage_that_is_none_is_refused(begins: int, ends: int, why: str) -> None:
    with pytest.raises(ValueError, match=r"outage|why"):
        Outage(NOW + timedelta(hours=begins), NOW + timedelta(hours=ends), why)
    with pytest.raises(ValueError, match="time zone"):
        Outage(datetime(2026, 12, 1), datetime(2026, 12, 2), "x")


def test_an_operator_announces_and_withdraws_one(folder: Path, run: Any) -> None:
    told = ("node", "outage", "--dir", folder, "--json")
    assert as_json(run(*told)) == {"planned": {}, "unheard": []}  # it has no peers
    assert "no outage is planned" in run(*told[:-1])[1]
    made = as_json(run(*told, "--begins", "2099-12-01T02:00", "--ends", "2099-12-01T04:00+00:00", "--why", "new disks"))
    assert made["planned"]["ES"]["why"] == "new disks"
    assert as_json(run(*told)) == made
    assert run(*told, "--begins", "2099-12-01", "--ends", "2098-12-01", "--why", "x")[0] == 1
    assert run(*told, "--begins", "tomorrow", "--ends", "2098-12-01", "--why", "x")[0] == 1
    assert as_json(run(*told, "--withdraw"))["planned"] == {}


def test_of_a_peer_that_was_not_heard_nobody_says_that_it_plans_none(
    federation: Federation, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ("node", "outage", "--dir", federation.folder(FR))
    for known in (None, Known({}, (EU,))):  # the node does not run; it did not hear from one
        if known is not None:
            monkeypatch.setattr(client, "outages", lambda _, known=known: known)
        said = run(*told)[1]
        assert "no outage is planned" not in said
        assert EU in said
        assert EU in as_json(run(*told, "--json"))["unheard"]
    monkeypatch.setattr(client, "outages", lambda _: Known({}, ()))  # control: all were heard
    assert "no outage is planned" in run(*told)[1]


def test_the_console_shows_what_a_peer_plans() -> None:
    peer = {"name": "ES", "role": "holder", "state": "up", "address": "a", "fingerprint": "f"}
    more = {"outage-begins": "2099-12-01T02:00:00+00:00", "outage-ends": "2099-12-01T04:00:00+00:00",
            "outage-why": "<b>disks"}  # fmt: skip
    for peers, shown in (((peer,), False), ((peer | more,), True)):
        page = environment().get_template("node.html").render(
            me=None, csrf="", here="/node", node={"name": "FR", "role": "requester"}, nav=(), gallery=None, quotas=(),
            policy={}, under_way=(), preparations=None,
            view={"name": "FR", "health": "ok", "failing": (), "address": "", "fingerprint": "", "status": None,
                  "peers": peers, "running": True, "alternative": "", "role": "requester"},
        )  # fmt: skip
        assert (texts.text("node.outage") in page) is shown
        assert ("2099-12-01 02:00 UTC – 2099-12-01 04:00 UTC: &lt;b&gt;disks" in page) is shown


@pytest.mark.parametrize("silent", ["peers", "outages"])
def test_the_console_shows_of_each_answer_what_came(
    federation: Federation, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: Path) -> Any:
        raise NodeNotRunning("it does not answer in time")

    monkeypatch.setattr(client, "peers", lambda _: {ES: True})
    monkeypatch.setattr(client, "outages", lambda _: Known({ES: PLANNED}, ()))
    monkeypatch.setattr(client, "status", nobody)
    fr = federation.folder(FR)
    config = load_config(fr)
    office = SimpleNamespace(peers=load_peers(config), identity=load_identity(fr))
    desk: Any = SimpleNamespace(office=office)
    operations: Any = SimpleNamespace(desk=desk, folder=fr, config=config, person=lambda _: None)
    accounts: Any = None
    site = Oversight(operations, accounts)

    def seen() -> tuple[bool, bool]:
        (spain,) = [peer for peer in site.node("anton").peers if peer["name"] == ES]
        return spain["state"] == "up", "outage-why" in spain

    assert seen() == (True, True)  # control: both answer
    monkeypatch.setattr(client, silent, nobody)
    assert seen() == (silent != "peers", silent != "outages")


def test_peers_are_asked_again_after_an_error_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def fails(node: object) -> None:
        asked.append(node)
        raise RuntimeError("the client has been closed")

    async def body() -> None:
        monkeypatch.setattr(outage, "ask_peers", fails)
        monkeypatch.setattr(outage, "EVERY_SECONDS", 0.0)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(outage.follow(SimpleNamespace(name=ES)), 0.2)  # type: ignore[arg-type]

    asyncio.run(body())
    assert len(asked) > 1
