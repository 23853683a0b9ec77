"""What a store holds, in a few bytes: which database it is, how often it changed, how many rows, their digest.

The digest is the sum, modulo 2^256, of the SHA-256 of each row as it lies in the table, so a change adds and subtracts
without reading the rest. It is no secret (rows are encrypted) and no defence against who can write to the database:
templates are authenticated one by one, and the node's log holds the digests of before (`nodes.evidence.ledger`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import ColumnElement, Executable, select, text, update
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted
from nodes.store.tables import ModelRow, StoreRow, SubjectRow

ID_BYTES = 16
DIGEST_BYTES = 32
READ_ROWS = 4096
_MODULUS = 2 ** (8 * DIGEST_BYTES)


@dataclass(frozen=True)
class Content:
    """`database_id`: 16 random bytes given to a database when it was made; a copy keeps them. `digest`: 32 bytes."""

    database_id: bytes
    generation: int
    rows: int
    digest: bytes


Row = tuple[str, str, str, date | str, bytes, bytes]
COLUMNS = (
    SubjectRow.reference,
    SubjectRow.category,
    SubjectRow.status,
    SubjectRow.retain_until,
    ModelRow.digest,
    SubjectRow.template,
)


_ALL_ROWS = text(
    "SELECT subject.reference, subject.category, subject.status, subject.retain_until, model.digest, subject.template "
    "FROM subject JOIN model ON subject.model_id = model.id"
)


def row_value(row: Row | Sequence[Any]) -> int:
    """The number that stands for a row: reference, category, status, retention date, model, encrypted template."""
    reference, category, status, until, model, template = row
    head = f"{reference}|{category}|{status}|{until}|".encode()
    return int.from_bytes(hashlib.sha256(b"".join((head, model, template))).digest(), "big")


def values_of(session: Session, wanted: ColumnElement[bool] | None = None) -> tuple[int, int]:
    """How many rows there are (of those wanted), and the sum of their values."""
    statement: Executable = _ALL_ROWS  # a text, so that a million rows are not converted value by value
    if wanted is not None:
        statement = select(*COLUMNS).join(ModelRow, SubjectRow.model_id == ModelRow.id).where(wanted)
    rows = total = 0
    for part in session.execute(statement.execution_options(yield_per=READ_ROWS)).partitions():
        rows, total = rows + len(part), total + sum(row_value(row) for row in part)
    return rows, total % _MODULUS


def account(session: Session, rows: int, value: int) -> None:
    """Note that `rows` more rows (fewer, if negative) with this sum of values are held. Under `gallery.change`."""
    held = _row(session)
    session.execute(
        update(StoreRow).values(rows=(held.rows or 0) + rows, digest=_bytes(_number(held.digest or b"") + value))
    )


def account_added(session: Session, rows: Iterable[Row]) -> None:
    """As `account`, for rows just inserted."""
    values = [row_value(row) for row in rows]
    account(session, len(values), sum(values))


def account_gone(session: Session, wanted: ColumnElement[bool]) -> None:
    """As `account`, for rows about to be deleted."""
    rows, value = values_of(session, wanted)
    if rows:
        account(session, -rows, -value)


def settle(session: Session) -> None:
    """Count what no earlier version counted, or what an SQL statement changed behind our back in a restore."""
    held = _row(session)
    if held.database_id is None:
        session.execute(update(StoreRow).values(database_id=os.urandom(ID_BYTES)))
    if held.digest is None:
        rows, total = values_of(session)
        session.execute(update(StoreRow).values(rows=rows, digest=_bytes(total)))


def content(session: Session) -> Content:
    """What the store says that it holds."""
    held = _row(session)
    assert held.database_id is not None
    assert held.digest is not None
    return Content(held.database_id, held.generation, held.rows or 0, held.digest)


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
