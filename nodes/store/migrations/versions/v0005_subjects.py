"""Version 5: several photos, and several rows, of one subject."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nodes.store.migrations.versions.v0001_gallery import Identifier

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a column and a table; every row until now is a subject of its own, with at most one photo."""
    op.add_column("subject", sa.Column("subject", sa.String(64), nullable=True))
    op.create_index("ix_subject_subject", "subject", ["subject"])
    op.create_table(
        "further_photo",
        sa.Column("id", Identifier, nullable=False),
        sa.Column(
            "subject_id",
            Identifier,
            sa.ForeignKey("subject.id", ondelete="CASCADE", name="fk_further_photo_subject_id"),
            nullable=False,
        ),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_further_photo"),
        sa.UniqueConstraint("mac", name="uq_further_photo_mac"),
    )
    op.create_index("ix_further_photo_subject_id", "further_photo", ["subject_id"])
