"""How the candidates of a search ended, for those who go on with it: no image, no reference, no reviewer's word."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework.cases import row_of
from nodes.casework.office import Office
from nodes.casework.persons import Person
from nodes.casework.tables import CandidateRow


@dataclass(frozen=True)
class MatchView:
    """A candidate under its number within the search. `outcome`: as `review.Outcome`. Times: seconds since 1970."""

    id: str
    holder: str
    outcome: str
    received: int
    expires: int
    contested: bool
    deleted: int | None


def matches(office: Office, session: Session, person: Person, query: str) -> list[MatchView]:
    """The candidates of a search in no order that tells anything. Raises `NotYourRole`, `UnknownThing`."""
    person.needs("officer", "approver", "data-protection", "supervisor")
    row_of(session, query)
    rows = session.scalars(select(CandidateRow).where(CandidateRow.query_id == query).order_by(CandidateRow.id))
    return [
        MatchView(
            row.id,
            row.holder,
            row.outcome or ("deleted" if row.deleted else "under review"),
            row.received,
            row.expires,
            row.contested,
            row.deleted,
        )
        for row in rows
    ]
