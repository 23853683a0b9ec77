"""Staff (R 64(1)(g)): who may do what, and the key that each signs decisions with."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from nodes.casework.contents import Closed
from nodes.casework.errors import BadAssertion, CaseRefused, NotYourRole, UnknownThing
from nodes.casework.office import DAY, Office
from nodes.casework.tables import CandidateRow, PersonRow, SignatureRow
from nodes.private_files import read_private, write_private
from protocol.approval import Assertion, Certificate, PersonKey, PersonRole

HANDLE = re.compile("[a-z][a-z0-9.-]{1,62}")
CLOCK_SECONDS = 300  # a certificate is valid from before it was made: another node's clock may be slow


class _Name(Closed, frozen=True):
    name: str


@dataclass(frozen=True)
class Person:
    """A member of staff, acting. `fingerprint`: of the key, None before there is one."""

    id: str
    handle: str
    name: str
    roles: frozenset[PersonRole]
    key: PersonKey | None
    active: bool

    def needs(self, *roles: PersonRole) -> None:
        """Raise `NotYourRole` unless the person is active and has one of the roles."""
        if not self.active:
            raise NotYourRole("closed", handle=self.handle)
        if not self.roles.intersection(roles):
            raise NotYourRole("role-needed", handle=self.handle, wanted=" or ".join(roles))


def add(
    office: Office,
    session: Session,
    handle: str,
    name: str,
    roles: Sequence[PersonRole],
    key: PersonKey | None,
) -> Person:
    """Enrol a person. Raises `CaseRefused` for a handle or a key that is taken: one key is one person."""
    if not HANDLE.fullmatch(handle):
        raise CaseRefused("handle", handle=handle)
    if not 0 < len(name.strip()) <= 200:
        raise CaseRefused("name-long")
    wanted = tuple(dict.fromkeys(roles))
    for role in wanted:
        if role not in get_args(PersonRole):
            raise CaseRefused("role", role=role, allowed=", ".join(get_args(PersonRole)))
    if not wanted:
        raise CaseRefused("role-missing")
    if session.scalar(select(PersonRow).where(PersonRow.handle == handle)) is not None:
        raise CaseRefused("handle-taken", handle=handle)
    row = PersonRow(id=secrets.token_hex(16), handle=handle, roles=",".join(wanted), active=True, enrolled=office.now())
    office.vault.seal(row, _Name(name.strip()))
    session.add(row)
    session.flush()
    if key is not None:
        set_key(session, row.id, key)
    return load(office, session, row.id)


def set_key(session: Session, person: str, key: PersonKey) -> None:
    """Give a person a key, in place of one before. Raises `CaseRefused` for a key of somebody else."""
    taken = session.scalar(select(PersonRow).where(PersonRow.fingerprint == key.fingerprint))
    if taken is not None and taken.id != person:
        raise CaseRefused("key-taken")
    row = _row(session, person)
    unfinished = select(CandidateRow.id).where(CandidateRow.outcome == "match")  # the new key signs them again
    session.execute(
        delete(SignatureRow).where(SignatureRow.person_id == person, SignatureRow.candidate_id.in_(unfinished))
    )
    row.fingerprint, row.key = key.fingerprint, msgspec.msgpack.encode(key)
    session.flush()


def close_account(session: Session, person: str) -> None:
    """End what a person may do; what was signed before stays."""
    _row(session, person).active = False


def load(office: Office, session: Session, person: str) -> Person:
    """A person by ID. Raises `UnknownThing`."""
    return _person(office, _row(session, person))


def by_handle(office: Office, session: Session, handle: str) -> Person:
    """A person by handle. Raises `UnknownThing`."""
    row = session.scalar(select(PersonRow).where(PersonRow.handle == handle))
    if row is None:
        raise UnknownThing("person", handle)
    return _person(office, row)


def everybody(office: Office, session: Session) -> list[Person]:
    """The staff list, by handle."""
    return [_person(office, row) for row in session.scalars(select(PersonRow).order_by(PersonRow.handle))]


def certify(office: Office, person: Person) -> Certificate:
    """The node vouches for a person's key and roles, for a day: whoever leaves gets no new one."""
    if person.key is None or not person.active:
        raise BadAssertion("key-or-closed", handle=person.handle)
    now = office.now()
    roles = tuple(sorted(person.roles))
    certificate = Certificate(office.name, person.key, roles, max(0, now - CLOCK_SECONDS), now + DAY)
    return msgspec.structs.replace(certificate, signature=office.keyring.sign(certificate.statement))


def new_key_file(path: Path) -> PersonKey:
    """Make a person's Ed25519 key in a new private file. Raises FileExistsError rather than overwrite."""
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes_raw().hex().encode() + b"\n")
    return PersonKey("ed25519", key.public_key().public_bytes_raw())


def read_key_file(path: Path) -> PersonKey:
    """The public half of a key file. Raises `InputError`."""
    return PersonKey("ed25519", _private(path).public_key().public_bytes_raw())


def sign_with_file(path: Path, digest: bytes) -> Assertion:
    """Sign a decision's digest. Raises `InputError`."""
    return Assertion(_private(path).sign(digest))


def _private(path: Path) -> Ed25519PrivateKey:
    text = read_private(path).decode("ascii", "replace").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise CaseRefused("key-file", path=path)
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text))


def _row(session: Session, person: str) -> PersonRow:
    row = session.get(PersonRow, person)
    if row is None:
        raise UnknownThing("person", person)
    return row


def _person(office: Office, row: PersonRow) -> Person:
    key = None if row.key is None else msgspec.msgpack.decode(row.key, type=PersonKey)
    roles = frozenset(row.roles.split(","))
    name = office.vault.unseal(row, _Name).name
    return Person(row.id, row.handle, name, roles, key, row.active)  # type: ignore[arg-type]
