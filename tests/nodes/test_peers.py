"""Peers come and go while a node runs: a new one is found, a removed one is cut off in the middle of what it does."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodes.casework.desk import CaseDesk
from nodes.config.schema import Role, load_config
from nodes.identity.identity import IdentityError, Peer, load_identity, load_peers
from nodes.identity.peers import Peers, read_again
from nodes.identity.renewal import renew_certificates
from nodes.identity.tls import client_context, server_name
from nodes.operator.client import health, metrics, search, status
from nodes.operator.peers import add_peer, own_identity, remove_peer
from nodes.query.driver import QueryDriver, RecordFailed
from nodes.service import requester
from nodes.service.operator_api import HolderAnswer
from nodes.service.reload import Reload
from nodes.service.requester import RequesterNode
from pets.errors import InputError
from pets.signatures import SigningKey
from protocol.messages import Abort
from protocol.party import Party
from protocol.session import Event
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.network import TlsNetwork, assert_clear, hang_up
from tests.kit.processes import processes

pytestmark = pytest.mark.slow

UNITS = f"POST /v1/queries/{'0' * 32}/units?offset=0 HTTP/1.1\r\nhost: es\r\ncontent-length: 1000\r\n\r\n".encode()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path)


def published(federation: Federation, name: str) -> Path:
    return load_config(federation.folder(ES)).paths.peers / f"{name}.json"


def known(federation: Federation, name: str = FR) -> dict[str, Peer]:
    return load_peers(load_config(federation.folder(name)))


def forge(federation: Federation, name: str) -> Peer:
    """Publish another key under a node's name, as who can write to the folder could."""
    key = SigningKey.generate()
    forged = replace(Peer.read(published(federation, name)), verify_key=key.verify_key)
    published(federation, name).write_bytes(forged.publish(key))
    return forged


def pin(federation: Federation, node: str, pins: dict[str, str]) -> None:
    path = federation.folder(node) / "node.toml"
    lines = "".join(f'{name} = "{value}"\n' for name, value in pins.items())
    path.write_text(
        re.sub(r"(?m)^\[peer_fingerprints\]\n(\w+ = .*\n)*", f"[peer_fingerprints]\n{lines}", path.read_text())
    )


def serving(federation: Federation, body: Callable[[TlsNetwork], Awaitable[None]], *names: str) -> None:
    async def run() -> None:
        network = TlsNetwork(federation)
        try:
            await network.start(*names)
            await body(network)
        finally:
            await network.close()

    asyncio.run(run())


def reload_of(network: TlsNetwork, name: str) -> Reload:
    return Reload(network.servers[name][0], network._transports[name])


# --- what the folder holds ---


def test_a_peer_that_joins_and_one_that_leaves_are_told_apart(federation: Federation) -> None:
    folder, was = federation.folder(FR), known(federation)
    assert read_again(folder, was).peers == was  # control
    german = published(federation, DE).read_bytes()
    published(federation, DE).unlink()
    after = read_again(folder, was)
    assert (after.gone, after.refused) == (frozenset({DE}), {})
    assert set(after.peers) == {FR, ES, EU}
    published(federation, DE).write_bytes(german)
    assert read_again(folder, after.peers).peers == was


def test_a_known_peers_key_does_not_change_behind_a_running_node(federation: Federation) -> None:
    folder, was = federation.folder(FR), known(federation)
    forged = forge(federation, ES)
    after = read_again(folder, was)
    assert after.peers == was
    assert (after.gone, list(after.refused)) == (frozenset(), [published(federation, ES)])
    (why,) = after.refused.values()
    assert forged.fingerprint in why
    assert was[ES].fingerprint in why
    assert read_again(folder, {}).peers[ES] == forged  # control: who knew nobody believes the folder
    others = {name: peer.fingerprint for name, peer in was.items() if name not in (FR, ES)}
    pin(federation, FR, others | {ES: was[ES].fingerprint})
    assert read_again(folder, was).peers == was
    pin(federation, FR, others | {ES: forged.fingerprint})
    after = read_again(folder, was)
    assert after.peers[ES] == forged
    assert (after.gone, after.refused) == (frozenset({ES}), {})
    pin(federation, FR, others)
    after = read_again(folder, was)  # no key of ES is pinned any more
    assert (after.gone, list(after.refused)) == (frozenset({ES}), [published(federation, ES)])


