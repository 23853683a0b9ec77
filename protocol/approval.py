"""Approvals: a decision of the follow-up, signed by a person's own key (R rec. 29, 20(2), 47(6); AIA 14(5)).

A person signs the digest of what is decided, with an Ed25519 key or with a WebAuthn authenticator whose challenge is
that digest. The person's own node vouches for the key and for its roles by a certificate. The other side learns a key
and roles, never a name.

::

    LineupError
    └── ApprovalRefused     an approval that does not hold, and why
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pets.errors import CryptoError, LineupError
from pets.prf import labelled_hash
from protocol.messages import Name

if TYPE_CHECKING:
    from protocol.steps import Checker

PersonRole = Literal["officer", "approver", "reviewer", "releaser", "data-protection", "supervisor", "admin"]
Decision = Literal["launch", "confirm", "request-core-data", "release-core-data", "refuse-core-data"]
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]

# Who may sign what.
ROLE_FOR: dict[str, PersonRole] = {
    "launch": "approver",
    "confirm": "reviewer",
    "request-core-data": "officer",
    "release-core-data": "releaser",
    "refuse-core-data": "releaser",
}


class ApprovalRefused(LineupError):
    """An approval does not hold."""


class PersonKey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A person's public key: 32 raw bytes of Ed25519, or the COSE key of a WebAuthn credential.

    `relying_party`, `origin`: where a WebAuthn credential was made; empty for a key file.
    """

    kind: Literal["ed25519", "webauthn"]
    public: Annotated[bytes, msgspec.Meta(min_length=32, max_length=1024)]
    relying_party: Annotated[str, msgspec.Meta(max_length=253)] = ""
    origin: Annotated[str, msgspec.Meta(max_length=300)] = ""

    @property
    def fingerprint(self) -> bytes:
        """What a person is called in evidence, 32 bytes."""
        return labelled_hash("person-key", self.kind, self.public)


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node vouches for a person's key and roles. `signature`: the node's, over everything else."""

    node: Name
    key: PersonKey
    roles: Annotated[tuple[PersonRole, ...], msgspec.Meta(min_length=1, max_length=7)]
    issued: Seconds
    expires: Seconds
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""

    @property
    def statement(self) -> bytes:
        """What the node signs."""
        return labelled_hash("person-certificate", msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b"")))


class Assertion(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signature over a decision's digest. The last three: of a WebAuthn authenticator, empty for a key file."""

    signature: Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
    authenticator_data: Annotated[bytes, msgspec.Meta(max_length=4096)] = b""
    client_data: Annotated[bytes, msgspec.Meta(max_length=4096)] = b""
    credential: Annotated[bytes, msgspec.Meta(max_length=1023)] = b""


class Approval(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One person's signature under one decision."""

    certificate: Certificate
    assertion: Assertion

    @property
    def person(self) -> bytes:
        """Fingerprint of the person's key."""
        return self.certificate.key.fingerprint


def decision_digest(decision: Decision, node: str, query: bytes, content: bytes) -> bytes:
    """What a person of `node` signs, 32 bytes. `query`: 16 bytes, empty for a launch, which has no query yet."""
    return labelled_hash("decision", decision, node, query, content)


def check_approval(
    approval: Approval, decision: Decision, node: str, digest: bytes, keyring: Checker, now: float
) -> bytes:
    """Return the person's fingerprint if the approval holds. `now`: seconds since 1970, when it was given.

    Raises `ApprovalRefused`: another node's person, a role that may not decide this, a certificate that its node did
    not sign or that was not valid, a signature over something else.
    """
    certificate = approval.certificate
    if certificate.node != node:
        raise ApprovalRefused(f"a person of {certificate.node} decides for {node}")
    role = ROLE_FOR[decision]
    if role not in certificate.roles:
        raise ApprovalRefused(f"{decision} needs the role {role}; the person has {', '.join(certificate.roles)}")
    if not certificate.issued <= now <= certificate.expires:
        raise ApprovalRefused("the person's certificate was not valid at that time")
    try:
        keyring.check(node, certificate.statement, certificate.signature)
    except CryptoError as error:
        raise ApprovalRefused(f"{node} did not vouch for this person: {error}") from None
    check_assertion(certificate.key, approval.assertion, digest)
    return approval.person


def check_assertion(key: PersonKey, assertion: Assertion, digest: bytes) -> None:
    """Raise `ApprovalRefused` unless `assertion` is the key's signature over `digest`."""
    if key.kind == "ed25519":
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(assertion.signature, digest)
        except (InvalidSignature, ValueError):
            raise ApprovalRefused("the person's signature does not hold for this decision") from None
        return
    _check_webauthn(key, assertion, digest)


def _check_webauthn(key: PersonKey, assertion: Assertion, digest: bytes) -> None:
    from webauthn import verify_authentication_response

    credential: dict[str, Any] = {
        "id": _base64(assertion.credential),
        "rawId": _base64(assertion.credential),
        "type": "public-key",
        "response": {
            "authenticatorData": _base64(assertion.authenticator_data),
            "clientDataJSON": _base64(assertion.client_data),
            "signature": _base64(assertion.signature),
        },
    }
    try:
        verify_authentication_response(
            credential=credential,
            expected_challenge=digest,
            expected_rp_id=key.relying_party,
            expected_origin=key.origin,
            credential_public_key=key.public,
            credential_current_sign_count=0,  # counted where the person logs in, not in evidence
            require_user_verification=True,
        )
    except Exception as error:  # the library raises almost anything for hostile bytes
        raise ApprovalRefused(f"the authenticator's signature does not hold: {type(error).__name__}") from None


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
