"""An empty database gets the tables at once, an older one through its migrations: both must end at the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, inspect, text

import nodes.casework.migrations
import nodes.console.migrations
import nodes.store.migrations
from nodes.casework.tables import Base as CaseworkBase
from nodes.console.tables import Base as ConsoleBase
from nodes.store.database import Database
from nodes.store.errors import StoreUnavailable
from nodes.store.migrations import upgrade
from nodes.store.tables import Base
from tests.kit.postgres import PostgresServer

DATABASES = {
    "gallery": (nodes.store.migrations, Base.metadata),
    "casework": (nodes.casework.migrations, CaseworkBase.metadata),
    "console": (nodes.console.migrations, ConsoleBase.metadata),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two empty databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/other.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database(), server.new_database()


def described(url: str) -> dict[str, Any]:
    """All that a database says of its tables."""
    database = Database(url)
    told = inspect(database.engine)

    def flat(value: Any) -> str:
        return str(sorted((key, flat(each)) for key, each in value.items()) if isinstance(value, dict) else value)

    def plain(items: Any) -> list[str]:
        return sorted(flat(dict(item)) for item in items)

    tables = {
        name: {
            "columns": plain(told.get_columns(name)),
            "key": plain([told.get_pk_constraint(name)]),
            "foreign": plain(told.get_foreign_keys(name)),
            "unique": plain(told.get_unique_constraints(name)),
            "indexes": plain(told.get_indexes(name)),
            "checks": plain(told.get_check_constraints(name)),
        }
        for name in told.get_table_names()
    }
    with database.engine.connect() as connection:
        version = MigrationContext.configure(connection).get_current_revision()
        numbered = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"
        given_once = connection.execute(text(numbered)).all() if url.startswith("sqlite") else []
    database.close()
    return {**tables, "version": version, "numbers given once": sorted(map(str, given_once))}


def made(url: str, scripts: Path, tables: MetaData | None) -> dict[str, Any]:
    database = Database(url)
    upgrade(database, scripts=scripts, tables=tables)
    database.close()
    return described(url)


@pytest.mark.parametrize("kind", DATABASES)
def test_migrations_end_at_the_tables_that_an_empty_database_gets(kind: str, urls: tuple[str, str]) -> None:
    room, tables = DATABASES[kind]
    scripts = Path(room.__file__ or "").parent
    migrated = made(urls[0], scripts, None)
    assert migrated == made(urls[1], scripts, tables)
    assert len(migrated) > len(tables.tables)
    database = Database(urls[0])
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables) == []
    database.close()


def test_columns_of_the_gallery_stand_in_the_same_order_for_a_restore_copies_whole_rows(urls: tuple[str, str]) -> None:
    scripts = Path(nodes.store.migrations.__file__ or "").parent

    def ordered(url: str) -> dict[str, list[str]]:
        database = Database(url)
        told = inspect(database.engine)
        found = {name: [column["name"] for column in told.get_columns(name)] for name in told.get_table_names()}
        database.close()
        return found

    made(urls[0], scripts, None)
    made(urls[1], scripts, Base.metadata)
    assert ordered(urls[0]) == ordered(urls[1])
    assert ordered(urls[0])["released"] == ["state", "reference", "day", "times"]


def test_control_a_column_or_a_constraint_more_is_seen(urls: tuple[str, str]) -> None:
    scripts = Path(nodes.console.migrations.__file__ or "").parent
    before = made(urls[0], scripts, ConsoleBase.metadata)
    for change in ("ALTER TABLE account ADD COLUMN more INTEGER", "CREATE UNIQUE INDEX more ON session (handle)"):
        database = Database(urls[0])
        with database.engine.begin() as connection:
            connection.execute(text(change))
        database.close()
        after = described(urls[0])
        assert after != before
        before = after


def test_a_database_with_tables_of_others_is_migrated_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/store.db")
    upgrade(database, "0001")
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(StoreUnavailable):
        upgrade(database)
    database.close()
