"""What was received goes in time, and says so (R 50(3)); what was given wrongly is recalled (R 51, 64(1)(m)).

Onward transfer is refused unless the state that gave the data has authorised it before (R 60).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from nodes.casework.contents import Closed, RecallPayload, Shown, Vote
from nodes.casework.errors import CaseRefused, NoReason, OnwardTransferRefused, PurposeRefused, UnknownThing
from nodes.casework.office import DAY, Office, encode_payload
from nodes.casework.persons import Person
from nodes.casework.refusals import REFUSALS
from nodes.casework.review import candidate_row
from nodes.casework.tables import (
    CandidateRow,
    ClockRow,
    DisclosedRow,
    QueryRow,
    RequestRow,
    SignatureRow,
    StatementRow,
    ViewedRow,
    VoteRow,
)
from nodes.config.casework import AUTHORISATION_SECONDS, RECALL_SECONDS
from protocol.follow_up import Deleted, DeletionReason, Recalled, RecallKind, Statement, candidate_digest

# R 50(2): what received data may be used for; `audit`: by whoever supervises it.
PURPOSES = ("establish-match", "core-data", "legal-assistance", "log", "audit")
LOG_DAYS = 3 * 366
MIN_AUTHORISATION = 8
LIFTED = "`lineup case recall` once more gives it another 48 hours"  # how a person lifts what `owes_receipts` says


@dataclass(frozen=True)
class Receipt:
    """What was received about a candidate is deleted. `statement`: the signed receipt that its holder is sent."""

    candidate: str
    holder: str
    reason: DeletionReason
    time: int
    statement: str


@dataclass(frozen=True)
class RecallView:
    """A recall for deletion or correction. `due`: 48 hours after its receiver took it in, None before that."""

    peer: str
    made: int
    due: int | None
    answered: bool


@dataclass(frozen=True)
class View:
    """Somebody looked at something. `time`: seconds since 1970."""

    person: str | None
    what: str
    purpose: str
    recipient: str
    time: int
    reason: str


class _Words(Closed, frozen=True):
    text: str


def delete_candidate(office: Office, session: Session, row: CandidateRow, reason: DeletionReason) -> Receipt:
    """Delete what was received about a candidate, core data included, and tell its holder."""
    wipe_candidate(office, session, row)
    statement = office.state(session, row.attempt, row.holder, Deleted(row.digest or bytes(32), reason))
    return Receipt(row.id, row.holder, reason, office.now(), statement.digest.hex())


def wipe_candidate(office: Office, session: Session, row: CandidateRow) -> None:
    """Delete what was received about a candidate, core data included."""
    for request in session.scalars(select(RequestRow).where(RequestRow.candidate_id == row.id)):
        request.sealed, request.state = None, "deleted"
    for signature in session.scalars(select(SignatureRow).where(SignatureRow.candidate_id == row.id)):
        session.delete(signature)
    for vote in session.scalars(select(VoteRow).where(VoteRow.candidate_id == row.id)):
        kept = office.vault.unseal(vote, Vote)  # the verdict is counted; the note may describe the person
        office.vault.seal(vote, Vote(kept.verdict, "(deleted)"))
    row.sealed, row.deleted, row.mac = None, office.now(), b""


def delete_expired_case_data(office: Office, session: Session) -> list[Receipt]:
    """Delete what is past its time; gives a receipt for each candidate."""
    now, receipts = office.now(), []
    live = select(CandidateRow).where(CandidateRow.deleted.is_(None))
    for row in session.scalars(
        live.where(CandidateRow.expires <= now, CandidateRow.outcome.is_distinct_from("confirmed"))
    ):
        receipts.append(delete_candidate(office, session, row, "time-over"))
    if office.settings.require_authorisation:
        receipts += _stop_unauthorised(office, session)
    for request in session.scalars(select(RequestRow).where(RequestRow.expires <= now, RequestRow.sealed.is_not(None))):
        request.sealed, request.state = None, "deleted"
        if request.candidate_id is not None:
            candidate = session.get(CandidateRow, request.candidate_id)
            if candidate is not None and candidate.deleted is None:
                receipts.append(delete_candidate(office, session, candidate, "time-over"))
    longest = now - max(office.settings.candidate_days, office.settings.core_data_days) * DAY
    for row in session.scalars(live.where(CandidateRow.outcome == "confirmed", CandidateRow.received <= longest)):
        receipts.append(delete_candidate(office, session, row, "time-over"))
    for query in session.scalars(select(QueryRow).where(QueryRow.opened <= now - office.settings.query_days * DAY)):
        query.sealed = b""
    old = now - LOG_DAYS * DAY
    _delete_cases(session, old)
    for stale in (
        *session.scalars(select(ViewedRow).where(ViewedRow.time < old)),
        *session.scalars(select(StatementRow).where(StatementRow.time < 1000 * old, StatementRow.state != "queued")),
        *session.scalars(select(DisclosedRow).where(DisclosedRow.time < old)),
    ):
        session.delete(stale)
    session.flush()
    return receipts


def _delete_cases(session: Session, before: int) -> None:
    """Pseudonymous rows of searches that were opened before, with all that hangs on them."""
    queries = select(QueryRow.id).where(QueryRow.opened < before)
    found = select(CandidateRow.id).where(CandidateRow.query_id.in_(queries))
    requests = select(RequestRow.id).where(
        RequestRow.candidate_id.in_(found) | (RequestRow.candidate_id.is_(None) & (RequestRow.made < before))
    )
    for table, where in (
        (ClockRow, ClockRow.request_id.in_(requests)),
        (RequestRow, RequestRow.id.in_(requests)),
        (SignatureRow, SignatureRow.candidate_id.in_(found)),
        (VoteRow, VoteRow.candidate_id.in_(found)),
        (CandidateRow, CandidateRow.query_id.in_(queries)),
        (QueryRow, QueryRow.opened < before),
    ):
        session.execute(delete(table).where(where))


def _stop_unauthorised(office: Office, session: Session) -> list[Receipt]:
    """AIA 26(10): no authorisation within 48 hours: stop, and delete what came of it."""
    over = office.now() - AUTHORISATION_SECONDS
    receipts = []
    rows = select(QueryRow).where(
        QueryRow.authorised.is_(None), QueryRow.changed <= over, QueryRow.state.in_(("running", "review", "done"))
    )
    for query in session.scalars(rows):
        receipts += stop(office, session, query)
    return receipts


def stop(office: Office, session: Session, query: QueryRow) -> list[Receipt]:
    """End a query whose authorisation was refused, and delete everything that is linked to it."""
    query.state, query.sealed = "stopped", b""
    found = select(CandidateRow).where(CandidateRow.query_id == query.id, CandidateRow.deleted.is_(None))
    return [delete_candidate(office, session, row, "no-authorisation") for row in session.scalars(found)]


def recall(office: Office, session: Session, person: Person, reference: str, why: str, kind: RecallKind) -> list[str]:
    """Tell everybody who received a reference that it must be deleted or corrected, or is contested; returns names.

    Made again, it is sent again, and its receiver has another 48 hours.
    Raises `NotYourRole`, `NoReason`, `UnknownThing` for a reference that went to nobody.
    """
    person.needs("data-protection", "releaser")
    if not why.strip():
        raise NoReason("recall-reason")
    rows = session.scalars(select(DisclosedRow).where(DisclosedRow.mac == office.vault.mac(reference))).all()
    if not rows:
        raise UnknownThing("disclosure of reference", reference)
    told = []
    for row in rows:
        if kind in ("delete", "correct"):
            row.recalled, row.acknowledged = office.now(), None
        if row.deleted is not None:
            continue  # the receiver has said that it has nothing any more, and is given nothing more of it
        salt = office.vault.unseal(row, Reference).salt
        digest = candidate_digest(salt, reference)
        payload, named = encode_payload(RecallPayload(salt, reference, kind, why.strip()))
        office.state(session, row.attempt, row.peer, Recalled(kind, digest, named), payload)
        row.digest = digest
        told.append(row.peer)
    return told


def receivers(office: Office, session: Session, reference: str) -> list[str]:
    """Who was given a reference and has not said that it deleted it."""
    rows = select(DisclosedRow.peer).where(
        DisclosedRow.mac == office.vault.mac(reference), DisclosedRow.deleted.is_(None)
    )
    return sorted(set(session.scalars(rows)))


def recalls(session: Session) -> list[RecallView]:
    """Recalls for deletion or correction, and whether they were answered."""
    rows = session.scalars(select(DisclosedRow).where(DisclosedRow.recalled.is_not(None)))
    return [
        RecallView(
            row.peer, row.recalled or 0,
            None if row.acknowledged is None else row.acknowledged + RECALL_SECONDS, row.deleted is not None,
        )
        for row in rows
    ]  # fmt: skip


def note_acknowledged(office: Office, session: Session, statement: Statement) -> None:
    """The receiver of a recall has taken it in: its 48 hours run from now on."""
    content = statement.content
    assert isinstance(content, Recalled)
    if content.kind not in ("delete", "correct"):
        return
    rows = select(DisclosedRow).where(
        DisclosedRow.attempt == statement.query,
        DisclosedRow.peer == statement.receiver,
        DisclosedRow.digest == content.candidate,
    )
    for row in session.scalars(rows):
        row.acknowledged = office.now()


def owes_receipts(office: Office, session: Session, peer: str) -> bool:
    """Whether a peer is given nothing more: it took a recall in, and 48 hours later no receipt came (R 64(1)(m)).

    A recall that did not reach it does not count. Never where policy says so (`casework.refuse_without_receipts`).
    """
    if not office.settings.refuse_without_receipts:
        return False
    over = office.now() - RECALL_SECONDS
    late = select(DisclosedRow.id).where(
        DisclosedRow.peer == peer,
        DisclosedRow.deleted.is_(None),
        DisclosedRow.recalled.is_not(None),
        DisclosedRow.acknowledged <= over,
    )
    return session.scalar(late.limit(1)) is not None


def owing(peer: str) -> str:
    """Why a peer that owes a receipt is given nothing, and how that is lifted."""
    return REFUSALS["owes-receipt"].format(peer=peer)


def is_over(office: Office, session: Session, attempt: bytes, peer: str, reference: str) -> bool:
    """Whether nothing more is given of a candidate: it was recalled, or its receiver has said that it deleted it."""
    row = select(DisclosedRow.id).where(
        DisclosedRow.attempt == attempt,
        DisclosedRow.peer == peer,
        DisclosedRow.mac == office.vault.mac(reference),
        DisclosedRow.recalled.is_not(None) | DisclosedRow.deleted.is_not(None),
    )
    return session.scalar(row.limit(1)) is not None


@dataclass(frozen=True)
class DisclosureView:
    """A candidate that was given away, unnamed. `deleted`: when its receiver said so. Times: seconds since 1970."""

    peer: str
    given: int
    deleted: int | None


def disclosures(session: Session) -> list[DisclosureView]:
    """What was given to whom, the last first, and the receipts that came back (R 50(3))."""
    rows = session.scalars(select(DisclosedRow).order_by(DisclosedRow.time.desc(), DisclosedRow.id.desc()))
    return [DisclosureView(row.peer, row.time, row.deleted) for row in rows]


class Reference(Closed, frozen=True):
    """What a holder keeps of a disclosure."""

    reference: str
    salt: bytes


def onward_transfer(
    office: Office, session: Session, person: Person, candidate: str, recipient: str, authorisation: str
) -> None:
    """Note a transfer to somebody else. Refused without a prior authorisation (R 60)."""
    person.needs("officer", "data-protection")
    row = candidate_row(session, candidate)
    if not recipient.strip():
        raise CaseRefused("recipient")
    if len(authorisation.strip()) < MIN_AUTHORISATION:
        raise OnwardTransferRefused("onward", holder=row.holder)
    note_view(office, session, person, f"onward:{candidate}", "legal-assistance", authorisation.strip(), recipient)


def note_export(
    office: Office, session: Session, person: Person, candidate: str, receiver: str, reason: str, authorisation: str
) -> Shown:
    """Note that a candidate goes to an agency as a file; gives what goes.

    To another state's it is an onward transfer too (R 60). Raises `CaseRefused` while the candidate is under review.
    """
    person.needs("officer", "data-protection")
    row = candidate_row(session, candidate)
    if row.outcome is None:
        raise CaseRefused("under-review")
    if not within_state(office, receiver):
        onward_transfer(office, session, person, candidate, receiver, authorisation)
    note_view(office, session, person, f"type-10:{candidate}", "establish-match", reason, receiver)
    return shown_of(office, row)


def within_state(office: Office, receiver: str) -> bool:
    """Whether an agency is of this node's state: its name is this node's, or the state's code, alone or before 0-9-."""
    return receiver == office.name or re.fullmatch(f"{office.identity.config.state}([0-9-].*)?", receiver) is not None


def note_view(
    office: Office, session: Session, person: Person | None, what: str, purpose: str, reason: str, recipient: str = ""
) -> None:
    """Write down who looks at what, and why (LED 25). Raises `NoReason`, `PurposeRefused`."""
    if not reason.strip():
        raise NoReason("look-reason")
    if purpose not in PURPOSES:
        raise PurposeRefused("purpose-of-use", purpose=purpose, allowed=", ".join(PURPOSES))
    row = ViewedRow(
        person_id=None if person is None else person.id,
        what=what[:100],
        purpose=purpose,
        recipient=(recipient or (person.handle if person else ""))[:64],
        time=office.now(),
    )
    office.vault.seal(row, _Words(reason.strip()[:2000]))
    session.add(row)
    session.flush()


def shown_of(office: Office, row: CandidateRow) -> Shown:
    """A candidate as its holder showed it."""
    return office.vault.unseal(row, Shown)


def views(office: Office, session: Session) -> list[tuple[ViewedRow, str]]:
    """Every look at personal data, with its reason, the last first."""
    rows = session.scalars(select(ViewedRow).order_by(ViewedRow.id.desc())).all()
    return [(row, office.vault.unseal(row, _Words).text) for row in rows]
