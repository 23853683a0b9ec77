"""Casework that was lost or emptied before there was evidence of it: nobody gets a search without a second person."""

from __future__ import annotations

import asyncio
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
from nodes.evidence.ledger import Ledger
from nodes.identity.identity import init_node
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


def dismiss(folder: Path) -> None:
    """Everybody, by who can write to the file and has no key."""
    with closing(sqlite3.connect(folder / "casework.db")) as connection, connection:
        connection.execute("DELETE FROM person")


@pytest.mark.parametrize("loss", [lose, empty])
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
    assert not desk_module.has_content(requester / "casework.db")


@pytest.mark.parametrize("loss", [lose, empty])
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

    async def body() -> list[str]:
        node, transport = build_node(requester)
        log, ledger = node.archive._gallery, node.archive.ledger
        ledger.note(node.store.content, "change")
        reasons = [log.read(place).reason for place in range(log.size)]  # type: ignore[attr-defined]
        await node.close()
        await transport.close()
        return reasons

    assert asyncio.run(body()) == ["first", "staff", "change"]
    dismiss(requester)
    assert start(requester)[0]


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
        with pytest.raises(LossRefused, match="casework, whose database in PostgreSQL is empty"):
            restore(folder, tmp_path / "now", NOW)
        restore(folder, tmp_path / "now", NOW, yes=True)
        assert start(folder)[0], "it was signed into the log"
