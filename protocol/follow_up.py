"""What two states say to each other after a query has ended: from a candidate to core data (R 20(2), 47, 50, 64).

A `Statement` is signed by the node that makes it, and says nothing about a person searched for: candidates, facts and
core data stand in it as salted hashes. What those hashes stand for travels beside it as the `payload`, sealed to the
receiver and padded, and never enters evidence.

::

    requester                                   holder
      CandidatesWanted  ───────────────────────▶
                        ◀───────────────────────  CandidatesShown     images, quality, marks: equal size, hit or no hit
      Confirmed         ───────────────────────▶                      signed by two reviewers
      CoreDataRequested ───────────────────────▶                      the clock of 48 hours starts
                        ◀───────────────────────  ClockPaused, ClockResumed
                        ◀───────────────────────  CoreDataReleased or CoreDataRefused
      Deleted           ───────────────────────▶                      what was received is gone
                        ◀───────────────────────  Recalled            correction or deletion, to whoever received it
      Deleted           ───────────────────────▶

Everything is answered by `Acknowledged`, except `CandidatesWanted`. `Launched` is told to nobody: it stands in the
requester's evidence. Closed schemas: an unknown field or a wrong type is refused by the decoder.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from pets.errors import MALFORMED, InputError
from pets.prf import labelled_hash
from protocol.approval import Approval, Decision, decision_digest
from protocol.messages import Decimals, Digest, Name
from protocol.roles import Role

if TYPE_CHECKING:
    from protocol.steps import Keyring

Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=2**47)]
QueryId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]

IDENTIFIED_FIELDS = (  # R 47(4)
    "first-names", "family-names", "aliases", "date-of-birth", "nationalities", "place-and-country-of-birth", "gender",
    "date-and-place-of-acquisition", "offence-of-acquisition", "case-number", "competent-authority",
)  # fmt: skip
UNIDENTIFIED_FIELDS = IDENTIFIED_FIELDS[7:]  # R 47(5)
CoreDataField = Literal[IDENTIFIED_FIELDS]  # type: ignore[valid-type]
Fields = Annotated[tuple[CoreDataField, ...], msgspec.Meta(min_length=1, max_length=11)]

RefusalReason = Literal["no-authorisation", "not-released", "facts-missing", "withdrawn", "national-security"]
PauseReason = Literal["judicial-authorisation"]  # R 47(2) knows no other
DeletionReason = Literal["not-needed", "time-over", "not-confirmed", "recalled", "corrected", "no-authorisation"]
RecallKind = Literal["delete", "correct", "contested", "uncontested"]


class FollowUpError(InputError):
    """A document of the follow-up that is not acceptable."""


class Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what is stated."""


class Launched(Content, tag=1, frozen=True):
    """A second person approved this search before it began. `opened_by`: fingerprint of the first person's key.

    `probe`: salted hash of the probe. The rest stands in the announcement too, and is compared with it.
    """

    request_number: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    justification: Digest
    probe: Digest
    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    threshold: Decimals
    cap: Annotated[int, msgspec.Meta(ge=1, le=99)]
    ladder: Decimals
    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    opened_by: Digest
    approvals: Annotated[tuple[Approval, ...], msgspec.Meta(min_length=1, max_length=1)]


class CandidatesWanted(Content, tag=2, frozen=True):
    """The requester asks for what R 24(2) lets a reply contain. Asked after every answer, hit or no hit."""

    slots: Annotated[int, msgspec.Meta(ge=1, le=99)]


class CandidatesShown(Content, tag=3, frozen=True):
    """Exactly the slots asked for, in the payload. `wanted`: the statement answered."""

    wanted: Digest
    payload: Digest


class Confirmed(Content, tag=4, frozen=True):
    """Two reviewers found, each alone, that a candidate is the person on the probe.

    `candidate`: salted hash of its reference. `law`: the citation that lets one reviewer do, else empty (AIA 14(5)).
    """

    candidate: Digest
    law: Annotated[str, msgspec.Meta(max_length=200)]
    approvals: Annotated[tuple[Approval, ...], msgspec.Meta(min_length=1, max_length=2)]
    payload: Digest


class CoreDataRequested(Content, tag=5, frozen=True):
    """R 47(1): a match, its confirmation (`confirmed`: that statement), and facts (salted hash, in the payload)."""

    candidate: Digest
    confirmed: Digest
    fields: Fields
    offence_category: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[a-z][a-z0-9 -]*\\Z")]
    facts: Digest
    approvals: Annotated[tuple[Approval, ...], msgspec.Meta(min_length=1, max_length=1)]
    payload: Digest


class CoreDataReleased(Content, tag=6, frozen=True):
    """`fields`: those that are filled; `late`: why after the deadline, else empty."""

    request: Digest
    kind: Literal["identified", "unidentified"]
    fields: Fields
    late: Annotated[str, msgspec.Meta(max_length=200)]
    record: Digest
    approvals: Annotated[tuple[Approval, ...], msgspec.Meta(min_length=1, max_length=1)]
    payload: Digest


