"""Version 2: contested accuracy, deletions kept for restores, enrolments that continue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add a column and three tables; subjects of version 1 are not contested."""
    op.add_column("subject", sa.Column("contested", sa.Boolean, server_default=sa.false(), nullable=False))
    op.create_table(
        "contested_event",
        sa.Column("id", Identifier, nullable=False),
        sa.Column(
            "subject_id",
            Identifier,
            sa.ForeignKey("subject.id", ondelete="CASCADE", name="fk_contested_event_subject_id"),
            nullable=False,
        ),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("authority", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_contested_event"),
    )
    op.create_index("ix_contested_event_subject_id", "contested_event", ["subject_id"])
    op.create_table(
        "deletion",
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("reference", name="pk_deletion"),
    )
    op.create_table(
        "enrolment_run",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("source", sa.LargeBinary, nullable=False),
        sa.Column(
            "key_id", Identifier, sa.ForeignKey("storage_key.id", name="fk_enrolment_run_key_id"), nullable=False
        ),
        sa.Column("particulars", sa.String(200), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_run"),
        sa.UniqueConstraint("mac", name="uq_enrolment_run_mac"),
    )
