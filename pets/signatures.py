"""Signatures of a node: Ed25519 (RFC 8032) and ML-DSA-65 (FIPS 204) together; both must hold.

::

    signed    = encode_labels("blind-lineup/signature/v1", context, fingerprint, message)
    signature = Ed25519(signed) || ML-DSA-65(signed, ctx = "blind-lineup/signature/v1")      64 + 3309 bytes

A forger needs to break the elliptic curve and the lattice. The context label keeps a signature for one purpose from
serving another. The fingerprint of both public keys is signed along, so that halves of two keys cannot be combined, and
the same label as ML-DSA's own context keeps that half from standing as anything else.

ML-DSA signs with fresh randomness: two signatures of one message differ, so equality of signatures means nothing.
Who holds a node's key, and since when, is not said here; see the trust list of the evidence bundle.

`SignatureError` (a pets.errors.CryptoError): a signature does not hold. `SigningKeyError`: bytes that are no key.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from pets.errors import CryptoError
from pets.prf import encode_labels

ED25519_KEY_BYTES = 32
ED25519_SIGNATURE_BYTES = 64
MLDSA_KEY_BYTES = 1952
MLDSA_SIGNATURE_BYTES = 3309
SEED_BYTES = 32

VERIFY_KEY_BYTES = ED25519_KEY_BYTES + MLDSA_KEY_BYTES
SIGNING_KEY_BYTES = 2 * SEED_BYTES
SIGNATURE_BYTES = ED25519_SIGNATURE_BYTES + MLDSA_SIGNATURE_BYTES

REMEMBERED = 10_000  # signatures that were found to hold and are not computed again; some 0.1 kB each

_LABEL = "blind-lineup/signature/v1"
_PUBLIC_PEM = "BLIND LINEUP VERIFY KEY"
_PRIVATE_PEM = "BLIND LINEUP SIGNING KEY"
_held: set[bytes] = set()


class SignatureError(CryptoError):
    """A signature does not hold: one of its halves, or its length."""


class SigningKeyError(CryptoError):
    """Bytes or text that are not a key of this kind."""


@dataclass(frozen=True)
class VerifyKey:
    """The public half of a node's identity. Equal if the bytes are equal."""

    ed25519: bytes
    mldsa: bytes

    def __post_init__(self) -> None:
        if (len(self.ed25519), len(self.mldsa)) != (ED25519_KEY_BYTES, MLDSA_KEY_BYTES):
            raise SigningKeyError(
                f"a verify key has {ED25519_KEY_BYTES} + {MLDSA_KEY_BYTES} bytes, "
                f"got {len(self.ed25519)} + {len(self.mldsa)}"
            )

    def __repr__(self) -> str:
        return f"VerifyKey({self.fingerprint.hex()})"

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of `to_bytes`, 32 bytes: what people compare and trust lists name."""
        return hashlib.sha256(self.to_bytes()).digest()

    def verify(self, signature: bytes, message: bytes, context: str) -> None:
        """Raise `SignatureError` unless both halves of `signature` hold for `message` under `context`."""
        if len(signature) != SIGNATURE_BYTES:
            raise SignatureError(f"a signature has {SIGNATURE_BYTES} bytes, got {len(signature)}")
        signed = _signed(self.fingerprint, message, context)
        # Whether it holds depends on these bytes alone, and evidence shows most signatures two to four times.
        whole = hashlib.sha256(signature + signed).digest()
        if whole in _held:
            return
        try:
            Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature[:ED25519_SIGNATURE_BYTES], signed)
        except InvalidSignature:
            raise SignatureError(f"the Ed25519 half does not hold for this message and context {context!r}") from None
        try:
            MLDSA65PublicKey.from_public_bytes(self.mldsa).verify(
                signature[ED25519_SIGNATURE_BYTES:], signed, _LABEL.encode()
            )
        except InvalidSignature:
            raise SignatureError(f"the ML-DSA half does not hold for this message and context {context!r}") from None
        if len(_held) >= REMEMBERED:
            _held.clear()
        _held.add(whole)

    def to_bytes(self) -> bytes:
        """Ed25519 key || ML-DSA-65 key, 1984 bytes."""
        return self.ed25519 + self.mldsa

    @classmethod
    def from_bytes(cls, data: bytes) -> VerifyKey:
        """The inverse of `to_bytes`. Raises `SigningKeyError`."""
        return cls(data[:ED25519_KEY_BYTES], data[ED25519_KEY_BYTES:])

    def to_pem(self) -> str:
        """`to_bytes` as text (RFC 7468)."""
        return _to_pem(self.to_bytes(), _PUBLIC_PEM)

    @classmethod
    def from_pem(cls, text: str) -> VerifyKey:
        """The inverse of `to_pem`. Raises `SigningKeyError`."""
        return cls.from_bytes(_from_pem(text, _PUBLIC_PEM))


@dataclass(frozen=True)
class SigningKey:
    """The secret half of a node's identity: two seeds of 32 bytes. It prints nothing of itself."""

    _seeds: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self._seeds) != SIGNING_KEY_BYTES:
            raise SigningKeyError(f"a signing key has {SIGNING_KEY_BYTES} bytes, got {len(self._seeds)}")

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw() + MLDSA65PrivateKey.generate().private_bytes_raw())

    @cached_property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self._ed25519.public_key().public_bytes_raw(), self._mldsa.public_key().public_bytes_raw())

    def sign(self, message: bytes, context: str) -> bytes:
        """Sign `message` for the purpose that `context` names. 3373 bytes, different at every call."""
        signed = _signed(self.verify_key.fingerprint, message, context)
        return self._ed25519.sign(signed) + self._mldsa.sign(signed, _LABEL.encode())

    def to_bytes(self) -> bytes:
        """Ed25519 seed || ML-DSA-65 seed, 64 bytes, secret and unencrypted."""
        return self._seeds

    @classmethod
    def from_bytes(cls, data: bytes) -> SigningKey:
        """The inverse of `to_bytes`. Raises `SigningKeyError`."""
        return cls(data)

    def to_pem(self) -> str:
        """`to_bytes` as text (RFC 7468), secret and unencrypted: the caller protects the file (mode 0600)."""
        return _to_pem(self._seeds, _PRIVATE_PEM)

    @classmethod
    def from_pem(cls, text: str) -> SigningKey:
        """The inverse of `to_pem`. Raises `SigningKeyError`."""
        return cls.from_bytes(_from_pem(text, _PRIVATE_PEM))

    @cached_property
    def _ed25519(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._seeds[:SEED_BYTES])

    @cached_property
    def _mldsa(self) -> MLDSA65PrivateKey:
        return MLDSA65PrivateKey.from_seed_bytes(self._seeds[SEED_BYTES:])


def _signed(fingerprint: bytes, message: bytes, context: str) -> bytes:
    return encode_labels(_LABEL, context, fingerprint, message)


def _to_pem(data: bytes, label: str) -> str:
    body = base64.b64encode(data).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _from_pem(text: str, label: str) -> bytes:
    lines = text.strip().splitlines()
    if len(lines) < 3 or lines[0] != f"-----BEGIN {label}-----" or lines[-1] != f"-----END {label}-----":
        raise SigningKeyError(f"not a PEM text with the label {label}")
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError as error:
        raise SigningKeyError(f"not base64 inside {label}: {error}") from None
