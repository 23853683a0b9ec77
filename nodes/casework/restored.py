"""Casework that comes from a backup catches up with what the node's evidence says was done since.

Evidence holds statements, never what persons wrote: so nothing deleted comes back, nothing is launched, logged or
released twice, and recalls that were made or taken in stay so; votes, notes and looks since the backup are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nodes.casework import inbox
from nodes.casework.core_data import request_row
from nodes.casework.deletion import Reference, delete_candidate, wipe_candidate
from nodes.casework.errors import UnknownThing
from nodes.casework.office import Office
from nodes.casework.tables import CandidateRow, DisclosedRow, QueryRow
from protocol.follow_up import (
    Acknowledged,
    CoreDataRefused,
    CoreDataReleased,
    Deleted,
    Launched,
    Recalled,
    Statement,
    candidate_digest,
)

NOT_ENDED = ("draft", "approved", "running")


def catch_up(office: Office, session: Session, stated: Iterable[tuple[str, int, Statement]]) -> None:
    """Apply statements of the node's evidence to an older state. `stated`: sent or received, when (ms), what."""
    # what waited to be launched may have been: a person opens it again
    session.execute(update(QueryRow).where(QueryRow.state.in_(("approved", "running"))).values(state="failed"))
    recalls: dict[bytes, Statement] = {}
    taken_in: list[Statement] = []
    for direction, time, statement in stated:
        _know(office, session, direction, statement)
        content = statement.content
        if isinstance(content, Launched):
            launched = QueryRow.number == content.request_number, QueryRow.state.in_(NOT_ENDED)
            session.execute(update(QueryRow).where(*launched).values(state="failed"))
        elif isinstance(content, Deleted) and direction == "sent":
            for candidate in _candidates(session, statement.query, statement.receiver, content.candidate):
                if candidate.deleted is None:
                    wipe_candidate(office, session, candidate)
        elif isinstance(content, Deleted):
            for given in _disclosed(office, session, statement.query, statement.sender, content.candidate):
                given.deleted = time // 1000
        elif isinstance(content, Recalled) and direction == "sent":
            recalls[statement.digest] = statement
            for given in _recalled(office, session, statement):
                given.recalled, given.acknowledged = statement.time // 1000, None
        elif isinstance(content, Recalled):
            taken_in.append(statement)
        elif isinstance(content, Acknowledged) and content.statement in recalls:
            for given in _recalled(office, session, recalls[content.statement]):
                given.acknowledged = time // 1000
        elif isinstance(content, (CoreDataReleased, CoreDataRefused)):
            _end_request(session, direction, time, content)
    for statement in taken_in:
        _take_in_again(office, session, statement)


def _know(office: Office, session: Session, direction: str, statement: Statement) -> None:
    """A statement that is in the log is known: it is neither logged once more nor taken in once more.

    Whether one that this node made since the backup has arrived is not known. A receipt goes once more; of all others
    what travels beside them is lost.
    """
    row = inbox.kept(session, statement.digest)
    if row is None:
        state = "received" if direction == "received" else "queued" if statement.kind == "Deleted" else "done"
        office.keep(session, statement, direction, state)
        row = inbox.kept(session, statement.digest)
        assert row is not None
    row.logged = True


def _candidates(session: Session, attempt: bytes, holder: str, digest: bytes) -> Iterator[CandidateRow]:
    rows = select(CandidateRow).where(CandidateRow.attempt == attempt, CandidateRow.holder == holder)
    for row in session.scalars(rows).all():
        if (row.digest or bytes(32)) == digest:  # of what was never shown the receipt names no candidate
            yield row


def _disclosed(office: Office, session: Session, attempt: bytes, peer: str, digest: bytes) -> Iterator[DisclosedRow]:
    rows = select(DisclosedRow).where(DisclosedRow.attempt == attempt, DisclosedRow.peer == peer)
    for row in session.scalars(rows).all():
        given = office.vault.unseal(row, Reference)
        if candidate_digest(given.salt, given.reference) == digest:
            yield row


def _recalled(office: Office, session: Session, recall: Statement) -> Iterator[DisclosedRow]:
    """What a recall for deletion or correction is about, at its holder."""
    content = recall.content
    assert isinstance(content, Recalled)
    if content.kind in ("delete", "correct"):
        yield from _disclosed(office, session, recall.query, recall.receiver, content.candidate)


def _take_in_again(office: Office, session: Session, recall: Statement) -> None:
    """At the receiver: the mark, or the deletion, with a receipt unless one was kept."""
    content = recall.content
    assert isinstance(content, Recalled)
    for row in _candidates(session, recall.query, recall.sender, content.candidate):
        if content.kind in ("contested", "uncontested"):
            row.contested = content.kind == "contested"
        elif row.deleted is None:
            delete_candidate(office, session, row, "recalled" if content.kind == "delete" else "corrected")


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
