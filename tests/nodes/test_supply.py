"""Nodes prepare before there is a probe: for the operator, by themselves, within bounds, and both sides know which."""

from __future__ import annotations

import asyncio
import time
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select

from nodes.config.schema import operator_name
from nodes.identity.peers import Peers
from nodes.query.gate import REFERENCE_STEP
from nodes.service import supply as supplying
from nodes.service.operator_api import (
    HolderAnswer,
    Line,
    PrepareReport,
    PrepareRequest,
    Progress,
    SearchUnderWay,
    Stage,
)
from nodes.service.requester import RequesterNode
from nodes.service.supplies import supplies
from nodes.service.supply import PREPARED, Supply
from nodes.store import Category, Status
from nodes.store.tables import ClaimRow
from pets.params import PRESETS
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import DE, DIM, ES, EU, FR, HOLDERS, Federation, found, people, request
from tests.kit.network import AsgiNetwork, Network, running
from tests.kit.ring import RING

pytestmark = pytest.mark.slow


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path, people(rows=130))


def wanted(count: int = 1, holders: tuple[str, ...] = HOLDERS, **changes: Any) -> PrepareRequest:
    return PrepareRequest(
        **{"holders": holders, "count": count, "dim": DIM, "model": SYNTHETIC_MODEL, "preset": RING.preset, **changes}
    )


def supply_of(network: Network) -> Supply:
    node = network.nodes[FR]
    assert isinstance(node, RequesterNode)
    return node.supply


def waiting(network: Network) -> dict[str, int]:
    return {name: len(node.pool.standing()) for name, node in network.nodes.items()}


async def ask(network: AsgiNetwork, body: PrepareRequest, caller: str = operator_name(FR)) -> tuple[int, list[Line]]:
    async with network.client(caller, FR) as client:
        answer = await client.post("/operator/v1/prepare", content=msgspec.json.encode(body), timeout=60)
        if answer.status_code != 200:
            return answer.status_code, [msgspec.json.decode(answer.content, type=Line)]
        return 200, [msgspec.json.decode(line, type=Line) for line in answer.content.splitlines()]


async def status(network: AsgiNetwork, name: str) -> Any:
    async with network.client(operator_name(name), name) as client:
        return (await client.get("/operator/v1/status")).json()["preparations"]


def test_what_was_prepared_waits_everywhere_and_a_search_uses_it(federation: Federation) -> None:
    hit = request(federation.people.hit)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            code, lines = await ask(network, wanted(2))
            assert code == 200
            assert bytes(lines[-1].report)
            report = msgspec.json.decode(lines[-1].report, type=PrepareReport)
            assert (report.made, report.asked, report.refused) == (2, 2, {})
            assert all(line.progress is not None for line in lines[:-1])
            await network.settle()
            assert waiting(network) == dict.fromkeys((FR, ES, DE, EU), 2)
            for name in (FR, ES, DE, EU):
                told = await status(network, name)
                assert (told["made"], told["spent"], told["being_made"]) == (2, 0, 0)
                assert {one["requester"] for one in told["waiting"]} == {FR}
                assert told["per_day"] > 0
            assert {tuple(one["holders"]) for one in (await status(network, FR))["waiting"]} == {tuple(sorted(HOLDERS))}
            assert (await status(network, FR))["quota_per_day"] is None
            assert (await status(network, ES))["quota_per_day"] == 2000
            searched = await network.search(hit)
            assert searched.prepared == "waiting"
            assert searched.answers == federation.expected(hit)
            await network.settle()
            assert waiting(network) == dict.fromkeys((FR, ES, DE, EU), 1)
            metrics = network.nodes[ES].metrics.render().decode()
            labels = '{node="ES",role="holder"}'
            for name, value in (("waiting", 1), ("made_total", 2), ("spent_total", 1), ("expired_total", 0)):
                assert f"lineup_preparations_{name}{labels} {value}.0" in metrics
            assert f"lineup_preparation_seconds_count{labels} 2.0" in metrics

    asyncio.run(body())


