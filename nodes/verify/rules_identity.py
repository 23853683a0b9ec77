"""Who says so: signatures over bundles and over every phase."""

from __future__ import annotations

import hashlib

from nodes.verify.case import Case, View
from nodes.verify.format import CONTEXT
from nodes.verify.report import Broken, Findings, Held, Open
from pets.prf import labelled_hash
from pets.signatures import SignatureError
from protocol.messages import Signature

PROTOCOL_CONTEXT = "protocol"


def bundle_signatures(case: Case) -> Findings:
    """Every bundle is signed with the key it states."""
    for view in case.views:
        try:
            view.key.verify(view.signed.signature, view.signed.statement, CONTEXT)
        except SignatureError as error:
            yield Broken(view.name, f"its signature does not hold: {error}")
        else:
            yield Held()


def identities(case: Case) -> Findings:
    """Every owner has the key that the trust list gives it, and took part in the announced role."""
    for view in case.views:
        owner = view.bundle.owner
        fingerprint = view.key.fingerprint.hex()
        announced = case.roles.get(owner.name)
        if case.announce is not None and announced is None:
            yield Broken(view.name, "the announcement does not name it")
        elif announced is not None and announced != owner.role:
            yield Broken(view.name, f"it calls itself {owner.role}, the announcement makes it {announced}")
        if case.trust is None:
            yield Open(f"no trust list was given: compare the fingerprint of {owner.name}, {fingerprint}")
        elif owner.name not in case.trust:
            yield Broken(view.name, f"{owner.name} is not in the trust list; its key has fingerprint {fingerprint}")
        elif case.trust[owner.name].verify_key != view.key:
            yield Broken(view.name, f"signed with another key ({fingerprint}) than the trust list gives {owner.name}")
        elif case.trust[owner.name].role != owner.role:
            yield Broken(view.name, f"it calls itself {owner.role}, the trust list says {case.trust[owner.name].role}")
        else:
            yield Held(f"{owner.name} is the trusted {owner.role}")
    for name, role in case.roles.items():
        if case.views_of(name):
            continue
        if case.trust is not None and name not in case.trust:
            yield Broken(f"{case.label}announcement", f"{name} is announced and not in the trust list")
        elif case.trust is not None and case.trust[name].role != role:
            told = case.trust[name].role
            yield Broken(f"{case.label}announcement", f"{name} is announced as {role}, the trust list says {told}")
        else:
            yield Open(f"{case.label}no bundle of {name} was given")


def phase_signatures(case: Case) -> Findings:
    """Each phase signature holds over the hash chain of the frames before it, recomputed from their hashes."""
    for view in case.views:
        for items in view.links.values():
            head = bytes(32)
            for item in items:
                record = item.record
                if record.kind == "Signature" and isinstance(record.message, Signature):
                    yield from _one_signature(case, view, record.message, head, view.place(record), record.session,
                                              *view.ends(record))  # fmt: skip
                head = hashlib.sha256(head + view.frame(record)).digest()


def _one_signature(
    case: Case, view: View, message: Signature, head: bytes, place: str, session: str, sender: str, receiver: str
) -> Findings:
    if message.head != head:
        yield Broken(place, f"phase {message.phase!r} was signed over other messages than these")
        return
    key = case.key_of(sender)
    if key is None and case.trust is not None:
        yield Broken(place, f"{sender} is not in the trust list")
        return
    if key is None:
        yield Open(f"{view.label}signatures of {sender}: neither a trust list nor its bundle was given")
        return
    statement = labelled_hash("phase", case.query, session, message.phase, sender, receiver, head)
    try:
        key.verify(message.signature, statement, PROTOCOL_CONTEXT)
    except SignatureError as error:
        yield Broken(place, f"the signature of phase {message.phase!r} does not hold: {error}")
    else:
        yield Held()
