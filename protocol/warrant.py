"""The signed authorisation a query starts with (protocol/DESIGN.md, 6a; R 24(1), 33(2)).

The warrant names state, request number, times, purpose, the holders that may be asked, and one probe, by a salted
commitment; everything else about the case is a hash of a record that stays with the requester. The requester signs the
whole announcement, so the warrant cannot be borrowed for other terms, other holders or another query (its nonce is
inside). A holder answers a warrant once (`warrant_claim`); a query that failed before it answered is asked again with
the same warrant. That the probe encrypted is the one committed to an audit recomputes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec

from pets.errors import InputError
from pets.prf import labelled_hash
from protocol.errors import QueryRefused
from protocol.messages import Announce, Warrant
from protocol.shown import kind_only
from protocol.steps import Keyring

LIFETIME_SECONDS = 24 * 3600  # longest time between issue and expiry of a warrant
MINIMUM_PENALTY_YEARS = 1  # R 20(1): the offence's maximum penalty is at least one year


class JustificationError(InputError):
    """A justification that no query may start with."""


def _plain(name: str) -> str:
    """A person's name without what typing changes: case, white space, width."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


class Justification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The local record behind a query (R 33(2)); it stays with the requester. `salt` makes its hash unguessable."""

    case: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    offence: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    maximum_penalty_years: float
    subject: Literal["suspect", "convicted", "victim", "missing", "remains"]
    aim: Literal["identify", "verify"]
    officer: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    approver: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    salt: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]

    __repr__ = kind_only

    def check(self) -> None:
        """Raise `JustificationError` for what is not named, an offence that is too slight, or one person twice."""
        for field in ("case", "offence", "officer", "approver"):
            if not getattr(self, field).strip():
                raise JustificationError(f"{field} must be named (R 33(2))")
        if not self.maximum_penalty_years >= MINIMUM_PENALTY_YEARS:
            raise JustificationError(
                f"the offence's maximum penalty is {self.maximum_penalty_years} years; R 20(1) asks for at least "
                f"{MINIMUM_PENALTY_YEARS}"
            )
        if _plain(self.officer) == _plain(self.approver):
            raise JustificationError("officer and approver must be two persons (AIA 14(5))")
        try:
            msgspec.json.decode(msgspec.json.encode(self), type=Justification)  # the types' limits, as an audit will
        except msgspec.ValidationError as error:
            raise JustificationError(str(error)) from None

    def digest(self) -> bytes:
        """Hash of the whole record, 32 bytes."""
        return labelled_hash("justification", msgspec.json.encode(self))

    def person(self, name: str) -> bytes:
        """Salted hash of a person: the same in no two queries."""
        return labelled_hash("person", self.salt, hashlib.sha256(name.encode()).digest())

    def probe(self, template: bytes) -> bytes:
        """Salted commitment to a probe, int8 (d,) as bytes: 32 bytes."""
        return labelled_hash("warrant-probe", self.salt, template)


@dataclass(frozen=True)
class Request:
    """Who asks, when and for what: what a warrant is made from besides the justification."""

    state: str
    request_number: str
    purpose: str
    identified: bool
    issued: int
    expires: int
    holders: tuple[str, ...]


def issue_warrant(request: Request, justification: Justification, template: bytes) -> Warrant:
    """The warrant for a request about one probe, int8 (d,) as bytes. Raises `JustificationError`."""
    justification.check()
    return Warrant(
        state=request.state,
        request_number=request.request_number,
        issued=request.issued,
        expires=request.expires,
        purpose=request.purpose,
        identified=request.identified,
        justification=justification.digest(),
        officer=justification.person(justification.officer),
        approver=justification.person(justification.approver),
        probe=justification.probe(template),
        holders=tuple(sorted(request.holders)),
    )


def warrant_claim(warrant: Warrant) -> tuple[bytes, bytes]:
    """What a holder claims before it answers, and the digest of the warrant: a state's request number, once."""
    number = labelled_hash("warrant", warrant.state, warrant.request_number)
    return number, labelled_hash("warrant-content", msgspec.msgpack.encode(warrant))


A = TypeVar("A", bound=Announce)


def sign_announcement(announce: A, keyring: Keyring) -> A:
    """The announcement with its requester's signature."""
    return msgspec.structs.replace(announce, signature=keyring.sign(_statement(announce)))


def check_announcement(announce: Announce, keyring: Keyring, now: float, skew_seconds: float) -> Warrant:
    """Return the warrant if it holds now.

    Raises `QueryRefused` (code `warrant` or `clock`) where it is missing, not the requester's, not for these holders,
    not yet or no longer valid, or valid for more than a day; the keyring's own error where the signature does not hold.
    """
    warrant = announce.warrant
    if warrant is None or not announce.signature:
        raise QueryRefused("warrant", f"{announce.requester} asks without a signed warrant")
    keyring.check(announce.requester, _statement(announce), announce.signature)
    if warrant.state != announce.requester:
        raise QueryRefused("warrant", f"{announce.requester} asks with a warrant of {warrant.state}")
    if not 0 < warrant.expires - warrant.issued <= LIFETIME_SECONDS:
        raise QueryRefused(
            "warrant", f"the warrant lasts {warrant.expires - warrant.issued} s, allowed are 1 to {LIFETIME_SECONDS}"
        )
    if others := sorted(set(announce.holders) - set(warrant.holders)):
        raise QueryRefused("warrant", f"the warrant does not name {', '.join(others)}")
    if warrant.issued > now + skew_seconds:
        raise QueryRefused("clock", f"the warrant is dated {warrant.issued - now:.0f} s ahead, allowed {skew_seconds}")
    if now > warrant.expires + skew_seconds:
        raise QueryRefused("warrant", f"the warrant expired {now - warrant.expires:.0f} s ago")
    return warrant


def _statement(announce: Announce) -> bytes:
    return labelled_hash("announcement", msgspec.msgpack.encode(msgspec.structs.replace(announce, signature=b"")))
