"""The tables. Whoever holds only the database sees counts, categories and dates: never a face or a template.

Templates are not here: they lie in block files (`nodes.store.rows`).

::

    store 1 ── state, generation, content            storage_key ── fingerprint and check value of each key in use
    model ──< subject ── photo              subject: what is searched; photo: what may be released
              subject ──< further_photo       of those fused into one template; subject.subject: rows of one person
              subject ──< contested_event   who raised and who cleared the contested-accuracy flag
    model ──< gone_row                      rows of deleted subjects that are still to be erased in the block files
    deletion                                references forgotten, to be forgotten again after a restore
    enrolment_run                           how far an enrolment from an array came
    handling                                who enrolled, changed, deleted or looked up whom, and why
    quota, claimed_query, released          what was asked today, answered already, released to whom

Times are seconds since 1970 in UTC, days are UTC days.
"""

from __future__ import annotations

from datetime import date

from sqlalchemy import (
    BigInteger,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Identifier = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in an INTEGER column


NAMING = {  # of constraints
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of all tables; constraints have names, so that a migration can address them."""

    metadata = MetaData(naming_convention=NAMING)


class StoreRow(Base):
    """One row, number 1. `generation` counts the changes of the gallery; who changes it locks this row first.

    `changing`: the block files are about to be changed; a crash can leave it so. `database_id`, `rows`, `digest`: see
    `nodes.store.content`; `reference_key`: see `nodes.store.references`; without them only between an upgrade and the
    next opening.
    """

    __tablename__ = "store"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(2))
    generation: Mapped[int] = mapped_column(BigInteger)
    database_id: Mapped[bytes | None] = mapped_column("identity", LargeBinary)
    rows: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    changing: Mapped[bool] = mapped_column(server_default=false(), default=False)
    reference_key: Mapped[bytes | None] = mapped_column(LargeBinary)  # encrypted


class KeyRow(Base):
    """A storage key in use; `check_value` decrypts under it and under no other."""

    __tablename__ = "storage_key"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(16), unique=True)
    check_value: Mapped[bytes] = mapped_column(LargeBinary)


class ModelRow(Base):
    """A face model: digest of its specification (32 bytes) and entries of a template.

    `folder`: name of its folder of block files. What these were when the database was last written: `line`, the name of
    their history; `generation`, of their manifest; `next_row`, the number of the row after the last one. None only
    between an upgrade and the next opening.
    """

    __tablename__ = "model"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    dim: Mapped[int] = mapped_column(Integer)
    folder: Mapped[str | None] = mapped_column(String(32))
    line: Mapped[bytes | None] = mapped_column(LargeBinary)
    generation: Mapped[int | None] = mapped_column(BigInteger)
    next_row: Mapped[int | None] = mapped_column(BigInteger)


class GoneRow(Base):
    """A row of the block files whose subject was deleted, until it is erased there too."""

    __tablename__ = "gone_row"
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), primary_key=True, autoincrement=False)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


# SQL takes a partial index only where the condition is written as it is there
OLD_REFERENCES, _FURTHER = text("NOT numbered"), text("subject IS NOT NULL")


class SubjectRow(Base):
    """A person, identified or not, under a reference number that tells nothing (`nodes.store.references`).

    `numbered`: whether the reference leads to its number, so that it needs no index; those of earlier versions do not.
    `subject`: the reference of the person's first row, where this is a further one (photos decades apart); else none.
    `enrolled`: when; none for what an earlier version enrolled. `row`: number of its row in the block files of its
    model. `tie`: to that row, under the subject's key (`nodes.store.keys`). `template`: where an earlier version kept
    it; empty, since it was moved there.
    """

    __tablename__ = "subject"
    __table_args__ = (
        Index("ix_subject_model_id_row", "model_id", "row"),
        Index(
            "ix_subject_reference",
            "reference",
            unique=True,
            sqlite_where=OLD_REFERENCES,
            postgresql_where=OLD_REFERENCES,
        ),
        Index("ix_subject_subject", "subject", sqlite_where=_FURTHER, postgresql_where=_FURTHER),
        {"sqlite_autoincrement": True},
    )  # numbers once
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    reference: Mapped[str] = mapped_column(String(64))
    category: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    retain_until: Mapped[date] = mapped_column(Date, index=True)
    quality: Mapped[int | None] = mapped_column(SmallInteger)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    key_id: Mapped[int] = mapped_column(ForeignKey("storage_key.id"))
    template: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    contested: Mapped[bool] = mapped_column(server_default=false(), default=False)
    subject: Mapped[str | None] = mapped_column(String(64))
    enrolled: Mapped[int | None] = mapped_column(BigInteger)
    row: Mapped[int | None] = mapped_column(BigInteger)
    tie: Mapped[bytes | None] = mapped_column(LargeBinary)
    numbered: Mapped[bool] = mapped_column(server_default=false(), default=False)


class PhotoRow(Base):
    """The photo of a subject. `mac`: keyed hash of its bytes, under the subject's key. `name`: of its file."""

    __tablename__ = "photo"
    subject_id: Mapped[int] = mapped_column(ForeignKey("subject.id", ondelete="CASCADE"), primary_key=True)
    mac: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted
    name: Mapped[bytes | None] = mapped_column(LargeBinary)  # encrypted


class FurtherPhotoRow(Base):
    """Another photo of a subject. `mac`, `sealed`, `name`: as in `PhotoRow`."""

    __tablename__ = "further_photo"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    subject_id: Mapped[int] = mapped_column(ForeignKey("subject.id", ondelete="CASCADE"), index=True)
    mac: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted
    name: Mapped[bytes | None] = mapped_column(LargeBinary)  # encrypted


class ContestedRow(Base):
    """The contested-accuracy flag was raised, or cleared on somebody's authority (Article 51(3))."""

    __tablename__ = "contested_event"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    subject_id: Mapped[int] = mapped_column(ForeignKey("subject.id", ondelete="CASCADE"), index=True)
    time: Mapped[int] = mapped_column(BigInteger)
    authority: Mapped[bytes | None] = mapped_column(LargeBinary)  # encrypted; none: raised


class DeletionRow(Base):
    """A reference that was forgotten on request."""

    __tablename__ = "deletion"
    reference: Mapped[str] = mapped_column(String(64), primary_key=True)
    time: Mapped[int] = mapped_column(BigInteger)


class RunRow(Base):
    """An enrolment from an array. `source`: digest of what is enrolled, encrypted; `mac`: its keyed hash."""

    __tablename__ = "enrolment_run"
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    mac: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    source: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted
    key_id: Mapped[int] = mapped_column(ForeignKey("storage_key.id"))
    particulars: Mapped[str] = mapped_column(String(200))
    rows: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[int] = mapped_column(BigInteger)


class HandlingRow(Base):
    """Somebody handled subjects (`nodes.store.handling`); what and whom is encrypted."""

    __tablename__ = "handling"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  (a number is not given twice)
    id: Mapped[int] = mapped_column(Identifier, primary_key=True)
    time: Mapped[int] = mapped_column(BigInteger, index=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted


class QuotaRow(Base):
    """Queries that a state asked on a day, identified and unidentified persons apart (Article 23(1)); preparations."""

    __tablename__ = "quota"
    state: Mapped[str] = mapped_column(String(2), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    used: Mapped[int] = mapped_column(Integer)


class ReleasedRow(Base):
    """How often a reference was released to a state on a day, or withheld because that had been too often."""

    __tablename__ = "released"
    state: Mapped[str] = mapped_column(String(2), primary_key=True)
    reference: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    times: Mapped[int] = mapped_column(Integer)


class ClaimRow(Base):
    """A step of a query that was answered, or is being answered."""

    __tablename__ = "claimed_query"
    query_id: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    step: Mapped[str] = mapped_column(String(32), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    time: Mapped[int] = mapped_column(BigInteger, index=True)
