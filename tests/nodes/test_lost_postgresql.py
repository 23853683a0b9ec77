"""A PostgreSQL database that was lost, or brought back as it was before: accepted, restored, killed in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.config.schema import Role
from nodes.config.storage import holder_store
from nodes.evidence.archive import Archive
from nodes.identity.identity import init_node, load_identity
from nodes.operator import database
from nodes.operator.database import LossRefused, backup, restore
from nodes.service.known_store import open_known_store
from nodes.store import Category, Status, StoreCorrupted, StoreLost
from nodes.store.store import GalleryStore
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import ES
from tests.kit.galleries import unit_rows
from tests.kit.postgres import PostgresServer
from tests.kit.stores import database_name
from tests.nodes.test_lost_store import STEPS, Killed, kill_after

pytestmark = pytest.mark.slow

OTHER_MODEL = b"\2" * 32


class Holder:
    """A holder whose gallery is in PostgreSQL, and a dump of it. Since the dump somebody was forgotten, two people were
    enrolled, and one more with another face model, whose templates lie in a folder of their own."""

    def __init__(self, server: PostgresServer, place: Path) -> None:
        self.folder, self._server = place / "es", server
        init_node(self.folder, name=ES, role=Role.HOLDER, address="https://127.0.0.1:9", authority=place / "authority")
        self._text = (self.folder / "node.toml").read_text()
        self._dump = place / "dump"
        self.name_new_database()
        self.references = self.enrol(5)
        self.start()
        self.dump()
        with holder_store(self.folder) as store:
            store.forget(self.references[1], datetime.now(timezone.utc))
        self.enrol(2)
        before = self.templates()
        self.enrol(1, OTHER_MODEL)
        (self.unknown,) = self.templates() - before

    def name_new_database(self) -> None:
        self._url = self._server.new_database()
        (self.folder / "node.toml").write_text(self._text.replace('file = "store.db"', f'url = "{self._url}"'))

    def dump(self) -> None:
        self._server.run("pg_dump", "--format=custom", f"--file={self._dump}", database_name(self._url))

    def go_back(self) -> None:
        """The database is the one of the dump; the templates are those of now."""
        self.name_new_database()
        self._server.run("pg_restore", f"--dbname={database_name(self._url)}", "--exit-on-error", str(self._dump))

    def enrol(self, rows: int, model: bytes = SYNTHETIC_MODEL) -> tuple[str, ...]:
        with holder_store(self.folder) as store:
            return store.enrol_many(
                unit_rows(np.random.default_rng(rows), rows, 64),
                category=Category.SUSPECT,
                status=Status.IDENTIFIED,
                retain_until=date(2040, 1, 1),
                model=model,
            ).references

    def templates(self) -> set[str]:
        return {path.name for path in (self.folder / "store.rows").iterdir()}

    def aside(self) -> list[str]:
        return [path.parent.name for path in self.folder.glob("store.rows.lost-*/*/manifest")]

    def start(self, accept_loss: bool = False) -> Any:
        """The newest entry about the database, and since when claims are lost."""
        identity = load_identity(self.folder)
        with (
            closing(Archive(identity, self.folder)) as archive,
            open_known_store(identity, archive, accept_loss).store as store,
        ):
            return archive.ledger.last, store.claims_lost_until

    def noted(self) -> list[str]:
        with closing(Archive(load_identity(self.folder), self.folder)) as archive:
            return [archive._gallery.read(place).reason for place in range(archive._gallery.size)]  # type: ignore[attr-defined]

    def check(self, reason: str) -> None:
        """Nobody who was forgotten is back, and no template was deleted that the dump does not know."""
        last, lost_until = self.start()
        assert last.rows == 4
        assert reason in self.noted(), "it is signed into the log"
        assert lost_until is not None, "warrants older than the loss are refused"
        assert self.aside() == [self.unknown]
        with holder_store(self.folder) as store:
            assert set(store.snapshot(datetime.now(timezone.utc)).references) == {
                name for name in self.references if name != self.references[1]
            }
            assert self.references[1] in store.deletions()
            assert store.verify(whole=True).rows == 4


@pytest.fixture
def holder(postgres: PostgresServer, tmp_path: Path) -> Holder:
    return Holder(postgres, tmp_path)


def test_a_loss_is_accepted_only_by_an_order(holder: Holder) -> None:
    holder.go_back()
    with pytest.raises(StoreLost, match=r"lineup store restore.*lineup node serve --accept-loss"):
        holder.start()
    last, lost_until = holder.start(accept_loss=True)
    assert (last.reason, last.signature is not None, lost_until is not None) == ("accepted-loss", True, True)
    holder.check("accepted-loss")


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_an_acceptance_that_was_killed_is_gone_on_with_or_must_be_given_again(
    step: tuple[Any, str], holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder.go_back()
    with monkeypatch.context() as patch:
        kill_after(patch, *step)
        with pytest.raises(Killed):
            holder.start(accept_loss=True)
    try:
        holder.start()
    except StoreLost:  # killed before both were brought together for good
        holder.start(accept_loss=True)
    holder.check("accepted-loss")


def test_an_empty_database_is_accepted_and_the_templates_of_the_lost_one_are_put_aside(holder: Holder) -> None:
    holder.name_new_database()
    with pytest.raises(StoreLost, match="another database, with 0 subjects"):
        holder.start()
    before = holder.templates()
    last, lost_until = holder.start(accept_loss=True)
    assert (last.reason, last.rows, lost_until is not None) == ("accepted-loss", 0, True)
    assert set(holder.aside()) == before


def test_where_the_templates_are_lost_a_dump_is_brought_back_or_an_empty_database_named(holder: Holder) -> None:
    shutil.rmtree(holder.folder / "store.rows")
    for accept in (False, True):
        with pytest.raises(StoreLost, match="the templates lay there"):
            holder.start(accept)
    holder.name_new_database()
    assert holder.start(accept_loss=True)[0].reason == "accepted-loss"
    assert holder.start()[0].rows == 0


def killed_before(patch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    patch.setattr(GalleryStore, "put_unnamed_rows_aside", killed)


RESTORE_STEPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before both are brought together": lambda patch: kill_after(patch, database, "expect"),
    "after both were brought together": lambda patch: kill_after(patch, GalleryStore, "reconcile"),
    "before templates are put aside": killed_before,
    "after they were put aside": lambda patch: kill_after(patch, GalleryStore, "put_unnamed_rows_aside"),
    "before casework is restored": lambda patch: kill_after(patch, database, "_after_pg_restore"),
}


def test_a_restore_says_how_many_were_enrolled_since_and_puts_aside_what_the_dump_does_not_know(
    holder: Holder,
) -> None:
    holder.go_back()
    now = datetime.now(timezone.utc)
    with pytest.raises(LossRefused, match="; 3 templates that were enrolled since the dump"):
        restore(holder.folder, None, now)
    result = restore(holder.folder, None, now, yes=True)
    assert [Path(path).parent for path in result.aside] == [holder.folder]
    holder.check("restored")


@pytest.mark.parametrize("again", [True, False], ids=["restored again", "started"])
@pytest.mark.parametrize("step", RESTORE_STEPS.values(), ids=RESTORE_STEPS)
def test_a_restore_that_was_killed_is_gone_on_with(
    step: Callable[[pytest.MonkeyPatch], None], again: bool, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder.go_back()
    now = datetime.now(timezone.utc)
    with monkeypatch.context() as patch:
        step(patch)
        with pytest.raises(Killed):
            restore(holder.folder, None, now, yes=True)
    if not again and step is RESTORE_STEPS["before both are brought together"]:
        with pytest.raises(StoreLost, match="the database is an older one"):
            holder.start()
        again = True
    if again:
        restore(holder.folder, None, now, yes=True)
    holder.check("restored")


def test_templates_from_a_backup_stay_once_the_database_was_brought_together_with_them(
    holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them it could not be opened again, and those of the backup would be too old for it."""
    backup(holder.folder, tmp_path / "copy")
    shutil.rmtree(holder.folder / "store.rows")
    holder.go_back()
    now = datetime.now(timezone.utc)
    with monkeypatch.context() as patch:
        killed_before(patch)
        with pytest.raises(Killed):
            restore(holder.folder, tmp_path / "copy", now, yes=True)
    restore(holder.folder, tmp_path / "copy", now, yes=True)
    holder.check("restored")


