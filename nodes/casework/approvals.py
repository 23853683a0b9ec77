"""Signed decisions: what exactly a person signs, and the check before anything follows from it."""

from __future__ import annotations

from typing import Any

import msgspec

from nodes.casework.errors import BadAssertion
from nodes.casework.office import Office
from nodes.casework.persons import Person, certify
from protocol.approval import ROLE_FOR, Approval, ApprovalRefused, Assertion, check_assertion
from protocol.follow_up import DECISIONS, digest_to_sign


def check_signed(office: Office, person: Person, content: Any, attempt: bytes, assertion: Assertion | None) -> None:
    """Raise `NotYourRole`, or `BadAssertion` unless the person signed exactly this content for this query.

    The digest names the decision, the node, the query and everything decided: an assertion for one decision stands
    for no other, and a decision that was made is not made again.
    """
    person.needs(ROLE_FOR[DECISIONS[type(content)]])
    if assertion is None:
        raise BadAssertion("unsigned")
    if person.key is None:
        raise BadAssertion("no-key", handle=person.handle)
    try:
        check_assertion(person.key, assertion, digest_to_sign(content, office.name, attempt))
    except ApprovalRefused as error:
        raise BadAssertion("assertion", why=str(error)) from None


def approve(office: Office, content: Any, *signed: tuple[Person, Assertion]) -> Any:
    """The content with the persons' approvals."""
    approvals = tuple(Approval(certify(office, person), assertion) for person, assertion in signed)
    return msgspec.structs.replace(content, approvals=approvals)
