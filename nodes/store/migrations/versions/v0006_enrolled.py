"""Version 6: when a subject was enrolled, and the names of its photos."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add three columns; of subjects until now neither is known."""
    op.add_column("subject", sa.Column("enrolled", sa.BigInteger, nullable=True))
    for table in ("photo", "further_photo"):
        op.add_column(table, sa.Column("name", sa.LargeBinary, nullable=True))
