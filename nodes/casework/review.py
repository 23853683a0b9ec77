"""Review by two, independent and blind (AIA 14(5), R 20(2)).

Each reviewer sees the candidates in an order of their own, without rank, score or anybody else's word, and locks a
decision once. Only when enough reviewers have locked theirs is there an outcome: all *same person* is a match, which
both then sign; anything else is none, and is counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework.approvals import approve, check_signed
from nodes.casework.cases import row_of
from nodes.casework.contents import Blind, NamedPayload, Shown, Verdict, Vote
from nodes.casework.errors import (
    AlreadyLocked,
    CaseRefused,
    FourEyes,
    NotConfirmed,
    NotYetLocked,
    NotYourRole,
    UnknownThing,
)
from nodes.casework.office import Office, encode_payload
from nodes.casework.persons import Person, load
from nodes.casework.tables import CandidateRow, SignatureRow, VoteRow
from protocol.approval import Assertion
from protocol.follow_up import Confirmed, candidate_digest

Outcome = Literal["under review", "match", "confirmed", "no match", "disagreement", "inconclusive", "deleted"]
VERDICTS: tuple[Verdict, ...] = ("same person", "not the same person", "inconclusive")


@dataclass(frozen=True)
class BlindCandidate:
    """What a reviewer may know: never rank or score. `mine`: the own verdict, once locked."""

    id: str
    holder: str
    has_image: bool
    quality: int | None
    acquired: str
    status: str
    contested: bool
    mine: Verdict | None


def candidates_for(office: Office, session: Session, person: Person, query: str) -> list[BlindCandidate]:
    """The candidates of a query in this reviewer's own random order.

    Raises `FourEyes` for who opened the query, while any of them is under review.
    """
    person.needs("reviewer")
    row_of(session, query)
    rows = session.scalars(
        select(CandidateRow).where(CandidateRow.query_id == query, CandidateRow.deleted.is_(None))
    ).all()
    if any(row.outcome is None for row in rows) and _opened(session, person, query):
        raise FourEyes("look-opener")
    ordered = sorted(rows, key=lambda row: office.vault.derive("order", person.id, row.id))
    return [_blind(office, session, person, row) for row in ordered]


def look(office: Office, session: Session, person: Person, candidate: str) -> Blind | Shown:
    """A candidate as this person may see it: with its reference only who goes on with it, after the review.

    Raises `NotYetLocked` while it is under review for whoever does not review it, `FourEyes` for who opened the query.
    """
    row = candidate_row(session, candidate)
    shown = office.vault.unseal(row, Shown)
    if row.outcome is None:  # another reviewer could be told by whoever may look
        if "reviewer" not in person.roles:
            raise NotYetLocked("look-reviewers")
        if _opened(session, person, row.query_id):
            raise FourEyes("look-opener")
    elif {"officer", "data-protection"} & set(person.roles):
        return msgspec.structs.replace(shown, contested=row.contested)
    return Blind(shown.image, shown.quality, shown.acquired, shown.status, row.contested)


def _opened(session: Session, person: Person, query: str) -> bool:
    return row_of(session, query).opened_by == person.id


def lock_decision(
    office: Office, session: Session, person: Person, candidate: str, verdict: Verdict, note: str
) -> None:
    """Lock one's decision, once. Raises `AlreadyLocked`, `FourEyes` for the officer who asks, `CaseRefused`."""
    person.needs("reviewer")
    row = candidate_row(session, candidate, lock=True)
    if _opened(session, person, row.query_id):
        raise FourEyes("review-opener")
    if verdict not in VERDICTS:
        raise CaseRefused("verdict", verdict=verdict, allowed=", ".join(VERDICTS))
    if not note.strip():
        raise CaseRefused("note")
    if session.get(VoteRow, (candidate, person.id)) is not None:
        raise AlreadyLocked("decided-once")
    if row.outcome is not None:
        raise AlreadyLocked("decided")
    vote = VoteRow(candidate_id=candidate, person_id=person.id, locked=office.now())
    office.vault.seal(vote, Vote(verdict, note.strip()))
    session.add(vote)
    session.flush()
    votes = _votes(office, session, candidate)
    if len(votes) == office.settings.reviewers:
        row.outcome = _outcome([vote.verdict for _, vote in votes])


def outcome(session: Session, candidate: str) -> Outcome:
    """The outcome, or *under review*, which tells nothing of who has decided, or how."""
    row = candidate_row(session, candidate, deleted=True)
    return row.outcome or ("deleted" if row.deleted else "under review")  # type: ignore[return-value]


