"""Who enrolled, changed, deleted or looked up whom, when and why (Article 25 of Directive (EU) 2016/680).

An entry is written in the transaction of what it tells of, encrypted under the storage key, and names the one before it
by its hash. Whoever can write to the database can cut off its end or its beginning; an entry that is missing, changed
or exchanged in between is found.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import delete, func, select, true
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted, StoreRefusal
from nodes.store.key_ring import KeyRing
from nodes.store.subjects import utc_time
from nodes.store.tables import HandlingRow, StoreRow
from pets.errors import MALFORMED
from protocol.shown import kind_only

Act = Literal["enrol", "forget", "expire", "contest", "clear", "consult"]
MAX_TEXT = 200
KEPT_YEARS = 3  # as the logs of Article 40(3)
_READ_ROWS = 1000


@dataclass(frozen=True)
class Handler:
    """On whose behalf a store is opened, and why. Raises `StoreRefusal` for texts of more than 200 characters."""

    person: str
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 < len(self.person) <= MAX_TEXT or len(self.reason) > MAX_TEXT:
            raise StoreRefusal(f"person and reason have at most {MAX_TEXT} characters each, and a person has a name")


@dataclass(frozen=True)
class Handled:
    """An entry. `person`: None for what the node does by itself, such as expiry. `references`: whom it was about."""

    time: datetime
    act: Act
    person: str | None
    reason: str
    references: tuple[str, ...]


class _Sealed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`before`: SHA-256 of the entry before, empty for the first; `salt`: so that no hash tells of a known entry."""

    time: int
    act: Act
    person: str | None
    reason: str
    references: tuple[str, ...]
    before: bytes
    salt: bytes

    __repr__ = kind_only


def note(
    session: Session, keys: KeyRing, handler: Handler | None, act: Act, references: Iterable[str], now: int
) -> None:
    """Write down what is being done in this transaction."""
    session.execute(select(StoreRow.id).where(StoreRow.id == 1).with_for_update())  # entries one after the other
    last = session.scalar(select(HandlingRow).order_by(HandlingRow.id.desc()).limit(1))
    before = b"" if last is None else _digest(_opened(keys, last))
    person, reason = (None, "") if handler is None else (handler.person, handler.reason)
    content = _Sealed(now, act, person, reason, tuple(references), before, secrets.token_bytes(16))
    row = HandlingRow(time=now, sealed=b"")
    session.add(row)
    session.flush()  # gives it its number
    row.sealed = keys.key.seal(msgspec.msgpack.encode(content), "handling", str(row.id))


def entries(session: Session, keys: KeyRing) -> list[Handled]:
    """All entries kept, the first first. Raises `StoreCorrupted` if one was changed, exchanged or taken out between."""
    found: list[Handled] = []
    before: bytes | None = None
    for row in _rows(session):
        plain = _opened(keys, row)
        try:
            told = msgspec.msgpack.decode(plain, type=_Sealed)
        except MALFORMED:
            raise StoreCorrupted(f"entry {row.id} of the handling log is not what was written") from None
        if before is not None and told.before != before:
            raise StoreCorrupted(f"before entry {row.id} of the handling log an entry is missing")
        before = _digest(plain)
        found.append(Handled(utc_time(told.time), told.act, told.person, told.reason, told.references))
    return found


def contents(session: Session, keys: KeyRing) -> list[bytes]:
    """What each entry holds, decrypted, for `add_missing` in another copy of this log. Raises `StoreCorrupted`."""
    return [_opened(keys, row) for row in _rows(session)]


def add_missing(session: Session, keys: KeyRing, theirs: Iterable[bytes]) -> None:
    """Add entries of another copy that this one lacks, behind its last. Raises `StoreCorrupted`.

    Where the two went on apart, what is added names its new predecessor; a gap that theirs had stays one.
    """
    own = contents(session, keys)
    known = {_told(plain).salt for plain in own}
    last = _digest(own[-1]) if own else b""
    previous: bytes | None = None
    for plain in theirs:
        told = _told(plain)
        gap = previous is not None and told.before != previous
        previous = _digest(plain)
        if told.salt in known:
            continue
        content = plain if gap else msgspec.msgpack.encode(msgspec.structs.replace(told, before=last))
        row = HandlingRow(time=told.time, sealed=b"")
        session.add(row)
        session.flush()
        row.sealed = keys.key.seal(content, "handling", str(row.id))
        last = _digest(content)


def _told(plain: bytes) -> _Sealed:
    try:
        return msgspec.msgpack.decode(plain, type=_Sealed)
    except MALFORMED:
        raise StoreCorrupted("an entry of the handling log is not what was written") from None


def purge(session: Session, before: int) -> int:
    """Delete entries from before a second since 1970; gives how many.

    Only as far as the first that is kept: behind it there are older ones where logs were joined, and a gap there would
    look like an entry that somebody took out.
    """
    kept = session.scalar(select(func.min(HandlingRow.id)).where(HandlingRow.time >= before))
    old = true() if kept is None else HandlingRow.id < kept
    return len(session.scalars(delete(HandlingRow).where(old).returning(HandlingRow.id)).all())


def rekey(session: Session, keys: KeyRing) -> None:
    """Encrypt anew under the current key."""
    for row in _rows(session):
        row.sealed = keys.key.seal(_opened(keys, row), "handling", str(row.id))


def _rows(session: Session) -> Iterator[HandlingRow]:
    last = 0
    while part := session.scalars(
        select(HandlingRow).where(HandlingRow.id > last).order_by(HandlingRow.id).limit(_READ_ROWS)
    ).all():
        yield from part
        last = part[-1].id


def _opened(keys: KeyRing, row: HandlingRow) -> bytes:
    for key in keys.keys.values():
        try:
            return key.unseal(row.sealed, "handling", str(row.id))
        except StoreCorrupted:
            continue
    raise StoreCorrupted(f"entry {row.id} of the handling log does not decrypt: it was damaged or exchanged")


def _digest(plain: bytes) -> bytes:
    return hashlib.sha256(plain).digest()
