"""`console.db` has a version: an older one is brought up to date with everybody in it, a newer one is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from nodes.casework.desk import utc
from nodes.config.console import ConsoleConfig
from nodes.console.accounts import Accounts
from nodes.console.tables import Base
from nodes.store.database import Database
from nodes.store.errors import StoreVersionError

PASSWORD = "planted-Password-4711"


def opened(folder: Path) -> Accounts:
    return Accounts(f"sqlite:///{folder / 'console.db'}", ConsoleConfig(), utc)


def test_a_database_from_before_versions_keeps_everybody(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'console.db'}")
    Base.metadata.create_all(database.engine)  # as it was made then
    with database.writing() as session:
        session.execute(text("INSERT INTO account (handle, sign_count, failures, locked_until, invite_expires) "
                             "VALUES ('olga', 7, 0, 0, 0)"))  # fmt: skip
    database.close()
    for _ in range(2):
        accounts = opened(tmp_path)
        with accounts._database.reading() as session:
            assert session.execute(text("SELECT handle, sign_count FROM account")).all() == [("olga", 7)]
        accounts.close()
    accounts = opened(tmp_path)
    assert accounts.accept(accounts.invite("olga"), PASSWORD).handle == "olga"
    accounts.close()


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    database = Database(f"sqlite:///{tmp_path / 'console.db'}")
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    database.close()
    before = (tmp_path / "console.db").read_bytes()
    with pytest.raises(StoreVersionError, match="0999"):
        opened(tmp_path)
    assert (tmp_path / "console.db").read_bytes() == before