def votes_seen_by(office: Office, session: Session, person: Person, candidate: str) -> list[tuple[str, Vote]]:
    """All votes, by handle. Raises `NotYetLocked` before one's own is locked, while the review is open."""
    person.needs("reviewer", "officer", "data-protection", "supervisor")
    row = candidate_row(session, candidate, deleted=True)
    if row.outcome is None:  # another reviewer could be told by whoever may look
        raise NotYetLocked("notes-later")
    return [(load(office, session, voter).handle, vote) for voter, vote in _votes(office, session, candidate)]


def confirmation_content(office: Office, session: Session, candidate: str) -> tuple[Confirmed, bytes]:
    """What both reviewers sign, and its payload. Raises `NotConfirmed` unless they found the same person."""
    row = candidate_row(session, candidate)
    if row.outcome not in ("match", "confirmed"):
        raise NotConfirmed("no-match")
    shown = office.vault.unseal(row, Shown)
    assert row.digest is not None
    payload, digest = encode_payload(NamedPayload(shown.salt, shown.reference))
    law = office.settings.single_review_law
    return Confirmed(row.digest, law, (), digest), payload


def confirm(office: Office, session: Session, person: Person, candidate: str, assertion: Assertion | None) -> Outcome:
    """A reviewer signs the match. With the last signature it is confirmed and the holder is told (R 20(2)).

    Raises `NotConfirmed`, `NotYourRole` for somebody who did not review it, `AlreadyLocked` for a second signature.
    """
    person.needs("reviewer")
    row = candidate_row(session, candidate, lock=True)
    if session.get(VoteRow, (candidate, person.id)) is None:
        raise NotYourRole("not-reviewer", handle=person.handle)
    content, payload = confirmation_content(office, session, candidate)
    if row.outcome == "confirmed" or session.get(SignatureRow, (candidate, person.id)) is not None:
        raise AlreadyLocked("signed-once")
    check_signed(office, person, content, row.attempt, assertion)
    assert assertion is not None
    signature = SignatureRow(candidate_id=candidate, person_id=person.id, approval=msgspec.msgpack.encode(assertion))
    session.add(signature)
    session.flush()
    signed = session.scalars(select(SignatureRow).where(SignatureRow.candidate_id == candidate)).all()
    if len(signed) < office.settings.reviewers:
        return "match"
    people = [
        (load(office, session, one.person_id), msgspec.msgpack.decode(one.approval, type=Assertion)) for one in signed
    ]
    statement = office.state(session, row.attempt, row.holder, approve(office, content, *people), payload)
    row.outcome, row.confirmed = "confirmed", statement.digest
    return "confirmed"


def candidate_row(session: Session, candidate: str, *, deleted: bool = False, lock: bool = False) -> CandidateRow:
    """A candidate's row; `lock`: nobody else decides about it meanwhile.

    Raises `UnknownThing`, also for a deleted one unless that is asked for.
    """
    row = session.get(CandidateRow, candidate, with_for_update=lock)
    if row is None or (row.deleted is not None and not deleted):
        raise UnknownThing("candidate", candidate)
    return row


def add_candidates(
    office: Office,
    session: Session,
    query: str,
    attempt: bytes,
    holder: str,
    shown: Sequence[Shown],
) -> None:
    """Candidates as their holder shows them, written down in random order: the rank ends here."""
    now = office.now()
    mixed = list(shown)
    secrets.SystemRandom().shuffle(mixed)
    for one in mixed:
        row = CandidateRow(
            id=secrets.token_hex(16),
            query_id=query,
            attempt=attempt,
            holder=holder,
            mac=office.vault.mac(one.reference),
            digest=candidate_digest(one.salt, one.reference),
            received=now,
            expires=now + office.settings.candidate_days * 24 * 3600,
            contested=one.contested,
            quality=one.quality,
        )
        office.vault.seal(row, one)
        session.add(row)
    session.flush()


def _votes(office: Office, session: Session, candidate: str) -> list[tuple[str, Vote]]:
    rows = session.scalars(select(VoteRow).where(VoteRow.candidate_id == candidate).order_by(VoteRow.locked))
    return [(row.person_id, office.vault.unseal(row, Vote)) for row in rows]


def _outcome(verdicts: Sequence[Verdict]) -> Outcome:
    if all(verdict == "same person" for verdict in verdicts):
        return "match"
    if all(verdict == "not the same person" for verdict in verdicts):
        return "no match"
    return "disagreement" if {"same person", "not the same person"} <= set(verdicts) else "inconclusive"


def _blind(office: Office, session: Session, person: Person, row: CandidateRow) -> BlindCandidate:
    shown = office.vault.unseal(row, Shown)
    vote = session.get(VoteRow, (row.id, person.id))
    mine = None if vote is None else office.vault.unseal(vote, Vote).verdict
    return BlindCandidate(
        row.id, row.holder, shown.image is not None, shown.quality, shown.acquired, shown.status, row.contested, mine
    )
