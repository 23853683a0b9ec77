"""What a store holds, in a few bytes: which database it is, how often it changed, how many rows, their digest.

The digest is the sum, modulo 2^256, of the SHA-256 of each subject as it lies in the table, so a change adds and
subtracts without reading the rest. It is no secret and no defence against who can write to the database: the node's log
holds the digests of before (`nodes.evidence.ledger`). Templates are authenticated in their block files, whose state the
database remembers (`nodes.store.rows`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from sqlalchemy import ColumnElement, Executable, literal_column, select, text, update
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted
from nodes.store.tables import ModelRow, StoreRow, SubjectRow

IDENTITY_BYTES = 16
DIGEST_BYTES = 32
READ_ROWS = 4096
_MODULUS = 2 ** (8 * DIGEST_BYTES)


@dataclass(frozen=True)
class Content:
    """`identity`: 16 random bytes given to a database when it was made; a copy keeps them. `digest`: 32 bytes."""

    identity: bytes
    generation: int
    rows: int
    digest: bytes


# the same text on both databases, put together there, so that thirty million rows are not converted value by value
_TEXT = (
    "subject.reference || '|' || subject.category || '|' || subject.status || '|' || CAST(retain_until AS TEXT)"
    " || '|' || CAST(subject.\"row\" AS TEXT) || '|'"
)
_ALL_ROWS = text(f"SELECT {_TEXT} FROM subject WHERE model_id = :model")  # noqa: S608  (nothing of it is given)


def row_value(text: str, model: bytes) -> int:
    """The number that stands for a subject: its text, as `row_text` gives it, and its model's digest."""
    return int.from_bytes(hashlib.sha256(text.encode() + model).digest(), "big")


def row_text(reference: str, category: str, status: str, until: date, row: int) -> str:
    """Reference, category, status, retention date and number of the row."""
    return f"{reference}|{category}|{status}|{until}|{row}|"


def values_of(session: Session, wanted: ColumnElement[bool] | None = None) -> tuple[int, int]:
    """How many rows there are (of those wanted), and the sum of their values."""
    rows = total = 0
    for model, digest in session.execute(select(ModelRow.id, ModelRow.digest)).all():
        statement: Executable = _ALL_ROWS.bindparams(model=model)
        if wanted is not None:
            statement = (
                select(literal_column(_TEXT)).select_from(SubjectRow).where(wanted, SubjectRow.model_id == model)
            )
        for part in session.execute(statement.execution_options(yield_per=READ_ROWS)).partitions():
            rows, total = rows + len(part), total + sum(row_value(found, digest) for (found,) in part)
    return rows, total % _MODULUS


def account(session: Session, rows: int, value: int) -> None:
    """Note that `rows` more rows (fewer, if negative) with this sum of values are held. Under `gallery.change`."""
    held = _row(session)
    session.execute(
        update(StoreRow).values(rows=(held.rows or 0) + rows, digest=_bytes(_number(held.digest or b"") + value))
    )


def account_added(session: Session, texts: Iterable[str], model: bytes) -> None:
    """As `account`, for rows of a model just inserted, by their `row_text`."""
    values = [row_value(text, model) for text in texts]
    account(session, len(values), sum(values))


def account_gone(session: Session, wanted: ColumnElement[bool]) -> None:
    """As `account`, for rows about to be deleted."""
    rows, value = values_of(session, wanted)
    if rows:
        account(session, -rows, -value)


def settle(session: Session) -> None:
    """Count what no earlier version counted, or what an SQL statement changed behind our back in a restore."""
    held = _row(session)
    if held.identity is None:
        session.execute(update(StoreRow).values(identity=os.urandom(IDENTITY_BYTES)))
    if held.digest is None:
        rows, total = values_of(session)
        session.execute(update(StoreRow).values(rows=rows, digest=_bytes(total)))


def content(session: Session) -> Content:
    """What the store says that it holds."""
    held = _row(session)
    assert held.identity is not None
    assert held.digest is not None
    return Content(held.identity, held.generation, held.rows or 0, held.digest)


def verify(session: Session) -> Content:
    """Read every row and compare with what the store says. Raises `StoreCorrupted`."""
    said = content(session)
    rows, total = values_of(session)
    if rows != said.rows or _bytes(total) != said.digest:
        raise StoreCorrupted(f"the database says {said.rows} subjects, and the {rows} that it holds are not those")
    return said


def _row(session: Session) -> StoreRow:
    return session.scalars(select(StoreRow).execution_options(populate_existing=True)).one()


def _bytes(value: int) -> bytes:
    reduced: int = value % _MODULUS
    return reduced.to_bytes(DIGEST_BYTES, "big")


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big")
