"""Preparations wait while the gallery changes, while a holder restarts, and while others search."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import ResidentGallery
from nodes.config.storage import holder_store
from nodes.query import scorer as scorer_module
from nodes.query.scorer import Precedence, Scorer
from nodes.service.operator_api import HolderAnswer, PrepareRequest
from nodes.service.requester import RequesterNode
from nodes.store import Category, Status
from nodes.store.resident import Resident
from nodes.store.store import GalleryStore
from protocol.preparing import PreparingHolder
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import DIM, ES, EU, FR, HOLDERS, Federation, found, people, request
from tests.kit.galleries import near
from tests.kit.network import AsgiNetwork, run_asgi
from tests.kit.ring import RING

pytestmark = pytest.mark.slow

NO_HIT = HolderAnswer("no hit", (), "0.55")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path / "nodes", people(rows=130), read_timeout_seconds=20)


async def let_wait(network: AsgiNetwork, *holders: str, count: int = 1) -> None:
    """FR has preparations waiting."""
    node = network.nodes[FR]
    assert isinstance(node, RequesterNode)
    report = await node.supply.prepare(PrepareRequest(holders, count, DIM, SYNTHETIC_MODEL, RING.preset))
    assert (report.made, report.refused) == (count, {})
    await network.settle()


def waiting(network: AsgiNetwork) -> dict[str, int]:
    return {name: len(node.pool.standing()) for name, node in network.nodes.items()}


def enrol(federation: Federation, like: Any) -> str:
    with holder_store(federation.folder(ES)) as store:
        return store.enrol(
            None,
            near(np.random.default_rng(8), like, 1, np.array([0.9]))[0],
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=datetime.now(timezone.utc).date() + timedelta(30),
            model=SYNTHETIC_MODEL,
        )


def forget(federation: Federation, row: int) -> None:
    with holder_store(federation.folder(ES)) as store:
        store.forget(federation.references[ES][row], datetime.now(timezone.utc))


def test_what_waits_is_used_and_the_report_says_so(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, *HOLDERS)
        network.drivers.clear()
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        assert (report.prepared, report.seconds_preparing) == ("waiting", 0)
        assert not any(isinstance(driver.machine, PreparingHolder) for _, driver in network.drivers)
        await network.settle()
        assert not any(waiting(network).values())
        again = await network.search(wanted)  # the control: nothing waits any more
        assert again.answers == report.answers
        assert again.prepared == "now"
        assert again.seconds_preparing > 0

    run_asgi(federation, body)


def test_who_is_forgotten_while_a_preparation_waits_is_not_found_with_it(federation: Federation) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        forget(federation, 17)
        report = await network.search(wanted)
        assert report.prepared == "waiting"
        assert report.answers == {ES: NO_HIT}

    run_asgi(federation, body)


def test_control_without_the_bits_in_memory_that_is_not_wiped_who_was_forgotten_is_found(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(federation.people.hit, (ES,))

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        forget(federation, 17)
        monkeypatch.setattr(Resident, "live", lambda _, rows, version, *rest: np.ones(version.rows, np.bool_))
        monkeypatch.setattr(ResidentGallery, "_wipe", lambda _: None)
        monkeypatch.setattr(Resident, "reference", lambda _, rows, slot, version: federation.references[ES][slot])
        monkeypatch.setattr(GalleryStore, "subject", lambda *_: None)  # looked at before a release
        assert (await network.search(wanted)).answers == federation.expected(wanted)

    run_asgi(federation, body)


def test_a_forgotten_template_is_overwritten_at_once_and_the_others_are_found(federation: Federation) -> None:
    wanted = request(federation.people.crowd, (ES,), threshold="0.75")

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        node = network.nodes[ES]
        (derived,) = node.galleries.all
        templates = derived.current().templates
        assert templates[115].any()
        forget(federation, 115)
        node.follow_gallery()
        assert not templates[115].any()
        assert templates[114].any()
        report = await network.search(wanted)
        expected = federation.expected(wanted)[ES]
        gone = federation.references[ES][115]
        assert gone in expected.references
        assert report.prepared == "waiting"
        assert report.answers[ES].references == tuple(name for name in expected.references if name != gone)

    run_asgi(federation, body)


def test_after_a_compaction_of_a_running_node_the_same_people_are_found(federation: Federation) -> None:
    wanted = request(federation.people.crowd, (ES,), threshold="0.75")

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        node = network.nodes[ES]
        forget(federation, 3)
        forget(federation, 115)
        with holder_store(federation.folder(ES)) as store:
            assert store.compact() == 2
            assert store.compact() == 0
        node.follow_gallery()
        assert len(node.galleries.all[0].current().templates) == 128
        report = await network.search(wanted)
        gone = federation.references[ES][115]
        expected = federation.expected(wanted)[ES].references
        assert gone in expected
        assert report.answers[ES].references == tuple(name for name in expected if name != gone)
        assert report.prepared != "waiting", "what waited was for the places of before"
        await let_wait(network, ES)
        again = await network.search(wanted)
        assert again.answers == report.answers

    run_asgi(federation, body)


def test_a_template_that_a_search_reads_is_overwritten_after_it(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        (derived,), now = network.nodes[ES].galleries.all, datetime.now(timezone.utc)
        gallery = derived.current()
        lent = derived.lend(gallery.root, now, [Category.SUSPECT])
        assert lent is not None
        forget(federation, 17)
        assert derived.erase_gone(now) == 0
        assert gallery.templates[17].any()
        assert not lent[1][17], "the search that runs is told"
        derived.give_back(lent[1])
        assert derived.erase_gone(now) == 1
        assert not gallery.templates[17].any()

    run_asgi(federation, body)


def test_who_is_enrolled_is_found_from_the_next_preparation(federation: Federation) -> None:
    wanted = request(federation.people.nobody, (ES,))

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        reference = enrol(federation, federation.people.nobody)
        first, second = await network.search(wanted), await network.search(wanted)
        assert (first.prepared, first.answers[ES]) == ("waiting", NO_HIT)
        assert (second.prepared, second.answers[ES].references) == ("now", (reference,))

    run_asgi(federation, body)


@pytest.mark.parametrize("lost_by", [ES, EU])
def test_what_a_peer_lost_is_made_anew_and_the_officer_sees_no_error(lost_by: str, federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, *HOLDERS)
        await network.restart(lost_by)
        wanted = request(federation.people.hit)
        report = await network.search(wanted)
        assert report.answers == federation.expected(wanted)
        assert report.prepared == "now"
        await network.settle()
        assert waiting(network)[FR] == 0

    run_asgi(federation, body)


def test_after_a_crash_between_claim_and_use_nothing_is_used(federation: Federation) -> None:
    """It costs one preparation. What waits in memory is gone with the node anyway, so here it waits on disk."""
    for name in (FR, ES, EU):
        federation.configure(name, on_disk="true")

    async def body(network: AsgiNetwork) -> None:
        await let_wait(network, ES)
        (one,) = network.nodes[FR].pool.standing()
        network.nodes[FR].pool.spend(one.preparation_id)
        for name in (FR, ES, EU):
            await network.restart(name)
        assert waiting(network)[FR] == 0
        assert waiting(network)[ES] == 1
        wanted = request(federation.people.hit, (ES,))
        report = await network.search(wanted)
        assert (report.answers, report.prepared) == (federation.expected(wanted), "now")

    run_asgi(federation, body)


def test_the_same_gallery_has_the_same_root_after_a_restart(federation: Federation) -> None:
    """Else what waits on disk would serve nobody, and an audit could not recompute the root."""
    federation.configure(ES, on_disk="true")

    async def body(network: AsgiNetwork) -> None:
        roots = []
        for _ in range(2):
            (derived,) = network.nodes[ES].galleries.all
            roots.append(derived.current().root)
            await network.restart(ES)
        assert roots[0] == roots[1]

    run_asgi(federation, body)


# --- searches before preparations ---


def test_a_preparation_begins_no_pass_while_a_search_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(scorer_module, "passes", lambda items, _: [[item] for item in items])
    monkeypatch.setattr(scorer_module, "perform", lambda works, _: done.append(works[0]) or [None])

    async def body() -> None:
        precedence = Precedence(seconds=30)
        searching, preparing = Scorer(1), Scorer(1, precedence.give_way)
        precedence.begin()
        prepared = asyncio.create_task(preparing.score("preparation"))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        await searching.score("search")  # type: ignore[arg-type]
        assert done == ["search"]
        precedence.end()
        await asyncio.wait_for(prepared, 5)
        assert done == ["search", "preparation"]

    asyncio.run(body())


def test_a_preparation_does_not_wait_for_ever() -> None:
    """Its peers wait with it, and perhaps an officer."""

    async def body() -> None:
        precedence = Precedence(seconds=0.05)
        precedence.begin()
        await asyncio.wait_for(precedence.give_way(), 5)

    asyncio.run(body())
