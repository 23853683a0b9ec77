"""Core data (R 47): two closed schemas, three conditions, 48 hours.

The conditions: a match, its confirmation by persons, and facts with the offence's category. The clock starts when the
request reaches the holder, and stands still only while judicial authorisation is sought (R 47(2)).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework import deletion
from nodes.casework.approvals import approve, check_signed
from nodes.casework.contents import Closed, CoreDataPayload, FactsPayload, SealedRequest, Shown
from nodes.casework.errors import (
    AlreadyLocked,
    CaseRefused,
    DeadlinePassed,
    NoReason,
    NotConfirmed,
    UnknownThing,
    WrongSchema,
)
from nodes.casework.office import DAY, HOUR, Office, encode_payload
from nodes.casework.persons import Person
from nodes.casework.review import candidate_row
from nodes.casework.tables import ClockRow, RequestRow
from nodes.config.casework import CORE_DATA_SECONDS
from nodes.config.names import Role
from nodes.store import Status
from nodes.store.errors import UnknownReference
from pets.prf import labelled_hash
from protocol.approval import Assertion
from protocol.follow_up import (
    IDENTIFIED_FIELDS,
    UNIDENTIFIED_FIELDS,
    ClockPaused,
    ClockResumed,
    CoreDataField,
    CoreDataRefused,
    CoreDataReleased,
    CoreDataRequested,
    RefusalReason,
)

ALARM_SECONDS = 12 * HOUR
VALUE_LIMIT = 2000
OFFENCE = re.compile("[a-z][a-z0-9 -]{0,63}")


class _UnidentifiedPerson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """R 47(5): what is known of where the biometric data come from. Each to the extent available."""

    date_and_place_of_acquisition: str = ""
    offence_of_acquisition: str = ""
    case_number: str = ""
    competent_authority: str = ""


class _IdentifiedPerson(
    _UnidentifiedPerson, frozen=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True
):
    """R 47(4): the person, and where the biometric data come from. Each to the extent available."""

    first_names: str = ""
    family_names: str = ""
    aliases: str = ""
    date_of_birth: str = ""
    nationalities: str = ""
    place_and_country_of_birth: str = ""
    gender: str = ""


SCHEMAS = {"identified": _IdentifiedPerson, "unidentified": _UnidentifiedPerson}
Kind = Literal["identified", "unidentified"]


class _Reason(Closed, frozen=True):
    reason: str


@dataclass(frozen=True)
class RequestView:
    """A request for core data, without facts and record. Times: seconds since 1970; `left`: until it is due."""

    id: str
    direction: str
    peer: str
    candidate: str | None
    state: str
    made: int
    due: int
    left: int
    alarm: bool
    overdue: bool
    fields: tuple[CoreDataField, ...]
    late: bool


def check_record(kind: Kind, record: dict[str, str]) -> dict[CoreDataField, str]:
    """The record as its closed schema has it, empty fields left out. Raises `WrongSchema`."""
    if kind not in SCHEMAS:
        raise WrongSchema("record-kind", kind=kind)
    try:
        person = msgspec.convert(record, SCHEMAS[kind])
    except msgspec.ValidationError as error:
        article = "R 47(4)" if kind == "identified" else "R 47(5)"
        allowed = IDENTIFIED_FIELDS if kind == "identified" else UNIDENTIFIED_FIELDS
        raise WrongSchema("record-schema", kind=kind, article=article, why=error, allowed=", ".join(allowed)) from None
    filled: dict[CoreDataField, str] = msgspec.to_builtins(person)
    for field, value in filled.items():
        if len(value) > VALUE_LIMIT:
            raise WrongSchema("value-long", field=field, size=len(value), limit=VALUE_LIMIT)
    if not filled:
        raise WrongSchema("record-empty")
    return filled


def request_content(
    office: Office, session: Session, candidate: str, fields: Sequence[CoreDataField], facts: str, offence: str
) -> tuple[CoreDataRequested, bytes]:
    """What the officer signs, and its payload. Raises `NotConfirmed` without a confirmed match, `CaseRefused`."""
    row = candidate_row(session, candidate)
    if row.outcome != "confirmed" or row.confirmed is None:
        raise NotConfirmed("not-confirmed")
    if not facts.strip():
        raise CaseRefused("facts-missing")
    wanted = tuple(field for field in IDENTIFIED_FIELDS if field in fields)
    if not wanted or set(fields) - set(IDENTIFIED_FIELDS):
        raise CaseRefused("fields", allowed=", ".join(IDENTIFIED_FIELDS))
    if not OFFENCE.fullmatch(offence):
        raise CaseRefused("category", offence=offence)
    shown = office.vault.unseal(row, Shown)
    salt = office.vault.derive("facts", candidate, facts.strip())
    payload, digest = encode_payload(FactsPayload(shown.salt, shown.reference, salt, facts.strip()))
    assert row.digest is not None
    content = CoreDataRequested(
        row.digest, row.confirmed, wanted, offence, facts_digest(salt, facts.strip()), (), digest
    )
    return content, payload


def facts_digest(salt: bytes, facts: str) -> bytes:
    """What the facts are called in a statement."""
    return labelled_hash("follow-up-facts", salt, facts)


def request_core_data(
    office: Office, session: Session, person: Person, candidate: str, fields: Sequence[CoreDataField], facts: str,
    offence: str, assertion: Assertion | None,
) -> str:  # fmt: skip
    """Ask the holder; gives the request's ID. Raises as `request_content`, and `BadAssertion`."""
    person.needs("officer")  # first: the other refusals tell how the review ended
    content, payload = request_content(office, session, candidate, fields, facts, offence)
    row = candidate_row(session, candidate, lock=True)
    under_way = select(RequestRow).where(
        RequestRow.candidate_id == candidate, RequestRow.state.in_(("waiting", "paused", "released"))
    )
    if session.scalar(under_way) is not None:
        raise AlreadyLocked("asked-before")
    check_signed(office, person, content, row.attempt, assertion)
    assert assertion is not None
    statement = office.state(session, row.attempt, row.holder, approve(office, content, (person, assertion)), payload)
    reference = office.vault.unseal(row, Shown).reference
    sealed = SealedRequest(reference, content.fields, offence, facts.strip())
    now = office.now()
    add_request(office, session, statement.digest, "sent", row.holder, row.attempt, candidate, now, sealed)
    return statement.digest.hex()


