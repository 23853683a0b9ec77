"""Staff with key files, and a desk at each node: what tests of the casework start from."""

from __future__ import annotations

import atexit
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from nodes.casework import candidates, cases, deletion, inbox, review
from nodes.casework.contents import Draft, Found, Told
from nodes.casework.desk import CaseDesk
from nodes.casework.office import Payload
from nodes.casework.persons import Person
from nodes.casework.tables import StatementRow
from nodes.config.casework import CaseworkConfig
from nodes.config.names import Role
from nodes.identity.identity import init_node
from nodes.private_files import write_private
from nodes.store import Category, Status
from pets.templates import Templates
from protocol.approval import Assertion, Decision, PersonKey
from protocol.follow_up import CandidatesWanted, Recalled, Statement, check_payload, decode_statement
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.galleries import unit_rows
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
    """A clock that tests turn on; it may stand in between."""

    def __init__(self, stands: bool = False) -> None:
        self.ahead = timedelta(0)
        self._since = datetime.now(timezone.utc) if stands else None

    def __call__(self) -> datetime:
        return (self._since or datetime.now(timezone.utc)) + self.ahead


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

    def enrol_all(self) -> None:
        for handle, roles in ROLES.items():
            self.enrol(handle, roles)

    def key_file(self, handle: str, folder: Path) -> Path:
        """The person's private key in a file."""
        path = folder / f"{self.desk.office.name}-{handle}.key"
        if not path.exists():
            write_private(path, self.keys[handle].private_bytes_raw().hex().encode())
        return path

    def sign(self, handle: str, decision: Decision, target: str, **details: Any) -> Assertion:
        digest = self.desk.to_sign(self.people[handle], decision, target, **details)
        return Assertion(self.keys[handle].sign(digest))


def staffed(desk: CaseDesk) -> Staff:
    """Enrol everybody."""
    staff = Staff(desk)
    staff.enrol_all()
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


def reference_of(desk: CaseDesk, candidate: str) -> str:
    """A candidate's reference, which no reviewer is shown."""
    with desk.office.vault.reading() as session:
        return deletion.shown_of(desk.office, review.candidate_row(session, candidate)).reference


@cache
def _made() -> tuple[Path, Staff, Staff]:
    """A requester's and a holder's folder with staff, for this process."""
    folder = tempfile.TemporaryDirectory(prefix="lineup-offices-")
    atexit.register(folder.cleanup)
    root = Path(folder.name)
    for port, (name, role) in enumerate((("FR", Role.REQUESTER), ("ES", Role.HOLDER)), 9443):
        init_node(root / name, name=name, role=role, address=f"https://127.0.0.1:{port}",
                  authority=root / "authority", states=("FR",))  # fmt: skip
    offices = Offices.reopened(root)
    offices.close()
    return root, offices.french, offices.spanish


