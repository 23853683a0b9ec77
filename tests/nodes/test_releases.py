"""A holder releases one reference to one state so often in a window, then refuses the state whatever it asks."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodes.config.schema import operator_name
from nodes.evidence.export import export_bundle
from nodes.service.operator_api import HolderAnswer
from nodes.store import StoreUnavailable
from nodes.store.store import GalleryStore
from nodes.verify import verify_bundles
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.leaks import captured_logs
from tests.kit.network import AsgiNetwork, Network, running

pytestmark = pytest.mark.slow

REFUSED = HolderAnswer("refused", reason="quota", by=ES)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path, releases_per_reference=2)


def counted(store: GalleryStore, days: int = 90) -> int:
    return store.take_releases(FR, (), datetime.now(timezone.utc).date(), days)


def test_a_reference_is_released_to_a_state_as_often_as_it_may_and_then_nothing_is(federation: Federation) -> None:
    hit, nobody = request(federation.people.hit, (ES,)), request(federation.people.nobody)
    answers = federation.expected(hit)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for _ in range(2):
                assert (await network.search(hit)).answers == answers
            found_nobody = request(federation.people.nobody, (ES,))  # which counts as no release
            assert (await network.search(found_nobody)).answers == federation.expected(found_nobody)
            with captured_logs() as logs:
                report = await network.search(hit)
                assert report.answers == {ES: REFUSED}
                await network.settle()
            assert "release withheld" in logs.text
            assert not any(reference in logs.text for reference in federation.references[ES])
            metrics = network.nodes[ES].metrics.render().decode()
            assert 'lineup_releases_withheld_total{node="ES",role="holder"} 1.0' in metrics
            # Not to tell by the next refusal who hit: nobody is looked for any more. Others go on.
            assert (await network.search(nobody)).answers == {ES: REFUSED, DE: federation.expected(nobody)[DE]}
            await network.kill(ES)
            await network.start(ES)
            assert (await network.search(request(federation.people.nobody, (ES,)))).answers == {ES: REFUSED}
            assert counted(network.nodes[ES].store) == 3
            again = datetime.now(timezone.utc).date() + timedelta(90)
            assert await told(network, ES) == [f"FR is refused until {again}"]
            assert await told(network, FR) == [f"ES refuses FR until {again}"]
            assert await told(network, DE) == []
            # the evidence of a query that was refused so late is in order
            bundles = [export_bundle(federation.folder(name), report.queries[0]) for name in (FR, ES, EU)]
            assert verify_bundles(bundles).holds
            # control: an operator who raises the limit opens the node to the state
            await network.kill(ES)
            federation.configure(ES, releases_per_reference=4)
            await network.start(ES)
            assert (await network.search(hit)).answers == answers
            assert await told(network, ES) == []

    asyncio.run(body())


async def told(network: Network, name: str) -> list[str]:
    """What health and status tell the operator of limits of releases."""
    assert isinstance(network, AsgiNetwork)
    async with network.client(operator_name(name), name) as client:
        health, status = (await client.get("/health")).json(), (await client.get("/operator/v1/status")).json()
    assert health.get("release_limit", []) == status["release_limit"]
    return list(status["release_limit"])


def test_a_peer_is_told_only_of_itself(federation: Federation) -> None:
    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            day = datetime.now(timezone.utc).date()
            for _ in range(3):
                network.nodes[ES].store.take_releases(FR, federation.references[ES][:1], day - timedelta(3), 90)
            for peer, until in ((FR, str(day + timedelta(87))), (DE, None)):
                async with network.client(peer, ES) as client:
                    assert (await client.get("/v1/standing")).json() == {"refused_until": until}
            async with network.client("XX", ES) as client:
                assert (await client.get("/v1/standing")).status_code == 403

    asyncio.run(body())


@pytest.mark.parametrize(
    ("releases", "until"),
    [([(0, 3)], 10), ([(0, 2)], None), ([(6, 1), (3, 1), (0, 1)], 4), ([(9, 5), (0, 2)], 1), ([(2, 3), (1, 3)], 9)],
)
def test_a_state_is_served_again_when_enough_releases_are_older_than_the_window(
    releases: list[tuple[int, int]], until: int | None, federation: Federation
) -> None:
    """Limit 2 in 10 days. The day that is told is the first on which the count is within the limit, as counted then."""
    from nodes.config.storage import holder_store

    today = date(2030, 1, 20)
    with holder_store(federation.folder(ES)) as store:
        for ago, times in releases:
            for _ in range(times):
                store.take_releases(FR, ["ES-1"], today - timedelta(ago), 10)
        expected = {} if until is None else {FR: today + timedelta(until)}
        assert store.shut_out(2, today, 10) == expected
        if until is not None:
            first = today + timedelta(until)
            assert store.take_releases(FR, (), first, 10) <= 2 < store.take_releases(FR, (), first - timedelta(1), 10)


def test_queries_at_once_do_not_pass_the_limit_together(federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            reports = await asyncio.gather(*(network.search(wanted) for _ in range(4)))
            statuses = [report.answers[ES].status for report in reports]
            assert sorted(statuses) == ["candidates"] * 2 + ["refused"] * 2
            assert all(report.answers[ES] in (REFUSED, federation.expected(wanted)[ES]) for report in reports)

    asyncio.run(body())


def test_what_left_the_window_is_released_again_and_its_count_deleted(federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            store, today = network.nodes[ES].store, datetime.now(timezone.utc).date()
            for _ in range(3):
                store.take_releases(FR, federation.references[ES][17:18], today - timedelta(days=90), 90)
            assert counted(store, 91) == 3
            assert (await network.search(wanted)).answers == federation.expected(wanted)
            network.nodes[ES].delete_expired()
            assert counted(store, 91) == 1

    asyncio.run(body())


def test_nothing_is_released_that_cannot_be_counted(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = request(federation.people.hit, (ES,))
    real = GalleryStore.take_releases

    broken = True

    def take(store: GalleryStore, state: str, references: tuple[str, ...], day: date, days: int) -> int:
        if references and broken:
            raise StoreUnavailable("the disk is gone")
        return real(store, state, references, day, days)

    async def body() -> None:
        nonlocal broken
        monkeypatch.setattr(GalleryStore, "take_releases", take)
        async with running(AsgiNetwork(federation)) as network:
            assert (await network.search(wanted)).answers == {ES: HolderAnswer("refused", reason="internal", by=ES)}
            broken = False
            assert (await network.search(wanted)).answers == federation.expected(wanted)

    asyncio.run(body())


def test_known_limit_too_many_candidates_are_told_and_not_counted(federation: Federation) -> None:
    """The holder does not know who they are. With one of them known, whether there are more tells of another."""
    wanted = request(federation.people.crowd, (ES,), cap=1, ladder="0")
    answer = federation.expected(wanted)
    assert answer[ES].status == "too many candidates"

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for _ in range(4):
                assert (await network.search(wanted)).answers == answer
            assert counted(network.nodes[ES].store) == 0

    asyncio.run(body())