class CoreDataRefused(Content, tag=7, frozen=True):
    """The holder does not release core data."""

    request: Digest
    reason: RefusalReason
    approvals: Annotated[tuple[Approval, ...], msgspec.Meta(min_length=1, max_length=1)]


class ClockPaused(Content, tag=8, frozen=True):
    """R 47(2): judicial authorisation is sought."""

    request: Digest
    reason: PauseReason


class ClockResumed(Content, tag=9, frozen=True):
    """The clock runs on."""

    request: Digest


class Recalled(Content, tag=10, frozen=True):
    """R 64(1)(m), 51(3): what a receiver was given is wrong, contested, or must go. The payload names it."""

    kind: RecallKind
    candidate: Digest
    payload: Digest


class Deleted(Content, tag=11, frozen=True):
    """R 50(3): everything received about a candidate is deleted."""

    candidate: Digest
    reason: DeletionReason


class Acknowledged(Content, tag=12, frozen=True):
    """A statement arrived and was kept."""

    statement: Digest


AnyContent = (
    Launched
    | CandidatesWanted
    | CandidatesShown
    | Confirmed
    | CoreDataRequested
    | CoreDataReleased
    | CoreDataRefused
    | ClockPaused
    | ClockResumed
    | Recalled
    | Deleted
    | Acknowledged
)

# What a person signs, by kind of statement.
DECISIONS: dict[type[Content], Decision] = {
    Launched: "launch",
    Confirmed: "confirm",
    CoreDataRequested: "request-core-data",
    CoreDataReleased: "release-core-data",
    CoreDataRefused: "refuse-core-data",
}
# Who may say what to whom; `Launched` is kept at home.
SAID_BY: dict[type[Content], Role] = {
    CandidatesWanted: Role.REQUESTER,
    Confirmed: Role.REQUESTER,
    CoreDataRequested: Role.REQUESTER,
    Deleted: Role.REQUESTER,
    CandidatesShown: Role.HOLDER,
    CoreDataReleased: Role.HOLDER,
    CoreDataRefused: Role.HOLDER,
    ClockPaused: Role.HOLDER,
    ClockResumed: Role.HOLDER,
    Recalled: Role.HOLDER,
}


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one node states to another about one query. `time`: milliseconds since 1970, UTC."""

    version: Literal[1]
    query: QueryId
    sender: Name
    receiver: Name
    time: Milliseconds
    content: AnyContent
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""

    @property
    def digest(self) -> bytes:
        """What others refer to, 32 bytes; the signature, which differs at every signing, is left out."""
        return labelled_hash("follow-up", msgspec.msgpack.encode(msgspec.structs.replace(self, signature=b"")))

    @property
    def kind(self) -> str:
        """The name of its content."""
        return type(self.content).__name__

    def signed(self, keyring: Keyring) -> Statement:
        """With the signature of the sender's node."""
        return msgspec.structs.replace(self, signature=keyring.sign(self.digest))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return msgspec.msgpack.encode(self)

    @property
    def frame(self) -> bytes:
        """SHA-256 of the whole, signature included: what logs hold."""
        return hashlib.sha256(self.encode()).digest()


def decode_statement(data: bytes) -> Statement:
    """The inverse of `encode`. Raises `FollowUpError` for anything that `encode` would not have made."""
    try:
        statement = msgspec.msgpack.decode(data, type=Statement)
    except MALFORMED as error:
        raise FollowUpError(f"not a statement of the follow-up: {error}") from None
    if statement.encode() != data:
        raise FollowUpError("not the canonical form of a statement")
    return statement


def payload_digest(payload: bytes) -> bytes:
    """The hash by which a statement names its payload. The payload brings its own salt."""
    return labelled_hash("follow-up-payload", payload)


def candidate_digest(salt: bytes, reference: str) -> bytes:
    """What a candidate is called in statements: nobody without the salt can try references against it."""
    return labelled_hash("follow-up-candidate", salt, reference)


def unsigned(content: Any) -> bytes:
    """What the persons' signatures are over: the content without them."""
    return msgspec.msgpack.encode(msgspec.structs.replace(content, approvals=()))


def digest_to_sign(content: Any, node: str, query: bytes) -> bytes:
    """The digest of a decision of a person of `node`. A launch is decided before there is a query."""
    bound = b"" if isinstance(content, Launched) else query
    return decision_digest(DECISIONS[type(content)], node, bound, unsigned(content))


def check_payload(statement: Statement, payload: bytes) -> None:
    """Raise `FollowUpError` unless this is what the statement names: nothing, where it names nothing."""
    named: bytes | None = getattr(statement.content, "payload", None)
    if (payload_digest(payload) if named is not None else payload) != (named or b""):
        raise FollowUpError(f"{statement.kind}: the payload is not the one that the statement names")