def test_a_known_peer_gives_itself_no_other_role(federation: Federation) -> None:
    """A holder that became a router would sit in the rings of others, beside a requester that is its friend."""
    folder, was = federation.folder(FR), known(federation)
    spain, router = load_identity(federation.folder(ES)), replace(was[ES], role=Role.ROUTER)
    moved = replace(was[ES], address="https://127.0.0.1:9")
    published(federation, ES).write_bytes(moved.publish(spain.signing))
    assert read_again(folder, was).peers[ES] == moved  # control: an address may change
    elsewhere = federation.root / "ES.json"
    elsewhere.write_bytes(router.publish(spain.signing))
    with pytest.raises(IdentityError, match="was holder and is router now"):
        add_peer(folder, elsewhere, router.fingerprint)
    published(federation, ES).write_bytes(elsewhere.read_bytes())
    for pins in ({}, {name: peer.fingerprint for name, peer in was.items() if name != FR}):
        pin(federation, FR, pins)
        after = read_again(folder, was)
        assert after.peers == was
        (why,) = after.refused.values()
        assert "was holder and is router now" in why
    others = {name: peer for name, peer in was.items() if name != ES}
    assert read_again(folder, others).peers[ES].role is Role.ROUTER  # whoever removed it may add it so


def test_a_damaged_file_a_second_name_and_a_lost_folder_change_nothing(federation: Federation) -> None:
    folder, was = federation.folder(FR), known(federation)
    published(federation, ES).write_text("{")
    spain = load_identity(federation.folder(ES))
    twin = replace(spain.peer, name="PT")
    published(federation, "PT").write_bytes(twin.publish(spain.signing))
    after = read_again(folder, was)
    assert (after.peers, after.gone) == (was, frozenset())
    assert [path.name for path in after.refused] == ["ES.json", "PT.json"]
    assert "PT has the same key as ES" in after.refused[published(federation, "PT")]
    published(federation, ES).parent.rename(federation.root / "elsewhere")
    with pytest.raises(IdentityError, match="does not exist"):
        read_again(folder, was)
    (folder / "node.toml").write_text("no toml")
    with pytest.raises(InputError, match=r"node\.toml"):
        read_again(folder, was)


def test_peers_are_replaced_in_one_step(federation: Federation) -> None:
    was = known(federation)
    peers = Peers(was)
    names = iter(peers)
    next(names)
    peers.replace({ES: was[ES]})
    assert len(list(names)) == len(was) - 1  # who iterates sees one moment
    assert dict(peers) == {ES: was[ES]}


def test_a_desk_that_stays_open_as_the_consoles_does_follows(federation: Federation) -> None:
    german = published(federation, DE).read_bytes()
    published(federation, DE).unlink()
    with CaseDesk.open(federation.folder(FR)) as desk:
        published(federation, DE).write_bytes(german)
        assert DE not in desk.office.peers  # control
        desk.read_peers_again()
        assert DE in desk.office.peers


# --- a running node ---


def test_a_node_that_joins_is_asked_without_a_restart(federation: Federation) -> None:
    german = published(federation, DE).read_bytes()
    published(federation, DE).unlink()
    wanted = request(federation.people.hit)

    async def body(network: TlsNetwork) -> None:
        with pytest.raises(InputError, match="DE is not a holder among the peers of FR"):
            await network.search(wanted)
        published(federation, DE).write_bytes(german)
        await network.start(DE)
        for name in (FR, ES, EU):
            await reload_of(network, name).peers()
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        assert len(report.queries) == 1
        await network.settle()
        assert_clear(network)

    serving(federation, body, FR, ES, EU)


