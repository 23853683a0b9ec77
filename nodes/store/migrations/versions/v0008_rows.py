"""Version 8: templates lie in block files, and a subject knows the number of its row (`nodes.store.rows`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nodes.store.migrations.versions.v0001_gallery import Identifier

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add columns and a table. The templates are moved when the store is opened, which has the key.

    The digest of what is held covers a row's number in the place of its template, so it is counted again.
    """
    op.add_column("subject", sa.Column("row", sa.BigInteger, nullable=True))
    op.add_column("subject", sa.Column("tie", sa.LargeBinary, nullable=True))
    op.create_index("ix_subject_model_id_row", "subject", ["model_id", "row"])
    op.add_column("model", sa.Column("folder", sa.String(32), nullable=True))
    op.add_column("model", sa.Column("line", sa.LargeBinary, nullable=True))
    for column in ("generation", "next_row"):
        op.add_column("model", sa.Column(column, sa.BigInteger, nullable=True))
    changing = sa.Column("changing", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("store", changing)
    op.create_table(
        "gone_row",
        sa.Column("model_id", Identifier, sa.ForeignKey("model.id", name="fk_gone_row_model_id"), nullable=False),
        sa.Column("row", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model_id", "row", name="pk_gone_row"),
    )
    op.execute("UPDATE store SET generation = generation + 1, rows = NULL, digest = NULL")