def test_the_operator_sees_by_holder_how_far_a_search_is_while_it_prepares_too(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    hit, seen = request(federation.people.hit), []
    last: list[SearchUnderWay] = []

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            node = network.nodes[FR]
            assert isinstance(node, RequesterNode)

            async def over(_: object) -> None:
                async with network.client(operator_name(FR), FR) as client:
                    content = (await client.get("/operator/v1/searches")).content
                last[:] = msgspec.json.decode(content, type=list[SearchUnderWay])

            def told(_: Progress) -> None:
                (search,) = node.searches()
                seen.append(search.stages)

            monkeypatch.setattr(node, "_ask_standing", over)
            for prepared in ("now", "waiting"):
                seen.clear()
                report = await node.search(hit, told=told)
                preparing = [stages for stages in seen if stages[ES].phase == "preparing"]
                assert bool(preparing) == (prepared == "now")
                for name in HOLDERS:
                    assert seen[-1][name] == Stage("searching", prepared=prepared)
                    rows = [(stages[name].rows, stages[name].of) for stages in preparing]
                    assert rows == sorted(rows)
                    assert all(done <= of for done, of in rows)
                    assert not rows or rows[-1][0] > 0
                    ended = Stage("over", prepared=prepared, answer=report.answers[name].status)
                    assert last[0].stages[name] == ended
                assert last[0].request_number == report.request_number
                assert node.searches() == []
                await supply_of(network).prepare(wanted())
            for caller in (ES, operator_name(ES)):
                async with network.client(caller, FR) as client:
                    assert (await client.get("/operator/v1/searches")).status_code == 403

    asyncio.run(body())


def test_only_the_operator_may_prepare_and_a_wrong_wish_is_refused_by_name(federation: Federation) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for caller in (ES, EU, operator_name(ES)):
                assert (await ask(network, wanted(), caller))[0] == 403
            code, (line,) = await ask(network, wanted(holders=(ES, "XX")))
            assert code == 422
            assert line.message == "XX is not a holder among the peers of FR: DE, ES"
            code, (line,) = await ask(network, wanted(holders=(ES, ES)))
            assert line.message == "a holder is named twice: ES, ES"
            code, (line,) = await ask(network, wanted(dim=9))
            assert code == 422
            assert "9" in (line.message or "")
            async with network.client(operator_name(ES), ES) as client:
                answer = await client.post("/operator/v1/prepare", content=msgspec.json.encode(wanted()))
                assert answer.status_code == 403

    asyncio.run(body())


def test_a_holder_lets_no_more_wait_than_its_policy_says_and_the_rest_is_told(federation: Federation) -> None:
    federation.configure(ES, ready=2)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            report = await supply_of(network).prepare(wanted(4))
            await network.settle()
            assert (report.made, report.asked) == (2, 4)
            assert report.refused == {ES: HolderAnswer("refused", reason="capacity", by=ES)}
            assert waiting(network)[ES] == 2
            assert network.nodes[ES].pool.counts.refused > 0
            # what failed there is no longer counted anywhere
            assert waiting(network)[FR] == 2
            assert (await supply_of(network).prepare(wanted(1, (DE,)))).made == 1

    asyncio.run(body())


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "control"])
@pytest.mark.parametrize("at", [ES, EU, FR])
def test_what_is_put_away_just_after_a_peer_was_removed_does_not_wait(
    removed: bool, at: str, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            node = network.nodes[at]
            add = node.pool.add

            def late(*given: Any) -> None:
                if removed:
                    assert isinstance(node.peers, Peers)
                    gone = ES if at == FR else FR
                    node.peers.replace({name: peer for name, peer in node.peers.items() if name != gone})
                    node.pool.drop_with(gone)
                add(*given)

            monkeypatch.setattr(node.pool, "add", late)
            await supply_of(network).prepare(wanted(1, (ES,)))
            await network.settle()
            assert waiting(network)[at] == (0 if removed else 1)

    asyncio.run(body())


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "control"])
def test_a_router_counts_bytes_it_is_about_to_keep(limited: bool, federation: Federation) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            pool = network.nodes[EU].pool
            assert (await supply_of(network).prepare(wanted(1, (ES,)))).made == 1
            await network.settle()
            (waits,) = pool.standing()
            policy = {**msgspec.structs.asdict(pool._policy), "max_bytes": waits.bytes * (1 if limited else 2)}
            pool._policy = SimpleNamespace(**policy)  # type: ignore[assignment] # less than a node may be told
            report = await supply_of(network).prepare(wanted(1, (ES,)))
            assert report.made == (0 if limited else 1)

    asyncio.run(body())


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "control"])
def test_a_requester_that_drops_what_was_made_has_others_prepare_a_day_s_number_only(
    federation: Federation, limited: bool
) -> None:
    """The place of each is free again. Who finds no place is not counted: it cost nothing. The count is on disk."""
    federation.configure(ES, ready=1, per_day=3 if limited else 500)

    async def drop(network: AsgiNetwork) -> None:
        await network.settle()
        pool = network.nodes[FR].pool
        pool.drop(pool.standing()[0].preparation_id)
        await supply_of(network).compare(at_once=True)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for _ in range(2):
                assert (await supply_of(network).prepare(wanted(1, (ES,)))).made == 1
                await network.settle()
                busy = await supply_of(network).prepare(wanted(1, (ES,)))
                assert (busy.made, busy.refused[ES].reason) == (0, "capacity")
                await drop(network)
            await network.restart(ES)
            assert (await supply_of(network).prepare(wanted(1, (ES,)))).made == 1
            await drop(network)
            for _ in range(2):
                report = await supply_of(network).prepare(wanted(1, (ES,)))
                if limited:
                    assert (report.made, report.refused[ES].reason) == (0, "quota")
                    told = supplies(network.nodes[ES])
                    assert (told.limit_per_day, told.today) == (3, {FR: 3})
                    assert not told.being_made
                else:
                    assert report.made == 1
                    await drop(network)

    asyncio.run(body())


