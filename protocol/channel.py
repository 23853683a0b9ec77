"""End-to-end protection of frames between two parties, whoever carries them.

Each direction of each pair has its own key: the sender seals a fresh secret to the receiver (hybrid ML-KEM HPKE,
`pets.sealing`) and signs it; frames follow under AES-256-GCM with a counter as nonce. So a relay learns lengths and
times, cannot forge, and cannot replay a frame of another query, pair, direction or position.
"""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pets.prf import derive_key, encode_labels, labelled_hash
from pets.sealing import OVERHEAD_BYTES, SealingKey, SealingPublicKey, open_sealed, seal
from pets.signatures import SIGNATURE_BYTES
from protocol.errors import MalformedFrame
from protocol.steps import Keyring

HELLO_BYTES = 32 + OVERHEAD_BYTES + SIGNATURE_BYTES
TAG_BYTES = 16


class SendingChannel:
    """One direction, at the sender: `hello` goes first, then what `seal` returns, in order."""

    def __init__(self, query: bytes, sender: str, receiver: str, public: SealingPublicKey, keyring: Keyring) -> None:
        secret = secrets.token_bytes(32)
        context = _context(query, sender, receiver)
        sealed = seal(public, secret, context)
        self.hello = sealed + keyring.sign(labelled_hash("channel", context, sealed))
        self._cipher = AESGCM(derive_key(secret, "channel", context))
        self._count = 0

    def seal(self, frame: bytes) -> bytes:
        """Encrypt the next frame: 16 bytes longer."""
        nonce = self._count.to_bytes(12, "big")
        self._count += 1
        return self._cipher.encrypt(nonce, frame, None)


class ReceivingChannel:
    """One direction, at the receiver, opened with the sender's hello."""

    def __init__(
        self, query: bytes, sender: str, receiver: str, hello: bytes, key: SealingKey, keyring: Keyring
    ) -> None:
        if len(hello) != HELLO_BYTES:
            raise MalformedFrame(f"a hello of {len(hello)} bytes, expected {HELLO_BYTES}")
        context = _context(query, sender, receiver)
        sealed, signature = hello[:-SIGNATURE_BYTES], hello[-SIGNATURE_BYTES:]
        keyring.check(sender, labelled_hash("channel", context, sealed), signature)
        self._cipher = AESGCM(derive_key(open_sealed(key, sealed, context), "channel", context))
        self._count = 0

    def open(self, data: bytes) -> bytes:
        """Decrypt the next frame. Raises `MalformedFrame` if it is not exactly the next one of this direction."""
        nonce = self._count.to_bytes(12, "big")
        try:
            frame = self._cipher.decrypt(nonce, data, None)
        except InvalidTag:
            raise MalformedFrame(f"frame {self._count} cannot be opened: changed, repeated or out of order") from None
        self._count += 1
        return frame


def _context(query: bytes, sender: str, receiver: str) -> bytes:
    return encode_labels("channel", query, sender, receiver)
