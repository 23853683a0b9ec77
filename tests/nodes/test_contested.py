"""A hit on a subject whose accuracy is contested carries the mark to whoever asked, and its size says nothing."""

from __future__ import annotations

import asyncio
import io
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from nodes.cli.node import print_report
from nodes.config.storage import holder_store
from nodes.evidence.export import export_bundle
from nodes.service.answering import Answering
from nodes.service.follow_up import FollowUp
from nodes.service.operator_api import SearchReport
from nodes.store import StoreUnavailable
from nodes.store.store import GalleryStore
from nodes.verify import verify_bundles
from nodes.verify.format import decode_bundle
from tests.kit.federation import DE, EU, FR, Federation, found, people, request
from tests.kit.network import AsgiNetwork, Network, running

pytestmark = pytest.mark.slow


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path, people(rows=130))


def contest(federation: Federation, reference: str, *, clear: bool = False) -> None:
    """As `lineup contest` does, while the node runs."""
    now = datetime.now(timezone.utc)
    with holder_store(federation.folder(DE)) as store:
        if clear:
            store.clear_contested(reference, "BfDI decision 17/2026", now)
        else:
            store.flag_contested(reference, now)


def lines(report: SearchReport) -> list[str]:
    text = io.StringIO()
    print_report(report, "probe.jpg", Console(file=text, width=200))
    return [line for line in text.getvalue().splitlines() if line.startswith("HIT")]


def release_sizes(federation: Federation, report: SearchReport) -> set[int]:
    """Bytes of the release, as requester and holder kept it."""
    bundles = [decode_bundle(export_bundle(federation.folder(name), report.queries[-1]))[1] for name in (FR, DE)]
    sizes = [record.size for bundle in bundles for record in bundle.records if record.kind == "Release"]
    assert len(sizes) == 2
    return set(sizes)


def test_a_hit_on_a_contested_subject_carries_the_mark_until_it_is_cleared(federation: Federation) -> None:
    """DE has two rows that hit; the second best is contested."""
    wanted = request(federation.people.hit, (DE,))
    best, second = federation.expected(wanted)[DE].references
    sizes: set[int] = set()

    async def marks(network: Network) -> list[bool]:
        report = await network.search(wanted)
        answer = report.answers[DE]
        assert answer.references == (best, second), "by rank, whatever is contested"
        shown = msgspec.json.decode(msgspec.json.encode(report))["answers"][DE]["hits"]
        found = [hit.contested for hit in answer.hits]
        assert shown == [{"reference": name, "contested": one} for name, one in zip((best, second), found, strict=True)]
        assert ["CONTESTED" in line for line in lines(report)] == found
        await network.settle()
        sizes.update(release_sizes(federation, report))
        assert verify_bundles([export_bundle(federation.folder(n), report.queries[-1]) for n in (FR, DE, EU)]).holds
        return found

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert await marks(network) == [False, False]  # the control
            contest(federation, second)
            assert await marks(network) == [False, True]
            contest(federation, second, clear=True)
            assert await marks(network) == [False, False]
            sizes.update(release_sizes(federation, await nobody(network)))

    async def nobody(network: Network) -> SearchReport:
        report = await network.search(request(federation.people.nobody, (DE,)))
        assert report.answers[DE].status == "no hit"
        await network.settle()
        return report

    asyncio.run(body())
    assert len(sizes) == 1, "a release is as long with a mark as without, and with nobody in it"


def test_nothing_is_released_where_the_mark_cannot_be_read(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hit without its mark would say that nothing is contested."""

    def broken(*_: object) -> frozenset[str]:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(GalleryStore, "contested", broken)
    wanted = request(federation.people.hit, (DE,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for answer in (await network.search(wanted)).answers.values():
                assert (answer.status, answer.reason, answer.references) == ("refused", "internal", ())
            monkeypatch.undo()  # the control
            answers = (await network.search(wanted)).answers
            assert answers == federation.expected(wanted)
            assert all(answer.status == "candidates" for answer in answers.values())

    asyncio.run(body())


@pytest.mark.parametrize("looks", [True, False], ids=["mended", "control"])
def test_who_is_forgotten_just_before_a_release_is_noted_is_not_released(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """Whoever forgets them finds nobody to tell. The control does not look whether they are still there."""
    wanted = request(federation.people.hit, (DE,))
    best, second = federation.expected(wanted)[DE].references
    disclosed, told, subject = FollowUp.disclosed, [], GalleryStore.subject

    def forgotten_before(follow_up: FollowUp, query: bytes, peer: str, references: tuple[str, ...]) -> None:
        told.extend(follow_up.desk.receivers(second))
        with holder_store(federation.folder(DE)) as store:
            told.extend(store.forget_all([second], datetime.now(timezone.utc))[1:])
        disclosed(follow_up, query, peer, references)

    def does_not_look(store: GalleryStore, reference: str) -> Any:
        return None if reference == second else subject(store, reference)

    monkeypatch.setattr(FollowUp, "disclosed", forgotten_before)
    if not looks:
        monkeypatch.setattr(GalleryStore, "subject", does_not_look)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            answer = (await network.search(wanted)).answers[DE]
            assert told == []
            if looks:
                assert (answer.status, answer.reason, answer.references) == ("refused", "internal", ())
                monkeypatch.undo()
                assert (await network.search(wanted)).answers[DE].references == (best,), "asked again"
            else:
                assert second in answer.references

    asyncio.run(body())


@pytest.mark.parametrize("last", [True, False], ids=["mended", "control"])
def test_who_is_contested_just_before_a_release_is_noted_carries_the_mark(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """Whoever contests them finds nobody to tell. The control reads the mark before that."""
    wanted = request(federation.people.hit, (DE,))
    _, second = federation.expected(wanted)[DE].references
    disclosed, told = FollowUp.disclosed, []

    def contested_before(follow_up: FollowUp, query: bytes, peer: str, references: tuple[str, ...]) -> None:
        told.extend(follow_up.desk.receivers(second))
        contest(federation, second)
        disclosed(follow_up, query, peer, references)

    def reads_first(answering: Answering, *asked: Any) -> frozenset[str]:
        early = answering._node.store.contested(asked[-1])
        release(answering, *asked)
        return early

    release = Answering._release
    monkeypatch.setattr(FollowUp, "disclosed", contested_before)
    if not last:
        monkeypatch.setattr(Answering, "_release", reads_first)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            answer = (await network.search(wanted)).answers[DE]
            assert told == []
            assert [hit.contested for hit in answer.hits] == [False, last]

    asyncio.run(body())
