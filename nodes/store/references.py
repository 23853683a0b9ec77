"""Reference numbers, and how a subject is found by one without an index over random text.

::

    reference = state code - hexadecimal digits of AES-256(reference key, number of the subject, 6 bytes | random, 10)

AES is a permutation that nobody without the key tells from a random one, and no two inputs are the same: to a peer, or
to whoever reads a log, references are 128 random bits, and tell nothing of a person, of the order of enrolment or of
who was enrolled together (Article 19(2)). Whoever has the database and the storage key reads the number in them, so the
order, of who was forgotten too.

The reference key is drawn when the database is made, or brought to this version, lies in it sealed under the storage
key, and lives as long as it does: a change of the storage key seals it anew, and references stay.

The number alone is never believed. After a restore numbers are given again, to other people; a reference leads to the
subject that has it, all 128 bits, or to nobody.
"""

from __future__ import annotations

import re
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted
from nodes.store.keys import KeyRing
from nodes.store.tables import OLD_REFERENCES, StoreRow, SubjectRow
from pets.prf import SECRET_BYTES

REFERENCE_BYTES = 16
NUMBER_BYTES = 6
_COLUMN = "reference-key"
_FORM = re.compile(r"[A-Z]{2}-([0-9a-f]{32})")


class ReferenceKey:
    """Gives reference numbers, and finds subjects by them. `secret`: 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        # one block a reference, of which no two are equal: what ECB shows, that blocks are equal, there is not
        self._cipher = Cipher(AES(secret), ECB())  # noqa: S305

    def draw(self, first: int, count: int) -> bytes:
        """References of the subjects with numbers from `first` on, 16 bytes each. Raises `StoreCorrupted` for numbers
        that no database comes to."""
        if not 0 < first <= first + count <= 2 ** (8 * NUMBER_BYTES):
            raise StoreCorrupted(
                f"the database gives its subjects numbers from {first} on, there are {NUMBER_BYTES} bytes"
            )
        blocks = np.empty((count, REFERENCE_BYTES), np.uint8)
        numbers = np.arange(first, first + count, dtype=">u8").view(np.uint8).reshape(count, 8)
        blocks[:, :NUMBER_BYTES] = numbers[:, 8 - NUMBER_BYTES :]
        drawn = secrets.token_bytes(count * (REFERENCE_BYTES - NUMBER_BYTES))
        blocks[:, NUMBER_BYTES:] = np.frombuffer(drawn, np.uint8).reshape(count, -1)
        return self._cipher.encryptor().update(blocks.tobytes())

    def number(self, reference: str) -> int | None:
        """The number that a reference was drawn with; any other one for a reference of another database, None for what
        has not the form of a reference."""
        match = _FORM.fullmatch(reference)
        if match is None:
            return None
        block = self._cipher.decryptor().update(bytes.fromhex(match[1]))
        return int.from_bytes(block[:NUMBER_BYTES], "big")

    def find(self, session: Session, reference: str) -> int | None:
        """The number of the subject that has a reference, None if nobody has it: the one way from one to the other."""
        has_it = SubjectRow.reference == reference
        found = session.scalar(select(SubjectRow.id).where(SubjectRow.id == self.number(reference), has_it))
        return found or session.scalar(select(SubjectRow.id).where(has_it, OLD_REFERENCES))


def written(state: str, drawn: bytes) -> list[str]:
    """References as they are stored, released and typed."""
    digits, size = drawn.hex(), 2 * REFERENCE_BYTES
    return [f"{state}-{digits[place : place + size]}" for place in range(0, len(digits), size)]


def open_reference_key(session: Session, keys: KeyRing) -> ReferenceKey:
    """The reference key of a database, drawn if it has none yet. Raises `StoreCorrupted` if it does not decrypt."""
    if session.scalar(select(StoreRow.reference_key)) is None:
        _keep(session, keys, secrets.token_bytes(SECRET_BYTES))
    return ReferenceKey(_secret(session, keys))


def rekey(session: Session, keys: KeyRing) -> None:
    """Seal the reference key under the current storage key."""
    _keep(session, keys, _secret(session, keys))


def _keep(session: Session, keys: KeyRing, secret: bytes) -> None:
    session.execute(update(StoreRow).values(reference_key=keys.key.seal(secret, _COLUMN, "store")))


def _secret(session: Session, keys: KeyRing) -> bytes:
    sealed = session.scalar(select(StoreRow.reference_key)) or b""
    for key in keys.keys.values():
        try:
            return key.unseal(sealed, _COLUMN, "store")
        except StoreCorrupted:
            continue
    raise StoreCorrupted("the reference key does not decrypt: it was damaged or exchanged")
