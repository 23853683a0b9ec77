"""A warrant is for one probe and some holders: a requester that uses one for two faces, and an honest retry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from nodes.audit.audit import audit_party
from nodes.evidence.export import export_bundle
from nodes.query.gate import Gate
from nodes.service import requester
from nodes.service.operator_api import HolderAnswer, SearchRequest
from nodes.service.requester import RequesterNode
from nodes.store.store import GalleryStore
from nodes.verify import Report, decode_bundle, verify_bundles
from nodes.verify.trust import load_trust
from tests.kit.evidence import failures
from tests.kit.federation import DE, ES, EU, FR, Federation, found, people
from tests.kit.federation import request as asked
from tests.kit.network import AsgiNetwork, running


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path / "nodes", people(rows=130))


def request(*given: Any) -> SearchRequest:
    """As over HTTP, where a penalty is a number with a fraction, of which the reason's hash is."""
    return asked(*given, maximum_penalty_years=5.0)


def run(federation: Federation, body: Callable[[AsgiNetwork], Coroutine[Any, Any, Any]]) -> Any:
    async def everything() -> Any:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            result = await body(network)
            await network.settle()
            return result

    return asyncio.run(everything())


def verified(federation: Federation, queries: list[str], names: tuple[str, ...] = (FR, EU, ES)) -> Report:
    bundles = [export_bundle(federation.folder(name), query) for query in queries for name in names]
    return verify_bundles(bundles, load_trust(federation.root / "authority" / "peers"))


def audited(federation: Federation, query: str) -> dict[str, str]:
    bundle = decode_bundle(export_bundle(federation.folder(FR), query))
    return failures(audit_party(bundle, federation.folder(FR), None, None))


def one_warrant_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester whose process was patched: whatever it is asked, it takes its first warrant and reason."""
    kept: dict[str, Any] = {}
    issue, reason = RequesterNode._warrant, requester._justification
    monkeypatch.setattr(RequesterNode, "_warrant", lambda *given: kept.setdefault("warrant", issue(*given)))
    monkeypatch.setattr(requester, "_justification", lambda wanted: kept.setdefault("reason", reason(wanted)))


async def two_faces(network: AsgiNetwork) -> list[tuple[HolderAnswer, str]]:
    """Answer and query of each of two probes."""
    who = network.federation.people
    reports = [await network.search(request(probe, (ES,))) for probe in (who.nobody, who.hit)]
    return [(report.answers[ES], report.queries[-1]) for report in reports]


def test_one_warrant_does_not_serve_two_faces(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    one_warrant_for_all(monkeypatch)
    (first, _), (second, _) = run(federation, two_faces)
    assert first.status == "no hit"
    assert second == HolderAnswer("refused", reason="warrant", by=ES)


def test_control_without_the_claim_both_are_answered_and_verify_and_the_audit_find_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_warrant_for_all(monkeypatch)
    monkeypatch.setattr(Gate, "answer", lambda *_: None)
    (first, one), (second, two) = run(federation, two_faces)
    assert (first.status, second.status) == ("no hit", "candidates")
    found_by_verify = failures(verified(federation, [one, two]))
    assert list(found_by_verify) == ["warrant-once"]
    assert "ES answered 2 queries" in found_by_verify["warrant-once"]
    assert audited(federation, one) == {}
    assert list(audited(federation, two)) == ["audit-warrant"]


def test_two_honest_searches_of_one_face_are_two_warrants(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> list[Any]:
        wanted = request(federation.people.hit, (ES,))
        return [await network.search(wanted) for _ in range(2)]

    reports = run(federation, body)
    assert {report.answers[ES].status for report in reports} == {"candidates"}
    report = verified(federation, [report.queries[-1] for report in reports])
    assert failures(report) == {}
    assert sum(subject.startswith("warrant FR-") for subject, _ in report.facts) == 2


def test_an_honest_retry_carries_the_same_warrant_and_verify_counts_both(federation: Federation) -> None:
    federation.configure(DE, minimum_threshold="0.60")  # refuses, so ES is asked again without it

    async def body(network: AsgiNetwork) -> Any:
        return await network.search(request(federation.people.hit))

    report = run(federation, body)
    assert report.answers[ES].status == "candidates"
    assert len(report.queries) == 2
    shown = verified(federation, list(report.queries))
    assert failures(shown) == {}
    (used,) = [told for subject, told in shown.facts if subject.startswith("warrant FR-")]
    assert used.startswith("of FR, used for 2 queries; began to answer: ")
    assert f"{report.queries[0][:8]}…: nobody" in used
    assert f"{report.queries[1][:8]}…: ES" in used
    assert audited(federation, report.queries[1]) == {}


def test_a_holder_that_the_warrant_does_not_name_refuses(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue = requester.issue_warrant
    monkeypatch.setattr(
        requester,
        "issue_warrant",
        lambda asked, *rest: issue(requester.Request(**{**vars(asked), "holders": (DE,)}), *rest),
    )

    async def body(network: AsgiNetwork) -> HolderAnswer:
        return (await network.search(request(federation.people.hit, (ES,)))).answers[ES]

    answer = run(federation, body)
    assert (answer.status, answer.reason) == ("refused", "warrant")


def test_a_warrant_claimed_while_two_queries_run_is_answered_once(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both pass the gate before either is answered: the claim decides."""
    one_warrant_for_all(monkeypatch)
    monkeypatch.setattr(GalleryStore, "has_claimed", lambda *_: False)
    (first, _), (second, _) = run(federation, two_faces)
    assert first.status == "no hit"
    assert second == HolderAnswer("refused", reason="warrant", by=ES)
