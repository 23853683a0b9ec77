"""Staff with key files, and a desk at each node: what tests of the casework start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodes.casework.contents import Draft
from nodes.casework.desk import CaseDesk
from nodes.casework.persons import Person
from protocol.approval import Assertion, Decision, PersonKey
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.galleries import Templates
from tests.kit.ring import RING

ROLES: dict[str, tuple[Any, ...]] = {
    "olga": ("officer",),
    "anton": ("approver",),
    "rita": ("reviewer",),
    "remo": ("reviewer",),
    "lena": ("releaser",),
    "dora": ("data-protection",),
}


class Clock:
    """A clock that tests turn on."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(timezone.utc) + self.ahead


@dataclass
class Staff:
    """The persons of one node, and their private keys."""

    desk: CaseDesk
    keys: dict[str, Ed25519PrivateKey] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)

    def __getattr__(self, handle: str) -> Person:
        if handle.startswith("_"):
            raise AttributeError(handle)
        return self.people[handle]

    def enrol(self, handle: str, roles: tuple[Any, ...]) -> Person:
        key = self.keys[handle] = Ed25519PrivateKey.generate()
        public = PersonKey("ed25519", key.public_key().public_bytes_raw())
        if handle in {person.handle for person in self.desk.staff()}:
            self.desk.set_key(None, self.desk.person(handle), public)
        else:
            self.desk.add_person(None, handle, f"{handle.title()} Planted-{handle}", roles, public)
        self.people[handle] = self.desk.person(handle)
        return self.people[handle]

    def sign(self, handle: str, decision: Decision, target: str, **details: Any) -> Assertion:
        digest = self.desk.to_sign(self.people[handle], decision, target, **details)
        return Assertion(self.keys[handle].sign(digest))


def staffed(desk: CaseDesk) -> Staff:
    """Enrol everybody."""
    staff = Staff(desk)
    for handle, roles in ROLES.items():
        staff.enrol(handle, roles)
    return staff


def draft(probe: Templates, *holders: str, **changes: Any) -> Draft:
    values: dict[str, Any] = {
        "template": probe.tobytes(),
        "model": SYNTHETIC_MODEL,
        "holders": holders,
        "case": "C-Planted-1",
        "offence": "planted robbery",
        "maximum_penalty_years": 5.0,
        "preset": RING.preset,
    }
    return Draft(**values | changes)


def open_desk(folder: Path, clock: Clock) -> CaseDesk:
    return CaseDesk.open(folder, clock)
