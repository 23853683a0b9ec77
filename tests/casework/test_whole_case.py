"""A whole case between real nodes: approved, searched, reviewed by two, confirmed, core data, receipt, recall."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nodes.casework.errors import UnknownThing
from nodes.evidence.export import export_bundle
from nodes.verify import load_trust, verify_bundles
from tests.kit.casework import Clock, Staff, draft, open_desk, staffed
from tests.kit.federation import ES, EU, FR, Federation, found
from tests.kit.network import AsgiNetwork, Network, TlsNetwork, running

RECORD = {"first-names": "Ana", "family-names": "Planted-Garcia", "gender": "F", "case-number": "M-17"}
FIELDS = ("first-names", "family-names", "gender", "case-number")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return found(tmp_path_factory.mktemp("casework"))


async def rounds(network: Network, count: int = 3) -> None:
    """The nodes do what waits, and what follows from it."""
    for _ in range(count):
        for node in network.nodes.values():
            if node.follow_up is not None:
                await node.follow_up.round()
        await network.settle()


def set_clock(network: Network, clock: Clock) -> None:
    for node in network.nodes.values():
        if node.follow_up is not None:
            node.follow_up.desk.office = replace(node.follow_up.desk.office, clock=clock)


async def confirmed(network: Network, french: Staff, federation: Federation) -> tuple[str, str]:
    """Launch, review and confirm; gives query and candidate."""
    query = french.desk.open_query(french.olga, draft(federation.people.hit, ES))
    french.desk.approve_launch(french.anton, query, french.sign("anton", "launch", query))
    await rounds(network)
    (candidate,) = french.desk.candidates_for(french.rita, query)
    french.desk.lock_decision(french.rita, candidate.id, "same person", "ear, nose, scar")
    french.desk.lock_decision(french.remo, candidate.id, "same person", "ear, mouth")
    french.desk.confirm(french.rita, candidate.id, french.sign("rita", "confirm", candidate.id))
    french.desk.confirm(french.remo, candidate.id, french.sign("remo", "confirm", candidate.id))
    await rounds(network)
    return query, candidate.id


@pytest.mark.parametrize("kind", [AsgiNetwork, TlsNetwork], ids=["asgi", "tls"])
def test_a_case_from_query_to_recall(federation: Federation, kind: Callable[[Federation], Network]) -> None:
    clock = Clock()
    with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
        french = staffed(fr)
        spanish = staffed(es)

        async def case() -> str:
            async with running(kind(federation)) as network:
                set_clock(network, clock)
                query, candidate = await confirmed(network, french, federation)
                assert fr.outcome(candidate) == "confirmed"
                asked = {"fields": FIELDS, "facts": "seen at the bank", "offence": "robbery"}
                request = fr.request_core_data(
                    french.olga, candidate, *asked.values(),
                    french.sign("olga", "request-core-data", candidate, **asked),
                )  # fmt: skip
                await rounds(network)
                waiting = next(view for view in es.deadlines() if view.id == request)
                assert 47 * 3600 < waiting.left <= 48 * 3600
                assert es.view(spanish.lena, f"facts:{request}", "to decide", "core-data").facts == "seen at the bank"
                es.release_core_data(
                    spanish.lena, request, RECORD, spanish.sign("lena", "release-core-data", request, record=RECORD)
                )
                await rounds(network)
                held = fr.view(french.olga, f"core-data:{request}", "for the file", "core-data")
                assert held.record == RECORD
                reference = held.reference
                assert reference == federation.references[ES][17]
                es.recall(spanish.dora, reference, "another person's photo")
                await rounds(network)
                with pytest.raises(UnknownThing):
                    fr.view(french.olga, f"candidate:{candidate}", "for the file")
                with pytest.raises(UnknownThing):
                    fr.view(french.olga, f"core-data:{request}", "for the file", "core-data")
                assert all(recall.answered for recall in es.recalls(spanish.dora))
                return fr.query(french.olga, query).attempts[0]

        attempt = asyncio.run(case())
    files = {name: export_bundle(federation.folder(name), attempt) for name in (FR, ES, EU)}
    report = verify_bundles(list(files.values()), load_trust(federation.root / "authority" / "peers"))
    assert not report.failed, report.failed
    shown = b"".join(files.values())
    for planted in (*RECORD.values(), "seen at the bank", "Planted-Garcia", federation.references[ES][17], "Planted-"):
        assert len(planted) < 4 or planted.encode() not in shown, planted


def test_no_person_or_face_stands_in_the_databases_in_the_clear(federation: Federation, tmp_path: Path) -> None:
    for name in (FR, ES):
        content = b"".join(path.read_bytes() for path in federation.folder(name).glob("casework.db*"))
        assert len(content) > 50_000
        for planted in (b"Planted", b"seen at the bank", federation.references[ES][17].encode()):
            assert planted not in content
