"""`casework.db`: transactions, and records encrypted under the node's storage key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from nodes.casework.migrations import upgrade
from nodes.casework.tables import (
    Base,
    CandidateRow,
    ClockRow,
    DisclosedRow,
    KeyRow,
    PersonRow,
    QueryRow,
    RequestRow,
    StatementRow,
    ViewedRow,
    VoteRow,
)
from nodes.store.database import Database
from nodes.store.errors import StoreCorrupted, WrongStorageKey
from nodes.store.keys import StorageKey
from pets.errors import MALFORMED
from pets.prf import encode_labels

S = TypeVar("S", bound=msgspec.Struct)
_REFERENCE = "casework reference"
_CHECK = b"blind-lineup casework key check"
# What is encrypted, and by what each record is bound to its place.
SEALED: tuple[tuple[type[Base], tuple[str, ...]], ...] = (
    (PersonRow, ("id",)),
    (QueryRow, ("id",)),
    (CandidateRow, ("id",)),
    (VoteRow, ("candidate_id", "person_id")),
    (RequestRow, ("id",)),
    (ClockRow, ("request_id", "time")),
    (DisclosedRow, ("attempt", "mac")),
    (StatementRow, ("digest",)),
    (ViewedRow, ("what", "time")),
)
_PLACES = dict(SEALED)


class Vault:
    """Database and key. Raises as `nodes.store.GalleryStore` when it is opened."""

    def __init__(self, url: str, key: StorageKey) -> None:
        self._database = Database(url)
        self.key = key
        try:
            upgrade(self._database)
            with self.writing() as session:
                _attach(session, key)
        except BaseException:
            self._database.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one moment."""
        with self._database.reading() as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that takes effect whole or not at all."""
        with self._database.writing() as session:
            yield session

    def wipe_log(self) -> None:
        """Bring deletions into the file."""
        self._database.wipe_log()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def seal(self, row: Base, content: msgspec.Struct) -> None:
        """Encrypt the content of a row whose place is set."""
        row.sealed = self.seal_bytes(row, msgspec.msgpack.encode(content))  # type: ignore[attr-defined]

    def unseal(self, row: Base, kind: type[S]) -> S:
        """The inverse of `seal`. Raises `StoreCorrupted`."""
        try:
            return msgspec.msgpack.decode(self.unseal_bytes(row), type=kind)
        except MALFORMED:
            raise StoreCorrupted(f"a record of {row.__tablename__} is not what was written") from None

    def seal_bytes(self, row: Base, content: bytes) -> bytes:
        """Encrypt bytes for a row whose place is set."""
        return self.key.seal(content, row.__tablename__, _place(row))

    def unseal_bytes(self, row: Base) -> bytes:
        """The bytes of a row. Raises `StoreCorrupted`."""
        return self.key.unseal(row.sealed or b"", row.__tablename__, _place(row))  # type: ignore[attr-defined]

    def mac(self, reference: str) -> bytes:
        """Keyed hash by which a reference is found again."""
        return self.key.mac(_REFERENCE, reference.encode())

    def derive(self, purpose: str, *labels: str | bytes) -> bytes:
        """32 bytes that only this node can compute, the same every time: salts of what a person is about to sign."""
        return self.key.mac(f"casework {purpose}", encode_labels(*labels))


def rekey(url: str, old: StorageKey, new: StorageKey) -> int:
    """Encrypt everything anew, in one transaction; gives how many records. Raises `StoreError`."""
    database = Database(url)
    try:
        upgrade(database)
        with database.writing() as session:
            return _rekey(session, old, new)
    finally:
        database.close()


def _rekey(session: Session, old: StorageKey, new: StorageKey) -> int:
    if session.get(KeyRow, new.fingerprint) is not None:
        return 0  # done already
    count = 0
    for table, _ in SEALED:
        for row in session.scalars(select(table)):
            sealed = row.sealed  # type: ignore[attr-defined]
            if sealed:
                plain = old.unseal(sealed, table.__tablename__, _place(row))
                if isinstance(row, (CandidateRow, DisclosedRow)):  # both hold a reference, and are found by its hash
                    row.mac = new.mac(_REFERENCE, msgspec.msgpack.decode(plain)["reference"].encode())
                row.sealed = new.seal(plain, table.__tablename__, _place(row))  # type: ignore[attr-defined]
                count += 1
    session.execute(delete(KeyRow))
    _attach(session, new)
    return count


def _place(row: Base) -> str:
    parts = (getattr(row, name) for name in _PLACES[type(row)])
    return "|".join(part.hex() if isinstance(part, bytes) else str(part) for part in parts)


def _attach(session: Session, key: StorageKey) -> None:
    row = session.get(KeyRow, key.fingerprint)
    if row is None:
        if session.scalar(select(KeyRow)) is not None:
            raise WrongStorageKey("the casework database was encrypted under another key")
        value = key.seal(_CHECK, "check", key.fingerprint)
        session.add(KeyRow(fingerprint=key.fingerprint, check_value=value))
        return
    try:
        key.unseal(row.check_value, "check", key.fingerprint)
    except StoreCorrupted:
        raise WrongStorageKey(f"the check value of key {key.fingerprint} does not decrypt") from None
