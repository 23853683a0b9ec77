"""Casework and console are in a backup; once they were lost, nothing deleted comes back, nothing is launched again."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from nodes.casework import desk as desk_module
from nodes.casework import vault
from nodes.casework.desk import CaseDesk, utc
from nodes.casework.errors import UnknownThing
from nodes.casework.tables import StatementRow
from nodes.config.console import ConsoleConfig
from nodes.console.accounts import Accounts
from nodes.console.errors import SignedOut
from nodes.evidence.archive import Archive
from nodes.identity.identity import load_identity
from nodes.operator import beside, database
from nodes.operator.database import LossRefused, backup, rekey, restore
from nodes.store import StoreCorrupted, StoreLocked, StoreRefusal
from nodes.store.database import Database
from protocol.follow_up import decode_statement
from tests.kit.casework import Offices

NOW = datetime.now(timezone.utc)
PASSWORD = "planted-Password-4711"


def log_statements(desk: CaseDesk, folder: Path) -> int:
    """What a running node does with new statements; gives how many."""
    archive, count = Archive(load_identity(folder), folder), 0
    with desk.office.vault.writing() as session:
        for row in session.scalars(
            select(StatementRow).where(StatementRow.logged.is_(False)).order_by(StatementRow.id)
        ):
            archive.keep_statement(decode_statement(row.content), row.direction, row.peer)  # type: ignore[arg-type]
            row.logged, count = True, count + 1
    archive.close()
    return count


def lose(folder: Path, name: str) -> None:
    for path in folder.glob(f"{name}*"):
        path.unlink()


@pytest.fixture
def since(offices: Offices, tmp_path: Path) -> tuple[str, str, str]:
    """A backup at both nodes; since then a candidate was deleted, core data were released, and a query launched."""
    first, second = offices.confirmed(), offices.confirmed()
    request = offices.request(second)
    query = offices.query()
    for name in ("FR", "ES"):
        backup(tmp_path / name, tmp_path / f"{name}.bak")
    offices.fr.delete(offices.french.olga, first)
    offices.release(request, {"first-names": "Planted-Ana"})
    log_statements(offices.fr, tmp_path / "FR")
    log_statements(offices.es, tmp_path / "ES")
    offices.close()
    return first, request, query


def test_lost_casework_comes_back_and_catches_up(since: tuple[str, str, str], tmp_path: Path) -> None:
    first, request, query = since
    for name in ("FR", "ES"):
        lose(tmp_path / name, "casework.db")
        with pytest.raises(LossRefused, match="decided, noted and looked at"):
            restore(tmp_path / name, tmp_path / f"{name}.bak", NOW)
        assert not (tmp_path / name / "casework.db").exists()
        result = restore(tmp_path / name, tmp_path / f"{name}.bak", NOW, yes=True)
        assert "in casework since the backup" in result.lost[0]
    with CaseDesk.open(tmp_path / "FR") as fr, CaseDesk.open(tmp_path / "ES") as es:
        assert {one.handle for one in fr.staff()} >= {"olga", "anton", "rita"}
        with pytest.raises(UnknownThing):
            fr.view(fr.person("rita"), f"candidate:{first}", "to compare")
        states = {one.id: one.state for one in fr.queries(fr.person("olga"))}
        assert states[query] == "failed"  # approved when the backup was made: it may have been launched since
        (sent,) = fr.requests(fr.person("olga"))
        (received,) = es.requests(es.person("lena"))
        assert (sent.id, sent.state, received.state) == (request, "deleted", "released")  # the record itself is lost
        assert log_statements(fr, tmp_path / "FR") == log_statements(es, tmp_path / "ES") == 0  # none twice
        assert [one.deleted is not None for one in es.disclosures(es.person("dora"))].count(True) == 1


def test_control_a_bare_copy_brings_a_deleted_candidate_back(since: tuple[str, str, str], tmp_path: Path) -> None:
    first, _, query = since
    lose(tmp_path / "FR", "casework.db")
    shutil.copyfile(tmp_path / "FR.bak.casework", tmp_path / "FR" / "casework.db")
    with CaseDesk.open(tmp_path / "FR") as fr:
        fr.view(fr.person("rita"), f"candidate:{first}", "to compare")
        assert {one.id: one.state for one in fr.queries(fr.person("olga"))}[query] == "approved"
        assert log_statements(fr, tmp_path / "FR") > 0


def test_casework_that_can_be_read_stays_as_it_is(since: tuple[str, str, str], tmp_path: Path) -> None:
    first, _, query = since
    assert restore(tmp_path / "FR", tmp_path / "FR.bak", NOW).lost == ()
    with CaseDesk.open(tmp_path / "FR") as fr:
        assert {one.id: one.state for one in fr.queries(fr.person("olga"))}[query] == "approved"
        with pytest.raises(UnknownThing):
            fr.view(fr.person("rita"), f"candidate:{first}", "to compare")


def test_damaged_casework_and_one_under_an_earlier_key_are_restored(
    since: tuple[str, str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "FR"
    old = rekey(folder).old_key
    assert old is not None
    for suffix in ("-wal", "-shm"):
        Path(f"{folder / 'casework.db'}{suffix}").unlink(missing_ok=True)
    (folder / "casework.db").write_bytes(b"planted junk" * 1000)
    restore(folder, tmp_path / "FR.bak", NOW, old_key=Path(old), yes=True)
    with CaseDesk.open(folder) as fr:
        assert fr.person("olga").name == "Olga Planted-olga"


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Somebody else writes to a database."""
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        yield


