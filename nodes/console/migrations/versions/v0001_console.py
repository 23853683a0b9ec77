"""Version 1: accounts, sessions, what happened at the door."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_IDENTIFIER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table; those of a database from before versions were counted are the same, and stay."""
    if sa.inspect(op.get_bind()).has_table("account"):
        return
    op.create_table(
        "account",
        sa.Column("handle", sa.String(63), nullable=False),
        sa.Column("password", sa.String(256), nullable=True),
        sa.Column("credential", sa.LargeBinary, nullable=True),
        sa.Column("sign_count", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("locked_until", sa.BigInteger, nullable=False),
        sa.Column("invite", sa.LargeBinary, nullable=True),
        sa.Column("invite_expires", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("handle"),
        sa.UniqueConstraint("invite"),
    )
    op.create_table(
        "session",
        sa.Column("token", sa.LargeBinary, nullable=False),
        sa.Column("handle", sa.String(63), nullable=False),
        sa.Column("stage", sa.String(8), nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sa.Column("challenge", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_index("ix_session_handle", "session", ["handle"])
    op.create_table(
        "door",
        sa.Column("id", _IDENTIFIER, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("handle", sa.String(63), nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_door_time", "door", ["time"])
