"""Key derivation, hashing with labels, and AES-CTR streams that never rewind."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pets.errors import CryptoError

Label = str | int | bytes

SECRET_BYTES = 32

_ZEROS = memoryview(bytes(2**16))
_KINDS: dict[type[Label], bytes] = {str: b"s", int: b"i", bytes: b"b"}
_SPARE = 15  # bytes by which `update_into` wants its output to be longer


def encode_labels(*labels: Label) -> bytes:
    """Length-prefixed concatenation: no two lists of labels give the same bytes."""
    parts = []
    for label in labels:
        raw = label if isinstance(label, bytes) else str(label).encode()
        parts.append(_KINDS[type(label)] + len(raw).to_bytes(8, "big") + raw)
    return b"".join(parts)


def labelled_hash(*labels: Label) -> bytes:
    """SHA-256 over `encode_labels`, 32 bytes."""
    return hashlib.sha256(encode_labels("blind-lineup/v1", *labels)).digest()


def derive_key(secret: bytes, *labels: Label) -> bytes:
    """HKDF-SHA256 (RFC 5869) of a 32-byte secret under labels, 32 bytes."""
    if len(secret) != SECRET_BYTES:
        raise CryptoError(f"a secret must have {SECRET_BYTES} bytes, got {len(secret)}")
    info = encode_labels("blind-lineup/v1", *labels)
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


class Keystream:
    """AES-256 in counter mode from zero. The object owns its counter: what was read is never given again.

    The key must be fresh (from `derive_key` with labels that are used once), because the counter starts at zero.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self.bytes_array(count).tobytes()

    def bytes_array(self, *shape: int) -> npt.NDArray[np.uint8]:
        """The next bytes as a read-only uint8 array."""
        return self._next(math.prod(shape)).reshape(shape)

    def words(self, *shape: int) -> npt.NDArray[np.uint64]:
        """The next 8-byte little-endian words as a read-only uint64 array."""
        return self._next(8 * math.prod(shape)).view("<u8").reshape(shape)

    def _next(self, count: int) -> npt.NDArray[np.uint8]:
        """In pieces, because zeros that stay in the cache are encrypted in a third of the time."""
        if count <= len(_ZEROS):
            return np.frombuffer(self._encryptor.update(_ZEROS[:count]), np.uint8)
        out = np.empty(count + _SPARE, np.uint8)
        place = out.data
        for start in range(0, count, len(_ZEROS)):
            size = min(len(_ZEROS), count - start)
            self._encryptor.update_into(_ZEROS[:size], place[start : start + size + _SPARE])
        out.setflags(write=False)
        return out[:count]