def add_request(
    office: Office, session: Session, digest: bytes, direction: str, peer: str, attempt: bytes, candidate: str | None,
    now: int, sealed: SealedRequest,
) -> None:  # fmt: skip
    """Write a request down; its clock starts."""
    row = RequestRow(
        id=digest.hex(),
        direction=direction,
        peer=peer,
        attempt=attempt,
        candidate_id=candidate,
        state="waiting",
        made=now,
        due=now + CORE_DATA_SECONDS,
        late=False,
    )
    office.vault.seal(row, sealed)
    session.add(row)
    session.flush()


def release_content(
    office: Office, session: Session, request: str, kind: Kind, record: dict[str, str], late: str
) -> tuple[CoreDataReleased, bytes]:
    """What the holder's person signs, and its payload.

    Raises `WrongSchema` for a field outside the schema or that nobody asked for, `DeadlinePassed` for a release after
    the deadline that does not say why (`late`).
    """
    row = _at_the_desk(session, request)
    held = office.vault.unseal(row, SealedRequest)
    if deletion.is_over(office, session, row.attempt, row.peer, held.reference):
        raise CaseRefused("over")
    if deletion.owes_receipts(office, session, row.peer):
        raise CaseRefused("owes-receipt", peer=row.peer)
    _check_kind(office, held.reference, kind)
    filled = check_record(kind, record)
    unasked = [field for field in filled if field not in held.fields]
    if unasked:
        raise WrongSchema("unasked", fields=", ".join(unasked))
    overdue = _deadline(row, office.now()) < office.now()
    if overdue and not late.strip():
        raise DeadlinePassed("late-without-reason")
    salt = office.vault.derive("record", request, msgspec.msgpack.encode(filled))
    payload, digest = encode_payload(CoreDataPayload(salt, filled))
    hashed = labelled_hash("follow-up-record", salt, msgspec.msgpack.encode(filled))
    fields = tuple(field for field in IDENTIFIED_FIELDS if field in filled)
    return (
        CoreDataReleased(bytes.fromhex(request), kind, fields, late.strip() if overdue else "", hashed, (), digest),
        payload,
    )


def release_core_data(
    office: Office, session: Session, person: Person, request: str, kind: Kind, record: dict[str, str],
    assertion: Assertion | None, late: str = "",
) -> None:  # fmt: skip
    """A person of the holder releases core data. Raises as `release_content`, and `BadAssertion`, `NotYourRole`."""
    person.needs("releaser")  # first: the other refusals tell what the gallery knows
    content, payload = release_content(office, session, request, kind, record, late)
    row = _at_the_desk(session, request)
    check_signed(office, person, content, row.attempt, assertion)
    assert assertion is not None
    if row.state == "paused":
        _run_on(office, session, person, row)
    office.state(session, row.attempt, row.peer, approve(office, content, (person, assertion)), payload)
    row.late = bool(content.late)
    _end(office, row, "released")


def refusal_content(session: Session, request: str, reason: RefusalReason) -> CoreDataRefused:
    """What the holder's person signs to refuse."""
    _at_the_desk(session, request)
    return CoreDataRefused(bytes.fromhex(request), reason, ())


def refuse_core_data(
    office: Office, session: Session, person: Person, request: str, reason: RefusalReason, assertion: Assertion | None
) -> None:
    """A person of the holder refuses, for one of the closed reasons. Raises `BadAssertion`, `NotYourRole`."""
    person.needs("releaser")
    content = refusal_content(session, request, reason)
    row = _at_the_desk(session, request)
    check_signed(office, person, content, row.attempt, assertion)
    assert assertion is not None
    office.state(session, row.attempt, row.peer, approve(office, content, (person, assertion)))
    _end(office, row, "refused")


