"""What a node deletes when its time is over, what it keeps, and that the supervisor's hold wins."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from nodes.config.schema import load_config
from nodes.config.storage import holder_store, open_store
from nodes.evidence import links
from nodes.evidence.archive import Archive
from nodes.identity.identity import load_identity
from nodes.logs import of_node as journals
from nodes.logs.entries import TranscriptEntry
from nodes.logs.errors import EntryErased
from nodes.logs.holds import SUPERVISOR_CONTEXT, HoldOrder, LiftOrder
from nodes.logs.of_node import SUPERVISOR_FILE
from nodes.operator.database import delete_expired as delete_while_stopped
from nodes.service import server as serve
from nodes.service.expiry import Expired, delete_expired
from nodes.service.node import Node
from nodes.store import Category, QueryReplayed, Status
from pets.errors import InputError
from pets.signatures import SigningKey
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import ES, EU, FR, Federation, found, request
from tests.kit.leaks import captured_logs
from tests.kit.network import AsgiNetwork, running

pytestmark = pytest.mark.slow

NOW = datetime.now(timezone.utc)
SOON = NOW + timedelta(days=179)
LATER = NOW + timedelta(days=181)
BEFORE_THREE_YEARS = NOW + timedelta(days=3 * 365 - 1)
THREE_YEARS = NOW + timedelta(days=3 * 366)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Four nodes that have answered one query."""
    federation = found(tmp_path)

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            wanted = request(federation.people.hit, (ES,))
            assert (await network.search(wanted)).answers == federation.expected(wanted)
            await network.settle()

    asyncio.run(body())
    return federation


