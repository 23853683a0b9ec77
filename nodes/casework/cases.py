"""A search from its draft to its candidates: opened by one person, approved by another, launched by the node."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework.approvals import approve, check_signed
from nodes.casework.contents import Draft, SealedQuery, Told
from nodes.casework.errors import AlreadyLocked, CaseRefused, DeadlinePassed, FourEyes, UnknownThing, Unsuitable
from nodes.casework.office import Office
from nodes.casework.persons import Person, load
from nodes.casework.tables import CandidateRow, QueryRow
from nodes.config.casework import AUTHORISATION_SECONDS
from nodes.config.names import Purpose, Role
from pets.prf import labelled_hash
from protocol.approval import ROLE_FOR, Assertion
from protocol.follow_up import Launched
from protocol.messages import Digest
from protocol.warrant import Justification

LAUNCH_SECONDS = 24 * 3600  # an approved search that its node did not start by then is not started any more


@dataclass(frozen=True)
class QueryView:
    """A search, without probe and justification. `answers`: by holder. `state`: draft, approved, running, review,
    done, failed, stopped."""

    id: str
    number: str
    state: str
    opened_by: str
    approved_by: str | None
    opened: int
    attempts: tuple[str, ...]
    answers: Mapping[str, Told]
    candidates: int
    purpose: str
    holders: tuple[str, ...]
    authorised: bool


def open_query(office: Office, session: Session, person: Person, draft: Draft) -> str:
    """Put a draft up for a second person's approval; gives the query's ID.

    Raises `NotYourRole`, `Unsuitable` at once for an image below the policy's quality (R 38), `CaseRefused`.
    """
    person.needs("officer")
    if office.role is not Role.REQUESTER:
        raise CaseRefused("not-requester", node=office.name, role=office.role.value)
    draft = _checked(draft)
    check_quality(draft.quality, office.settings.minimum_quality)
    if draft.photo is not None and not draft.quality:
        raise CaseRefused("quality-missing")
    _justification(draft, bytes(32), person.name, "(approver)").check()
    now = office.now()
    row = QueryRow(
        id=secrets.token_hex(16),
        number=f"{office.name}-{secrets.token_hex(8)}",
        state="draft",
        opened_by=person.id,
        opened=now,
        changed=now,
        authorised=now if draft.authorisation else None,
        attempts="",
    )
    office.vault.seal(row, SealedQuery(draft, secrets.token_bytes(32)))
    session.add(row)
    session.flush()
    return row.id


def check_quality(scores: Mapping[str, int], limit: int) -> None:
    """Raise `Unsuitable` for an image of which any component is below the limit (R 38, 22(2))."""
    if low := {name: score for name, score in scores.items() if score < limit}:
        raise Unsuitable(low, limit)


def launch_content(office: Office, session: Session, query: str, approver: Person) -> Launched:
    """What a second person signs."""
    row = row_of(session, query)
    held = sealed_of(office, row)
    opener = load(office, session, row.opened_by)
    draft = held.draft
    return Launched(
        request_number=row.number,
        justification=_justification(draft, held.salt, opener.name, approver.name).digest(),
        probe=labelled_hash("follow-up-probe", held.salt, draft.template),
        holders=draft.holders,
        threshold=draft.threshold,
        cap=draft.cap,
        ladder=draft.ladder,
        purpose=draft.purpose,
        opened_by=_fingerprint(opener),
        approvals=(),
    )


def approve_launch(office: Office, session: Session, person: Person, query: str, assertion: Assertion | None) -> None:
    """A second person approves: the node starts the search when it runs. Raises `FourEyes`, `BadAssertion`."""
    row = row_of(session, query, lock=True)
    if row.opened_by == person.id:
        raise FourEyes("own-query")
    person.needs(ROLE_FOR["launch"])  # before anything is said of the query
    if row.state != "draft":
        raise AlreadyLocked("query-state", state=row.state)
    content = launch_content(office, session, query, person)
    check_signed(office, person, content, b"", assertion)
    assert assertion is not None
    row.launch = msgspec.msgpack.encode(approve(office, content, (person, assertion)))
    row.approved_by, row.state, row.changed = person.id, "approved", office.now()


def authorise(office: Office, session: Session, person: Person, query: str, reference: str) -> None:
    """Lodge the judicial authorisation of a search, within 48 hours of its launch (AIA 26(10))."""
    person.needs("officer", "approver")
    row = row_of(session, query)
    if not reference.strip():
        raise CaseRefused("authorisation-missing")
    if row.authorised is not None:
        raise AlreadyLocked("authorised")
    if row.state not in ("draft", "approved") and office.now() > row.changed + AUTHORISATION_SECONDS:
        raise DeadlinePassed("authorisation-late")
    held = sealed_of(office, row)
    office.vault.seal(row, msgspec.structs.replace(held, draft=msgspec.structs.replace(
        held.draft, authorisation=reference.strip())))  # fmt: skip
    row.authorised = office.now()


@dataclass(frozen=True)
class Launch:
    """What the node starts: the search, its number, its justification, and the signed approval."""

    query: str
    number: str
    draft: Draft
    justification: Justification
    approved: Launched


def take_approved(office: Office, session: Session) -> Launch | None:
    """The next approved search, marked as running; one that waited longer than a day is given up."""
    now = office.now()
    approved_first = select(QueryRow).where(QueryRow.state == "approved").order_by(QueryRow.changed).with_for_update()
    for row in session.scalars(approved_first):
        if now > row.changed + LAUNCH_SECONDS:
            row.state = "failed"
            continue
        row.state, row.changed = "running", now
        assert row.launch is not None
        assert row.approved_by is not None
        held = sealed_of(office, row)
        opener, approver = (load(office, session, person) for person in (row.opened_by, row.approved_by))
        approved = msgspec.msgpack.decode(row.launch, type=Launched)
        reason = _justification(held.draft, held.salt, opener.name, approver.name)
        return Launch(row.id, row.number, held.draft, reason, approved)
    return None


def give_up_running(session: Session) -> int:
    """After a restart: searches that a dead process had started have ended in nothing."""
    rows = session.scalars(select(QueryRow).where(QueryRow.state == "running")).all()
    for row in rows:
        row.state = "failed"
    return len(rows)


def note_attempt(office: Office, session: Session, query: str, attempt: bytes, approved: Launched) -> None:
    """A query begins for this search: its approval goes into that query's evidence."""
    row = row_of(session, query)
    row.attempts = ",".join(filter(None, (row.attempts, attempt.hex())))
    office.state(session, attempt, office.name, approved)


