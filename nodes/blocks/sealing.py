"""Files of the gallery at rest: AES-256-GCM, one sealing a file, bound to what the file is.

::

    file = "LUBLOCK1" (8 bytes) || nonce (12 bytes, random) || AES-256-GCM(key, nonce, content, what it is) with tag

What it is: the gallery's random identifier with the kind of file, and for a block its number, generation, rows and
dimension. A block in the place of another, of an older generation or of another gallery does not decrypt.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks.errors import BlocksCorrupted
from nodes.blocks.files import Bytes
from pets.prf import Label, encode_labels

MAGIC = b"LUBLOCK1"
NONCE_BYTES = 12
TAG_BYTES = 16
HEAD_BYTES = len(MAGIC) + NONCE_BYTES


def seal(cipher: AESGCM, content: Bytes, *what: Label) -> list[Bytes]:
    """The pieces of a sealed file, to be written one after the other."""
    sealed = bytearray(len(content) + TAG_BYTES)
    return [seal_into(cipher, content, sealed, *what), sealed]


def seal_into(cipher: AESGCM, content: Bytes, out: Bytes, *what: Label) -> bytes:
    """Encrypt into a buffer, 16 bytes longer than the content; gives the head that the file begins with."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    cipher.encrypt_into(nonce, content, _bound_to(*what), out)
    return MAGIC + nonce


def unseal_into(cipher: AESGCM, sealed: Bytes, out: Bytes, path: Path, *what: Label) -> None:
    """Decrypt a file's bytes into a buffer of the content's length. Raises `BlocksCorrupted`, which names the file."""
    view = memoryview(sealed)
    if view[: len(MAGIC)] != MAGIC or len(view) != HEAD_BYTES + len(out) + TAG_BYTES:
        raise BlocksCorrupted(
            f"{path} is not the file that was written: {len(view)} bytes, {HEAD_BYTES + len(out) + TAG_BYTES} expected"
        )
    try:
        cipher.decrypt_into(bytes(view[len(MAGIC) : HEAD_BYTES]), view[HEAD_BYTES:], _bound_to(*what), out)
    except InvalidTag:
        raise BlocksCorrupted(f"{path} does not decrypt: another key, or it was damaged or exchanged") from None


def unseal(cipher: AESGCM, sealed: Bytes, path: Path, *what: Label) -> bytearray:
    """Decrypt a file whose length says how much it holds. Raises `BlocksCorrupted`."""
    out = bytearray(max(0, len(sealed) - HEAD_BYTES - TAG_BYTES))
    unseal_into(cipher, sealed, out, path, *what)
    return out


def _bound_to(*what: Label) -> bytes:
    return encode_labels("blind-lineup/blocks/1", *what)
