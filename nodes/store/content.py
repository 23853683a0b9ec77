"""What a store holds, in a few bytes: which database it is, how often it changed, how many rows, their digest.

The digest is the sum, modulo 2^256, of a SHA-256 of every 4,096 subjects as they lie in the table
(`nodes.store.lines`), so a change reads only those around it. It is no secret and no defence against who can write to
the database: the node's log holds the digests of before (`nodes.evidence.ledger`). Templates are authenticated in their
block files, whose state the database remembers (`nodes.store.rows`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from nodes.store import lines
from nodes.store.errors import StoreCorrupted
from nodes.store.tables import ModelRow, StoreRow, SubjectRow

ID_BYTES = 16
DIGEST_BYTES = 32
PART = 4096
_MODULUS = 2 ** (8 * DIGEST_BYTES)

# Told by a check, part by part in the order of the subjects' numbers: the model, its digest; the lowest number that a
# subject of the part can have; who of it is held.
Seen = Callable[[bytes, int, lines.Held], object]


@dataclass(frozen=True)
class Content:
    """`database_id`: 16 random bytes given to a database when it was made; a copy keeps them. `digest`: 32 bytes."""

    database_id: bytes
    generation: int
    rows: int
    digest: bytes


def values_of(session: Session, parts: Iterable[int] | None = None, seen: Seen | None = None) -> tuple[int, int]:
    """How many subjects there are (in these parts of 4,096 numbers, by default in all), and the sum of their values."""
    models = session.scalars(select(ModelRow)).all()
    rows = total = 0
    for part in parts_of(session) if parts is None else parts:
        for model in models:
            count, text = lines.read_lines(session, part * PART, (part + 1) * PART, model.id)
            rows += count
            total += _value(part, model.digest, text)
            if count and seen is not None:
                assert model.next_row is not None
                seen(model.digest, part * PART, lines.held(text, count, model.next_row))
    return rows, total % _MODULUS


def _value(part: int, model: bytes, text: str) -> int:
    """What the subjects of one part and one model add to the sum. `text`: their lines."""
    return int.from_bytes(hashlib.sha256(f"{part}|".encode() + model + text.encode()).digest(), "big") if text else 0


def parts_of(session: Session) -> Sequence[int]:
    """The parts in which there are subjects."""
    first = session.scalar(select(func.min(SubjectRow.id)))  # apart: of both together SQLite reads every row
    last = session.scalar(select(func.max(SubjectRow.id)))
    return () if first is None or last is None else range(first // PART, last // PART + 1)


@contextmanager
def accounted(session: Session, wanted: ColumnElement[bool]) -> Iterator[None]:
    """Account for what is done inside `with`, under `gallery.change`: subjects wanted are deleted."""
    parts = sorted({number // PART for number in session.scalars(select(SubjectRow.id).where(wanted))})
    rows, value = values_of(session, parts)
    yield
    session.flush()
    rows_now, value_now = values_of(session, parts)
    account(session, rows_now - rows, value_now - value)


def account_added(session: Session, model: ModelRow, first: int, texts: Sequence[str]) -> None:
    """Account for subjects of one model that were added behind all others, with numbers from `first` on.

    `texts`: the line of each. They are not read back: what was written there is what `verify` compares with. Under
    `gallery.change`.
    """
    value, stop = 0, first + len(texts)
    for part in range(first // PART, (stop - 1) // PART + 1):
        start = max(first, part * PART)
        added = "\n".join(texts[start - first : (part + 1) * PART - first])
        before = ""
        if start > part * PART:  # who was there
            _, before = lines.read_lines(session, part * PART, start, model.id)
        together = f"{before}\n{added}" if before else added
        value += _value(part, model.digest, together) - _value(part, model.digest, before)
    account(session, len(texts), value)


def account(session: Session, rows: int, value: int) -> None:
    """Note that `rows` more rows (fewer, if negative) with this sum of values are held. Under `gallery.change`."""
    held = _row(session)
    session.execute(
        update(StoreRow).values(rows=(held.rows or 0) + rows, digest=_bytes(_number(held.digest or b"") + value))
    )


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


def verify(session: Session, seen: Seen | None = None) -> Content:
    """Read every row and compare with what the store says. Raises `StoreCorrupted`. `seen`: as in `Seen`."""
    said = content(session)
    rows, total = values_of(session, seen=seen)
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
