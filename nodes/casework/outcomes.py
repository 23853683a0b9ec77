"""How the candidates of a search ended, for those who go on with it: no image, no reference, no reviewer's word."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework.cases import row_of
from nodes.casework.office import Office
from nodes.casework.persons import Person
from nodes.casework.tables import CandidateRow, StatementRow
from protocol.follow_up import Deleted, DeletionReason, decode_statement


@dataclass(frozen=True)
class MatchView:
    """A candidate under its number within the search. `outcome`: as `review.Outcome`. Times: seconds since 1970.

    `ended`: why it was deleted; `receipt`: digest of the statement that tells its holder so, hexadecimal.
    """

    id: str
    holder: str
    outcome: str
    received: int
    expires: int
    contested: bool
    deleted: int | None
    ended: DeletionReason | None = None
    receipt: str = ""


def matches(office: Office, session: Session, person: Person, query: str) -> list[MatchView]:
    """The candidates of a search in no order that tells anything. Raises `NotYourRole`, `UnknownThing`."""
    person.needs("officer", "approver", "data-protection", "supervisor")
    row_of(session, query)
    rows = session.scalars(select(CandidateRow).where(CandidateRow.query_id == query).order_by(CandidateRow.id)).all()
    receipts = _receipts(session, {row.attempt for row in rows if row.deleted is not None})
    return [
        MatchView(
            row.id,
            row.holder,
            row.outcome or ("deleted" if row.deleted else "under review"),
            row.received,
            row.expires,
            row.contested,
            row.deleted,
            *receipts.get((row.attempt, row.digest or b""), (None, "")),
        )
        for row in rows
    ]


def _receipts(session: Session, attempts: set[bytes]) -> dict[tuple[bytes, bytes], tuple[DeletionReason, str]]:
    """The first receipt for each candidate, by query and the candidate's digest."""
    found: dict[tuple[bytes, bytes], tuple[DeletionReason, str]] = {}
    stated = select(StatementRow).where(
        StatementRow.kind == "Deleted", StatementRow.direction == "sent", StatementRow.attempt.in_(attempts)
    )
    for row in session.scalars(stated.order_by(StatementRow.id)):
        statement = decode_statement(row.content)
        assert isinstance(statement.content, Deleted)
        place = row.attempt, statement.content.candidate
        found.setdefault(place, (statement.content.reason, statement.digest.hex()))
    return found
