"""Node signatures: both halves count, and a signature serves one key, one message and one purpose."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

import pets.signatures
from pets.errors import CryptoError
from pets.prf import encode_labels
from pets.signatures import (
    ED25519_SIGNATURE_BYTES,
    SIGNATURE_BYTES,
    SIGNING_KEY_BYTES,
    VERIFY_KEY_BYTES,
    SignatureError,
    SigningKey,
    SigningKeyError,
    VerifyKey,
)

KEY = SigningKey.from_bytes(bytes(range(64)))
OTHER = SigningKey.from_bytes(bytes(range(1, 65)))
SIGNATURE = KEY.sign(b"message", "test")
# Made by this module from the seeds 00..3f; pinned because trust lists name fingerprints.
FINGERPRINT = "8cd10c2cc5ca933652c2d40496887e0f5d58901a65b0cdbaf2f73663488f1284"
# RFC 8032, section 7.1, test 1.
RFC8032_SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
RFC8032_PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def flip(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_signature_holds_for_its_message_and_context() -> None:
    KEY.verify_key.verify(SIGNATURE, b"message", "test")
    assert len(SIGNATURE) == SIGNATURE_BYTES == 3373
    OTHER.verify_key.verify(OTHER.sign(b"", ""), b"", "")


def test_a_signature_that_held_before_lets_nothing_else_through() -> None:
    """What held is remembered, and computed once: not for another message, purpose, key or signature."""
    again = KEY.sign(b"message", "test")
    for _ in range(2):
        KEY.verify_key.verify(SIGNATURE, b"message", "test")
        KEY.verify_key.verify(again, b"message", "test")
        for key, signature, message, context in (
            (KEY, SIGNATURE, b"messagf", "test"),
            (KEY, SIGNATURE, b"message", "tesu"),
            (KEY, SIGNATURE, b"emessage", "test"),
            (OTHER, SIGNATURE, b"message", "test"),
            (KEY, flip(SIGNATURE, 8 * SIGNATURE_BYTES - 1), b"message", "test"),
            (KEY, again[:ED25519_SIGNATURE_BYTES] + SIGNATURE[ED25519_SIGNATURE_BYTES:], b"other", "test"),
            (KEY, SIGNATURE + b"\0", b"message", "test"),
        ):
            with pytest.raises(SignatureError):
                key.verify_key.verify(signature, message, context)


def test_of_signatures_that_held_no_more_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pets.signatures, "REMEMBERED", 3)
    for number in range(8):
        message = bytes([number])
        KEY.verify_key.verify(KEY.sign(message, "test"), message, "test")
        assert len(pets.signatures._held) <= 3


@given(st.integers(0, 8 * SIGNATURE_BYTES - 1))
@settings(deadline=None, max_examples=80)
def test_a_flipped_bit_in_either_half_is_refused(bit: int) -> None:
    half = "Ed25519" if bit < 8 * ED25519_SIGNATURE_BYTES else "ML-DSA"
    with pytest.raises(SignatureError, match=half):
        KEY.verify_key.verify(flip(SIGNATURE, bit), b"message", "test")


@pytest.mark.parametrize("missing", ["Ed25519", "ML-DSA"])
def test_one_right_half_is_not_enough(missing: str) -> None:
    forged = OTHER.sign(b"message", "test")
    halves = {
        "Ed25519": forged[:ED25519_SIGNATURE_BYTES] + SIGNATURE[ED25519_SIGNATURE_BYTES:],
        "ML-DSA": SIGNATURE[:ED25519_SIGNATURE_BYTES] + forged[ED25519_SIGNATURE_BYTES:],
    }
    with pytest.raises(SignatureError, match=missing):
        KEY.verify_key.verify(halves[missing], b"message", "test")


def test_halves_of_two_keys_do_not_make_a_third() -> None:
    seeds = KEY.to_bytes()[:32], OTHER.to_bytes()[32:]
    mixed = SigningKey.from_bytes(b"".join(seeds)).verify_key
    halves = KEY.sign(b"message", "test")[:64] + OTHER.sign(b"message", "test")[64:]
    with pytest.raises(SignatureError):
        mixed.verify(halves, b"message", "test")
    # The control: without the fingerprint under both halves they would fit.
    bare = encode_labels("blind-lineup/signature/v1", "test", b"message")
    joined = Ed25519PrivateKey.from_private_bytes(seeds[0]).sign(bare)
    joined += MLDSA65PrivateKey.from_seed_bytes(seeds[1]).sign(bare, b"blind-lineup/signature/v1")
    Ed25519PrivateKey.from_private_bytes(seeds[0]).public_key().verify(joined[:64], bare)
    MLDSA65PublicKey.from_public_bytes(mixed.mldsa).verify(joined[64:], bare, b"blind-lineup/signature/v1")


def test_another_message_context_or_key_is_refused() -> None:
    for key, message, context in (
        (KEY, b"messagf", "test"),
        (KEY, b"message ", "test"),
        (KEY, b"message", "tesu"),
        (KEY, b"tmessage", "tes"),
        (KEY, b"message", ""),
        (OTHER, b"message", "test"),
    ):
        with pytest.raises(SignatureError):
            key.verify_key.verify(SIGNATURE, message, context)


@pytest.mark.parametrize("length", [0, 64, 3309, SIGNATURE_BYTES - 1, SIGNATURE_BYTES + 1])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(SignatureError, match=f"got {length}"):
        KEY.verify_key.verify((SIGNATURE + b"\x00")[:length], b"message", "test")


def test_the_lattice_half_stands_for_nothing_without_its_context() -> None:
    signed = encode_labels("blind-lineup/signature/v1", "test", KEY.verify_key.fingerprint, b"message")
    half = SIGNATURE[ED25519_SIGNATURE_BYTES:]
    lattice = MLDSA65PublicKey.from_public_bytes(KEY.verify_key.mldsa)
    lattice.verify(half, signed, b"blind-lineup/signature/v1")
    with pytest.raises(InvalidSignature):
        lattice.verify(half, signed)


def test_keys_come_back_from_bytes_and_text() -> None:
    key = SigningKey.generate()
    assert len(key.to_bytes()) == SIGNING_KEY_BYTES
    assert len(key.verify_key.to_bytes()) == VERIFY_KEY_BYTES == 1984
    for again in (SigningKey.from_bytes(key.to_bytes()), SigningKey.from_pem(key.to_pem())):
        assert again.verify_key == key.verify_key
    public = key.verify_key
    for copy in (VerifyKey.from_bytes(public.to_bytes()), VerifyKey.from_pem(public.to_pem())):
        assert copy == public
        copy.verify(key.sign(b"m", "c"), b"m", "c")
    assert max(map(len, public.to_pem().splitlines())) == 64
    assert SigningKey.generate().verify_key != public


def test_known_keys_come_from_known_seeds() -> None:
    assert SigningKey.from_bytes(bytes.fromhex(RFC8032_SEED) + bytes(32)).verify_key.ed25519.hex() == RFC8032_PUBLIC
    assert KEY.verify_key.fingerprint.hex() == FINGERPRINT
    assert KEY.verify_key.fingerprint == hashlib.sha256(KEY.verify_key.ed25519 + KEY.verify_key.mldsa).digest()


def test_what_is_no_key_is_refused() -> None:
    pem = KEY.verify_key.to_pem()
    for make in (
        lambda: SigningKey.from_bytes(bytes(63)),
        lambda: VerifyKey.from_bytes(bytes(1985)),
        lambda: VerifyKey.from_bytes(b""),
        lambda: VerifyKey.from_pem(""),
        lambda: VerifyKey.from_pem(KEY.to_pem()),
        lambda: SigningKey.from_pem(pem),
        lambda: VerifyKey.from_pem(pem.replace("\n", "*\n", 2).replace("*", "", 1)),
        lambda: VerifyKey.from_pem("\n".join(pem.splitlines()[:-2] + pem.splitlines()[-1:])),
    ):
        with pytest.raises(SigningKeyError):
            make()


def test_a_signing_key_does_not_print_its_secret() -> None:
    assert repr(KEY) == "SigningKey()"
    assert KEY.verify_key.fingerprint.hex() in repr(KEY.verify_key)
    assert issubclass(SignatureError, CryptoError)
