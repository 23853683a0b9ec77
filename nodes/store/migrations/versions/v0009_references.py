"""Version 9: references lead to their subjects, and need no index (`nodes.store.references`)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nodes.store.migrations.versions.v0001_gallery import Identifier

revision = "0009"
down_revision = "0008"

COLUMNS = (
    "id, reference, category, status, retain_until, quality, model_id, key_id, template, contested, subject, enrolled, "
    '"row", tie'
)


def upgrade() -> None:
    """Take the constraint off that had every reference in an index; who has one from before stays in a smaller one."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE subject DROP CONSTRAINT IF EXISTS uq_subject_reference")
        op.add_column("subject", sa.Column("numbered", sa.Boolean, nullable=False, server_default=sa.false()))
        op.drop_index("ix_subject_subject", "subject")
    else:
        _rebuild()
    old, further = sa.text("NOT numbered"), sa.text("subject IS NOT NULL")
    op.create_index(
        "ix_subject_reference", "subject", ["reference"], unique=True, sqlite_where=old, postgresql_where=old
    )
    op.create_index("ix_subject_subject", "subject", ["subject"], sqlite_where=further, postgresql_where=further)
    op.add_column("store", sa.Column("reference_key", sa.LargeBinary, nullable=True))


def _rebuild() -> None:
    """SQLite takes off a constraint only with the table. Nothing hangs on it meanwhile: `Database.alone`."""
    op.create_table(
        "subject_rebuilt",
        sa.Column("id", Identifier, nullable=False),
        sa.Column("reference", sa.String(64), nullable=False),
        sa.Column("category", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("retain_until", sa.Date, nullable=False),
        sa.Column("quality", sa.SmallInteger, nullable=True),
        sa.Column("model_id", Identifier, sa.ForeignKey("model.id", name="fk_subject_model_id"), nullable=False),
        sa.Column("key_id", Identifier, sa.ForeignKey("storage_key.id", name="fk_subject_key_id"), nullable=False),
        sa.Column("template", sa.LargeBinary, nullable=False),
        sa.Column("contested", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.Column("subject", sa.String(64), nullable=True),
        sa.Column("enrolled", sa.BigInteger, nullable=True),
        sa.Column("row", sa.BigInteger, nullable=True),
        sa.Column("tie", sa.LargeBinary, nullable=True),
        sa.Column("numbered", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_subject"),
        sqlite_autoincrement=True,
    )
    op.execute(f"INSERT INTO subject_rebuilt ({COLUMNS}) SELECT {COLUMNS} FROM subject ORDER BY id")  # noqa: S608
    # numbers are given once: of those that were given, the last may be of somebody who is gone
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'subject_rebuilt'")
    op.execute("UPDATE sqlite_sequence SET name = 'subject_rebuilt' WHERE name = 'subject'")
    op.drop_table("subject")
    op.rename_table("subject_rebuilt", "subject")
    op.create_index("ix_subject_retain_until", "subject", ["retain_until"])
    op.create_index("ix_subject_model_id_row", "subject", ["model_id", "row"])
