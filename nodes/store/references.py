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
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted
from nodes.store.key_ring import KeyRing
from nodes.store.tables import OLD_REFERENCES, StoreRow, SubjectRow
from pets.prf import SECRET_BYTES

REFERENCE_BYTES = 16
NUMBER_BYTES = 6
_COLUMN = "reference-key"
_NONE = "0" * (2 * REFERENCE_BYTES)
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

    def numbers(self, references: Sequence[str]) -> npt.NDArray[np.int64]:
        """The numbers of many references, int64 (count,); 0, which is nobody's, for what has not the form of one."""
        matches = [_FORM.fullmatch(reference) for reference in references]
        digits = "".join(_NONE if match is None else match[1] for match in matches)
        plain = self._cipher.decryptor().update(bytes.fromhex(digits))
        wide = np.zeros((len(references), 8), np.uint8)
        wide[:, 8 - NUMBER_BYTES :] = np.frombuffer(plain, np.uint8).reshape(-1, REFERENCE_BYTES)[:, :NUMBER_BYTES]
        wide[[match is None for match in matches]] = 0
        return wide.reshape(-1).view(">i8").astype(np.int64)

    def check_leads(self, references: Sequence[str], numbers: Sequence[int]) -> None:
        """Raise `StoreCorrupted` unless references lead to these numbers: who has one could not be found by it."""
        wrong = np.flatnonzero(self.numbers(references) != np.array(numbers, np.int64))
        if len(wrong):
            raise _leads_elsewhere(references[wrong[0]])

    def check_found(self, session: Session, reference: str) -> None:
        """Raise `StoreCorrupted` unless there is a subject that is found by a reference."""
        if self.find(session, reference) is None:
            raise _leads_elsewhere(reference)

    def find(self, session: Session, reference: str) -> int | None:
        """The number of the subject that has a reference, None if nobody has it: the one way from one to the other."""
        has_it = SubjectRow.reference == reference
        found = session.scalar(select(SubjectRow.id).where(SubjectRow.id == self.number(reference), has_it))
        return found or session.scalar(select(SubjectRow.id).where(has_it, OLD_REFERENCES))


def _leads_elsewhere(reference: str) -> StoreCorrupted:
    return StoreCorrupted(f"reference {reference} does not lead to its subject: the database was changed")


def written(state: str, drawn: bytes) -> list[str]:
    """References as they are stored, released and typed."""
    digits, size = drawn.hex(), 2 * REFERENCE_BYTES
    return [f"{state}-{digits[place : place + size]}" for place in range(0, len(digits), size)]


def open_reference_key(session: Session, keys: KeyRing) -> ReferenceKey:
    """The reference key of a database, drawn if it has none yet. Raises `StoreCorrupted` if it does not decrypt, or is
    gone while there are references that were drawn with it."""
    if session.scalar(select(StoreRow.reference_key)) is None:
        drawn = select(SubjectRow.id).where(SubjectRow.numbered).order_by(SubjectRow.id.desc()).limit(1)
        if session.scalar(drawn) is not None:
            raise StoreCorrupted("the reference key is gone: nobody could be found by the reference that it gave")
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