def test_templates_from_a_backup_that_do_not_fit_are_taken_away_again(holder: Holder, tmp_path: Path) -> None:
    """The control: as long as the database knows nothing of them, a copy from before the dump is no good."""
    backup(holder.folder, tmp_path / "copy")
    holder.enrol(3)
    holder.dump()
    shutil.rmtree(holder.folder / "store.rows")
    holder.go_back()
    with pytest.raises(StoreCorrupted, match="is an older state of the templates"):
        restore(holder.folder, tmp_path / "copy", datetime.now(timezone.utc), yes=True)
    assert holder.templates() == set()


def test_a_restore_that_was_killed_is_not_gone_on_with_by_one_that_nobody_agreed_to(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was brought back once more since: it does not know of the loss that the first one noted in it."""
    holder.dump()
    holder.go_back()
    now = datetime.now(timezone.utc)
    with monkeypatch.context() as patch:
        kill_after(patch, database, "expect")
        with pytest.raises(Killed):
            restore(holder.folder, None, now, yes=True)
    holder.go_back()
    with pytest.raises(LossRefused):
        restore(holder.folder, None, now)
    assert "restored" not in holder.noted()
    restore(holder.folder, None, now, yes=True)
    assert holder.noted()[-1] == "restored"
    assert holder.start()[1] is not None, "warrants older than the loss are refused"