def expire_at(folder: Path, now: datetime, act: Callable[[Archive], object] = lambda _: None) -> Expired:
    """Expire a stopped node at a moment, to its logs too; `act` on its open logs before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "time", SimpleNamespace(time=now.timestamp))
        archive = Archive(load_identity(folder), folder)
    try:
        with open_store(load_config(folder)) as store:
            act(archive)
            return delete_expired(store, archive, load_config(folder), now)
    finally:
        archive.close()


def files(folder: Path) -> dict[str, int]:
    places = {"evidence": folder / "evidence", "sealed": folder / "sealed", "links": folder / links.FOLDER}
    return {name: len(list(place.glob("[0-9a-f]*"))) for name, place in places.items()}


def test_everything_has_its_time_and_nothing_goes_before(federation: Federation) -> None:
    for name in (FR, ES):
        folder = federation.folder(name)
        assert files(folder) == {"evidence": 2, "sealed": 1, "links": 1}  # of a preparation and a search
        for now in (NOW, SOON):
            assert expire_at(folder, now) == Expired(300 if (name, now) == (ES, SOON) else 0, 0, 0, 0)
        assert expire_at(folder, LATER) == Expired(0, 0, 0, 1)
        assert expire_at(folder, BEFORE_THREE_YEARS) == Expired(0, 0, 0, 0)
        assert files(folder) == {"evidence": 2, "sealed": 0, "links": 1}
        done = expire_at(folder, THREE_YEARS)
        assert done == Expired(0, done.log_entries, 2, 0)
        assert done.log_entries > 10
        assert files(folder) == {"evidence": 0, "sealed": 0, "links": 0}
        expire_at(folder, THREE_YEARS, _is_erased)


def _is_erased(archive: Archive) -> None:
    for log in (archive.transcript, archive.article_forty):
        assert log.size
        with pytest.raises(EntryErased):
            log.read(0)


def test_what_the_supervisor_holds_stays_until_it_is_lifted(federation: Federation) -> None:
    folder, supervisor = federation.folder(ES), SigningKey.generate()
    (folder / SUPERVISOR_FILE).write_text(supervisor.verify_key.to_pem())

    def sign(order: HoldOrder | LiftOrder) -> HoldOrder | LiftOrder:
        return msgspec.structs.replace(order, signature=supervisor.sign(order.signed(), SUPERVISOR_CONTEXT))

    (query,) = [bytes.fromhex(path.name) for path in (folder / "sealed").iterdir()]
    of_search: list[int] = []  # the first two entries of the search; those before are of its preparation

    def hold(archive: Archive) -> None:
        log = archive.transcript
        entries = ((index, log.read(index)) for index in range(log.size))
        found = (index for index, entry in entries if isinstance(entry, TranscriptEntry) and entry.query == query)
        first = next(found)
        of_search.extend((first, first + 1))
        log.obey(sign(HoldOrder(log.header.log, 0, first, first + 1, int(time.time() * 1000))))

    def lift(archive: Archive) -> None:
        entry = archive.transcript.read(of_search[0])
        assert isinstance(entry, TranscriptEntry)
        archive.transcript.obey(sign(LiftOrder(archive.transcript.header.log, 0, int(time.time() * 1000))))

    sizes: list[int] = []
    done = expire_at(folder, THREE_YEARS, lambda archive: (hold(archive), sizes.append(archive.transcript.size)))
    assert (done.log_entries, done.evidence_files, done.sealed_files) == (sizes[0] - 2 + 1, 1, 0)
    assert files(folder) == {"evidence": 1, "sealed": 1, "links": 0}
    done = expire_at(folder, THREE_YEARS, lift)
    assert (done.log_entries, done.evidence_files, done.sealed_files) == (2, 1, 1)
    assert files(folder) == {"evidence": 0, "sealed": 0, "links": 0}


def test_while_a_preparation_is_held_its_search_finds_it(federation: Federation) -> None:
    """Without the file that names it, `lineup node evidence` would leave it out, and a verifier blame this node."""
    folder, supervisor = federation.folder(ES), SigningKey.generate()
    (folder / SUPERVISOR_FILE).write_text(supervisor.verify_key.to_pem())
    (identity,) = [bytes.fromhex(path.name) for path in (folder / links.FOLDER).iterdir()]
    conversation = links.conversation_of(folder, identity)

    def hold_all(archive: Archive) -> None:
        log = archive.transcript
        order = HoldOrder(log.header.log, 0, 0, log.size - 1, int(time.time() * 1000))
        signature = supervisor.sign(order.signed(), SUPERVISOR_CONTEXT)
        log.obey(msgspec.structs.replace(order, signature=signature))

    expire_at(folder, THREE_YEARS, hold_all)
    assert files(folder)["evidence"] == 2
    assert links.conversation_of(folder, identity) == conversation


def test_an_expiry_that_was_cut_short_is_completed_by_the_next(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = federation.folder(EU)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nodes.logs.log.TamperEvidentLog.erase_due", fail)
        with pytest.raises(OSError, match="space"):
            expire_at(folder, THREE_YEARS)
    done = expire_at(folder, THREE_YEARS)
    assert done.log_entries > 2
    assert files(folder)["evidence"] == 0


def test_claims_stay_as_long_as_the_evidence_they_protect(federation: Federation) -> None:
    with open_store(load_config(federation.folder(EU))) as store:
        query = bytes(range(16))
        store.claim_query(query, bytes(32), NOW)
    expire_at(federation.folder(EU), BEFORE_THREE_YEARS)
    with open_store(load_config(federation.folder(EU))) as store, pytest.raises(QueryReplayed):
        store.claim_query(query, bytes(32), NOW)
    expire_at(federation.folder(EU), THREE_YEARS + timedelta(days=1))
    with open_store(load_config(federation.folder(EU))) as store:
        store.claim_query(query, bytes(32), NOW)


def test_a_running_node_expires_at_start_then_daily_and_goes_on_after_a_failure(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "EXPIRY_SECONDS", 0.1)
    monkeypatch.setattr(serve, "EXPIRY_RETRY_SECONDS", 0.1)
    yesterday = (NOW - timedelta(days=1)).date()

    def enrol() -> None:
        with holder_store(federation.folder(ES)) as store:
            store.enrol(
                None,
                federation.people.nobody,
                category=Category.SUSPECT,
                status=Status.IDENTIFIED,
                retain_until=yesterday,
                model=SYNTHETIC_MODEL,
            )

    async def until_expired(node: Node) -> None:
        deadline = time.monotonic() + 20
        while node.store.count() > 300:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def body() -> None:
        network = AsgiNetwork(federation)
        try:
            await network.start(ES)
            node = network.nodes[ES]
            enrol()
            node.put_aside = lambda: 1 / 0  # type: ignore
            monkeypatch.setattr("nodes.identity.tls.WARN_AHEAD", timedelta(days=31))  # the list is valid for 30
            chore = asyncio.create_task(serve._expire_daily(node))
            await until_expired(node)
            real, failures = node.delete_expired, iter([True])
            node.delete_expired = lambda: 1 / 0 if next(failures, False) else real()  # type: ignore
            enrol()
            await until_expired(node)
            chore.cancel()
            with pytest.raises(InputError, match="ES is running: it does this itself, daily"):
                delete_while_stopped(federation.folder(ES))
        finally:
            await network.close()

    with captured_logs() as logs:
        asyncio.run(body())
    assert "expired: 1 subjects, 0 log entries, 0 evidence files, 0 sealed files" in logs.text
    assert '"message": "expiry failed"' in logs.text
    assert '"message": "nobody was reminded"' in logs.text
    told = [line["message"] for line in map(json.loads, logs.text.splitlines()) if line["level"] == "warning"]
    assert any(
        re.match(r"revocation list .* ends on .*: `lineup node revoke --authority FOLDER`", line) for line in told
    ), told
