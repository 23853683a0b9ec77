"""Casework that comes from a backup catches up with what the node's evidence says was done since.

Evidence holds statements, never what persons wrote: so nothing deleted comes back, nothing is launched, logged or
released twice; votes, notes and looks since the backup are lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nodes.casework.core_data import request_row
from nodes.casework.deletion import wipe_candidate
from nodes.casework.errors import UnknownThing
from nodes.casework.office import Office
from nodes.casework.tables import CandidateRow, DisclosedRow, QueryRow, StatementRow
from protocol.follow_up import CoreDataRefused, CoreDataReleased, Deleted, Launched, Statement

NOT_ENDED = ("draft", "approved", "running")


def catch_up(office: Office, session: Session, stated: Iterable[tuple[str, int, Statement]]) -> None:
    """Apply statements of the node's evidence to an older state. `stated`: sent or received, when (ms), what."""
    # what waited to be launched may have been: a person opens it again
    session.execute(update(QueryRow).where(QueryRow.state.in_(("approved", "running"))).values(state="failed"))
    for direction, time, statement in stated:
        known = StatementRow.digest == statement.digest
        session.execute(update(StatementRow).where(known).values(logged=True))  # it is in the log: not once more
        content = statement.content
        if isinstance(content, Launched):
            launched = QueryRow.number == content.request_number, QueryRow.state.in_(NOT_ENDED)
            session.execute(update(QueryRow).where(*launched).values(state="failed"))
        elif isinstance(content, Deleted) and direction == "sent":
            _delete_again(office, session, statement, content)
        elif isinstance(content, Deleted):
            given = (
                DisclosedRow.attempt == statement.query,
                DisclosedRow.peer == statement.sender,
                DisclosedRow.digest == content.candidate,
            )
            session.execute(update(DisclosedRow).where(*given).values(deleted=time // 1000))
        elif isinstance(content, (CoreDataReleased, CoreDataRefused)):
            _end_request(session, direction, time, content)


def _delete_again(office: Office, session: Session, statement: Statement, content: Deleted) -> None:
    rows = select(CandidateRow).where(
        CandidateRow.attempt == statement.query,
        CandidateRow.holder == statement.receiver,
        CandidateRow.deleted.is_(None),
    )
    for row in session.scalars(rows).all():
        if (row.digest or bytes(32)) == content.candidate:  # of what was never shown the receipt names no candidate
            wipe_candidate(office, session, row)


def _end_request(session: Session, direction: str, time: int, content: CoreDataReleased | CoreDataRefused) -> None:
    try:
        row = request_row(session, content.request.hex())
    except UnknownThing:
        return
    if row.state not in ("waiting", "paused"):
        return
    if isinstance(content, CoreDataRefused):
        row.state = "refused"
    elif direction == "sent":
        row.state = "released"
    else:  # the record itself is lost: it can be asked for again
        row.state, row.sealed = "deleted", None
    row.ended = time // 1000
