"""Queries that a node refuses before any work: replayed, borrowed, forged, missing, out of time, of another version."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from nodes.config.schema import Role
from nodes.identity.identity import NodeKeyring, init_node, load_identity, load_peers
from nodes.service.answering import Answering
from nodes.service.galleries import Galleries
from nodes.service.node import Node
from nodes.service.operator_api import HolderAnswer
from nodes.service.requester import RequesterNode
from nodes.store import Status
from nodes.transport.units import pack_units
from protocol import wire
from protocol.announcing import Plan
from protocol.channel import SendingChannel
from protocol.messages import Prepare, Search, Warrant
from protocol.roles import Parties
from protocol.session import WHOLE
from protocol.terms import Terms
from protocol.warrant import JustificationError, sign_announcement
from tests.kit.federation import DE, DIM, ES, EU, FR, Federation, found, request
from tests.kit.network import AsgiNetwork, assert_clear, running
from tests.kit.ring import RING

pytestmark = pytest.mark.slow

IT = "IT"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = found(tmp_path_factory.mktemp("refusals"), read_timeout_seconds=30)
    init_node(
        federation.root / IT,
        name=IT,
        role=Role.REQUESTER,
        address="https://127.0.0.1:9",
        authority=federation.root / "authority",
    )
    return federation


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What an accepted announcement begins with: what waits is looked through, or the gallery asked for."""
    begun: list[str] = []
    waits, current = Answering._waits, Galleries.current

    def looked(answering: Answering, *given: Any) -> Any:
        begun.append("look")
        return waits(answering, *given)

    def asked(galleries: Galleries, *given: Any) -> Any:
        begun.append("prepare")
        return current(galleries, *given)

    monkeypatch.setattr(Answering, "_waits", looked)
    monkeypatch.setattr(Galleries, "current", asked)
    return begun


def warrant(**changes: Any) -> Warrant:
    now = int(time.time())
    values: dict[str, Any] = {
        "state": FR,
        "request_number": "FR-1",
        "issued": now,
        "expires": now + 3600,
        "purpose": "INVESTIGATION",
        "identified": False,
        "justification": bytes(32),
        "officer": bytes(32),
        "approver": bytes(32),
        "probe": bytes(32),
        "holders": (ES,),
    }
    return Warrant(**values | changes)


def announcement(given: Warrant | None, requester: str = FR, preparation: bytes = bytes(32)) -> Search:
    terms = Terms(Decimal("0.55"), DIM, RING)
    asked = terms.announce(requester, EU, (ES,), None, given)
    return Search(**msgspec.structs.asdict(asked), preparation=preparation)


def preparing(network: AsgiNetwork, requester: str = FR, keyring: NodeKeyring | None = None) -> Prepare:
    """A signed announcement of a preparation."""
    parties = Parties(requester, EU, (ES,))
    return Plan(RING, DIM).announce(parties, bytes(32), keyring or network.nodes[FR].keyring)


def units(
    keyring: NodeKeyring, node: Node, sender: str, announce: Prepare | Search, **envelope: Any
) -> tuple[bytes, list[bytes]]:
    """What `sender` would post to ES: query id and units."""
    query = secrets.token_bytes(16)
    channel = SendingChannel(query, sender, ES, node.peers[ES].sealing_key, keyring)
    values = {
        "version": wire.VERSION,
        "query": query,
        "session": WHOLE,
        "sender": sender,
        "receiver": ES,
        "sequence": 0,
    }
    frame = wire.encode(wire.Envelope(**values | envelope, message=announce))
    return query, [channel.hello, channel.seal(frame)]


async def post(network: AsgiNetwork, caller: str, query: bytes, sent: list[bytes], offset: int = 0) -> httpx.Response:
    async with network.client(caller, ES) as client:
        return await client.post(f"/v1/queries/{query.hex()}/units?offset={offset}", content=pack_units(sent))


def refuse(federation: Federation, make: Any, caller: str = FR) -> tuple[int, str]:
    """Post what `make(network)` gives, as `caller`, to ES: status and code."""

    async def body() -> tuple[int, str]:
        network = AsgiNetwork(federation)
        try:
            await network.start(FR, ES, EU)
            response = await post(network, caller, *make(network))
            assert not network.nodes[ES].drivers
            assert_clear(network)
            return response.status_code, response.json()["code"]
        finally:
            await network.close()

    return asyncio.run(body())


