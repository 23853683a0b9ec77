"""A holder releases one reference to one state so often in a window, then refuses the state whatever it asks."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodes.evidence.export import export_bundle
from nodes.service.operator_api import HolderAnswer
from nodes.store import GalleryStore, StoreUnavailable
from nodes.verify import verify_bundles
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.leaks import captured_logs
from tests.kit.network import AsgiNetwork, running

REFUSED = HolderAnswer("refused", reason="quota")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path, releases_per_reference=2)


def counted(store: GalleryStore, days: int = 90) -> int:
    return store.take_releases(FR, (), datetime.now(timezone.utc).date(), days)


def test_a_reference_is_released_to_a_state_as_often_as_it_may_and_then_nothing_is(federation: Federation) -> None:
    hit, nobody = request(federation.people.hit), request(federation.people.nobody)
    answers = federation.expected(hit)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for _ in range(2):
                assert (await network.search(hit)).answers == answers
            assert (await network.search(nobody)).answers == federation.expected(nobody)
            with captured_logs() as logs:
                report = await network.search(request(federation.people.hit, (ES,)))
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
            # the evidence of a query that was refused so late is in order
            bundles = [export_bundle(federation.folder(name), report.queries[0]) for name in (FR, ES, EU)]
            assert verify_bundles(bundles).holds
            # control: an operator who raises the limit opens the node to the state
            await network.kill(ES)
            federation.configure(ES, releases_per_reference=4)
            await network.start(ES)
            assert (await network.search(request(federation.people.hit, (ES,)))).answers == {ES: answers[ES]}

    asyncio.run(body())


def test_queries_at_once_do_not_pass_the_limit_together(federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            reports = await asyncio.gather(*(network.search(wanted) for _ in range(5)))
            statuses = [report.answers[ES].status for report in reports]
            assert sorted(statuses) == ["candidates"] * 2 + ["refused"] * 3
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
            network.nodes[ES].expire()
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
            assert (await network.search(wanted)).answers == {ES: HolderAnswer("refused", reason="internal")}
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
