"""Version 2: when the receiver of a recall took it in, from when on its receipt is due."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add a column. A recall of version 1 that was delivered counts from when it was made, as before."""
    op.add_column("disclosed", sa.Column("acknowledged", sa.BigInteger, nullable=True))
    op.execute(
        "UPDATE disclosed SET acknowledged = recalled WHERE recalled IS NOT NULL AND EXISTS ("
        "SELECT 1 FROM statement WHERE statement.kind = 'Recalled' AND statement.state = 'done'"
        " AND statement.attempt = disclosed.attempt AND statement.peer = disclosed.peer)"
    )
