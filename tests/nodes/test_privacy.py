"""No name, template, score or reference in what nodes write: planted, run through hits, climbs and errors, grepped."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from pathlib import Path

import msgspec
import pytest

from nodes.config.storage_key import storage_key
from nodes.evidence.sealed import SealedProbe, open_kept
from nodes.service.json_logs import JsonFormatter
from nodes.service.operator_api import HolderAnswer
from nodes.store import StoreUnavailable
from nodes.transport.units import pack_units
from pets.errors import InputError
from protocol.engine import plain_scores
from tests.kit.faults import Fault
from tests.kit.federation import ES, FR, PLANTED, ROLES, Federation, found, request
from tests.kit.leaks import captured_logs, leaks, secrets_of
from tests.kit.network import AsgiNetwork, running

pytestmark = pytest.mark.slow

FEDERATION = {"read_timeout_seconds": 30}


def test_nothing_personal_is_written_by_hits_climbs_or_errors(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = federation.people
    secrets = secrets_of(federation, people.hit, people.crowd)
    crowd = request(people.crowd, (ES,), cap=3, ladder="0.1")

    async def body() -> bytes:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            wanted = request(people.hit, (ES,))
            assert (await network.search(wanted)).answers == federation.expected(wanted)
            assert (await network.search(crowd)).answers == federation.expected(crowd)
            network.break_next(Fault("corrupt", FR, 2, ES))
            await network.search(wanted)
            await network.settle()
            async with network.client("FR-OPERATOR", FR) as client:
                for broken in (
                    b"{",
                    msgspec.json.encode(wanted)[:-40],
                    b'{"case": "' + PLANTED["case"].encode() + b'"}',
                ):
                    assert (await client.post("/operator/v1/search", content=broken)).status_code == 400
                strange = msgspec.structs.replace(wanted, officer=PLANTED["approver"])
                answer = await client.post("/operator/v1/search", content=msgspec.json.encode(strange))
                assert answer.status_code == 422
            async with network.client(FR, ES) as client:
                await client.post(
                    f"/v1/queries/{'0' * 32}/units?offset=0", content=pack_units([people.hit.tobytes()] * 2)
                )

            def broken_gallery(*_: object, **__: object) -> None:
                raise ValueError(f"{PLANTED['case']} {people.galleries[ES][17].tobytes()!r}")

            with monkeypatch.context() as patch:
                patch.setattr("nodes.query.driver.QueryDriver._take", broken_gallery)
                await network.search(wanted)
                await network.settle()

            async def forgotten() -> None:
                raise ValueError(PLANTED["officer"])

            task = asyncio.create_task(forgotten())  # asyncio logs exceptions that nobody asked for
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del task
            gc.collect()
            return b"".join(node.metrics.render() for node in network.nodes.values())

    with captured_logs() as logs:
        metrics = asyncio.run(body())
    assert "internal error" in logs.text
    assert "never retrieved" in logs.text
    assert leaks(federation, secrets, logs.text.encode() + metrics) == []
    for line in logs.lines:
        assert set(json.loads(line)) <= {"time", "level", "logger", "message", *JsonFormatter.FIELDS}
    score = str(int(plain_scores(people.galleries[ES], people.hit)[17]))
    texts = [value for line in logs.lines for value in json.loads(line).values() if isinstance(value, str)]
    assert not any(score in text for text in texts if len(text) < 30)


def test_the_search_for_leaks_finds_what_is_there(federation: Federation) -> None:
    """The control: the same grep finds planted data where it is meant to lie, once it is unsealed or written down."""
    secrets = secrets_of(federation, federation.people.hit)
    place = federation.folder(ES) / "careless.log"
    place.write_text(f"{PLANTED['officer']} found {federation.references[ES][17]}")
    try:
        assert len(leaks(federation, secrets)) == 2
    finally:
        place.unlink()
    assert leaks(federation, secrets, federation.people.hit.tobytes()) == ["probe 0 in captured"]


def test_the_justification_is_kept_sealed_at_the_requester_and_nowhere_else(federation: Federation) -> None:
    folders = {name: federation.folder(name) / "sealed" for name in ROLES}
    from nodes.config.schema import load_config

    key = storage_key(load_config(federation.folder(FR)))
    kept = [open_kept(folders[FR], key, bytes.fromhex(path.name)) for path in folders[FR].iterdir()]
    assert any(
        isinstance(item, SealedProbe) and item.justification and item.justification.officer == PLANTED["officer"]
        for item in kept
    )
    for name, folder in folders.items():
        for path in folder.glob("*") if folder.exists() else ():
            assert PLANTED["officer"].encode() not in path.read_bytes(), name
            assert path.stat().st_mode & 0o077 == 0


def test_an_error_text_reaches_the_operator_but_no_peer(federation: Federation) -> None:
    async def body() -> None:
        network = AsgiNetwork(federation)
        try:
            await network.start(FR, ES)

            async def refuse(*_: object) -> None:
                raise InputError("what only the operator may read")

            network.nodes[ES].accept = refuse  # type: ignore[method-assign,assignment]
            async with network.client(FR, ES) as client:
                answer = await client.post(f"/v1/queries/{'0' * 32}/units?offset=0", content=b"")
                assert answer.json() == {"code": "parameters"}
            async with network.client("FR-OPERATOR", FR) as client:
                content = msgspec.json.encode(request(federation.people.hit, ("XX",)))
                answer = await client.post("/operator/v1/search", content=content)
                assert "XX is not a holder" in answer.json()["message"]
        finally:
            await network.close()

    asyncio.run(body())


def test_a_holder_whose_disk_is_full_says_so_and_releases_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log or store: the answer is refused or unreachable, the node is clear, and works again once there is room."""
    federation = found(tmp_path, read_timeout_seconds=5)
    wanted = request(federation.people.hit, (ES,))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:

            def full(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            def full_store(*_: object, **__: object) -> None:
                raise StoreUnavailable("the disk is full; nothing of this step was stored")

            with monkeypatch.context() as patch:
                patch.setattr(network.nodes[ES].store, "admit_query", full_store)
                report = await network.search(wanted)
                assert report.answers[ES] == HolderAnswer("refused", reason="internal", by=ES)
                await network.settle()
            assert (await network.search(wanted)).answers == federation.expected(wanted)

            entries = network.nodes[ES].archive.transcript._entries
            for after in (0, 3):
                count = 0

                def append(payloads: object, real: object = entries.append, after: int = after) -> None:
                    nonlocal count
                    count += 1
                    if count > after:
                        full()
                    real(payloads)  # type: ignore[operator]

                entries.append = append  # type: ignore[method-assign]
                report = await network.search(wanted)
                assert report.answers[ES] == HolderAnswer("refused", reason="internal", by=ES)
                await network.settle()
                assert not network.nodes[ES].drivers
                report = await network.search(wanted)  # the log is closed: the node serves nobody until it restarts
                assert report.answers[ES].status in ("refused", "unreachable")
                await network.settle()
                await network.kill(ES)
                await network.start(ES)  # opens its log again, whole
                entries = network.nodes[ES].archive.transcript._entries
                assert (await network.search(wanted)).answers == federation.expected(wanted)

    with captured_logs() as logs:
        asyncio.run(body())
    assert "internal error" in logs.text
    assert leaks(federation, secrets_of(federation, federation.people.hit), logs.text.encode()) == []


assert logging
