"""What is encrypted in the casework's database, and what travels in payloads: closed schemas."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol.follow_up import CoreDataField, RecallKind
from protocol.messages import Decimals, Digest, Name
from protocol.shown import kind_only

Depicted = Literal["suspect", "convicted", "victim", "missing", "remains"]
Aim = Literal["identify", "verify"]
Verdict = Literal["same person", "not the same person", "inconclusive"]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Long = Annotated[str, msgspec.Meta(min_length=1, max_length=8000)]
Reference = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
IMAGE_LIMIT = 96 * 1024  # bytes of a candidate's image as it travels


class Closed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all."""

    __repr__ = kind_only


class Draft(Closed, frozen=True):
    """A search before it is approved. `template`: int8 (d,). `quality`: 0 to 100 by component, empty for a template.

    `authorisation`: reference of the judicial authorisation; empty if it is still sought (AIA 26(10)).
    """

    template: bytes
    model: Digest
    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    case: Text
    offence: Text
    maximum_penalty_years: float
    threshold: Decimals = "0.55"
    purpose: str = "INVESTIGATION"
    subject: Depicted = "suspect"
    aim: Aim = "identify"
    cap: Annotated[int, msgspec.Meta(ge=1, le=99)] = 10
    ladder: Decimals = "0.02"
    preset: str = "n4096_q60_t20"
    photo: bytes | None = None
    quality: dict[str, int] = {}
    authorisation: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Probe(Closed, frozen=True):
    """What a reviewer sees of the probe. `photo`: None where a template was searched for."""

    photo: bytes | None
    quality: dict[str, int]


class Found(Closed, frozen=True):
    """What a holder released, until it has shown it. `references`: in no order."""

    attempt: bytes
    references: frozenset[str]
    cap: int


class SealedQuery(Closed, frozen=True):
    """A draft with the salt behind the hashes of its justification and probe. `found`: by holder."""

    draft: Draft
    salt: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    found: dict[str, Found] = {}


class Shown(Closed, frozen=True):
    """A candidate as its holder shows it (R 24(2)): never a name. `image`: JPEG, None where none is sent.

    `acquired`: when the image was taken, ISO 8601, empty if it is not known. `salt`: behind the candidate's hash.
    """

    reference: Reference
    salt: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    image: Annotated[bytes, msgspec.Meta(max_length=IMAGE_LIMIT)] | None
    quality: Annotated[int, msgspec.Meta(ge=0, le=100)] | None
    acquired: Annotated[str, msgspec.Meta(max_length=10)]
    status: Literal["identified", "unidentified"]
    contested: bool


class Blind(Closed, frozen=True):
    """What a reviewer sees of a candidate: never its reference. Fields as those of `Shown`."""

    image: bytes | None
    quality: int | None
    acquired: str
    status: str
    contested: bool


class ShownPayload(Closed, frozen=True):
    """Payload of `CandidatesShown`; as many as were released, at most the slots asked for."""

    salt: bytes
    candidates: tuple[Shown, ...]


class NamedPayload(Closed, frozen=True):
    """Payload of `Confirmed`: opens the candidate's hash."""

    salt: bytes
    reference: Reference


class FactsPayload(Closed, frozen=True):
    """Payload of `CoreDataRequested`. `facts_salt`: behind the hash of the facts."""

    salt: bytes
    reference: Reference
    facts_salt: bytes
    facts: Long


class RecallPayload(Closed, frozen=True):
    """Payload of `Recalled`. `why`: in words."""

    salt: bytes
    reference: Reference
    kind: RecallKind
    why: Text


class CoreDataPayload(Closed, frozen=True):
    """Payload of `CoreDataReleased`: the record as field and value, checked against its closed schema."""

    salt: bytes
    record: dict[CoreDataField, str]


class Vote(Closed, frozen=True):
    """What a reviewer found, with the features compared."""

    verdict: Verdict
    note: Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]


class SealedRequest(Closed, frozen=True):
    """A request for core data; `record`: at the requester, once released."""

    reference: Reference
    fields: tuple[CoreDataField, ...]
    offence_category: str
    facts: str
    record: dict[CoreDataField, str] | None = None


class Told(Closed, frozen=True):
    """How one holder answered, without references."""

    status: str
    candidates: int
    threshold_used: str | None
    reason: str | None
