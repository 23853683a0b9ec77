"""Version 1: subjects, photos, keys, quotas, claimed queries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables of version 1."""
    op.create_table(
        "store",
        sa.Column("id", Identifier, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(2), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_store"),
    )
    op.create_table(
        "storage_key",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("check_value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_storage_key"),
        sa.UniqueConstraint("fingerprint", name="uq_storage_key_fingerprint"),
    )
    op.create_table(
        "model",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("dim", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("digest", name="uq_model_digest"),
    )
    op.create_table(
        "subject",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("category", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("retain_until", sa.Date, nullable=False),
        sa.Column("quality", sa.SmallInteger, nullable=True),
        sa.Column("model_id", Identifier, sa.ForeignKey("model.id", name="fk_subject_model_id"), nullable=False),
        sa.Column("key_id", Identifier, sa.ForeignKey("storage_key.id", name="fk_subject_key_id"), nullable=False),
        sa.Column("template", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_subject"),
        sa.UniqueConstraint("reference", name="uq_subject_reference"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_subject_retain_until", "subject", ["retain_until"])
    op.create_table(
        "photo",
        sa.Column(
            "subject_id",
            Identifier,
            sa.ForeignKey("subject.id", ondelete="CASCADE", name="fk_photo_subject_id"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("subject_id", name="pk_photo"),
        sa.UniqueConstraint("mac", name="uq_photo_mac"),
    )
    op.create_table(
        "quota",
        sa.Column("state", sa.String(2), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("state", "kind", "day", name="pk_quota"),
    )
    op.create_table(
        "claimed_query",
        sa.Column("query_id", sa.LargeBinary, nullable=False),
        sa.Column("step", sa.String(32), nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("query_id", "step", name="pk_claimed_query"),
    )
    op.create_index("ix_claimed_query_time", "claimed_query", ["time"])