def row_of(session: Session, query: str, *, lock: bool = False) -> QueryRow:
    """A query's row; `lock`: nobody else decides about it meanwhile. Raises `UnknownThing`."""
    row = session.get(QueryRow, query, with_for_update=lock)
    if row is None:
        raise UnknownThing("query", query)
    return row


def sealed_of(office: Office, row: QueryRow) -> SealedQuery:
    """Draft and salt. Raises `UnknownThing` once they are deleted."""
    if not row.sealed:
        raise UnknownThing("probe of query", row.id)
    return office.vault.unseal(row, SealedQuery)


def view_of(office: Office, session: Session, row: QueryRow) -> QueryView:
    """What may be seen of a query without a reason."""
    answers: dict[str, Told] = msgspec.msgpack.decode(row.report, type=dict[str, Told]) if row.report else {}
    candidates = session.scalars(select(CandidateRow).where(CandidateRow.query_id == row.id)).all()
    held = office.vault.unseal(row, SealedQuery) if row.sealed else None
    draft = held.draft if held else None
    # a match waits for its signatures; a holder that has not shown what it found may have a candidate
    undecided = any(one.deleted is None and one.outcome in (None, "match") for one in candidates)
    over = not undecided and not (held and held.found)
    return QueryView(
        row.id,
        row.number,
        "done" if row.state == "review" and over else row.state,
        load(office, session, row.opened_by).handle,
        None if row.approved_by is None else load(office, session, row.approved_by).handle,
        row.opened,
        tuple(filter(None, row.attempts.split(","))),
        answers,
        len(candidates),
        draft.purpose if draft else "",
        draft.holders if draft else (),
        row.authorised is not None,
    )


def _checked(draft: Draft) -> Draft:
    try:
        checked: Draft = msgspec.msgpack.decode(msgspec.msgpack.encode(draft), type=Draft)
    except msgspec.ValidationError as error:
        raise CaseRefused("draft", why=error) from None
    if checked.purpose not in {purpose.value for purpose in Purpose}:
        raise CaseRefused("purpose", purpose=checked.purpose, allowed=", ".join(p.value for p in Purpose))
    if any(not 0 <= score <= 100 for score in checked.quality.values()):
        raise CaseRefused("quality-range")
    return checked


def _justification(draft: Draft, salt: bytes, officer: str, approver: str) -> Justification:
    return Justification(
        case=draft.case,
        offence=draft.offence,
        maximum_penalty_years=draft.maximum_penalty_years,
        subject=draft.subject,
        aim=draft.aim,
        officer=officer,
        approver=approver,
        salt=labelled_hash("follow-up-justification", salt),
    )


def _fingerprint(person: Person) -> Digest:
    return person.key.fingerprint if person.key is not None else labelled_hash("person", person.id)