def own(network: AsgiNetwork, announce: Prepare | Search, **envelope: Any) -> tuple[bytes, list[bytes]]:
    """FR's announcement in FR's channel."""
    node = network.nodes[FR]
    return units(node.keyring, node, FR, announce, **envelope)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (lambda: None, "warrant"),
        (lambda: warrant(state=IT), "warrant"),
        (lambda: warrant(issued=int(time.time()) - 7200, expires=int(time.time()) - 3600), "warrant"),
        (lambda: warrant(expires=int(time.time()) + 2 * 86400), "warrant"),
        (lambda: warrant(issued=int(time.time()) + 1800), "clock"),
        (lambda: warrant(purpose="CURIOSITY"), "purpose"),
        (lambda: warrant(holders=(DE,)), "warrant"),
    ],
    ids=[
        "missing",
        "another state's",
        "expired",
        "too long",
        "from the future",
        "another purpose",
        "other holders'",
    ],
)
def test_a_bad_warrant_is_refused_before_any_work(
    given: Any, code: str, federation: Federation, work: list[str]
) -> None:
    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return own(network, sign_announcement(announcement(given()), network.nodes[FR].keyring))

    assert refuse(federation, make) == (409, code)
    assert not work


def test_a_good_warrant_is_accepted_by_the_same_helper(federation: Federation, work: list[str]) -> None:
    """The control: without the fault, the tests above and below would begin to work. Nothing was prepared here."""

    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return own(network, sign_announcement(announcement(warrant()), network.nodes[FR].keyring))

    assert refuse(federation, make) == (409, "unprepared")
    assert work == ["look"]


