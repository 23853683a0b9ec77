"""Version 4: which database it is, how many subjects it holds, and their digest. Counted when it is opened."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add three columns."""
    op.add_column("store", sa.Column("identity", sa.LargeBinary, nullable=True))
    op.add_column("store", sa.Column("rows", sa.BigInteger, nullable=True))
    op.add_column("store", sa.Column("digest", sa.LargeBinary, nullable=True))
