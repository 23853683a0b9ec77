"""Sealing to a node: hybrid public-key encryption that stays secret while either X25519 or ML-KEM-768 holds.

HPKE (RFC 9180), base mode, single shot, with the key encapsulation X-Wing (draft-connolly-cfrg-xwing-kem: ML-KEM-768 of
FIPS 203 and X25519 of RFC 7748; KEM identifier 0x647a), HKDF-SHA256 and AES-256-GCM::

    sealed = enc (1120 bytes) || AES-256-GCM(plaintext) || tag (16 bytes)

The sender is not authenticated: whoever must know who sealed something signs it (`pets.signatures`).

`aad` travels inside HPKE's `info` together with `info`, both length-prefixed: the library's single-shot interface has
no separate parameter for it, and RFC 9180 section 8.1 names `info` as the place for it there. A context serves one
message, so the binding is the same.

`SealingError` (a pets.errors.CryptoError): what was sealed cannot be opened, or a key is none.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from pets.errors import CryptoError
from pets.prf import encode_labels

SEED_BYTES = 32
MLKEM_KEY_BYTES = 1184
X25519_KEY_BYTES = 32
PUBLIC_BYTES = MLKEM_KEY_BYTES + X25519_KEY_BYTES
OVERHEAD_BYTES = 1120 + 16

_MLKEM_SEED_BYTES = 64
_LABEL = "blind-lineup/seal/v1"
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingError(CryptoError):
    """Something sealed that cannot be opened (another key or purpose, changed bytes), or bytes that are no key."""


@dataclass(frozen=True)
class SealingPublicKey:
    """Where others seal to: ML-KEM-768 key || X25519 key, 1216 bytes, as X-Wing orders them."""

    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) != PUBLIC_BYTES:
            raise SealingError(f"a public sealing key has {PUBLIC_BYTES} bytes, got {len(self.data)}")

    def __repr__(self) -> str:
        return f"SealingPublicKey({self.fingerprint.hex()})"

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the key, 32 bytes."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True)
class SealingKey:
    """The secret half: X-Wing's 32-byte seed, from which both keys expand. It prints nothing of itself."""

    _seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self._seed) != SEED_BYTES:
            raise SealingError(f"a sealing key has {SEED_BYTES} bytes, got {len(self._seed)}")

    @classmethod
    def generate(cls) -> SealingKey:
        """A fresh key from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def from_bytes(cls, data: bytes) -> SealingKey:
        """The inverse of `to_bytes`. Raises `SealingError`."""
        return cls(data)

    def to_bytes(self) -> bytes:
        """The 32-byte seed, secret and unencrypted."""
        return self._seed

    @cached_property
    def public(self) -> SealingPublicKey:
        """Where others seal to."""
        mlkem, x25519 = self._halves
        return SealingPublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())

    @cached_property
    def _halves(self) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
        """SHAKE256(seed, 96 bytes): 64 for ML-KEM, 32 for X25519 (X-Wing, expandDecapsulationKey)."""
        expanded = hashlib.shake_256(self._seed).digest(_MLKEM_SEED_BYTES + X25519_KEY_BYTES)
        return (
            MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES]),
            X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:]),
        )


def seal(public: SealingPublicKey, plaintext: bytes, info: bytes, aad: bytes = b"") -> bytes:
    """Encrypt to `public`. `info` names the purpose, `aad` what this plaintext belongs to; `open_sealed` needs both.

    Returns len(plaintext) + 1136 bytes, different at every call. Raises `SealingError` for a key of small order.
    """
    try:
        key = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public.data[:MLKEM_KEY_BYTES]),
            X25519PublicKey.from_public_bytes(public.data[MLKEM_KEY_BYTES:]),
        )
        return _SUITE.encrypt(plaintext, key, encode_labels(_LABEL, info, aad))
    except ValueError as error:
        raise SealingError(f"not a key that can be sealed to: {error}") from None


def open_sealed(key: SealingKey, sealed: bytes, info: bytes, aad: bytes = b"") -> bytes:
    """Decrypt what `seal` made for `key` with the same `info` and `aad`. Raises `SealingError`."""
    if len(sealed) < OVERHEAD_BYTES:
        raise SealingError(f"something sealed has at least {OVERHEAD_BYTES} bytes, got {len(sealed)}")
    try:
        return _SUITE.decrypt(sealed, MLKEM768X25519PrivateKey(*key._halves), encode_labels(_LABEL, info, aad))
    except (InvalidTag, ValueError):
        raise SealingError("cannot be opened: another key, another info or aad, or changed bytes") from None
