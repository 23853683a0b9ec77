"""Storage keys, and the encryption of records at rest.

    record key, duplicate key, tie key = HKDF(storage key, "records"), HKDF(…, "duplicates"), HKDF(…, "ties")
    sealed = nonce (12 bytes, random) ‖ AES-256-GCM(record key, nonce, content, column | reference | context)
    mac    = HMAC-SHA256(duplicate key, purpose | SHA-256(content))
    tie    = HMAC-SHA256(tie key, model | row | reference of the row | of its subject), 16 bytes

A record moved to another reference or another column does not decrypt. The keyed hash finds a photo again without
telling somebody who holds only the database whether a photo at hand is in it. A tie says which template is
released under which reference: templates lie elsewhere, and only a number, which anybody could change, leads there.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.store.errors import StorageKeyError, StoreCorrupted
from pets.prf import SECRET_BYTES, derive_key

ENVIRONMENT = "LINEUP_STORAGE_KEY"
NONCE_BYTES = 12
TIE_BYTES = 16


class StorageKey:
    """A 32-byte key, in files and variables as 64 hexadecimal digits. Keep it where the database is not.

    Raises `StorageKeyError`.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise StorageKeyError(f"a storage key has {SECRET_BYTES} bytes, got {len(secret)}")
        self._duplicates = derive_key(secret, "storage", "duplicates")
        self._ties = derive_key(secret, "storage", "ties")
        self._cipher = AESGCM(derive_key(secret, "storage", "records"))
        self.blocks = AESGCM(derive_key(secret, "storage", "blocks"))  # of a gallery in block files (`nodes.blocks`)
        self.fingerprint = derive_key(secret, "storage", "fingerprint")[:8].hex()

    def __repr__(self) -> str:
        return f"StorageKey({self.fingerprint})"

    @classmethod
    def from_file(cls, path: Path) -> StorageKey:
        """Read a key file. Raises `StorageKeyError` if it is missing, malformed, or open to group or others."""
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_text("ascii")
        except OSError as error:
            raise StorageKeyError(f"storage key file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:  # its text would quote the file
            raise StorageKeyError(f"storage key file {path} must hold 64 hexadecimal digits") from None
        if mode & 0o077:
            raise StorageKeyError(f"storage key file {path} has mode {mode:04o}, it must be 0600 or 0400")
        return cls(_parse(text, f"storage key file {path}"))

    @classmethod
    def from_environment(cls, name: str = ENVIRONMENT) -> StorageKey:
        """Read a key from a variable. Raises `StorageKeyError` if it is not set or malformed."""
        if name not in os.environ:
            raise StorageKeyError(f"the environment variable {name} is not set")
        return cls(_parse(os.environ[name], f"the environment variable {name}"))

    @classmethod
    def create(cls, path: Path) -> StorageKey:
        """A new random key, written to a new file with mode 0600. Raises `StorageKeyError` if the file exists."""
        secret = secrets.token_bytes(SECRET_BYTES)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(secret.hex() + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StorageKeyError(f"storage key file {path} cannot be created: {error.strerror}") from error
        return cls(secret)

    def seal(self, content: bytes | memoryview, column: str, reference: str, context: bytes = b"") -> bytes:
        """Encrypt the content of a column for one reference, 28 bytes longer."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, _bound_to(column, reference, context))

    def unseal(self, sealed: bytes, column: str, reference: str, context: bytes = b"") -> bytes:
        """The inverse of `seal`. Raises `StoreCorrupted` naming the reference and the column."""
        try:
            return self._cipher.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound_to(column, reference, context)
            )
        except (InvalidTag, ValueError):
            raise StoreCorrupted(f"the {column} of {reference} does not decrypt: it was damaged or exchanged") from None

    def mac(self, purpose: str, content: bytes) -> bytes:
        """Keyed hash by which equal contents are found, 32 bytes."""
        message = purpose.encode() + b"|" + hashlib.sha256(content).digest()
        return hmac.digest(self._duplicates, message, "sha256")

    def tie(self, model: bytes, row: int, reference: str, subject: str | None) -> bytes:
        """Ties a row of a model to its reference, and to that of its subject where it is a further one, 16 bytes."""
        return next(self.ties(model, [(row, reference, subject)]))

    def ties(self, model: bytes, rows: Iterable[tuple[int, str, str | None]]) -> Iterator[bytes]:
        """The ties of many rows of a model: number, reference, that of the subject where it is a further row."""
        begun = hmac.new(self._ties, model, "sha256")
        for row, reference, subject in rows:
            tie = begun.copy()
            tie.update(row.to_bytes(8, "little") + f"|{reference}|{subject or reference}".encode())
            yield tie.digest()[:TIE_BYTES]

    def check_tie(self, tie: bytes | None, model: bytes, row: int | None, reference: str, subject: str | None) -> None:
        """Raise `StoreCorrupted` unless it is the one of these."""
        if (
            row is None
            or not 0 <= row < 2**63
            or not hmac.compare_digest(tie or b"", self.tie(model, row, reference, subject))
        ):
            raise StoreCorrupted(f"row {row} is not the template of {reference}: the database was changed")


def _bound_to(column: str, reference: str, context: bytes) -> bytes:
    return f"blind-lineup/store/1|{column}|{reference}|".encode() + context


def _parse(text: str, where: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise StorageKeyError(f"{where} must hold 64 hexadecimal digits")
    return bytes.fromhex(text.strip())
