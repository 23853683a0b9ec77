"""A planned outage: told to peers while the node is there, known while it is gone, forgotten when it is over."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nodes.console import texts
from nodes.console.web import environment
from nodes.service import outage
from nodes.service.outage import Outage, announce, announced, ask_peers
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
    assert as_json(run(*told)) == {}
    made = as_json(run(*told, "--begins", "2099-12-01T02:00", "--ends", "2099-12-01T04:00+00:00", "--why", "new disks"))
    assert made["ES"]["why"] == "new disks"
    assert as_json(run(*told)) == made
    assert run(*told, "--begins", "2099-12-01", "--ends", "2098-12-01", "--why", "x")[0] == 1
    assert run(*told, "--begins", "tomorrow", "--ends", "2098-12-01", "--why", "x")[0] == 1
    assert as_json(run(*told, "--withdraw")) == {}


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
