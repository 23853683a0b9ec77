"""Who works on a holder's gallery at the command line, for the log of who handled whom (`nodes.store.handling`)."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from nodes.casework.desk import CaseDesk
from nodes.casework.persons import read_key_file
from nodes.store.handling import Handler
from pets.errors import InputError
from protocol.approval import PersonRole

ROLES: tuple[PersonRole, ...] = ("officer", "releaser", "data-protection", "admin")
READERS: tuple[PersonRole, ...] = (*ROLES, "supervisor")
MONITORS: tuple[PersonRole, ...] = ("data-protection", "supervisor", "admin")


def acting(folder: Path, key: Path | None, reason: str, roles: tuple[PersonRole, ...] = ROLES) -> Handler:
    """Whose private key file this is, among a node's staff; as long as there is no staff, the account that runs this.

    `roles`: of whom one is needed. Raises `InputError` without a key or a reason where there is staff, and for nobody's
    key; `NotYourRole`, `StoreRefusal`.
    """
    reason = reason.strip()
    with CaseDesk.open(folder) as desk:
        staff = desk.staff()
        if not staff:
            return Handler(f"account {_account()}", reason)
        if key is None or not reason:
            raise InputError(f"{desk.office.name} has staff: --key FILE says who does this, --reason why")
        public = read_key_file(key)
        person = next((one for one in staff if one.key == public), None)
        if person is None:
            raise InputError(f"{key} is nobody's key at this node; `lineup case person add` adds a person")
        person.needs(*roles)
        return Handler(person.handle, reason)


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not LOGNAME, which anybody can set
    except KeyError:
        return str(os.getuid())
