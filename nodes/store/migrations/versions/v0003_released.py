"""Version 3: releases counted by reference and requesting state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a table; what was released before it existed is not counted."""
    op.create_table(
        "released",
        sa.Column("state", sa.String(2), nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("state", "reference", "day", name="pk_released"),
    )
