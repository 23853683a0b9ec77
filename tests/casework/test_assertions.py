"""Approvals by WebAuthn, with a software authenticator: the challenge is the digest of what is decided."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from nodes.casework.errors import BadAssertion
from protocol.approval import ApprovalRefused, Assertion, PersonKey, check_assertion
from tests.kit.casework import Offices, draft

PARTY, ORIGIN = "console.example", "https://console.example"


class Authenticator:
    """Holds one credential, as a security key would."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        self.public = PersonKey("webauthn", cbor2.dumps(cose), PARTY, ORIGIN)

    def sign(self, challenge: bytes, *, origin: str = ORIGIN, party: str = PARTY, verified: bool = True) -> Assertion:
        told = {"type": "webauthn.get", "challenge": _base64(challenge), "origin": origin, "crossOrigin": False}
        client = json.dumps(told).encode()
        flags = 0x05 if verified else 0x01  # user present, user verified
        data = hashlib.sha256(party.encode()).digest() + bytes([flags]) + (7).to_bytes(4, "big")
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return Assertion(signature, data, client, b"credential")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_an_authenticator_approves_a_launch(offices: Offices) -> None:
    held = Authenticator()
    wanda = offices.fr.add_person(None, "wanda", "Wanda", ("approver",), held.public)
    query = offices.fr.open_query(offices.french.olga, draft(_ones(), "ES"))
    offices.fr.approve_launch(wanda, query, held.sign(offices.fr.to_sign(wanda, "launch", query)))
    assert offices.fr.query(wanda, query).state == "approved"


@pytest.mark.parametrize(
    "odd",
    [{"origin": "https://evil.example"}, {"party": "evil.example"}, {"verified": False}],
    ids=["origin", "party", "unverified"],
)
def test_an_assertion_made_elsewhere_or_by_nobody_in_particular_is_refused(
    offices: Offices, odd: dict[str, Any]
) -> None:
    held = Authenticator()
    wanda = offices.fr.add_person(None, "wanda", "Wanda", ("approver",), held.public)
    query = offices.fr.open_query(offices.french.olga, draft(_ones(), "ES"))
    digest = offices.fr.to_sign(wanda, "launch", query)
    with pytest.raises(BadAssertion):
        offices.fr.approve_launch(wanda, query, held.sign(digest, **odd))


def test_an_assertion_for_a_log_in_approves_nothing(offices: Offices) -> None:
    """A challenge that the site made up for a log-in is no digest of a decision."""
    held = Authenticator()
    with pytest.raises(ApprovalRefused):
        check_assertion(held.public, held.sign(b"log-in challenge" * 2), bytes(32))
    check_assertion(held.public, held.sign(bytes(32)), bytes(32))  # the control


@pytest.mark.parametrize("hostile", [b"", b"{}", b"[" * 2000, b"\xff"], ids=["empty", "bare", "deep", "no-text"])
def test_hostile_client_data_is_one_typed_refusal(hostile: bytes) -> None:
    held = Authenticator()
    good = held.sign(bytes(32))
    with pytest.raises(ApprovalRefused):
        check_assertion(held.public, Assertion(good.signature, good.authenticator_data, hostile, b"x"), bytes(32))
    with pytest.raises(ApprovalRefused):
        check_assertion(PersonKey("webauthn", hostile.ljust(32, b"\0"), PARTY, ORIGIN), good, bytes(32))


def _ones() -> Any:
    import numpy as np

    return np.ones(128, np.int8)
