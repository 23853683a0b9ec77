"""What the casework stores: unreadable without the key, bound to its place, and moved along when the key changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from nodes.casework.desk import CaseDesk
from nodes.casework.migrations import SCRIPTS, upgrade
from nodes.casework.tables import Base, CandidateRow
from nodes.operator.database import rekey
from nodes.store.database import Database
from nodes.store.errors import StoreCorrupted, WrongStorageKey
from nodes.store.keys import StorageKey
from nodes.store.migrations import upgrade as upgrade_to
from tests.kit.casework import Offices


def test_a_changed_storage_key_opens_cases_and_finds_disclosures(offices: Offices, tmp_path: Path) -> None:
    candidate = offices.confirmed()
    offices.close()
    for name in ("FR", "ES"):
        old = (tmp_path / name / "storage.key").read_text()
        rekey(tmp_path / name)
        assert (tmp_path / name / "storage.key").read_text() != old
    with CaseDesk.open(tmp_path / "FR") as fr, CaseDesk.open(tmp_path / "ES") as es:
        seen = fr.view(fr.person("olga"), f"candidate:{candidate}", "to compare")
        assert seen.reference == offices.references[0]
        assert es.recall(es.person("dora"), offices.references[0], "another person") == ["FR"]


def test_another_key_opens_nothing(offices: Offices, tmp_path: Path) -> None:
    offices.close()
    (tmp_path / "FR" / "storage.key").unlink()
    StorageKey.create(tmp_path / "FR" / "storage.key")
    with pytest.raises(WrongStorageKey):
        CaseDesk.open(tmp_path / "FR")


def test_a_record_that_was_moved_to_another_candidate_does_not_open(offices: Offices) -> None:
    query = offices.searched(offices.enrol(), offices.enrol())
    first, second = offices.fr.candidates_for(offices.french.rita, query)
    with offices.fr.office.vault.writing() as session:
        rows = {row.id: row for row in session.scalars(select(CandidateRow))}
        rows[first.id].sealed = rows[second.id].sealed
    with pytest.raises(StoreCorrupted):
        offices.fr.view(offices.french.rita, f"candidate:{first.id}", "to compare")
    offices.fr.view(offices.french.rita, f"candidate:{second.id}", "to compare")  # the control


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'casework.db'}"
    return str(request.getfixturevalue("postgres").new_database())


def test_recalls_of_version_1_count_if_they_were_delivered(url: str) -> None:
    database = Database(url)
    upgrade_to(database, "0001", SCRIPTS)
    with database.engine.begin() as connection:
        for peer, state in (("FR", "done"), ("DE", "failed")):
            row = {"peer": peer, "state": state, "digest": peer.encode()}
            given = "INSERT INTO disclosed (attempt, peer, mac, time, recalled, sealed)"
            connection.execute(text(f"{given} VALUES ('a', :peer, 'm', 5, 7, 's')"), row)
            said = (
                "INSERT INTO statement"
                " (digest, attempt, direction, peer, kind, time, state, logged, tries, not_before, content)"
            )
            told = "VALUES (:digest, 'a', 'sent', :peer, 'Recalled', 7, :state, true, 0, 0, 'c')"
            connection.execute(text(f"{said} {told}"), row)
    upgrade(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        rows = connection.execute(text("SELECT peer, acknowledged FROM disclosed"))
        assert {tuple(row) for row in rows} == {("FR", 7), ("DE", None)}
    database.close()