@dataclass
class Offices:
    """A requester's and a holder's desk without a network: `carry` brings statements over, as the nodes would."""

    fr: CaseDesk
    es: CaseDesk
    french: Staff
    spanish: Staff
    clock: Clock
    references: list[str]

    @classmethod
    def found(cls, root: Path, **settings: Any) -> Offices:
        """Copies of folders that are made once: a test would spend most of its time on making them."""
        made, french, spanish = _made()
        shutil.copytree(made, root, dirs_exist_ok=True)
        for name in ("FR", "ES"):
            toml = root / name / "node.toml"
            toml.write_text(toml.read_text().replace(str(made), str(root)))
        offices = cls._opened(root, Clock(stands=True), settings)
        for staff, known in ((offices.french, french), (offices.spanish, spanish)):
            staff.keys |= known.keys
            staff.people |= known.people
        return offices

    @classmethod
    def reopened(cls, root: Path, clock: Clock | None = None, **settings: Any) -> Offices:
        """The desks of two folders, with fresh staff."""
        offices = cls._opened(root, clock or Clock(stands=True), settings)
        for staff in (offices.french, offices.spanish):
            staff.enrol_all()
        return offices

    @classmethod
    def _opened(cls, root: Path, clock: Clock, settings: dict[str, Any]) -> Offices:
        fr, es = desks = [CaseDesk.open(root / name, clock) for name in ("FR", "ES")]
        for desk in desks:
            if settings:
                desk.office = replace(desk.office, settings=CaseworkConfig(**settings))
        return cls(fr, es, Staff(fr), Staff(es), clock, [])

    def close(self) -> None:
        self.fr.close()
        self.es.close()

    def enrol(self, photo: bytes | None = None, status: Status = Status.IDENTIFIED, quality: int | None = 61) -> str:
        """A subject in the holder's gallery."""
        gallery = self.es.office.gallery
        assert gallery is not None
        template = unit_rows(np.random.default_rng(len(self.references)), 1, 128)[0]
        reference = gallery.enrol(
            photo, template, category=Category.SUSPECT, status=status,
            retain_until=datetime.now(timezone.utc).date() + timedelta(days=30), model=SYNTHETIC_MODEL, quality=quality,
        )  # fmt: skip
        self.references.append(reference)
        return reference

    def query(self, **changes: Any) -> str:
        """Opened by the officer, approved by the approver."""
        query = self.fr.open_query(self.french.olga, draft(np.ones(128, np.int8), "ES", **changes))
        self.fr.approve_launch(self.french.anton, query, self.french.sign("anton", "launch", query))
        return query

    def searched(self, *references: str, **changes: Any) -> str:
        """A search that found these references, whose holder has shown them."""
        query, attempt = self.query(**changes), secrets.token_bytes(16)
        with self.fr.office.vault.writing() as session:
            launch = cases.take_approved(self.fr.office, session)
            assert launch is not None
            cases.note_attempt(self.fr.office, session, query, attempt, launch.approved)
        with self.es.office.vault.writing() as session:
            candidates.note_disclosed(self.es.office, session, attempt, "FR", references)
        told = {"ES": Told("candidates", len(references), "0.55", None)}
        with self.fr.office.vault.writing() as session:
            found = {"ES": Found(attempt, frozenset(references), max(10, len(references)))}
            candidates.note_found(self.fr.office, session, query, told, found)
        self.carry()
        return query

    def candidate(self, **changes: Any) -> str:
        """One candidate under review."""
        query = self.searched(self.enrol(), **changes)
        (one,) = self.fr.candidates_for(self.french.rita, query)
        return one.id

    def confirmed(self) -> str:
        """A confirmed match, of which the holder knows."""
        candidate = self.candidate()
        for who in ("rita", "remo"):
            self.fr.lock_decision(self.french.people[who], candidate, "same person", "ears")
        for who in ("rita", "remo"):
            self.fr.confirm(self.french.people[who], candidate, self.french.sign(who, "confirm", candidate))
        self.carry()
        return candidate

    def request(self, candidate: str, fields: tuple[Any, ...] = ("first-names", "case-number")) -> str:
        """Core data asked for, and the request at the holder."""
        facts, offence = "seen at the bank", "robbery"
        signed = self.french.sign("olga", "request-core-data", candidate, fields=fields, facts=facts, offence=offence)
        request = self.fr.request_core_data(self.french.olga, candidate, fields, facts, offence, signed)
        self.carry()
        return request

    def release(self, request: str, record: dict[str, str], **details: Any) -> None:
        """The holder's person releases."""
        signed = self.spanish.sign("lena", "release-core-data", request, record=record, **details)
        self.es.release_core_data(self.spanish.lena, request, record, signed, **details)
        self.carry()

    def carry(self) -> None:
        """Bring every queued statement over, both ways, until none waits."""
        while self._carry(self.fr, self.es) + self._carry(self.es, self.fr):
            pass

    def _carry(self, sender: CaseDesk, receiver: CaseDesk) -> int:
        with sender.office.vault.writing() as session:
            rows = session.scalars(select(StatementRow).where(StatementRow.state == "queued")).all()
            said = [
                (decode_statement(row.content), sender.office.vault.unseal(row, Payload).data if row.sealed else b"")
                for row in rows
            ]
            for row in rows:
                row.state, row.sealed = "done", None
        for statement, payload in said:
            self.hand_over(receiver, statement, payload)
            if isinstance(statement.content, Recalled):
                with receiver.office.vault.writing() as session:
                    reply = inbox.acknowledge(receiver.office, session, statement)
                with sender.office.vault.writing() as session:
                    inbox.take_acknowledgement(sender.office, session, statement, reply)
        return len(said)

    def hand_over(self, receiver: CaseDesk, statement: Statement, payload: bytes = b"") -> None:
        """What a receiver's node does with a statement."""
        check_payload(statement, payload)
        with receiver.office.vault.writing() as session:
            if isinstance(statement.content, CandidatesWanted):
                reply, shown, _ = candidates.show(receiver.office, session, statement)
            else:
                inbox.receive(receiver.office, session, statement, payload)
                return
        with self.fr.office.vault.writing() as session:
            candidates.take_shown(self.fr.office, session, reply, shown)