def test_a_removed_peer_is_cut_off_in_the_middle_of_a_request(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    """The attack: FR goes on over a connection that stands. The control: so does DE, which stays a peer."""

    async def connect(name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = client_context(load_config(federation.folder(name)).tls)
        port = int(load_config(federation.folder(ES)).address.rpartition(":")[2])
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name(ES))

    async def body(network: TlsNetwork) -> None:
        streams = {name: await connect(name) for name in (FR, DE)}
        for _, writer in streams.values():
            writer.write(UNITS + b"x")
            await writer.drain()
        await asyncio.sleep(0.3)  # both bodies are being read
        published(federation, FR).unlink()
        with caplog.at_level(logging.WARNING):
            await reload_of(network, ES).peers()
        assert [record.peer for record in caplog.records if record.message == "peer cut off"] == [FR]  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(streams[FR][0].readexactly(1), 5)
        with pytest.raises(asyncio.TimeoutError):  # the control
            await asyncio.wait_for(streams[DE][0].readexactly(1), 1)
        reader, writer = await connect(FR)  # its certificate holds still
        writer.write(b"GET /v1/checkpoints HTTP/1.1\r\nhost: es\r\n\r\n")
        assert b" 403 " in await asyncio.wait_for(reader.readline(), 5)
        await hang_up(writer, *(writer for _, writer in streams.values()))

    serving(federation, body, ES)


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "control"])
def test_a_query_of_a_removed_peer_is_stopped(removed: bool, federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body(network: TlsNetwork) -> None:
        # ES forgets FR (and only ES: its folder is its own), as soon as it works on FR's query
        own = federation.folder(ES) / "peers"
        own.mkdir()
        for path in published(federation, ES).parent.glob("*.json"):
            if not (removed and path.stem == FR):
                (own / path.name).write_bytes(path.read_bytes())
        toml = federation.folder(ES) / "node.toml"
        toml.write_text(re.sub(r"(?m)^peers = .*$", 'peers = "peers"', toml.read_text()))
        searching = asyncio.create_task(network.search(wanted))
        while not network.nodes[ES].drivers:
            await asyncio.sleep(0.005)
        await reload_of(network, ES).peers()
        answer = (await searching).answers[ES]
        if removed:
            assert answer.status in ("refused", "unreachable")
            assert not answer.references
        else:
            assert answer == federation.expected(wanted)[ES]

    serving(federation, body, FR, ES, EU)


@pytest.mark.parametrize("full", [False, True], ids=["", "and the disk is full"])
def test_who_is_removed_before_the_first_word_to_them_ends_the_query_and_not_the_driver(
    full: bool, federation: Federation
) -> None:
    """Else the driver dies of a missing key, or of a record that fails, and everybody waits in vain."""

    async def body(network: TlsNetwork) -> None:
        node = network.nodes[ES]
        drive, gone = node.drive, []

        def removed_meanwhile(machine: Party) -> QueryDriver:
            def remove() -> None:
                assert isinstance(node.peers, Peers)
                node.peers.replace({name: peer for name, peer in node.peers.items() if name != FR})

            handle, record = machine.handle, machine._recorder
            assert record is not None

            def handles(frame: bytes, link: str) -> None:
                handle(frame, link)  # the answer waits to be sealed
                remove()

            def fails(event: Event) -> None:
                if isinstance(event.message, Abort):
                    raise RecordFailed("OSError")
                record(event)

            if full:
                machine.handle, machine._recorder = handles, fails  # type: ignore[method-assign]
            else:
                remove()
            gone.append(drive(machine))
            return gone[-1]

        node.drive = removed_meanwhile  # type: ignore[method-assign]
        asked = asyncio.create_task(network.search(request(federation.people.hit, (ES,))))
        if not full:  # else nobody is told, and the others wait for as long as they have patience
            answer = (await asyncio.wait_for(asked, 30)).answers[ES]
            assert answer.status in ("refused", "unreachable")
            assert not answer.references
        while not gone:
            await asyncio.sleep(0.05)
        asked.cancel()
        (driver,) = gone
        await asyncio.wait_for(asyncio.wait({driver.task}), 10)
        assert driver.task.exception() is None
        assert driver.over
        assert driver.failed_peers.keys() == {FR}

    serving(federation, body, FR, ES, EU)


def test_a_router_that_is_removed_between_two_attempts_costs_no_answer_that_was_given(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder has released candidates, and counted them, while another one is to be asked once more."""
    monkeypatch.setattr(requester, "_may_ask_again", lambda _driver, _machine, holder: holder == DE)

    async def body(network: TlsNetwork) -> None:
        node = network.nodes[FR]
        assert isinstance(node, RequesterNode)
        again = node._ask_each

        async def removed_meanwhile(search: Any, holders: Any) -> None:
            assert isinstance(node.peers, Peers)
            node.peers.replace({name: peer for name, peer in node.peers.items() if name != EU})
            await again(search, holders)

        node._ask_each = removed_meanwhile  # type: ignore[method-assign]
        answers = (await network.search(request(federation.people.hit, (ES, DE)))).answers
        assert answers[ES].status == "candidates"
        assert answers[DE] == HolderAnswer("refused", reason="state", by=FR)

    serving(federation, body, FR, ES, DE, EU)


def test_all_who_are_removed_are_cut_off_whatever_happens_to_what_was_prepared_with_one(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(network: TlsNetwork) -> None:
        node, reload = network.nodes[FR], reload_of(network, FR)
        parted: list[str] = []
        monkeypatch.setattr(node, "part_with", lambda peer, _: parted.append(peer))
        monkeypatch.setattr(node.pool, "drop_with", lambda _: 1 / 0)
        for name in (ES, DE):
            published(federation, name).unlink()
        with pytest.raises(ZeroDivisionError):
            await reload.peers()
        assert parted == [DE, ES]

    serving(federation, body, FR)


def test_the_operator_is_told_of_a_key_that_changed(federation: Federation) -> None:
    async def body(network: TlsNetwork) -> None:
        node, reload = network.nodes[FR], reload_of(network, FR)
        assert node.all_alarms == []
        old = published(federation, ES).read_bytes()
        forge(federation, ES)
        await reload.peers()
        (alarm,) = node.all_alarms
        assert alarm.startswith(f"peer refused: {published(federation, ES)}: ES has another key now")
        assert b'lineup_refused_peers{node="FR",role="requester"} 1.0' in node.metrics.render()
        published(federation, ES).write_bytes(old)
        await reload.peers()
        assert node.all_alarms == []

    serving(federation, body, FR)


def test_a_renewed_certificate_is_shown_without_a_restart(federation: Federation) -> None:
    async def shown(federation: Federation) -> bytes:
        context = client_context(load_config(federation.folder(FR)).tls)
        port = int(load_config(federation.folder(ES)).address.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=server_name(ES))
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await hang_up(writer)
        return certificate

    async def body(network: TlsNetwork) -> None:
        reload, path = reload_of(network, ES), load_config(federation.folder(ES)).tls.certificate
        before = await shown(federation)
        await asyncio.to_thread(renew_certificates, federation.folder(ES), federation.root / "authority", 30)
        assert await shown(federation) == before  # control: nothing was read yet
        reload.certificates()
        after = await shown(federation)
        assert after == ssl.PEM_cert_to_DER_cert(path.read_text()) != before
        path.write_text("no certificate")
        reload.certificates()
        assert await shown(federation) == after

    serving(federation, body, ES)


def test_a_state_that_may_ask_is_read_again_too(federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,))

    def allow(*states: str) -> None:
        for name in (ES, EU):
            toml = federation.folder(name) / "node.toml"
            toml.write_text(re.sub(r"(?m)^states = \[.*?\]", f"states = {json.dumps(states)}", toml.read_text()))

    allow("IT")

    async def body(network: TlsNetwork) -> None:
        answer = (await network.search(wanted)).answers[ES]
        assert (answer.status, answer.reason) == ("refused", "state")
        allow("IT", "FR")
        for name in (ES, EU):
            await reload_of(network, name).peers()
        assert (await network.search(wanted)).answers == federation.expected(wanted)
        await network.settle()

    serving(federation, body, FR, ES, EU)


# --- as processes ---


@pytest.mark.parametrize("ahead", [300, -300, 60], ids=["ahead", "behind", "control"])
def test_a_clock_is_noticed_on_both_sides_whichever_way_it_is_wrong(ahead: int, federation: Federation) -> None:
    odd = f"import time\nreal = time.time\ntime.time = lambda: real() + {ahead}"
    with processes(federation, FR, EU) as group:
        group.start(ES, before=odd)
        search(federation.folder(FR), request(federation.people.hit, (ES,)))
        agrees = abs(ahead) < 100
        deadline = time.monotonic() + (3 if agrees else 30)  # they meet after a query
        alarms: dict[str, list[str]] = {}
        while time.monotonic() < deadline and not (alarms and all(alarms.values())):
            time.sleep(0.1)
            alarms = {name: health(federation.folder(name))["alarms"] for name in (FR, ES)}
        if agrees:
            assert alarms == {FR: [], ES: []}
            return
        way = ("ahead of", "behind") if ahead > 0 else ("behind", "ahead of")
        for name, peer, word in ((FR, ES, way[0]), (ES, FR, way[1])):
            (line,) = (line for line in alarms[name] if peer in line)
            assert re.match(rf"the clock of {peer} is (29[6-9]|30[01]) s {word} this node's, limit 120 s", line), line
            assert "a clock differs" in group.log(name)
            assert "lineup_clocks_differ{" in metrics(federation.folder(name))


def test_the_command_cuts_a_peer_off_a_running_node_at_once(federation: Federation) -> None:
    with processes(federation, FR, ES, EU) as group:
        wanted = request(federation.people.hit, (ES,))
        assert search(federation.folder(FR), wanted).answers == federation.expected(wanted)
        done = remove_peer(federation.folder(ES), FR)
        assert done.running
        assert done.refused == ()
        assert FR not in status(federation.folder(ES))["peers"]
        assert "peer cut off" in group.log(ES)
        answer = search(federation.folder(FR), wanted).answers[ES]
        assert (answer.status, answer.reason, answer.by) == ("refused", "state", ES)
        own = federation.root / "FR.json"
        own.write_bytes(own_identity(federation.folder(FR))[1])
        assert add_peer(federation.folder(ES), own, None).running
        assert search(federation.folder(FR), wanted).answers == federation.expected(wanted)
