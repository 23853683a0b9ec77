"""Sealing: X-Wing inside HPKE, checked against a second implementation of the key schedule; tampering; purposes."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from pets.errors import CryptoError
from pets.prf import encode_labels
from pets.sealing import OVERHEAD_BYTES, PUBLIC_BYTES, SealingError, SealingKey, SealingPublicKey, open_sealed, seal

# First vector of draft-connolly-cfrg-xwing-kem: seed, and the SHA3-256 of its public key.
XWING_SEED = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
XWING_PUBLIC_SHA3 = "5121745904643ad9dfacca7869292c19a8a69533b53e60666b7db910b4ad6367"
SUITE_ID = b"HPKE" + bytes.fromhex("647a00010002")  # X-Wing, HKDF-SHA256, AES-256-GCM

KEY = SealingKey.from_bytes(bytes.fromhex(XWING_SEED))
SEALED = seal(KEY.public, b"pair secret", b"set-up", b"query 1")


def xwing_shared_secret(seed: bytes, enc: bytes) -> bytes:
    expanded = hashlib.shake_256(seed).digest(96)
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(enc[:1088])
    curve = x25519.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
    own = x25519.public_key().public_bytes_raw()
    return hashlib.sha3_256(lattice + curve + enc[1088:] + own + b"\\.//^\\").digest()


def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt or bytes(32), b"HPKE-v1" + SUITE_ID + label + ikm, "sha256").digest()


def expand(prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + SUITE_ID + label + info
    return hmac.new(prk, labelled + b"\x01", "sha256").digest()[:length]


def open_by_the_book(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """RFC 9180, sections 5.1 and 6.1, base mode, with X-Wing as the KEM."""
    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(xwing_shared_secret(seed, sealed[:1120]), b"secret", b"")
    key, nonce = expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, sealed[1120:], b"")


def flip(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_the_public_key_is_xwings_for_its_first_vector() -> None:
    assert hashlib.sha3_256(KEY.public.data).hexdigest() == XWING_PUBLIC_SHA3
    assert len(KEY.public.data) == PUBLIC_BYTES == 1216


def test_a_second_implementation_of_hpke_with_xwing_opens_it() -> None:
    info = encode_labels("blind-lineup/seal/v1", b"set-up", b"query 1")
    assert open_by_the_book(bytes.fromhex(XWING_SEED), SEALED, info) == b"pair secret"


@given(st.binary(max_size=300), st.binary(max_size=20), st.binary(max_size=20))
@settings(deadline=None, max_examples=50)
def test_what_is_sealed_opens(plaintext: bytes, info: bytes, aad: bytes) -> None:
    sealed = seal(KEY.public, plaintext, info, aad)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert open_sealed(KEY, sealed, info, aad) == plaintext


def test_sealing_twice_gives_different_bytes() -> None:
    assert seal(KEY.public, b"x", b"i")[:1120] != seal(KEY.public, b"x", b"i")[:1120]


@given(st.integers(0, 8 * len(SEALED) - 1))
@settings(deadline=None, max_examples=80)
def test_a_flipped_bit_anywhere_is_refused(bit: int) -> None:
    if (
        bit == 8 * 1120 - 1
    ):  # X25519 ignores the top bit of a point (RFC 7748, section 5); X-Wing hashes it all the same
        assert flip(SEALED, bit) != SEALED
    with pytest.raises(SealingError):
        open_sealed(KEY, flip(SEALED, bit), b"set-up", b"query 1")


def test_the_bit_that_x25519_ignores_is_refused_too() -> None:
    """RFC 7748, section 5 masks the top bit of a point; X-Wing hashes the point as it came."""
    with pytest.raises(SealingError):
        open_sealed(KEY, flip(SEALED, 8 * 1120 - 1), b"set-up", b"query 1")


@pytest.mark.parametrize(
    ("info", "aad"),
    [(b"set-up", b"query 2"), (b"setup", b"query 1"), (b"set-upq", b"uery 1"), (b"set-upquery 1", b""), (b"", b"")],
)
def test_another_info_or_aad_is_refused(info: bytes, aad: bytes) -> None:
    with pytest.raises(SealingError):
        open_sealed(KEY, SEALED, info, aad)


def test_another_key_is_refused() -> None:
    with pytest.raises(SealingError):
        open_sealed(SealingKey.generate(), SEALED, b"set-up", b"query 1")


@pytest.mark.parametrize("half", ["ML-KEM", "X25519"])
def test_one_half_of_the_key_is_not_enough(half: str) -> None:
    """The other half's shared secret guessed as zeros: what an adversary who broke one of the two can do."""
    expanded = hashlib.shake_256(bytes.fromhex(XWING_SEED)).digest(96)
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    point, own = SEALED[1088:1120], x25519.public_key().public_bytes_raw()
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(SEALED[:1088])
    curve = x25519.exchange(X25519PublicKey.from_public_bytes(point))
    assert hashlib.sha3_256(lattice + curve + point + own + b"\\.//^\\").digest() == xwing_shared_secret(
        bytes.fromhex(XWING_SEED), SEALED[:1120]
    )  # the control: with both
    known = (lattice, bytes(32)) if half == "ML-KEM" else (bytes(32), curve)
    assert hashlib.sha3_256(b"".join(known) + point + own + b"\\.//^\\").digest() != xwing_shared_secret(
        bytes.fromhex(XWING_SEED), SEALED[:1120]
    )


@pytest.mark.parametrize("length", [0, 1, 1120, OVERHEAD_BYTES - 1, len(SEALED) - 1])
def test_truncated_bytes_are_refused(length: int) -> None:
    with pytest.raises(SealingError):
        open_sealed(KEY, SEALED[:length], b"set-up", b"query 1")


def test_what_is_no_key_is_refused() -> None:
    for make in (lambda: SealingKey.from_bytes(bytes(31)), lambda: SealingPublicKey(bytes(PUBLIC_BYTES + 1))):
        with pytest.raises(SealingError):
            make()
    small_order = SealingPublicKey(KEY.public.data[:1184] + bytes(32))
    with pytest.raises(SealingError, match="not a key that can be sealed to"):
        seal(small_order, b"x", b"i")
    not_reduced = SealingPublicKey(b"\xff" * 1184 + KEY.public.data[1184:])  # FIPS 203, section 7.2: modulus check
    with pytest.raises(SealingError):
        seal(not_reduced, b"x", b"i")


def test_keys_come_back_from_bytes_and_do_not_print() -> None:
    key = SealingKey.generate()
    assert SealingKey.from_bytes(key.to_bytes()).public == key.public
    assert repr(key) == "SealingKey()"
    assert key.public.fingerprint.hex() in repr(key.public)
    assert issubclass(SealingError, CryptoError)
