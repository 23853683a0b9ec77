"""A person's key: a passkey (WebAuthn), or an Ed25519 key file. The same key signs in and signs decisions.

The key itself is kept with the staff list; here its first signature is checked, and every one that signs in.
"""

from __future__ import annotations

import json
from typing import Any

from webauthn import generate_authentication_options, generate_registration_options, verify_registration_response
from webauthn.helpers import base64url_to_bytes, options_to_json, parse_authenticator_data
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    UserVerificationRequirement,
)

from nodes.config.console import ConsoleConfig
from nodes.console.errors import ConsoleError, SignInRefused
from nodes.console.texts import text
from pets.errors import InputError
from protocol.approval import ApprovalRefused, Assertion, PersonKey, check_assertion

ANSWER_LIMIT = 32_768


class KeyRefused(ConsoleError, InputError):
    """What was given is no key, or no signature."""


def to_register(settings: ConsoleConfig, handle: str, challenge: bytes) -> dict[str, Any]:
    """What a browser needs to make a passkey."""
    options = generate_registration_options(
        rp_id=settings.relying_party,
        rp_name=text("brand"),
        user_name=handle,
        user_id=handle.encode(),
        challenge=challenge,
        authenticator_selection=AuthenticatorSelectionCriteria(user_verification=UserVerificationRequirement.REQUIRED),
    )
    return dict(json.loads(options_to_json(options)))


def to_sign(settings: ConsoleConfig, credential: bytes, challenge: bytes) -> dict[str, Any]:
    """What a browser needs to sign: a log-in's challenge, or a decision's digest."""
    options = generate_authentication_options(
        rp_id=settings.relying_party,
        challenge=challenge,
        allow_credentials=[PublicKeyCredentialDescriptor(id=credential)],
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return dict(json.loads(options_to_json(options)))


def registered(settings: ConsoleConfig, answer: str, challenge: bytes) -> tuple[PersonKey, bytes, int]:
    """The new passkey: key, credential ID, signature counter. Raises `KeyRefused`."""
    try:
        done = verify_registration_response(
            credential=_json(answer),
            expected_challenge=challenge,
            expected_rp_id=settings.relying_party,
            expected_origin=settings.url,
            require_user_verification=True,
        )
    except (WebAuthnException, ValueError, KeyError, TypeError) as error:
        raise KeyRefused(text("refused.passkey").format(why=type(error).__name__)) from None
    key = PersonKey("webauthn", done.credential_public_key, settings.relying_party, settings.url)
    return key, done.credential_id, done.sign_count


def key_file(public: str, signature: str, challenge: bytes) -> PersonKey:
    """The public half of a key file whose holder signed the challenge. Raises `KeyRefused`."""
    try:
        key = PersonKey("ed25519", bytes.fromhex(public.strip()))
        check_assertion(key, assertion(signature), challenge)
    except (ValueError, ApprovalRefused):
        raise KeyRefused(text("refused.key-file")) from None
    return key


def assertion(answer: str) -> Assertion:
    """A signature as a form or a program gives it: WebAuthn's JSON, or 128 hexadecimal digits. Raises `KeyRefused`."""
    answer = answer.strip()
    if not answer.startswith("{"):
        try:
            return Assertion(bytes.fromhex(answer))
        except ValueError:
            raise KeyRefused(text("refused.signature")) from None
    try:
        given = _json(answer)
        response = given["response"]
        return Assertion(
            base64url_to_bytes(response["signature"]),
            base64url_to_bytes(response["authenticatorData"]),
            base64url_to_bytes(response["clientDataJSON"]),
            base64url_to_bytes(given["rawId"]),
        )
    except (ValueError, KeyError, TypeError):
        raise KeyRefused(text("refused.passkey-answer")) from None


def check_sign_in(key: PersonKey | None, credential: bytes | None, answer: str, challenge: bytes) -> int:
    """Check the second factor; gives the passkey's signature counter (0 for a key file). Raises `SignInRefused`."""
    if key is None:
        raise SignInRefused
    try:
        given = assertion(answer)
        check_assertion(key, given, challenge)
        if key.kind == "ed25519":
            return 0
        if given.credential != credential:
            raise SignInRefused
        return parse_authenticator_data(given.authenticator_data).sign_count
    except (ApprovalRefused, KeyRefused, WebAuthnException):
        raise SignInRefused from None


def _json(answer: str) -> dict[str, Any]:
    if len(answer) > ANSWER_LIMIT:
        raise KeyRefused(text("refused.passkey-long").format(got=len(answer), limit=ANSWER_LIMIT))
    given = json.loads(answer)
    if not isinstance(given, dict):
        raise KeyRefused(text("refused.passkey-answer"))
    return given
