"""The storage keys that a database knows, and which of them were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted, WrongStorageKey
from nodes.store.keys import StorageKey
from nodes.store.tables import KeyRow, SubjectRow

_CHECK = b"blind-lineup storage key check"


@dataclass(frozen=True)
class KeyRing:
    """The keys in use by number: `current` for what is written, all for what is read."""

    current: int
    keys: dict[int, StorageKey]

    @property
    def key(self) -> StorageKey:
        """The key for what is written."""
        return self.keys[self.current]

    def __getitem__(self, number: int) -> StorageKey:
        if number not in self.keys:
            raise WrongStorageKey(f"a record is encrypted under key number {number}, which was not given")
        return self.keys[number]

    def macs(self, purpose: str, content: bytes) -> list[bytes]:
        """The keyed hash of a content under every key in use."""
        return [key.mac(purpose, content) for key in self.keys.values()]


def open_keys(session: Session, current: StorageKey, retired: Sequence[StorageKey]) -> KeyRing:
    """Check the keys against the database; a new database takes the current one as its own.

    `retired` keys still open old records until `rekey` has run. Raises `WrongStorageKey` unless every key in use was
    given, and a key that the database does not know comes together with one it knows.
    """
    known = {row.fingerprint: row for row in session.scalars(select(KeyRow))}
    given = {key.fingerprint: key for key in (*retired, current)}
    if not known and session.scalar(select(func.count()).select_from(SubjectRow)):
        raise StoreCorrupted("the database holds subjects, but no check value of a storage key")
    missing = known.keys() - given.keys()
    if missing:
        raise WrongStorageKey(
            f"the database is encrypted under key {', '.join(sorted(missing))}, given: {', '.join(sorted(given))}"
        )
    for fingerprint, row in known.items():
        try:
            given[fingerprint].unseal(row.check_value, "check", fingerprint)
        except StoreCorrupted:
            raise WrongStorageKey(f"the check value of key {fingerprint} does not decrypt") from None
    if current.fingerprint not in known:
        row = KeyRow(fingerprint=current.fingerprint, check_value=current.seal(_CHECK, "check", current.fingerprint))
        session.add(row)
        session.flush()
        known[current.fingerprint] = row
    return KeyRing(
        current=known[current.fingerprint].id, keys={row.id: given[fingerprint] for fingerprint, row in known.items()}
    )