def test_casework_that_somebody_writes_to_is_not_taken_for_damaged(
    since: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, place = tmp_path / "FR", tmp_path / "FR" / "casework.db"
    readable = beside._readable

    def look(*given: Any) -> bool:
        with held(place), monkeypatch.context() as patch:
            patch.setattr(vault, "Database", partial(Database, lock_seconds=0.2))
            return readable(*given)

    with monkeypatch.context() as patch:
        patch.setattr(beside, "_readable", look)
        with pytest.raises(StoreLocked):
            restore(folder, tmp_path / "FR.bak", NOW, yes=True)
    assert restore(folder, tmp_path / "FR.bak", NOW).lost == (), "it is as it was"
    assert not list(folder.glob("casework.db.lost-*"))


def test_what_is_found_damaged_only_after_the_question_is_not_replaced(
    since: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody agreed to lose it."""
    folder, place = tmp_path / "FR", tmp_path / "FR" / "casework.db"
    restored = database._restore

    def damage(*given: Any) -> Any:
        lose(folder, "casework.db")
        place.write_bytes(b"planted junk" * 1000)
        return restored(*given)

    monkeypatch.setattr(database, "_restore", damage)
    assert restore(folder, tmp_path / "FR.bak", NOW).lost == ()
    assert place.read_bytes() == b"planted junk" * 1000


@pytest.mark.parametrize("copied", [True, False], ids=["replaced", "without a copy"])
def test_damaged_casework_is_put_aside_and_kept(since: tuple[str, str, str], tmp_path: Path, copied: bool) -> None:
    folder, place = tmp_path / "FR", tmp_path / "FR" / "casework.db"
    lose(folder, "casework.db")
    place.write_bytes(b"planted junk" * 1000)
    if not copied:
        (tmp_path / "FR.bak.casework").unlink()
    restore(folder, tmp_path / "FR.bak", NOW, yes=True)
    (kept,) = folder.glob("casework.db.lost-*")
    assert kept.read_bytes() == b"planted junk" * 1000


def test_accounts_come_back_and_nobody_is_signed_in(offices: Offices, tmp_path: Path) -> None:
    folder = tmp_path / "FR"

    def accounts() -> Accounts:
        return Accounts(f"sqlite:///{folder / 'console.db'}", ConsoleConfig(), utc)

    door = accounts()
    signed_in = door.key_enrolled(door.accept(door.invite("olga"), PASSWORD), b"", 0)
    assert {path.name for path in backup(folder, tmp_path / "bak")} == {"bak", "bak.casework", "bak.console"}
    door.close()
    offices.close()
    lose(folder, "console.db")
    assert "accounts" in restore(folder, tmp_path / "bak", NOW, yes=True).lost[0]
    door = accounts()
    assert door.sign_in("olga", PASSWORD).handle == "olga"
    with pytest.raises(SignedOut):
        door.session(signed_in.token)
    door.close()
    # control: in a bare copy the session would live on
    lose(folder, "console.db")
    shutil.copyfile(tmp_path / "bak.console", folder / "console.db")
    door = accounts()
    assert door.session(signed_in.token).handle == "olga"
    door.close()


def test_a_backup_overwrites_nothing_and_leaves_no_half(offices: Offices, tmp_path: Path) -> None:
    (tmp_path / "bak.casework").write_bytes(b"mine")
    with pytest.raises(StoreRefusal, match=r"bak\.casework exists already"):
        backup(tmp_path / "FR", tmp_path / "bak")
    assert not (tmp_path / "bak").exists()
    assert (tmp_path / "bak.casework").read_bytes() == b"mine"
    (tmp_path / "bak").write_bytes(b"mine too")
    with pytest.raises(StoreRefusal, match=r"bak exists already"):  # the file that was named, first
        backup(tmp_path / "FR", tmp_path / "bak")


def test_a_loss_without_a_copy_is_said(since: tuple[str, str, str], tmp_path: Path) -> None:
    (tmp_path / "FR.bak.casework").unlink()
    lose(tmp_path / "FR", "casework.db")
    with pytest.raises(LossRefused, match="has no copy"):
        restore(tmp_path / "FR", tmp_path / "FR.bak", NOW)


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_database_that_is_gone_is_not_begun_anew_by_whoever_looks_into_it(
    how: str, since: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without staff nobody approves a search, and a recall finds nobody. Without a copy, a restore begins anew, and
    what the evidence tells is known."""
    folder = tmp_path / "FR"
    lose(folder, "casework.db")
    if how == "empty":
        (folder / "casework.db").touch()
    for _ in range(2):
        with pytest.raises(StoreCorrupted, match=rf"casework.db is {how}, and this node had one.*lineup store restore"):
            CaseDesk.open(folder)
    (folder / "casework.db").unlink(missing_ok=True)
    backup(folder, tmp_path / "now")
    result = restore(folder, tmp_path / "now", NOW, yes=True)
    assert result.lost == ("casework.db, of which the backup has no copy",)
    with CaseDesk.open(folder) as desk, desk.office.vault.reading() as session:
        assert session.scalars(select(StatementRow.id)).all()
    lose(folder, "casework.db")
    shutil.rmtree(folder / "follow-up")
    with pytest.raises(StoreCorrupted, match=r"casework.db is gone"):
        CaseDesk.open(folder)
    monkeypatch.setattr(desk_module, "has_entries", lambda _: False)
    with CaseDesk.open(folder) as desk:
        assert desk.staff() == [], "the control: neither logs nor evidence tell of one"


def test_an_empty_database_is_neither_copied_nor_begun_anew_by_a_change_of_the_key(
    since: tuple[str, str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "FR"
    lose(folder, "casework.db")
    (folder / "casework.db").touch()
    rekey(folder)
    with pytest.raises(StoreCorrupted, match=r"casework.db is empty"):
        CaseDesk.open(folder)
    backup(folder, tmp_path / "now")
    assert not (tmp_path / "now.casework").exists()
    assert restore(folder, tmp_path / "now", NOW, yes=True).lost == ("casework.db, of which the backup has no copy",)


def _lost_and_restored(tmp_path: Path, name: str) -> None:
    lose(tmp_path / name, "casework.db")
    restore(tmp_path / name, tmp_path / f"{name}.bak", NOW, yes=True)


@pytest.fixture
def recalled(offices: Offices, tmp_path: Path) -> Offices:
    """Recalled since the backup at ES: one that is answered, one that FR took in and did not answer, one on its way."""
    answered, owed, on_its_way = (offices.enrol() for _ in range(3))
    for reference in (answered, owed, on_its_way):
        offices.searched(reference)
    backup(tmp_path / "ES", tmp_path / "ES.bak")
    offices.es.recall(offices.spanish.dora, answered, "another person's photo")
    offices.carry()
    offices.es.recall(offices.spanish.dora, owed, "another person's photo")
    offices._carry(offices.es, offices.fr)
    offices.es.recall(offices.spanish.dora, on_its_way, "another person's photo")
    log_statements(offices.es, tmp_path / "ES")
    return offices


def test_a_restored_holder_knows_which_recalls_it_made_and_which_arrived(recalled: Offices, tmp_path: Path) -> None:
    before = recalled.es.recalls(recalled.spanish.dora)
    assert [(one.due is None, one.answered) for one in before] == [(False, True), (False, False), (True, False)]
    recalled.es.close()
    _lost_and_restored(tmp_path, "ES")
    with CaseDesk.open(tmp_path / "ES", recalled.clock) as es:
        after = es.recalls(es.person("dora"))
        assert [(one.made, one.answered) for one in after] == [(one.made, one.answered) for one in before]
        assert [one.due is None for one in after] == [False, False, True]
        assert all(abs((a.due or 0) - (b.due or 0)) < 60 for a, b in zip(after, before, strict=True))
        assert not es.owes_receipts("FR")
        recalled.clock.ahead = timedelta(hours=49)
        assert es.owes_receipts("FR")
        assert log_statements(es, tmp_path / "ES") == 0


def test_control_a_bare_copy_at_a_holder_knows_of_no_recall(recalled: Offices, tmp_path: Path) -> None:
    recalled.es.close()
    lose(tmp_path / "ES", "casework.db")
    shutil.copyfile(tmp_path / "ES.bak.casework", tmp_path / "ES" / "casework.db")
    recalled.clock.ahead = timedelta(hours=49)
    with CaseDesk.open(tmp_path / "ES", recalled.clock) as es:
        assert es.recalls(es.person("dora")) == []
        assert not es.owes_receipts("FR")


@pytest.mark.parametrize("receipt_kept", [True, False], ids=["receipt kept", "killed before the receipt was kept"])
def test_a_restored_receiver_knows_which_recalls_it_took_in(
    offices: Offices, tmp_path: Path, receipt_kept: bool
) -> None:
    gone, doubted = offices.enrol(), offices.enrol()
    query = offices.searched(gone, doubted)
    backup(tmp_path / "FR", tmp_path / "FR.bak")
    offices.es.recall(offices.spanish.dora, gone, "another person's photo")
    offices.es.recall(offices.spanish.dora, doubted, "the person says so", "contested")
    offices._carry(offices.es, offices.fr)
    if not receipt_kept:
        with offices.fr.office.vault.writing() as session:
            session.execute(delete(StatementRow).where(StatementRow.kind == "Deleted"))
    log_statements(offices.fr, tmp_path / "FR")
    offices.fr.close()
    _lost_and_restored(tmp_path, "FR")
    with CaseDesk.open(tmp_path / "FR", offices.clock) as fr:
        (one,) = fr.candidates_for(fr.person("rita"), query)
        assert one.contested
        assert log_statements(fr, tmp_path / "FR") == (0 if receipt_kept else 1)
        offices.fr = fr
        offices.carry()  # whether the receipt had arrived is not known: it goes once more
    assert [view.answered for view in offices.es.recalls(offices.spanish.dora)] == [True]


def test_a_restored_holder_still_knows_a_confirmation_and_takes_no_statement_in_twice(
    offices: Offices, tmp_path: Path
) -> None:
    backup(tmp_path / "ES", tmp_path / "ES.bak")
    offices.confirmed()
    log_statements(offices.es, tmp_path / "ES")
    with offices.es.office.vault.reading() as session:
        known = {row.digest: row.state for row in session.scalars(select(StatementRow))}
    offices.es.close()
    _lost_and_restored(tmp_path, "ES")
    with CaseDesk.open(tmp_path / "ES") as es, es.office.vault.reading() as session:
        assert {row.digest: row.state for row in session.scalars(select(StatementRow))} == known
