"""The tables of `casework.db`. Whoever holds only the database sees states, times and pseudonyms, and no face or name.

::

    person ──< vote, signature            who decides; the name is encrypted
    query ──< candidate ──< vote          a search that a second person approved, and what it found
              candidate ──< signature     signed confirmations
              candidate ──< request       core data asked of the holder; a holder has requests without a candidate
    request ──< clock_event               pauses and resumptions
    disclosed                             at a holder: which reference went to whom, so that a recall finds it
    statement                             everything stated to or by other nodes, and what still must be sent
    viewed                                every look at personal data, with its reason
    casework_key                          check values of the storage keys in use

`sealed` columns are encrypted under the node's storage key. Times are seconds since 1970 in UTC.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, ForeignKey, Integer, LargeBinary, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from nodes.store.tables import NAMING, Identifier


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)


class KeyRow(Base):
    """The storage key in use; `check_value` decrypts under it and under no other."""

    __tablename__ = "casework_key"
    fingerprint: Mapped[str] = mapped_column(String(16), primary_key=True)
    check_value: Mapped[bytes] = mapped_column(LargeBinary)


class PersonRow(Base):
    """A member of staff. `key`: a `protocol.approval.PersonKey`; none yet: cannot sign."""

    __tablename__ = "person"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    handle: Mapped[str] = mapped_column(String(64), unique=True)
    roles: Mapped[str] = mapped_column(String(200))
    fingerprint: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    key: Mapped[bytes | None] = mapped_column(LargeBinary)
    active: Mapped[bool] = mapped_column(Boolean)
    enrolled: Mapped[int] = mapped_column(BigInteger)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # the name


class QueryRow(Base):
    """A search. `attempts`: IDs of the queries it took, hexadecimal, by commas."""

    __tablename__ = "query"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    opened_by: Mapped[str] = mapped_column(ForeignKey("person.id"))
    approved_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    opened: Mapped[int] = mapped_column(BigInteger)
    authorised: Mapped[int | None] = mapped_column(BigInteger)  # when judicial authorisation was lodged
    changed: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[str] = mapped_column(String(8192), default="")
    launch: Mapped[bytes | None] = mapped_column(LargeBinary)  # the signed `Launched`
    report: Mapped[bytes | None] = mapped_column(LargeBinary)  # answers by holder, without references
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # the draft: probe, justification


class CandidateRow(Base):
    """A subject of another state. `mac`: keyed hash of its reference. `outcome`: once it is decided."""

    __tablename__ = "candidate"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    query_id: Mapped[str] = mapped_column(ForeignKey("query.id"), index=True)
    attempt: Mapped[bytes] = mapped_column(LargeBinary)
    holder: Mapped[str] = mapped_column(String(16))
    mac: Mapped[bytes] = mapped_column(LargeBinary, index=True)
    digest: Mapped[bytes | None] = mapped_column(LargeBinary, index=True)  # once its holder has shown it
    outcome: Mapped[str | None] = mapped_column(String(16))
    confirmed: Mapped[bytes | None] = mapped_column(LargeBinary)  # digest of the statement
    received: Mapped[int] = mapped_column(BigInteger)
    expires: Mapped[int] = mapped_column(BigInteger, index=True)
    contested: Mapped[bool] = mapped_column(Boolean, default=False)
    deleted: Mapped[int | None] = mapped_column(BigInteger)
    quality: Mapped[int | None] = mapped_column(Integer)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)  # reference, salt, image, marks; none once deleted


class VoteRow(Base):
    """What one reviewer found; made once."""

    __tablename__ = "vote"
    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    locked: Mapped[int] = mapped_column(BigInteger)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # verdict and note


class SignatureRow(Base):
    """A reviewer's signature under a confirmed match."""

    __tablename__ = "signature"
    candidate_id: Mapped[str] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    approval: Mapped[bytes] = mapped_column(LargeBinary)


class RequestRow(Base):
    """A request for core data. `id`: digest of its statement, hexadecimal. `due`: moves with the pauses."""

    __tablename__ = "request"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    direction: Mapped[str] = mapped_column(String(8), index=True)  # sent, received
    peer: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[bytes] = mapped_column(LargeBinary)
    candidate_id: Mapped[str | None] = mapped_column(ForeignKey("candidate.id"))
    state: Mapped[str] = mapped_column(String(16), index=True)  # waiting, paused, released, refused, deleted
    made: Mapped[int] = mapped_column(BigInteger)
    due: Mapped[int] = mapped_column(BigInteger)
    paused: Mapped[int | None] = mapped_column(BigInteger)
    ended: Mapped[int | None] = mapped_column(BigInteger)
    late: Mapped[bool] = mapped_column(Boolean, default=False)
    expires: Mapped[int | None] = mapped_column(BigInteger)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)  # facts; at the requester later the record


class ClockRow(Base):
    """A clock was stopped or runs on."""

    __tablename__ = "clock_event"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("request.id"), index=True)
    person_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    what: Mapped[str] = mapped_column(String(8))
    time: Mapped[int] = mapped_column(BigInteger)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # the reason in words


class DisclosedRow(Base):
    """At a holder: a reference was released to a peer in a query."""

    __tablename__ = "disclosed"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    attempt: Mapped[bytes] = mapped_column(LargeBinary, index=True)
    peer: Mapped[str] = mapped_column(String(16))
    mac: Mapped[bytes] = mapped_column(LargeBinary, index=True)
    time: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)  # the candidate's, once it was shown
    deleted: Mapped[int | None] = mapped_column(BigInteger)  # when the receiver said that it deleted it
    recalled: Mapped[int | None] = mapped_column(BigInteger)
    acknowledged: Mapped[int | None] = mapped_column(BigInteger)  # when the receiver took that recall in
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # the reference and its salt


class StatementRow(Base):
    """A statement. `state`: queued (to be sent), logged (kept at home), done, received, failed."""

    __tablename__ = "statement"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    attempt: Mapped[bytes] = mapped_column(LargeBinary, index=True)
    direction: Mapped[str] = mapped_column(String(8))
    peer: Mapped[str] = mapped_column(String(16))
    kind: Mapped[str] = mapped_column(String(32), index=True)
    time: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(8), index=True)
    logged: Mapped[bool] = mapped_column(Boolean, default=False, index=True)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    not_before: Mapped[int] = mapped_column(BigInteger, default=0)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary)  # the payload, until it was delivered


class ViewedRow(Base):
    """Somebody looked at personal data, or was given them (LED 25)."""

    __tablename__ = "viewed"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    person_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    what: Mapped[str] = mapped_column(String(100))
    purpose: Mapped[str] = mapped_column(String(32))
    recipient: Mapped[str] = mapped_column(String(64))
    time: Mapped[int] = mapped_column(BigInteger, index=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # the reason in words
