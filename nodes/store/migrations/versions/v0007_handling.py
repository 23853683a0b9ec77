"""Version 7: who handled whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nodes.store.migrations.versions.v0001_gallery import Identifier

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add an empty table: what was done before, nobody wrote down."""
    op.create_table(
        "handling",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_handling"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_handling_time", "handling", ["time"])
