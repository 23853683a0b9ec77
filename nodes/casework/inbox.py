"""What other nodes state, checked before it is kept: signatures of node and persons, conditions, order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework import candidates, cases, core_data, deletion
from nodes.casework.contents import (
    CoreDataPayload,
    FactsPayload,
    NamedPayload,
    RecallPayload,
    SealedRequest,
)
from nodes.casework.errors import StatementRefused, UnknownThing, WrongSchema
from nodes.casework.office import Office, decode_payload
from nodes.casework.tables import CandidateRow, DisclosedRow, RequestRow, StatementRow
from nodes.config.names import Role
from pets.errors import MALFORMED
from pets.prf import labelled_hash
from protocol.approval import ApprovalRefused, check_approval
from protocol.follow_up import (
    DECISIONS,
    SAID_BY,
    Acknowledged,
    ClockPaused,
    ClockResumed,
    Confirmed,
    CoreDataRefused,
    CoreDataReleased,
    CoreDataRequested,
    Deleted,
    Recalled,
    Statement,
    candidate_digest,
    decode_statement,
    digest_to_sign,
)

SKEW_MS = 600_000


def receive(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    """Keep a statement of a peer and do what it asks. The same one again changes nothing.

    Raises `StatementRefused`: from whom it may not come, about what this node does not know, out of order, or with an
    approval that does not hold.
    """
    if kept(session, statement.digest) is not None:
        return
    check_sender(office, statement)
    content = statement.content
    if type(content) not in _HANDLERS:
        raise StatementRefused(f"{statement.kind} may not come from {statement.sender}", "state")
    _check_persons(office, statement)
    try:
        _HANDLERS[type(content)](office, session, statement, payload)
    except (*MALFORMED, WrongSchema) as error:
        raise StatementRefused(f"{statement.kind}: {error}", "bad-frame") from None
    office.keep(session, statement, "received", "received")


def check_sender(office: Office, statement: Statement) -> None:
    """Raise `StatementRefused` for what a node of this role may not state, and for a statement from the future."""
    sender = office.peers.get(statement.sender)
    if sender is None or SAID_BY.get(type(statement.content)) is not sender.role:
        raise StatementRefused(f"{statement.kind} may not come from {statement.sender}", "state")
    if statement.time > 1000 * office.now() + SKEW_MS:  # an old one is late, but says what was said
        raise StatementRefused("the statement is dated in the future", "clock")


def check_receipts(office: Office, session: Session, statement: Statement) -> None:
    """Raise `StatementRefused` for a peer that owes a receipt, with a code that makes it ask again later."""
    if deletion.owes_receipts(office, session, statement.sender):
        raise StatementRefused(deletion.owing(statement.sender), "capacity")


def kept(session: Session, digest: bytes) -> StatementRow | None:
    """A statement that is known already."""
    return session.scalar(select(StatementRow).where(StatementRow.digest == digest))


def acknowledge(office: Office, session: Session, statement: Statement) -> Statement:
    """The answer that a statement arrived and was kept.

    That a recall arrived is evidence, for its 48 hours run from then on: kept, and the same however often it is sent,
    but not once it is dated in the future: this node's clock was wrong then, and nobody takes it.
    """
    is_recall = isinstance(statement.content, Recalled)
    for earlier in _acknowledgements(office, session, statement) if is_recall else ():
        return earlier
    content = Acknowledged(statement.digest)
    reply = Statement(1, statement.query, office.name, statement.sender, _now_ms(office), content).signed(
        office.keyring
    )
    if is_recall:
        office.keep(session, reply, "sent", "done")
    return reply


def _acknowledgements(office: Office, session: Session, statement: Statement) -> Iterator[Statement]:
    rows = select(StatementRow).where(
        StatementRow.attempt == statement.query,
        StatementRow.kind == Acknowledged.__name__,
        StatementRow.direction == "sent",
        StatementRow.peer == statement.sender,
    )
    for row in session.scalars(rows):
        reply = decode_statement(row.content)
        if not isinstance(reply.content, Acknowledged) or reply.content.statement != statement.digest:
            continue
        if reply.time <= _now_ms(office) + SKEW_MS:
            yield reply


def take_acknowledgement(office: Office, session: Session, statement: Statement, reply: Statement) -> None:
    """What this node stated has arrived. Raises `StatementRefused` unless the answer says so, now and in its query."""
    _check_acknowledgement(office, statement, reply)
    if isinstance(statement.content, Recalled):
        deletion.note_acknowledged(office, session, statement)
        if kept(session, reply.digest) is None:
            office.keep(session, reply, "received", "received")


def _check_acknowledgement(office: Office, statement: Statement, reply: Statement) -> None:
    if not isinstance(reply.content, Acknowledged) or reply.content.statement != statement.digest:
        raise StatementRefused("no acknowledgement of what was stated")
    if (reply.query, reply.sender) != (statement.query, statement.receiver):  # it enters the evidence of its query
        raise StatementRefused("an acknowledgement in another query, or not of the one who was told")
    if reply.time > _now_ms(office) + SKEW_MS:  # the 48 hours of a recall run from the time that it says
        raise StatementRefused("the acknowledgement is dated in the future", "clock")


def _now_ms(office: Office) -> int:
    return int(office.clock().timestamp() * 1000)


def _check_persons(office: Office, statement: Statement) -> None:
    content: Any = statement.content
    if type(content) not in DECISIONS:
        return
    digest = digest_to_sign(content, statement.sender, statement.query)
    try:
        people = {
            check_approval(approval, DECISIONS[type(content)], statement.sender, digest, office.keyring,
                           statement.time / 1000)
            for approval in content.approvals
        }  # fmt: skip
    except ApprovalRefused as error:
        raise StatementRefused(f"{statement.kind}: {error}", "crypto") from None
    if len(people) != len(content.approvals):
        raise StatementRefused("one person signed twice")
    if isinstance(content, Confirmed) and len(people) < 2:
        if not content.law:
            raise StatementRefused("a match confirmed by one person (AIA 14(5))")
        if not office.settings.accept_single_review:
            raise StatementRefused("this node accepts no match that one person confirmed")


def _confirmed(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    content = statement.content
    assert isinstance(content, Confirmed)
    named = decode_payload(payload, NamedPayload)
    row = _disclosed(office, session, statement, named.salt, named.reference, content.candidate)
    row.digest = content.candidate


def _requested(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    """The three conditions of R 47(1): match, confirmation, facts."""
    content = statement.content
    assert isinstance(content, CoreDataRequested)
    facts = decode_payload(payload, FactsPayload)
    _disclosed(office, session, statement, facts.salt, facts.reference, content.candidate)
    if deletion.is_over(office, session, statement.query, statement.sender, facts.reference):
        raise StatementRefused("core data of a candidate that was recalled, or that its receiver has deleted")
    check_receipts(office, session, statement)
    confirmation = kept(session, content.confirmed)
    before = None if confirmation is None else decode_statement(confirmation.content)
    if (
        before is None
        or not isinstance(before.content, Confirmed)
        or before.sender != statement.sender
        or before.query != statement.query
        or before.content.candidate != content.candidate
    ):
        raise StatementRefused("core data are asked for without a confirmed match (R 47(1))")
    if core_data.facts_digest(facts.facts_salt, facts.facts) != content.facts:
        raise StatementRefused("the facts are not those that the officer signed")
    same = select(RequestRow).where(RequestRow.direction == "received", RequestRow.attempt == statement.query)
    for row in session.scalars(same):
        if row.state in ("waiting", "paused") and office.vault.unseal(row, SealedRequest).reference == facts.reference:
            raise StatementRefused("a request about this candidate is under way", "replay")
    sealed = SealedRequest(facts.reference, content.fields, content.offence_category, facts.facts)
    core_data.add_request(office, session, statement.digest, "received", statement.sender, statement.query, None,
                          office.now(), sealed)  # fmt: skip


def _deleted(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    content = statement.content
    assert isinstance(content, Deleted)
    rows = session.scalars(
        select(DisclosedRow).where(DisclosedRow.attempt == statement.query, DisclosedRow.peer == statement.sender)
    )
    for row in rows:
        if row.digest == content.candidate:
            row.deleted = office.now()
            return
    raise StatementRefused("a receipt for something that was not given")


def _released(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    content = statement.content
    assert isinstance(content, CoreDataReleased)
    row = _own_request(session, statement, content.request)
    sent = decode_payload(payload, CoreDataPayload)
    filled = core_data.check_record(content.kind, sent.record)
    if labelled_hash("follow-up-record", sent.salt, msgspec.msgpack.encode(filled)) != content.record:
        raise StatementRefused("the record is not the one that was signed")
    unasked = set(filled) - set(office.vault.unseal(row, SealedRequest).fields)
    if unasked or set(content.fields) != set(filled):
        raise StatementRefused("core data that nobody asked for, or fields other than those stated")
    core_data.keep_record(office, row, filled, bool(content.late))


def _refused(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    content = statement.content
    assert isinstance(content, CoreDataRefused)
    row = _own_request(session, statement, content.request)
    row.state, row.ended = "refused", office.now()


def _paused(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    content = statement.content
    assert isinstance(content, ClockPaused)
    core_data.move_clock(_own_request(session, statement, content.request), statement.time // 1000, "pause")


def _resumed(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    content = statement.content
    assert isinstance(content, ClockResumed)
    core_data.move_clock(_own_request(session, statement, content.request), statement.time // 1000, "resume")


def _recalled(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    """Delete at once, or mark; the receipt goes back."""
    content = statement.content
    assert isinstance(content, Recalled)
    named = decode_payload(payload, RecallPayload)
    if named.kind != content.kind or candidate_digest(named.salt, named.reference) != content.candidate:
        raise StatementRefused("the candidate is not the one that the recall names")
    rows = select(CandidateRow).where(
        CandidateRow.attempt == statement.query,
        CandidateRow.holder == statement.sender,
        CandidateRow.digest == content.candidate,
    )
    row = session.scalar(rows)
    # What was asked without a case was told and not kept; what its holder noted as given never arrived; or this node
    # has lost its database. Nothing is here, and the receipt says so: its holder would wait for ever.
    if row is None and _waits_for(office, session, statement, named.reference):
        raise StatementRefused("a recall of something that was not shown yet", "capacity")  # asked again later
    if content.kind in ("contested", "uncontested"):
        if row is not None:
            row.contested = content.kind == "contested"
    elif row is not None and row.deleted is None:
        deletion.delete_candidate(office, session, row, "recalled" if content.kind == "delete" else "corrected")
    else:  # gone already: the receipt may have been lost
        reason = "recalled" if content.kind == "delete" else "corrected"
        office.state(session, statement.query, statement.sender, Deleted(content.candidate, reason))  # type: ignore[arg-type]


def _waits_for(office: Office, session: Session, statement: Statement, reference: str) -> bool:
    """Whether the sender has released this reference and not shown it yet."""
    try:
        row = candidates.query_of_attempt(session, statement.query)
        held = cases.sealed_of(office, row)
    except UnknownThing:
        return False
    if row.state == "running":
        return True  # an answer may be on its way
    found = held.found.get(statement.sender)
    return found is not None and reference in found.references


_HANDLERS = {
    Confirmed: _confirmed,
    CoreDataRequested: _requested,
    Deleted: _deleted,
    CoreDataReleased: _released,
    CoreDataRefused: _refused,
    ClockPaused: _paused,
    ClockResumed: _resumed,
    Recalled: _recalled,
}


def _disclosed(
    office: Office, session: Session, statement: Statement, salt: bytes, reference: str, candidate: bytes
) -> DisclosedRow:
    """What this holder released to this state in this query. Raises `StatementRefused`."""
    assert office.role is Role.HOLDER
    if candidate_digest(salt, reference) != candidate:
        raise StatementRefused("the candidate is not the one that the statement names")
    row = session.scalar(
        select(DisclosedRow).where(
            DisclosedRow.attempt == statement.query,
            DisclosedRow.peer == statement.sender,
            DisclosedRow.mac == office.vault.mac(reference),
        )
    )
    if row is None:
        raise StatementRefused("a candidate that was not released to this state in this query")
    if office.vault.unseal(row, deletion.Reference).salt != salt:
        raise StatementRefused("the salt is not the one that this candidate was shown with")
    return row


def _own_request(session: Session, statement: Statement, request: bytes) -> RequestRow:
    try:
        row = core_data.request_row(session, request.hex())
    except UnknownThing:
        raise StatementRefused("an answer to a request that was not made") from None
    if row.direction != "sent" or row.peer != statement.sender or row.attempt != statement.query:
        raise StatementRefused("an answer to a request that was made to somebody else")
    if row.state not in ("waiting", "paused"):
        raise StatementRefused(f"the request was {row.state} before", "replay")
    return row
