"""A database that was lost, emptied or damaged: the node knows what it had, and answers no "no hit" out of nothing."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.config.schema import load_config, operator_name
from nodes.config.storage import holder_store, open_store
from nodes.evidence.archive import Archive
from nodes.evidence.ledger import ORDER_CONTEXT, Ledger
from nodes.identity.identity import load_identity
from nodes.operator import database as operator_database
from nodes.operator.database import backup, restore
from nodes.service import known_store, self_test
from nodes.service.known_store import open_known_store
from nodes.service.node import Node
from nodes.service.operator_api import HolderAnswer
from nodes.store import Category, Status, StoreLocked, StoreLost
from nodes.store.resident import Resident
from nodes.store.rows import RowFiles
from nodes.store.store import GalleryStore
from pets.errors import InputError
from pets.prf import encode_labels
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.commands import run as run
from tests.kit.federation import ES, EU, Federation, _enrolled, found, people, request
from tests.kit.galleries import unit_rows
from tests.kit.network import AsgiNetwork, running

PAGE_BYTES = 4096  # of SQLite


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """ES has run before: it knows what it had."""
    made = found(tmp_path / "nodes", people(rows=130))
    start(made)
    return made


def start(federation: Federation, accept_loss: bool = False, name: str = ES) -> Any:
    """What a start of a node does: its database's content, the newest entry about it, since when claims are lost."""
    identity = load_identity(federation.folder(name))
    archive = Archive(identity, federation.folder(name))
    try:
        with open_known_store(identity, archive, accept_loss).store as store:
            return store.content, archive.ledger.last, store.claims_lost_until
    finally:
        archive.close()


def file(federation: Federation, name: str = ES) -> Path:
    path = load_config(federation.folder(name)).storage.file
    assert path is not None
    return path


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def truncate(path: Path) -> None:
    remove(path)
    path.touch()


def exchange(path: Path) -> None:
    """For one that was begun anew under the same key."""
    remove(path)
    config = load_config(path.parent)
    open_store(config, anew=True).close()


def scribble(path: Path) -> None:
    """Random bytes in place of the first page of subjects. Of what lies in the middle of the file, a restore may need
    nothing: tables and indexes come in any order."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'subject'").fetchone()
    with path.open("r+b") as stream:
        stream.seek((page - 1) * PAGE_BYTES)
        stream.write(random.Random(1).randbytes(PAGE_BYTES))


def flip_a_bit_of_a_row(path: Path) -> None:
    """Of the number of its row, which SQLite's own check does not see."""
    with sqlite3.connect(path) as connection:
        connection.execute('UPDATE subject SET "row" = 77 WHERE id = 5')
    connection.close()


