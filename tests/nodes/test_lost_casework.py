"""Casework that was lost or emptied before there was evidence of it: nobody gets a search without a second person."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nodes.casework import desk as desk_module
from nodes.casework.desk import CaseDesk
from nodes.config.schema import Role, load_config
from nodes.config.storage import open_store
from nodes.evidence.archive import Archive
from nodes.evidence.ledger import Ledger
from nodes.identity.identity import init_node, load_identity
from nodes.logs import of_node
from nodes.logs.checkpoints import BadCheckpoint
from nodes.logs.errors import LogUnusable
from nodes.logs.frames import FrameFile
from nodes.logs.log import TamperEvidentLog
from nodes.operator import beside
from nodes.operator.database import LossRefused, backup, rekey, restore
from nodes.service.server import build_node
from nodes.store import StoreCorrupted
from tests.kit.casework import staffed
from tests.kit.commands import run as run
from tests.kit.postgres import PostgresServer, find_binaries, why_not

NOW = datetime.now(timezone.utc)
GONE = r"casework.db is (gone|empty), and this node had one.*lineup store restore"


@pytest.fixture
def requester(tmp_path: Path) -> Path:
    """FR, which has run once and then got staff. Nobody has searched: there is no evidence."""
    folder = made(tmp_path / "fr", Role.REQUESTER)
    start(folder)
    with CaseDesk.open(folder) as desk:
        staffed(desk)
    return folder


def made(folder: Path, role: Role, name: str = "FR") -> Path:
    init_node(folder, name=name, role=role, address="https://127.0.0.1:9", authority=folder.parent / "ca")
    return folder


def start(folder: Path, rounds: int = 1) -> tuple[bool, list[str]]:
    """What a run of a node does; whether a search must be approved there, and its alarms."""

    async def body() -> tuple[bool, list[str]]:
        node, transport = build_node(folder)
        try:
            assert node.follow_up is not None
            for _ in range(rounds):
                await node.follow_up.round()
            return await asyncio.to_thread(node.follow_up.must_be_approved), node.all_alarms
        finally:
            await node.close()
            await transport.close()

    return asyncio.run(body())


def lose(folder: Path) -> None:
    for path in folder.glob("casework.db*"):
        path.unlink()


def empty(folder: Path) -> None:
    lose(folder)
    (folder / "casework.db").touch()


def lose_its_log(folder: Path) -> None:
    """As who copies the file of a database that was killed soon after it was begun, and not its log: no tables."""
    lose(folder)
    with closing(sqlite3.connect(folder / "casework.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert (folder / "casework.db").stat().st_size > 0


def dismiss(folder: Path) -> None:
    """Everybody, by who can write to the file and has no key."""
    with closing(sqlite3.connect(folder / "casework.db")) as connection, connection:
        connection.execute("DELETE FROM person")


@pytest.mark.parametrize("loss", [lose, empty, lose_its_log])
def test_a_node_that_has_run_does_not_begin_its_casework_anew(
    loss: Callable[[Path], None], requester: Path, run: Any
) -> None:
    loss(requester)
    for _ in range(2):
        with pytest.raises(StoreCorrupted, match=GONE):
            start(requester)
        status, _, err = run("case", "person", "list", "--dir", requester)
        assert status == 1
        assert "lineup store restore" in err
    assert not desk_module.is_there(load_config(requester), requester)


@pytest.mark.parametrize("loss", [lose, empty, lose_its_log])
def test_control_where_the_logs_are_not_looked_at_the_second_person_is_not_needed_any_more(
    loss: Callable[[Path], None], requester: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staff was not seen by a run of the node either, which would have signed it into the log."""
    loss(requester)
    monkeypatch.setattr(desk_module, "has_entries", lambda _: False)
    assert start(requester, rounds=0) == (False, [])


def test_staff_that_a_run_has_seen_is_not_made_unseen(requester: Path) -> None:
    assert start(requester) == (True, [])
    dismiss(requester)
    needed, (alarm,) = start(requester)
    assert needed
    assert "nobody can approve a search" in alarm
    with CaseDesk.open(requester) as desk:
        staffed(desk)
    assert start(requester) == (True, [])


def test_control_without_the_entry_in_the_log_it_is(requester: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "note_staff", lambda _: None)
    assert start(requester) == (True, [])
    dismiss(requester)
    assert start(requester) == (False, [])