def test_a_preparation_needs_no_warrant_but_a_signature_and_a_state_that_is_served(
    federation: Federation, work: list[str]
) -> None:
    identity = load_identity(federation.folder(IT))
    keyring = NodeKeyring(identity, load_peers(identity.config))

    def unsigned(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return own(network, msgspec.structs.replace(preparing(network), signature=b""))

    def changed(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return own(network, msgspec.structs.replace(preparing(network), nonce=bytes(32)))

    def borrowed(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return units(keyring, network.nodes[FR], IT, preparing(network))

    def of_italy(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return units(keyring, network.nodes[FR], IT, preparing(network, IT, keyring))

    assert refuse(federation, unsigned) == (409, "warrant")
    assert refuse(federation, changed) == (400, "crypto")
    assert refuse(federation, borrowed, IT) == (409, "warrant")
    assert refuse(federation, of_italy, IT) == (409, "state")
    assert not work


def test_control_a_preparation_that_is_sound_is_begun(federation: Federation, work: list[str]) -> None:
    async def body() -> None:
        network = AsgiNetwork(federation)
        try:
            await network.start(FR, ES, EU)
            assert (await post(network, FR, *own(network, preparing(network)))).status_code == 202
        finally:
            await network.close()

    asyncio.run(body())
    assert work == ["prepare"]


def test_a_forged_signature_is_refused_before_any_work(federation: Federation, work: list[str]) -> None:
    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        announce = sign_announcement(announcement(warrant()), network.nodes[FR].keyring)
        return own(network, msgspec.structs.replace(announce, threshold="0.31"))

    assert refuse(federation, make) == (400, "crypto")
    assert not work


def test_another_states_announcement_cannot_be_borrowed(federation: Federation, work: list[str]) -> None:
    """IT passes on what FR signed: neither FR's quota nor FR's claim is touched."""
    identity = load_identity(federation.folder(IT))
    keyring = NodeKeyring(identity, load_peers(identity.config))

    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        announce = sign_announcement(announcement(warrant()), network.nodes[FR].keyring)
        return units(keyring, network.nodes[FR], IT, announce)

    assert refuse(federation, make, IT) == (409, "warrant")

    def renamed(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return units(keyring, network.nodes[FR], IT, sign_announcement(announcement(warrant(), IT), keyring))

    assert refuse(federation, renamed, IT) == (409, "warrant")

    def state_that_may_not_ask(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return units(keyring, network.nodes[FR], IT, sign_announcement(announcement(warrant(state=IT), IT), keyring))

    assert refuse(federation, state_that_may_not_ask, IT) == (409, "state")
    assert not work


def test_a_channel_of_another_node_is_refused(federation: Federation, work: list[str]) -> None:
    """IT posts bytes that FR sealed: the channel names its sender."""

    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        return own(network, sign_announcement(announcement(warrant()), network.nodes[FR].keyring))

    assert refuse(federation, make, IT)[0] == 400
    assert not work


def test_another_wire_version_is_refused(federation: Federation, work: list[str]) -> None:
    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        announce = sign_announcement(announcement(warrant()), network.nodes[FR].keyring)
        return own(network, announce, version=wire.VERSION + 1)

    assert refuse(federation, make) == (400, "version")
    assert not work


@pytest.mark.parametrize("sent", [[], [b""], [bytes(10)], [bytes(10), bytes(10)]])
def test_rubbish_instead_of_an_announcement_is_refused(
    sent: list[bytes], federation: Federation, work: list[str]
) -> None:
    assert refuse(federation, lambda _: (secrets.token_bytes(16), sent))[0] in (400, 409)
    assert not work


def test_a_query_that_comes_again_is_refused_as_a_replay_also_after_a_restart(federation: Federation) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            network.keep = True
            wanted = request(federation.people.hit, (ES,))
            report = await network.search(wanted)
            assert report.answers == federation.expected(wanted)
            await network.settle()
            network.keep = False
            today = datetime.now(timezone.utc).date()
            used = network.nodes[ES].store.quota_used(FR, Status.UNIDENTIFIED, today)
            to_holder = [item for item in network.kept if item[1] == ES]
            for _ in range(2):
                for sender, _, query, offset, sent in to_holder:
                    response = await post(network, sender, query, sent, offset)
                    if sender == FR and offset == 0:
                        assert (response.status_code, response.json()) == (409, {"code": "replay"})
                    else:  # passed over, or forgotten after the restart
                        assert response.status_code == 202 or response.json()["code"] in ("timeout", "capacity")
                assert not network.nodes[ES].drivers
                await network.kill(ES)
                await network.start(ES)
            sender, _, _, _, sent = to_holder[0]
            renamed = await post(network, FR, secrets.token_bytes(16), sent)
            assert renamed.status_code == 400  # a channel belongs to its query
            assert network.nodes[ES].store.quota_used(FR, Status.UNIDENTIFIED, today) == used
            assert (await network.search(wanted)).answers == federation.expected(wanted)

    asyncio.run(body())


def test_a_query_of_which_there_is_evidence_is_refused_even_if_its_claim_is_lost(
    federation: Federation, work: list[str]
) -> None:
    """Else, after a restore, a requester could add a second query to the evidence of the first."""

    def make(network: AsgiNetwork) -> tuple[bytes, list[bytes]]:
        query, sent = own(network, sign_announcement(announcement(warrant()), network.nodes[FR].keyring))
        (federation.folder(ES) / "evidence" / query.hex()).touch()
        return query, sent

    assert refuse(federation, make) == (409, "replay")
    assert not work


def test_a_first_delivery_that_is_repeated_gets_the_same_answer(federation: Federation) -> None:
    """A refusal that was lost on the way must not turn into another one."""
    federation.configure(ES, quota_unidentified_per_day=0)
    try:

        async def body() -> None:
            network = AsgiNetwork(federation)
            try:
                await network.start(FR, ES, EU)
                node = network.nodes[FR]
                assert isinstance(node, RequesterNode)
                made = (await node._preparer.make(EU, (ES,), Plan(RING, DIM))).made
                assert made is not None
                await network.settle()
                announce = announcement(warrant(), preparation=made.preparation_id)
                query, sent = own(network, sign_announcement(announce, node.keyring))
                answers = await asyncio.gather(*(post(network, FR, query, sent) for _ in range(3)))
                answers += [await post(network, FR, query, sent)]
                assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(409, "quota")}
            finally:
                await network.close()

        asyncio.run(body())
    finally:
        federation.configure(ES, quota_unidentified_per_day=1000)


@pytest.mark.parametrize(
    ("seconds", "status", "reason"),
    [(60, "candidates", None), (1800, "refused", "clock"), (-60, "candidates", None), (-7200, "refused", "warrant")],
)
def test_a_requesters_clock_that_is_wrong_is_named(
    seconds: int, status: str, reason: str | None, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + seconds, perf_counter=time.perf_counter)
    monkeypatch.setattr("nodes.service.requester.time", clock)
    wanted = request(federation.people.hit, (ES,))

    async def body() -> HolderAnswer:
        async with running(AsgiNetwork(federation)) as network:
            report = await network.search(wanted)
            await network.settle()
            assert_clear(network)
            return report.answers[ES]

    answer = asyncio.run(body())
    assert (answer.status, answer.reason) == (status, reason)


def test_a_policy_that_refuses_at_one_holder_leaves_the_other_holders_answer(federation: Federation) -> None:
    federation.configure(ES, minimum_threshold="0.60")
    wanted = request(federation.people.hit)
    try:

        async def body() -> None:
            async with running(AsgiNetwork(federation)) as network:
                report = await network.search(wanted)
                assert report.answers[ES] == HolderAnswer("refused", reason="threshold", by=ES)
                assert report.answers[DE] == federation.expected(wanted)[DE]
                assert len(report.queries) == 2  # asked again without ES: a fresh query
                await network.settle()
                assert_clear(network)

        asyncio.run(body())
    finally:
        federation.configure(ES, minimum_threshold="0.30")


def test_a_probe_that_is_no_unit_vector_is_refused_before_anybody_is_asked(federation: Federation) -> None:
    from pets.errors import InputError

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            wanted = request(federation.people.hit)
            scaled = msgspec.structs.replace(wanted, template=bytes([100]) * DIM)
            with pytest.raises(InputError, match="unit vector"):
                await network.search(scaled)
            assert not network.drivers

    asyncio.run(body())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maximum_penalty_years": 0.99}, "maximum penalty is 0.99 years"),
        ({"maximum_penalty_years": -1}, "maximum penalty is -1"),
        ({"maximum_penalty_years": float("nan")}, "maximum penalty is nan"),
        ({"officer": "Judge A", "approver": "judge a "}, "two persons"),
        ({"officer": "Judge A", "approver": "JUDGE\t  A"}, "two persons"),
        ({"officer": "Judge A", "approver": "Judge\u00a0\uff21"}, "two persons"),
        ({"officer": " "}, "officer"),
        ({"approver": ""}, "approver"),
        ({"case": ""}, "case"),
        ({"case": "c" * 201}, "case"),
        ({"offence": "  "}, "offence"),
    ],
)
def test_a_search_without_a_sound_reason_is_not_launched(
    change: dict[str, Any], message: str, federation: Federation
) -> None:
    """At the requester that asks, before anybody else hears of it (R 20(1), AIA 14(5))."""

    async def body() -> None:
        network = AsgiNetwork(federation)
        try:
            await network.start(FR)
            network.keep = True
            with pytest.raises(JustificationError, match=message):
                await network.search(request(federation.people.hit, (ES,), **change))
            assert not network.drivers
            assert not network.kept
        finally:
            await network.close()

    asyncio.run(body())


def test_control_an_offence_of_exactly_one_year_is_launched(federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,), maximum_penalty_years=1)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert (await network.search(wanted)).answers == federation.expected(wanted)

    asyncio.run(body())


def test_control_without_claims_a_replayed_query_is_begun_again_after_a_restart(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, work: list[str]
) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            network.keep = True
            await network.search(request(federation.people.hit, (ES,)))
            await network.settle()
            network.keep = False
            first = next(item for item in network.kept if item[:2] == (FR, ES) and item[3] == 0)
            await network.kill(ES)
            await network.start(ES)
            sender, _, query, offset, sent = first
            assert (await post(network, sender, query, sent, offset)).json() == {"code": "replay"}
            work.clear()
            monkeypatch.setattr("nodes.store.answers.claim_query", lambda *_: None)
            monkeypatch.setattr("nodes.evidence.archive.Archive.keeps", lambda *_: False)  # the second line of defence
            monkeypatch.setattr("nodes.store.answers.has_claimed", lambda *_: False)  # the third, the warrant's
            await network.kill(ES)
            await network.start(ES)
            assert (await post(network, sender, query, sent, offset)).status_code == 202
            assert len(work) == 1

    asyncio.run(body())
