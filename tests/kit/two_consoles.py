"""Consoles of a requester and a holder, a case between them without nodes, and everybody signed in at both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.kit.casework import Clock, Offices, Staff
from tests.kit.casework import draft as a_draft
from tests.kit.console import STAFF, Browser, House, house

ROLES = {handle: roles[0] for handle, roles in STAFF.items() if handle != "remo"}
HOLDER = re.compile("/core-data/|/recalls|/api/v1/requests/|/api/v1/recalls")


@dataclass
class Two:
    """Consoles of FR and ES, a case between them, and everybody signed in at both."""

    fr: House
    es: House
    things: dict[str, str]
    browsers: dict[tuple[str, str], Browser]

    def browser(self, path: str, handle: str) -> Browser:
        return self.browsers["ES" if HOLDER.search(path) else "FR", handle]

    def fill(self, path: str) -> str:
        return re.sub(r"{(\w+)}", lambda found: self.things[found[1]], path)


def staff_of(made: House) -> Staff:
    staff = Staff(made.site.operations.desk)
    for handle, file in made.keys.items():
        staff.keys[handle] = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read_text().strip()))
        staff.people[handle] = staff.desk.person(handle)
    return staff


@contextmanager
def two_consoles(root: Path, fill: Callable[[Offices], dict[str, str]]) -> Iterator[Two]:
    """`fill`: makes the case; gives the IDs of what is in it."""
    with ExitStack() as stack:
        fr, es = (stack.enter_context(house(root, node=node)) for node in ("FR", "ES"))
        french, spanish = fr.site.operations.desk, es.site.operations.desk
        things = fill(Offices(french, spanish, staff_of(fr), staff_of(es), Clock(), []))
        browsers = {
            (node, handle): made.signed_in(handle) for node, made in (("FR", fr), ("ES", es)) for handle in ROLES
        }
        yield Two(fr, es, things, browsers)


def a_case(offices: Offices) -> dict[str, str]:
    """A draft, a query with a candidate under review, a confirmed match, and a request for its core data."""
    match = offices.confirmed()
    request = offices.request(match)
    query = offices.searched(offices.enrol())
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    draft = offices.fr.open_query(offices.french.olga, a_draft(np.ones(128, np.int8), "ES"))
    return {"match": match, "request": request, "query": query, "candidate": one.id, "intake": "0" * 32, "draft": draft,
            "handle": "remo", "year": "2020"}  # fmt: skip