def test_known_limit_staff_that_no_run_has_seen_goes_with_the_database(tmp_path: Path) -> None:
    """`require_approval` in node.toml asks for a second person from the beginning."""
    folder = made(tmp_path / "fr", Role.REQUESTER)
    with CaseDesk.open(folder) as desk:
        staffed(desk)
    lose(folder)
    assert start(folder) == (False, [])
    text = (folder / "node.toml").read_text()
    (folder / "node.toml").write_text(text.replace("require_approval = false", "require_approval = true"))
    assert start(folder) == (True, [])


def test_the_entry_is_made_once_and_stays_behind_later_ones(requester: Path) -> None:
    for _ in range(2):
        start(requester, rounds=3)

    async def body() -> None:
        node, transport = build_node(requester)
        node.archive.ledger.note(node.store.content, "change")
        await node.close()
        await transport.close()

    asyncio.run(body())
    assert reasons(requester) == ["first", "staff", "change"]
    dismiss(requester)
    assert start(requester)[0]


def test_staff_that_cannot_be_signed_into_the_log_must_approve_all_the_same(
    requester: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full: nobody gets by, and the node says that it does not work until it is started again."""
    write = FrameFile.append

    def full(file: FrameFile, payloads: Any) -> None:
        if "gallery" in str(file._file.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, payloads)

    async def body() -> None:
        node, transport = build_node(requester)
        try:
            assert node.follow_up is not None
            with monkeypatch.context() as patch:
                patch.setattr(FrameFile, "append", full)
                with pytest.raises(OSError, match="No space"):
                    node.follow_up.must_be_approved()
            with pytest.raises(LogUnusable):
                node.follow_up.must_be_approved()
            assert node.failing() == ("logs",)
        finally:
            await node.close()
            await transport.close()

    asyncio.run(body())
    assert start(requester) == (True, [])


def reasons(folder: Path) -> list[str]:
    with closing(Archive(load_identity(folder), folder)) as archive:
        return [archive._gallery.read(place).reason for place in range(archive._gallery.size)]  # type: ignore[attr-defined]


def test_without_a_copy_a_restore_begins_anew_and_a_second_person_is_still_needed(
    requester: Path, tmp_path: Path
) -> None:
    start(requester)
    lose(requester)
    backup(requester, tmp_path / "now")
    with pytest.raises(LossRefused, match=r"casework.db, of which the backup has no copy"):
        restore(requester, tmp_path / "now", NOW)
    with pytest.raises(StoreCorrupted, match=GONE):
        CaseDesk.open(requester)
    restore(requester, tmp_path / "now", NOW, yes=True)
    with CaseDesk.open(requester) as desk:
        assert desk.staff() == []
    assert start(requester)[0]


def test_one_without_tables_is_brought_back_from_a_backup(requester: Path, tmp_path: Path) -> None:
    backup(requester, tmp_path / "copy")
    with CaseDesk.open(requester) as desk:
        staff = desk.staff()
    lose_its_log(requester)
    with pytest.raises(LossRefused, match="what persons decided"):
        restore(requester, tmp_path / "copy", NOW)
    restore(requester, tmp_path / "copy", NOW, yes=True)
    with CaseDesk.open(requester) as desk:
        assert desk.staff() == staff


def test_a_node_that_lost_both_databases_goes_on_once_the_loss_is_accepted(tmp_path: Path) -> None:
    """First of the gallery, and signed: a backup of one begun anew would be restored as if nothing had been lost."""
    folder = made(tmp_path / "es", Role.HOLDER, "ES")
    start(folder)
    for path in (*folder.glob("store.db*"), *folder.glob("casework.db*")):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(StoreCorrupted, match=GONE):
        start(folder)
    with pytest.raises(StoreCorrupted, match=r"store.db is gone: there is nothing to copy.*--accept-loss"):
        backup(folder, tmp_path / "now")
    with pytest.raises(StoreCorrupted, match=GONE):
        build_node(folder, accept_loss=True)
    backup(folder, tmp_path / "now")
    restore(folder, tmp_path / "now", NOW, yes=True)
    start(folder)
    assert (set(reasons(folder)), reasons(folder)[-1]) == ({"first", "accepted-loss", "restored"}, "restored")
    with open_store(load_config(folder)) as store:
        assert store.claims_lost_until is not None


def test_a_node_that_never_ran_begins_one_whatever_comes_first(tmp_path: Path) -> None:
    """Also where a restore makes the first entry of its log."""
    folder = made(tmp_path / "fr", Role.REQUESTER)
    backup(folder, tmp_path / "copy")
    assert not (folder / "casework.db").exists()
    restore(folder, tmp_path / "copy", NOW)
    assert start(folder) == (False, [])
    router = made(tmp_path / "eu", Role.ROUTER, "EU")
    for _ in range(2):
        node, _ = build_node(router)
        asyncio.run(node.close())
    assert not (router / "casework.db").exists()


def test_a_start_that_is_killed_before_the_first_entry_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "fr", Role.REQUESTER)
    for where in ("meet", "note"):

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, where, killed)
            with pytest.raises(KeyboardInterrupt):
                build_node(folder)
    assert start(folder) == (False, [])


def die_at_write(number: int) -> None:
    """This process, when it brings something to disk for this time."""
    left = iter(range(number - 1))
    os.fsync = lambda _: None if next(left, None) is not None else os._exit(9)  # type: ignore[assignment]


def killed_while_logs_are_made(folder: Path) -> int:
    """How often a first start was killed, each time at its next write, until it came through; the logs it left open."""
    identity, tries = load_identity(folder), 0
    while True:
        tries += 1
        shutil.rmtree(identity.config.paths.logs, ignore_errors=True)
        process = os.fork()
        if process == 0:
            die_at_write(tries)
            Archive(identity, folder).close()
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert not desk_module.was_begun(identity.config, folder), "else its casework would be missed"
        Archive(identity, folder).close()
        if ended == 0:
            return tries - 1


def test_a_first_start_that_is_killed_while_it_makes_its_logs_is_gone_on_with(tmp_path: Path) -> None:
    folder = made(tmp_path / "fr", Role.REQUESTER)
    assert killed_while_logs_are_made(folder) > 20
    assert start(folder) == (False, [])


def test_control_half_a_log_would_keep_the_node_from_ever_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_node, "_create", lambda *given: TamperEvidentLog.create(*given).close())
    with pytest.raises((LogUnusable, BadCheckpoint)):
        killed_while_logs_are_made(made(tmp_path / "fr", Role.REQUESTER))


def test_casework_beside_a_gallery_in_postgresql_is_begun_anew_without_a_backup(tmp_path: Path) -> None:
    """There, `lineup store backup` may have nothing to copy at all."""
    if reason := why_not():
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    folder = made(tmp_path / "fr", Role.REQUESTER)
    with PostgresServer(binaries) as server:
        toml = folder / "node.toml"
        toml.write_text(toml.read_text().replace('file = "store.db"', f'url = "{server.new_database()}"'))
        start(folder)
        lose(folder)
        with pytest.raises(StoreCorrupted, match="`lineup store restore` without a file begins it anew"):
            start(folder)
        with pytest.raises(LossRefused, match="casework, whose database is gone or empty: a backup that is named"):
            restore(folder, None, NOW)
        restore(folder, None, NOW, yes=True)
        assert start(folder) == (False, [])


def test_an_emptied_postgresql_database_is_not_begun_anew_either(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    folder = made(tmp_path / "fr", Role.REQUESTER)
    with PostgresServer(binaries) as server:
        first, second = server.new_database(), server.new_database()
        text = (folder / "node.toml").read_text()

        def name_database(url: str) -> None:
            kept = "\n".join(line for line in text.splitlines() if "postgresql://lineup@db.example/cases" not in line)
            (folder / "node.toml").write_text(kept.replace("[casework]", f'[casework]\nurl = "{url}"'))

        name_database(first)
        assert load_config(folder).casework.url == first
        start(folder)
        with CaseDesk.open(folder) as desk:
            staffed(desk)
        start(folder)
        name_database(second)
        with pytest.raises(StoreCorrupted, match=r"casework.url names is empty.*pg_restore"):
            start(folder)
        rekey(folder)
        with pytest.raises(StoreCorrupted, match=r"casework\.url names is empty"):
            CaseDesk.open(folder)
        assert beside.cases_gone(folder, load_config(folder))
        backup(folder, tmp_path / "now")
        with pytest.raises(LossRefused, match="casework, whose database is gone or empty: pg_restore"):
            restore(folder, tmp_path / "now", NOW)
        restore(folder, tmp_path / "now", NOW, yes=True)
        assert start(folder)[0], "it was signed into the log"
