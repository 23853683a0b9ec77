"""Migrations: `upgrade` brings a database of any earlier version to the present one, in a single transaction.

An empty database gets the present tables at once; a test holds them and what the migrations make to be the same.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, text

from nodes.store.database import Database, is_postgresql, typed_errors
from nodes.store.errors import StoreVersionError
from nodes.store.tables import Base

_TURN = threading.Lock()  # Alembic keeps its context in module variables
LOCK = 0x6C696E65757000  # PostgreSQL's advisory lock while a node migrates


def upgrade(
    database: Database,
    revision: str = "head",
    scripts: Path = Path(__file__).parent,
    tables: MetaData | None = Base.metadata,
) -> None:
    """Apply the migrations in the folder `scripts` up to `revision` that are missing.

    `tables`: what an empty database gets in place of all migrations up to the last; None: it gets them one by one.
    Raises `StoreVersionError` for a database of a newer version, `StoreError` if it cannot be migrated; it then
    stays as it was.
    """
    config = _config(scripts)
    known = _known(scripts)
    with typed_errors(), database.engine.connect() as connection:
        current = _current(connection)
    _check_known(current, known)
    if current == known.head:
        return
    with _TURN, database.alone() as connection:
        if is_postgresql(connection):
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        _check_known(_current(connection), known)
        if tables is not None and revision == "head" and not inspect(connection).get_table_names():
            tables.create_all(connection, checkfirst=False)
            MigrationContext.configure(connection).stamp(known.scripts, revision)
            return
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _current(connection: Connection) -> str | None:
    """The version that Alembic noted; None in an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@dataclass(frozen=True)
class _Known:
    scripts: ScriptDirectory
    revisions: frozenset[str]
    head: str | None


@cache
def _known(scripts: Path) -> _Known:
    """Read once: a process opens many stores."""
    read = ScriptDirectory.from_config(_config(scripts))
    return _Known(read, frozenset(script.revision for script in read.walk_revisions()), read.get_current_head())


def _check_known(current: str | None, known: _Known) -> None:
    if current is not None and current not in known.revisions:
        raise StoreVersionError(f"the database has version {current}, this software knows versions up to {known.head}")