@pytest.mark.parametrize("reason", ["capacity", "quota", "control"])
def test_a_preparation_that_is_refused_leaves_no_claim(federation: Federation, reason: str) -> None:
    """Claims stay for three years: whoever asks without end must not fill the database. Control: one that is made."""
    federation.configure(ES, ready=1 if reason == "capacity" else 9, per_day=1 if reason == "quota" else 500)

    def claims(network: Network) -> int:
        with network.nodes[ES].store._database.reading() as session:
            step = ClaimRow.step == REFERENCE_STEP
            return session.scalar(select(func.count()).select_from(ClaimRow).where(step)) or 0

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert (await supply_of(network).prepare(wanted(1, (ES,)))).made == 1
            await network.settle()
            assert claims(network) == 1
            for number in range(2, 4):
                report = await supply_of(network).prepare(wanted(1, (ES,)))
                await network.settle()
                if reason == "control":
                    assert (report.made, claims(network)) == (1, number)
                else:
                    assert (report.made, report.refused[ES].reason) == (0, reason)
                    assert claims(network) == 1

    asyncio.run(body())


def test_what_a_restarted_requester_lost_takes_no_places_at_the_others(federation: Federation) -> None:
    for name in (ES, DE, EU):
        federation.configure(name, ready=2)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert (await supply_of(network).prepare(wanted(2))).made == 2
            await network.settle()
            await network.restart(FR)
            assert waiting(network) == {FR: 0, ES: 2, DE: 2, EU: 2}
            assert (await supply_of(network).prepare(wanted(2))).made == 2
            await network.settle()
            assert waiting(network) == dict.fromkeys((FR, ES, DE, EU), 2)

    asyncio.run(body())