def drop_rows(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM subject WHERE id > 3")
    connection.close()


def lose_the_templates(path: Path) -> None:
    shutil.rmtree(path.with_name(f"{path.name}.rows"))


def damage_the_manifest(path: Path) -> None:
    (manifest,) = path.with_name(f"{path.name}.rows").glob("*/manifest")
    content = manifest.read_bytes()
    manifest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


LOSSES: dict[str, Callable[[Path], None]] = {
    "gone": remove,
    "empty": truncate,
    "another": exchange,
    "scribbled over": scribble,
    "a row changed": flip_a_bit_of_a_row,
    "rows missing": drop_rows,
    "templates gone": lose_the_templates,
    "templates damaged": damage_the_manifest,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_start_on_a_lost_or_damaged_database_is_refused_with_both_ways_out(
    loss: Callable[[Path], None], federation: Federation
) -> None:
    loss(file(federation))
    with pytest.raises(StoreLost, match=r"lineup store restore.*lineup node serve --accept-loss"):
        start(federation)


def test_a_router_that_lost_its_claims_is_refused_too(federation: Federation) -> None:
    """Its database holds nobody, but which queries it answered."""
    start(federation, name=EU)
    remove(file(federation, EU))
    with pytest.raises(StoreLost, match=r"the database of EU .* is gone"):
        start(federation, name=EU)


def test_the_command_says_so_and_ends(federation: Federation, run: Any) -> None:
    remove(file(federation))
    status, _, err = run("node", "serve", "--dir", federation.folder(ES))
    assert status == 1
    assert f"{file(federation)} is gone" in err


def test_a_database_that_is_gone_is_not_begun_anew_by_a_command(
    federation: Federation, run: Any, tmp_path: Path
) -> None:
    """Its reader would be told that nobody is enrolled, and a backup of it would hold nobody."""
    folder, reference = federation.folder(ES), federation.references[ES][7]
    remove(file(federation))
    for command in (("gallery", "list"), ("forget", reference), ("store", "backup", tmp_path / "copy")):
        status, out, err = run(*command, "--dir", folder)
        assert (status, out) == (1, "")
        why = "there is nothing to copy" if command[0] == "store" else "and its templates lie in"
        assert re.search(rf"{re.escape(str(file(federation)))} is gone[,:] {why}", err)
    assert not file(federation).exists()
    lose_the_templates(file(federation))
    assert run("gallery", "list", "--dir", folder)[1] == "0 subjects\n", "the control"


def test_control_without_a_log_of_what_it_had_an_empty_database_is_started_on(federation: Federation) -> None:
    shutil.rmtree(load_config(federation.folder(ES)).paths.logs / "gallery")
    remove(file(federation))
    with pytest.raises(StoreLost, match="is gone, and its templates lie in"):
        start(federation)  # not even a log is needed, where templates are left
    lose_the_templates(file(federation))
    content, _, _ = start(federation)
    assert content.rows == 0


def test_an_older_copy_is_refused_and_a_restore_of_it_is_not(federation: Federation, tmp_path: Path) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    enrol(federation, 2)
    start(federation)
    remove(file(federation))
    shutil.copyfile(tmp_path / "copy", file(federation))
    with pytest.raises(StoreLost, match=r"an older one than the templates.* it knows 130 of 132"):
        start(federation)
    rows = file(federation).with_name("store.db.rows")
    rows.rename(rows.with_name("newer"))
    shutil.copytree(tmp_path / "copy.rows", rows)
    with pytest.raises(StoreLost, match="an older state, with 130 subjects; the node had 132"):  # with its templates
        start(federation)
    shutil.rmtree(rows)
    rows.with_name("newer").rename(rows)
    remove(file(federation))
    restore(federation.folder(ES), tmp_path / "copy", datetime.now(timezone.utc), yes=True)
    content, last, lost_until = start(federation)
    assert (content.rows, last.reason) == (130, "restored")
    assert lost_until is not None


def answered_after_a_copy(federation: Federation, copy: Path) -> None:
    """ES answers a query after its database was copied, and is then started on the copy: the same people."""
    backup(federation.folder(ES), copy)

    async def body(network: AsgiNetwork) -> None:
        answer = (await network.search(request(federation.people.hit, (ES,)))).answers[ES]
        assert answer.status == "candidates"
        await network.settle()

    running_node(federation, body)
    remove(file(federation))
    shutil.copyfile(copy, file(federation))


def test_an_older_copy_of_the_same_people_that_forgot_a_warrant_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    """Nobody was enrolled meanwhile; the claims of queries and warrants, the quotas and releases are lost."""
    answered_after_a_copy(federation, tmp_path / "copy")
    with pytest.raises(StoreLost, match="does not know query"):
        start(federation)
    enrol(federation, 2)  # a later generation hides nothing
    with pytest.raises(StoreLost, match="does not know query"):
        start(federation)
    assert start(federation, accept_loss=True)[2] is not None, "warrants older than the loss are refused"
    assert start(federation)[1].reason == "accepted-loss", "and the next start needs no order"


def test_control_without_the_look_at_claims_such_a_copy_is_started_on(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered_after_a_copy(federation, tmp_path / "copy")
    monkeypatch.setattr(known_store, "_check_claims", lambda *_: None)
    assert start(federation)[2] is None, "no claim is known to be lost: the warrant could be used again"


def test_lawful_changes_while_the_node_is_stopped_are_no_loss(federation: Federation) -> None:
    enrol(federation, 3)
    with holder_store(federation.folder(ES)) as store:
        store.forget(federation.references[ES][7], datetime.now(timezone.utc))
    content, last, _ = start(federation)
    assert (content.rows, last.rows, last.reason) == (132, 132, "change")


def enrol(federation: Federation, rows: int) -> None:
    with holder_store(federation.folder(ES)) as store:
        store.enrol_many(
            unit_rows(np.random.default_rng(rows), rows, 128),
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=_enrolled.date(),
            model=SYNTHETIC_MODEL,
        )


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_loss_is_accepted_only_by_an_order_that_is_signed_into_the_log(
    loss: Callable[[Path], None], federation: Federation
) -> None:
    loss(file(federation))
    content, last, lost_until = start(federation, accept_loss=True)
    assert (last.reason, last.rows) == ("accepted-loss", content.rows)
    assert lost_until is not None, "warrants older than the loss are refused"
    identity = load_identity(federation.folder(ES))
    archive = Archive(identity, federation.folder(ES))
    log = archive._gallery.header.log
    archive.close()
    held = (last.database_id, last.generation, last.rows, last.digest)
    order = encode_labels("blind-lineup/accept-loss/v1", log, *held, last.time)
    identity.signing.verify_key.verify(last.signature, order, ORDER_CONTEXT)
    assert start(federation)[1] == last, "the next start needs no order"


class Killed(BaseException):
    """The process ends here."""


def test_an_acceptance_that_was_killed_is_signed_or_must_be_given_again(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try changes the database: after some it counts more changes than the one that was lost."""
    backup(federation.folder(ES), tmp_path / "copy")
    enrol(federation, 2)
    start(federation)
    remove(file(federation))
    shutil.copyfile(tmp_path / "copy", file(federation))
    reconcile = GalleryStore.reconcile

    def killed_after(self: GalleryStore, *given: Any) -> Any:
        reconcile(self, *given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(GalleryStore, "reconcile", killed_after)
        for _ in range(2):
            with pytest.raises((Killed, InputError)):  # the second: nothing is left to accept
                start(federation, accept_loss=True)
    content, _, lost_until = start(federation)
    assert content.rows == 130
    assert lost_until is not None, "warrants older than the loss are refused"
    identity = load_identity(federation.folder(ES))
    archive = Archive(identity, federation.folder(ES))
    reasons = [archive._gallery.read(place).reason for place in range(archive._gallery.size)]
    archive.close()
    assert "accepted-loss" in reasons, "it is signed that two people are lost"


NEWER = "ab" * 8


def lose_the_database(federation: Federation, tmp_path: Path) -> None:
    remove(file(federation))


def go_back_with_templates(federation: Federation, tmp_path: Path) -> None:
    """The database and its templates are an older copy; those of today lie beside, and know who was forgotten."""
    backup(federation.folder(ES), tmp_path / "copy")
    enrol(federation, 2)
    with holder_store(federation.folder(ES)) as store:
        store.forget(federation.references[ES][7], datetime.now(timezone.utc))
    start(federation)
    remove(file(federation))
    shutil.copyfile(tmp_path / "copy", file(federation))
    (now,) = rows_of(federation).iterdir()
    now.rename(now.with_name(NEWER))
    shutil.copytree(tmp_path / "copy.rows" / now.name, now)


def rows_of(federation: Federation) -> Path:
    return file(federation).with_name("store.db.rows")


def aside(federation: Federation) -> list[str]:
    """The folders of templates that were put aside."""
    rows = rows_of(federation)
    return [path.parent.name for path in (*rows.parent.glob("*.lost-*/*/manifest"), *rows.glob("lost-*/*/manifest"))]


STEPS = {
    "after it was signed": (known_store, "_note_accepted"),
    "after both were brought together": (GalleryStore, "reconcile"),
    "while they are put aside": (RowFiles, "unnamed"),
    "after they were put aside": (GalleryStore, "put_unnamed_rows_aside"),
}


def kill_after(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    original = getattr(owner, name)

    def killed(*given: Any, **more: Any) -> Any:
        original(*given, **more)
        raise Killed

    patch.setattr(owner, name, killed)


@pytest.mark.parametrize("lose", [lose_the_database, go_back_with_templates])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_an_acceptance_that_was_killed_deletes_no_template_of_the_database_that_was_lost(
    step: tuple[Any, str],
    lose: Callable[[Federation, Path], None],
    federation: Federation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lose(federation, tmp_path)
    kept = NEWER if lose is go_back_with_templates else next(rows_of(federation).iterdir()).name
    with monkeypatch.context() as patch:
        kill_after(patch, *step)
        with pytest.raises(Killed):
            start(federation, accept_loss=True)
    start(federation)
    start(federation)
    assert aside(federation) == [kept]
    with holder_store(federation.folder(ES)) as store:
        known = store.snapshot(_enrolled).references if store.count() else ()
        assert federation.references[ES][7] not in known, "who was forgotten does not come back"


def test_control_where_the_next_start_does_not_go_on_with_it_they_are_deleted(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_database(federation, tmp_path)
    with monkeypatch.context() as patch:
        kill_after(patch, known_store, "_note_accepted")
        with pytest.raises(Killed):
            start(federation, accept_loss=True)
    monkeypatch.setattr(known_store, "_bring_together", lambda _: None)
    start(federation)
    assert aside(federation) == []
    assert list(rows_of(federation).iterdir()) == []


@pytest.mark.parametrize("loss", [remove, scribble])
def test_templates_that_are_a_file_system_of_their_own_are_put_aside_in_it(
    loss: Callable[[Path], None], federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = (path.name for path in rows_of(federation).iterdir())
    loss(file(federation))
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.is_dir() and target.parent.parent != rows_of(federation):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    start(federation, accept_loss=True)
    start(federation)
    assert aside(federation) == [kept]
    assert not list(rows_of(federation).parent.glob("store.db.rows.lost-*")), "no empty folder is left"


def test_nothing_is_accepted_where_nothing_is_lost(federation: Federation) -> None:
    with pytest.raises(InputError, match="has lost nothing"):
        start(federation, accept_loss=True)


def kill_a_restore(federation: Federation, tmp_path: Path, patch: pytest.MonkeyPatch, step: tuple[Any, str]) -> None:
    """The backup has taken its place, and nothing says so yet."""
    backup(federation.folder(ES), tmp_path / "copy")
    enrol(federation, 2)
    start(federation)
    with patch.context() as killing:
        kill_after(killing, *step)
        with pytest.raises(Killed):
            restore(federation.folder(ES), tmp_path / "copy", datetime.now(timezone.utc), yes=True)


RESTORED = {
    "before the last folder is dropped": (GalleryStore, "drop_unnamed_rows"),
    "before casework is restored": (operator_database, "_restore"),
}


@pytest.mark.parametrize("more", [0, 3], ids=["as it was restored", "changed since"])
@pytest.mark.parametrize("step", RESTORED.values(), ids=RESTORED)
def test_a_restore_that_was_killed_is_noted_by_the_next_start(
    step: tuple[Any, str], more: int, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_a_restore(federation, tmp_path, monkeypatch, step)
    if more:
        enrol(federation, more)
    content, last, _ = start(federation)
    assert (content.rows, last.reason) == (130 + more, "restored")
    enrol(federation, 1)
    assert start(federation)[1].reason == "change", "once"


def test_control_where_a_restore_says_nothing_before_it_is_taken_for_a_change(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_database, "expect", lambda *_: None)
    kill_a_restore(federation, tmp_path, monkeypatch, (operator_database, "_restore"))
    assert start(federation)[1].reason == "change", "two people less, and the log does not say why"


def test_a_restore_that_changed_nothing_is_not_noted(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise StoreLocked("in use")

    backup(federation.folder(ES), tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(operator_database, "replace_database", fails)
        with pytest.raises(StoreLocked):
            restore(federation.folder(ES), tmp_path / "copy", datetime.now(timezone.utc))
    for rows in range(1, 4):
        enrol(federation, rows)
    assert start(federation)[1].reason == "change"


# --- a node that runs ---


def running_node(federation: Federation, body: Callable[[AsgiNetwork], Coroutine[Any, Any, None]]) -> None:
    async def everything() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            await body(network)

    asyncio.run(everything())


async def health(network: AsgiNetwork) -> tuple[int, dict[str, Any]]:
    network.nodes[ES]._health_until = 0
    async with network.client(operator_name(ES), ES) as client:
        answer = await client.get("/health")
        return answer.status_code, answer.json()


def other_store(federation: Federation, folder: Path) -> GalleryStore:
    """An empty database under the same key."""
    from nodes.config.storage import open_store

    return open_store(load_config(federation.folder(ES)), url=f"sqlite:///{folder / 'other.db'}")


def test_a_database_that_is_exchanged_under_a_running_node_is_no_no_hit(federation: Federation, tmp_path: Path) -> None:
    async def body(network: AsgiNetwork) -> None:
        node, wanted = network.nodes[ES], request(federation.people.hit, (ES,))
        assert (await network.search(wanted)).answers[ES].status == "candidates"
        node.store.close()
        swap(node, other_store(federation, tmp_path))
        assert (await network.search(wanted)).answers[ES] == HolderAnswer("refused", reason="internal", by=ES)
        assert await health(network) == (503, {"status": "degraded", "failing": ["store"], **QUIET})

    running_node(federation, body)


QUIET = {"contradicting_logs": 0, "alarms": []}


def swap(node: Node, store: GalleryStore) -> None:
    node.store = node._gate._store = node.galleries._store = store
    node.galleries._derived.clear()
    node.galleries._resident = Resident(store)


def test_control_where_it_does_not_look_an_exchanged_database_is_a_no_hit(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "meet", lambda *_: None)

    async def body(network: AsgiNetwork) -> None:
        network.nodes[ES].store.close()
        swap(network.nodes[ES], other_store(federation, tmp_path))
        assert (await network.search(request(federation.people.hit, (ES,)))).answers[ES].status == "no hit"

    running_node(federation, body)


def test_who_is_enrolled_while_the_node_runs_is_found_and_noted(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        enrol(federation, 4)
        assert (await network.search(request(federation.people.hit, (ES,)))).answers[ES].status == "candidates"
        last = network.nodes[ES].archive.ledger.last
        assert last is not None
        assert (last.rows, last.reason) == (134, "change")

    running_node(federation, body)


def test_the_daily_look_finds_a_damaged_row_and_the_node_answers_no_more(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        node, wanted = network.nodes[ES], request(federation.people.hit, (ES,))
        assert (await network.search(wanted)).answers[ES].status == "candidates"
        await asyncio.to_thread(node.inspect)
        assert (await health(network))[0] == 200, "the control: nothing was wrong before"
        flip_a_bit_of_a_row(file(federation))
        await asyncio.to_thread(node.inspect)
        assert await health(network) == (503, {"status": "degraded", "failing": ["store"], **QUIET})
        assert (await network.search(wanted)).answers[ES] == HolderAnswer("refused", reason="internal", by=ES)

    running_node(federation, body)


def test_the_self_test_finds_a_gallery_in_memory_that_is_not_the_stored_one(federation: Federation) -> None:
    async def body(network: AsgiNetwork) -> None:
        node = network.nodes[ES]
        (derived,) = node.galleries.all
        gallery = derived.current()
        object.__setattr__(gallery, "templates", np.zeros_like(gallery.templates))
        await asyncio.to_thread(node.inspect)
        assert await health(network) == (503, {"status": "degraded", "failing": ["self-test"], **QUIET})

    running_node(federation, body)


def test_the_self_test_finds_a_product_that_finds_nobody(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "plain_scores", lambda rows, _: np.zeros(len(rows), np.int64))

    async def body(network: AsgiNetwork) -> None:
        await asyncio.to_thread(network.nodes[ES].inspect)
        assert (await health(network))[1]["failing"] == ["self-test"]

    running_node(federation, body)


@pytest.mark.parametrize("place", [0, 5, 99, 100])
def test_a_planted_subject_is_found_at_its_place(place: int) -> None:
    rows = unit_rows(np.random.default_rng(1), 100, 128)
    assert self_test.found_rows(rows, self_test.synthetic(128), place) == [place]


def test_the_operator_is_reminded_of_what_was_put_aside_until_it_is_deleted(
    federation: Federation, tmp_path: Path
) -> None:
    """It may hold who was forgotten since, and nothing deletes it by itself."""
    backup(federation.folder(ES), tmp_path / "copy")
    enrol(federation, 2)

    def told() -> list[str]:
        found: list[str] = []

        async def body(network: AsgiNetwork) -> None:
            async with network.client(operator_name(ES), ES) as client:
                found.extend((await client.get("/operator/v1/status")).json()["put_aside"])

        running_node(federation, body)
        return found

    assert told() == [], "the control"
    remove(file(federation))
    done = restore(federation.folder(ES), tmp_path / "copy", datetime.now(timezone.utc), yes=True)
    assert done.aside
    assert [line.split(", since ")[0] for line in told()] == sorted(done.aside)
    for path in map(Path, done.aside):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert told() == []
