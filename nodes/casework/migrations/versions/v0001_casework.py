"""Version 1: persons, queries, candidates, requests, statements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_IDENTIFIER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "casework_key",
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("check_value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_casework_key"),
    )
    op.create_table(
        "disclosed",
        sa.Column("id", _IDENTIFIER, nullable=False),
        sa.Column("attempt", sa.LargeBinary, nullable=False),
        sa.Column("peer", sa.String(16), nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=True),
        sa.Column("deleted", sa.BigInteger, nullable=True),
        sa.Column("recalled", sa.BigInteger, nullable=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_disclosed"),
    )
    op.create_index("ix_disclosed_attempt", "disclosed", ["attempt"])
    op.create_index("ix_disclosed_mac", "disclosed", ["mac"])
    op.create_table(
        "person",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("handle", sa.String(64), nullable=False),
        sa.Column("roles", sa.String(200), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=True),
        sa.Column("key", sa.LargeBinary, nullable=True),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("enrolled", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("handle", name="uq_person_handle"),
        sa.UniqueConstraint("fingerprint", name="uq_person_fingerprint"),
    )
    op.create_table(
        "statement",
        sa.Column("id", _IDENTIFIER, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("attempt", sa.LargeBinary, nullable=False),
        sa.Column("direction", sa.String(8), nullable=False),
        sa.Column("peer", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("logged", sa.Boolean, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_statement"),
        sa.UniqueConstraint("digest", name="uq_statement_digest"),
    )
    op.create_index("ix_statement_attempt", "statement", ["attempt"])
    op.create_index("ix_statement_kind", "statement", ["kind"])
    op.create_index("ix_statement_state", "statement", ["state"])
    op.create_index("ix_statement_logged", "statement", ["logged"])
    op.create_table(
        "query",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("number", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("opened_by", sa.String(32), nullable=False),
        sa.Column("approved_by", sa.String(32), nullable=True),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("authorised", sa.BigInteger, nullable=True),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.String(8192), nullable=False),
        sa.Column("launch", sa.LargeBinary, nullable=True),
        sa.Column("report", sa.LargeBinary, nullable=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_query"),
        sa.UniqueConstraint("number", name="uq_query_number"),
        sa.ForeignKeyConstraint(["opened_by"], ["person.id"], name="fk_query_opened_by"),
        sa.ForeignKeyConstraint(["approved_by"], ["person.id"], name="fk_query_approved_by"),
    )
    op.create_index("ix_query_state", "query", ["state"])
    op.create_table(
        "viewed",
        sa.Column("id", _IDENTIFIER, nullable=False),
        sa.Column("person_id", sa.String(32), nullable=True),
        sa.Column("what", sa.String(100), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("recipient", sa.String(64), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_viewed"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_viewed_person_id"),
    )
    op.create_index("ix_viewed_time", "viewed", ["time"])
    op.create_table(
        "candidate",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("query_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.LargeBinary, nullable=False),
        sa.Column("holder", sa.String(16), nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=True),
        sa.Column("outcome", sa.String(16), nullable=True),
        sa.Column("confirmed", sa.LargeBinary, nullable=True),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("contested", sa.Boolean, nullable=False),
        sa.Column("deleted", sa.BigInteger, nullable=True),
        sa.Column("quality", sa.Integer, nullable=True),
        sa.Column("sealed", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_candidate"),
        sa.ForeignKeyConstraint(["query_id"], ["query.id"], name="fk_candidate_query_id"),
    )
    op.create_index("ix_candidate_query_id", "candidate", ["query_id"])
    op.create_index("ix_candidate_mac", "candidate", ["mac"])
    op.create_index("ix_candidate_digest", "candidate", ["digest"])
    op.create_index("ix_candidate_expires", "candidate", ["expires"])
    op.create_table(
        "request",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("direction", sa.String(8), nullable=False),
        sa.Column("peer", sa.String(16), nullable=False),
        sa.Column("attempt", sa.LargeBinary, nullable=False),
        sa.Column("candidate_id", sa.String(32), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("made", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("paused", sa.BigInteger, nullable=True),
        sa.Column("ended", sa.BigInteger, nullable=True),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=True),
        sa.Column("sealed", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_request"),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name="fk_request_candidate_id"),
    )
    op.create_index("ix_request_direction", "request", ["direction"])
    op.create_index("ix_request_state", "request", ["state"])
    op.create_table(
        "signature",
        sa.Column("candidate_id", sa.String(32), nullable=False),
        sa.Column("person_id", sa.String(32), nullable=False),
        sa.Column("approval", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("candidate_id", "person_id", name="pk_signature"),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name="fk_signature_candidate_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_signature_person_id"),
    )
    op.create_table(
        "vote",
        sa.Column("candidate_id", sa.String(32), nullable=False),
        sa.Column("person_id", sa.String(32), nullable=False),
        sa.Column("locked", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("candidate_id", "person_id", name="pk_vote"),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidate.id"], name="fk_vote_candidate_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_vote_person_id"),
    )
    op.create_table(
        "clock_event",
        sa.Column("id", _IDENTIFIER, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("person_id", sa.String(32), nullable=True),
        sa.Column("what", sa.String(8), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_clock_event"),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name="fk_clock_event_request_id"),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"], name="fk_clock_event_person_id"),
    )
    op.create_index("ix_clock_event_request_id", "clock_event", ["request_id"])