def pause_clock(office: Office, session: Session, person: Person, request: str, reason: str) -> None:
    """Stop the clock while judicial authorisation is sought (R 47(2)); `reason`: which, in words.

    Raises `NoReason`, `AlreadyLocked` for a clock that stands, `DeadlinePassed` once the time is over.
    """
    person.needs("releaser")
    row = _at_the_desk(session, request)
    if not reason.strip():
        raise NoReason("pause-reason")
    if row.paused is not None:
        raise AlreadyLocked("clock-stopped")
    if row.due < office.now():
        raise DeadlinePassed("clock-late")
    row.paused, row.state = office.now(), "paused"
    _note(office, session, person, row, "pause", reason.strip())
    office.state(session, row.attempt, row.peer, ClockPaused(bytes.fromhex(request), "judicial-authorisation"))


def resume_clock(office: Office, session: Session, person: Person, request: str) -> None:
    """The clock runs on; the deadline moves by as long as it stood."""
    person.needs("releaser")
    row = _at_the_desk(session, request)
    if row.paused is None:
        raise AlreadyLocked("clock-running")
    _run_on(office, session, person, row)


def requests(office: Office, session: Session, now: int, direction: str | None = None) -> list[RequestView]:
    """All requests, the most urgent first."""
    rows = session.scalars(select(RequestRow).order_by(RequestRow.due))
    return [view_of(office, row, now) for row in rows if direction in (None, row.direction)]


def deadlines(office: Office, session: Session, now: int) -> list[RequestView]:
    """Requests that wait at this holder, the most urgent first; `alarm`: less than twelve hours are left."""
    return [view for view in requests(office, session, now, "received") if view.state in ("waiting", "paused")]


def view_of(office: Office, row: RequestRow, now: int) -> RequestView:
    """A request without what is personal."""
    due = _deadline(row, now)
    open_ = row.state in ("waiting", "paused")
    fields = office.vault.unseal(row, SealedRequest).fields if row.sealed else ()
    return RequestView(
        row.id, row.direction, row.peer, row.candidate_id, row.state, row.made, due, due - now,
        open_ and row.paused is None and due - now < ALARM_SECONDS, open_ and due < now, fields, row.late,
    )  # fmt: skip


def request_row(session: Session, request: str, *, lock: bool = False) -> RequestRow:
    """A request's row; `lock`: nobody else decides about it meanwhile. Raises `UnknownThing`."""
    row = session.get(RequestRow, request, with_for_update=lock)
    if row is None:
        raise UnknownThing("request", request)
    return row


def move_clock(row: RequestRow, now: int, what: str) -> None:
    """At the requester: what the holder says of its clock."""
    if what == "pause" and row.paused is None:
        row.paused, row.state = now, "paused"
    elif what == "resume" and row.paused is not None:
        row.due, row.paused, row.state = row.due + now - row.paused, None, "waiting"


def keep_record(office: Office, row: RequestRow, record: dict[CoreDataField, str], late: bool) -> None:
    """At the requester: core data have come."""
    held = office.vault.unseal(row, SealedRequest)
    office.vault.seal(row, msgspec.structs.replace(held, record=record))
    row.late = late
    _end(office, row, "released")


def _at_the_desk(session: Session, request: str) -> RequestRow:
    row = request_row(session, request, lock=True)
    if row.direction != "received":
        raise CaseRefused("own-request")
    if row.state not in ("waiting", "paused"):
        raise AlreadyLocked("request-state", state=row.state)
    return row


def _check_kind(office: Office, reference: str, kind: Kind) -> None:
    """A holder's gallery says whether the person is identified."""
    if office.role is not Role.HOLDER or office.gallery is None:
        return
    try:
        status = office.gallery.subject(reference).status
    except UnknownReference:
        raise UnknownThing("subject of request", "(its reference)") from None
    if (status is Status.UNIDENTIFIED) != (kind == "unidentified"):
        raise WrongSchema("held-as", status=status.value, kind=kind)


def _deadline(row: RequestRow, now: int) -> int:
    return row.due if row.paused is None else row.due + now - row.paused


def _run_on(office: Office, session: Session, person: Person, row: RequestRow) -> None:
    assert row.paused is not None
    row.due, row.paused, row.state = row.due + office.now() - row.paused, None, "waiting"
    _note(office, session, person, row, "resume", "")
    office.state(session, row.attempt, row.peer, ClockResumed(bytes.fromhex(row.id)))


def _note(office: Office, session: Session, person: Person, row: RequestRow, what: str, reason: str) -> None:
    event = ClockRow(request_id=row.id, person_id=person.id, what=what, time=office.now())
    office.vault.seal(event, _Reason(reason))
    session.add(event)


def _end(office: Office, row: RequestRow, state: str) -> None:
    row.state, row.ended = state, office.now()
    row.expires = office.now() + office.settings.core_data_days * DAY
