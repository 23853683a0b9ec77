"""Migrations of the casework's database, applied as the gallery's are."""

from __future__ import annotations

from pathlib import Path

from nodes.casework.tables import Base
from nodes.store.database import Database
from nodes.store.migrations import upgrade as upgrade_from

SCRIPTS = Path(__file__).parent


def upgrade(database: Database) -> None:
    """Bring the database to the present version. Raises as `nodes.store.migrations.upgrade`."""
    upgrade_from(database, scripts=SCRIPTS, tables=Base.metadata)