def test_what_a_restarted_holder_lost_is_dropped_here_before_anybody_asks(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supplying, "SETTLED_SECONDS", 0.0)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert (await supply_of(network).prepare(wanted(1, (ES,)))).made == 1
            assert (await supply_of(network).prepare(wanted(1, (DE,)))).made == 1
            await network.settle()
            await network.restart(ES)
            await supply_of(network).compare(at_once=True)
            (left,) = network.nodes[FR].pool.standing()
            assert left.holders == (DE,)

    asyncio.run(body())


def test_after_a_gallery_has_grown_what_waits_is_made_anew(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was enrolled since is found by what is prepared from then on; what waits would not find them."""
    monkeypatch.setattr(supplying, "SETTLED_SECONDS", 0.0)
    federation.configure(FR, ready=1)
    face = request(federation.people.nobody, (ES,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            supply = supply_of(network)
            assert (await network.search(face)).answers[ES].status == "no hit"
            await network.settle()
            assert await supply.round()
            await network.settle()
            (before,) = network.nodes[FR].pool.standing()
            reference = network.nodes[ES].store.enrol(
                None,
                federation.people.nobody,
                category=Category.SUSPECT,
                status=Status.IDENTIFIED,
                retain_until=date.today() + timedelta(30),
                model=SYNTHETIC_MODEL,
            )
            await supply.compare(at_once=True)
            assert waiting(network)[FR] == 0
            assert await supply.round()
            await network.settle()
            (after,) = network.nodes[FR].pool.standing()
            assert after.preparation_id != before.preparation_id
            searched = await network.search(face)
            assert searched.prepared == "waiting"
            assert searched.answers[ES].references == (reference,)

    asyncio.run(body())


def test_a_holder_is_told_only_of_preparations_that_it_has_a_part_in(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could count the searches of others: each makes one vanish from the list."""

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for holders in ((DE,), HOLDERS):
                assert (await supply_of(network).prepare(wanted(1, holders))).made == 1
            await network.settle()
            transport, told = network.nodes[FR].transport, {}
            tell = transport.tell

            async def watched(peer: str, path: str, content: bytes) -> bytes:
                if path == PREPARED:
                    told[peer] = len(msgspec.msgpack.decode(content))
                return await tell(peer, path, content)

            monkeypatch.setattr(transport, "tell", watched)
            await supply_of(network).compare(at_once=True)
            assert told == {EU: 2, DE: 2, ES: 1}
            assert waiting(network) == {FR: 2, EU: 2, DE: 2, ES: 1}

    asyncio.run(body())


def test_a_peer_learns_and_drops_nothing_of_another_requester(federation: Federation) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert (await supply_of(network).prepare(wanted(1))).made == 1
            await network.settle()
            (mine,) = network.nodes[FR].pool.standing()
            node = network.nodes[ES]
            assert msgspec.msgpack.decode(supplying.compare(node, "IT", msgspec.msgpack.encode([mine.preparation_id])))
            assert supplying.compare(node, "IT", msgspec.msgpack.encode([])) == msgspec.msgpack.encode([])
            assert waiting(network)[ES] == 1
            for caller in (DE, EU, operator_name(FR)):  # holder, router, and no node at all
                async with network.client(caller, ES) as client:
                    assert (await client.post(PREPARED, content=msgspec.msgpack.encode([]))).status_code == 403
            async with network.client(FR, ES) as client:
                for bad in (
                    b"",
                    b"\xff",
                    msgspec.msgpack.encode([b"short"]),
                    msgspec.msgpack.encode([bytes(32)] * 1001),
                ):
                    assert (await client.post(PREPARED, content=bad)).status_code == 400
            assert waiting(network)[ES] == 1

    asyncio.run(body())


def test_what_a_search_used_is_made_again_when_nothing_is_under_way(federation: Federation) -> None:
    federation.configure(FR, ready=2)
    nobody = request(federation.people.nobody, (ES,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            supply = supply_of(network)
            assert supply.missing == 0, "nobody has asked for anything"
            assert await supply.round()
            assert (await network.search(nobody)).prepared == "now"
            await network.settle()
            for left in (2, 1, 0, 0):
                assert supply.missing == left
                assert await supply.round()
                await network.settle()
            assert waiting(network) == {FR: 2, ES: 2, DE: 0, EU: 2}
            assert (await network.search(nobody)).prepared == "waiting"
            await network.restart(FR)
            assert supply_of(network).missing == 2, "what is wanted outlives a restart"

    asyncio.run(body())


def test_what_other_searches_wanted_is_not_kept_without_end(federation: Federation) -> None:
    federation.configure(FR, ready=1)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            supply = supply_of(network)
            assert (await supply.prepare(wanted(2, (ES,)))).made == 2
            supply.want(wanted(1, (DE,)))
            for _ in range(2):
                await network.settle()
                assert await supply.round()
            await network.settle()
            await supply.compare(at_once=True)
            assert waiting(network) == {FR: 2, ES: 1, DE: 1, EU: 2}

    asyncio.run(body())


def test_a_holder_that_is_gone_is_named_and_nothing_of_it_is_kept(federation: Federation) -> None:
    for name in (FR, DE, EU):
        federation.configure(name, read_timeout_seconds=2)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            await network.kill(ES)
            started = time.monotonic()
            report = await supply_of(network).prepare(wanted(3))
            assert report.made == 0
            assert report.refused[ES].status == "unreachable"
            assert time.monotonic() - started < 30

    asyncio.run(body())


def test_while_a_holder_is_gone_others_are_kept_ready(federation: Federation) -> None:
    for name in (FR, DE, EU):
        federation.configure(name, read_timeout_seconds=3)
    federation.configure(FR, ready=1)
    nobody = request(federation.people.nobody, (DE,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            supply = supply_of(network)
            supply.want(wanted())
            await network.kill(ES)
            for _ in range(2):  # no second one for DE alone
                assert not await supply.round(), "the pause grows"
                await network.settle()
                assert waiting(network) == {FR: 1, DE: 1, EU: 1}
            assert (await network.search(nobody)).prepared == "waiting"
            supply.want(wanted())  # the search was of DE alone
            await network.start(ES)
            await network.settle()
            assert await supply.round()
            await network.settle()
            assert waiting(network)[ES] == 1

    asyncio.run(body())


def test_pools_of_every_preset_outlive_a_restart(federation: Federation) -> None:
    """What the holder did not derive yet is none the less for its gallery as it is."""
    other = next(name for name in PRESETS if name != RING.preset)
    for name in (FR, ES, EU):
        federation.configure(name, on_disk="true")

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for preset in (RING.preset, other):
                assert (await supply_of(network).prepare(wanted(1, (ES,), preset=preset))).made == 1
                await network.settle()
            await network.restart(ES)
            await asyncio.to_thread(network.nodes[ES].warm)
            assert network.nodes[ES].pool.presets == {RING.preset, other}
            await supply_of(network).compare(at_once=True)
            assert waiting(network) == {FR: 2, ES: 2, DE: 0, EU: 2}

    asyncio.run(body())


def test_pools_on_disk_outlive_a_restart_of_every_node(federation: Federation) -> None:
    for name in (FR, ES, DE, EU):
        federation.configure(name, on_disk="true")
    hit = request(federation.people.hit)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            report = await supply_of(network).prepare(wanted(1))
            assert (report.made, report.refused) == (1, {})
            await network.settle()
            for name in (FR, ES, DE, EU):
                await network.restart(name)
            assert waiting(network) == dict.fromkeys((FR, ES, DE, EU), 1)
            searched = await network.search(hit)
            assert searched.prepared == "waiting"
            assert searched.answers == federation.expected(hit)
            await network.settle()
            assert not [path for name in (FR, ES, DE, EU) for path in (federation.folder(name) / "pool").iterdir()]

    asyncio.run(body())
