"""What the operator's API takes and gives: closed schemas, from which its OpenAPI description is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from nodes.casework.contents import Verdict
from protocol.approval import PersonRole
from protocol.follow_up import CoreDataField, RecallKind, RefusalReason
from protocol.roles import Role
from protocol.shown import kind_only

T = TypeVar("T", bound="Contract")
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Long = Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]
Signature = Annotated[str, msgspec.Meta(min_length=1, max_length=32_768)]


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Base of all. Names are written with hyphens."""


class Credentials(Contract, frozen=True):
    """First factor."""

    handle: Annotated[str, msgspec.Meta(max_length=63)]
    password: Annotated[str, msgspec.Meta(max_length=200)]

    __repr__ = kind_only


class Joining(Contract, frozen=True):
    """An invitation is taken up."""

    token: Annotated[str, msgspec.Meta(max_length=200)]
    password: Annotated[str, msgspec.Meta(max_length=1000)]

    __repr__ = kind_only


class First(Contract, frozen=True):
    """The first administrator. `token`: stands on the terminal."""

    token: Annotated[str, msgspec.Meta(max_length=200)]
    handle: str
    name: str
    password: Annotated[str, msgspec.Meta(max_length=1000)]

    __repr__ = kind_only


class Half(Contract, frozen=True):
    """A session that waits for a key. `stage`: password: the known key is to sign; enrol: a key is to be shown.

    `challenge`: 32 bytes, hexadecimal, for a key file; `options`: for a passkey, null for a person with a key file.
    """

    token: str
    stage: Literal["password", "enrol"]
    challenge: str
    options: dict[str, Any] | None

    __repr__ = kind_only


class Signed(Contract, frozen=True):
    """A signature: 128 hexadecimal digits of a key file, or the JSON of a passkey's answer."""

    assertion: Signature


class NewKey(Contract, frozen=True):
    """A key that signed the challenge. `assertion`: as in `Signed`, or a new passkey's; `public`: of a key file."""

    assertion: Signature
    public: Annotated[str, msgspec.Meta(max_length=200)] = ""


class SessionToken(Contract, frozen=True):
    """`Authorization: Bearer TOKEN`."""

    token: str

    __repr__ = kind_only


class Me(Contract, frozen=True):
    """Who is signed in. `key`: kind of the key. `exchange`: whether ANSI/NIST-ITL files are read and written here."""

    handle: str
    name: str
    roles: tuple[str, ...]
    key: str | None
    node: str
    node_role: Role
    exchange: bool


class ToSign(Contract, frozen=True):
    """What a decision's signature stands over: 32 bytes, hexadecimal; for a passkey its `options` too."""

    digest: str
    options: dict[str, Any] | None


class Reason(Contract, frozen=True):
    """Why personal data are looked at (LED 25)."""

    reason: Text


class Export(Contract, frozen=True):
    """A candidate is to go into an ANSI/NIST-ITL file. `receiver`: an agency; empty: this node.

    `authorisation`: of the state that gave the data, for a receiver of another state (R 60).
    """

    reason: Text
    receiver: Annotated[str, msgspec.Meta(max_length=32)] = ""
    authorisation: Annotated[str, msgspec.Meta(max_length=500)] = ""


class FaceView(Contract, frozen=True):
    """A face on an upload. `box`: left, top, right, bottom. `suitable`: every component reaches the policy's limit."""

    box: tuple[int, int, int, int]
    quality: dict[str, int]
    suitable: bool


class IntakeView(Contract, frozen=True):
    """An upload. It is kept for 15 minutes. `limit`: of each component of the quality, 0 to 100.

    `threshold`: the default of the node's face model; null if it has none, and a query must name one.
    """

    id: str
    width: int
    height: int
    faces: tuple[FaceView, ...]
    limit: int
    threshold: str | None


class QueryForm(Contract, frozen=True):
    """A query to be opened. `face`: which of the upload's faces, counted from 0. `threshold`: empty: the model's."""

    intake: str
    face: Annotated[int, msgspec.Meta(ge=0)]
    holders: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    case: Text
    offence: Text
    maximum_penalty_years: float
    threshold: str = ""
    purpose: str = "INVESTIGATION"
    subject: Literal["suspect", "convicted", "victim", "missing", "remains"] = "suspect"
    aim: Literal["identify", "verify"] = "identify"
    cap: Annotated[int, msgspec.Meta(ge=1, le=99)] = 10
    authorisation: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Made(Contract, frozen=True):
    """What was made."""

    id: str


class Done(Contract, frozen=True):
    """What came of it."""

    outcome: str = "done"


class CountryProgress(Contract, frozen=True):
    """How far one country's part of a search is.

    `state`: waiting, preparing, searching, answered (others of the same attempt have not), or how it ended. While it is
    preparing, `rows` of `of` are scored, 0: not known yet. `prepared`: while it runs, whether a preparation that waited
    is used or one was made now; null before that is known, and once the search is over.
    """

    holder: str
    state: str
    detail: str
    rows: int = 0
    of: int = 0
    prepared: Literal["waiting", "now"] | None = None


class Progress(Contract, frozen=True):
    """A search: its own state, and each country's. `alternative`: what is agreed for when somebody does not answer."""

    state: str
    running: bool
    countries: tuple[CountryProgress, ...]
    alternative: str


class Case(Contract, frozen=True):
    """The justification and the probe (JPEG, base64)."""

    case: str
    offence: str
    maximum_penalty_years: float
    subject: str
    aim: str
    purpose: str
    threshold: str
    cap: int
    authorisation: str
    quality: dict[str, int]
    photo: bytes | None

    __repr__ = kind_only


class Pictures(Contract, frozen=True):
    """A candidate beside the probe, both JPEG, base64; null where none is held. Candidate, not identified."""

    probe: bytes | None
    probe_quality: dict[str, int]
    candidate: bytes | None
    holder: str
    quality: int | None
    acquired: str
    status: str
    contested: bool

    __repr__ = kind_only


class Decided(Contract, frozen=True):
    """A reviewer's decision, with the features compared."""

    verdict: Verdict
    note: Long


class VoteView(Contract, frozen=True):
    """Who found what."""

    reviewer: str
    verdict: str
    note: str


class Wanted(Contract, frozen=True):
    """Core data asked for (R 47). `facts`: R 47(1)."""

    fields: Annotated[tuple[CoreDataField, ...], msgspec.Meta(min_length=1)]
    facts: Long
    offence: Text
    assertion: str = ""


class Release(Contract, frozen=True):
    """Core data to be released. `late`: why after the deadline."""

    kind: Literal["identified", "unidentified"]
    record: dict[CoreDataField, str]
    late: Annotated[str, msgspec.Meta(max_length=200)] = ""
    assertion: str = ""


class Refusal(Contract, frozen=True):
    """Core data are not released."""

    reason: RefusalReason
    assertion: str = ""


class RequestContent(Contract, frozen=True):
    """The personal part of a request. `record`: once released, at the requester."""

    reference: str
    offence: str
    facts: str
    fields: tuple[str, ...]
    record: dict[str, str] | None


class RecallForm(Contract, frozen=True):
    """Tell everybody who received a reference (R 64(1)(m), 51(3))."""

    reference: Text
    why: Text
    kind: RecallKind = "delete"


class Transfer(Contract, frozen=True):
    """Data are to go on to somebody else (R 60). `authorisation`: of the state that gave them."""

    recipient: Text
    authorisation: Annotated[str, msgspec.Meta(max_length=500)] = ""


class VerifyForm(Contract, frozen=True):
    """Evidence bundles to check, base64."""

    bundles: tuple[bytes, ...]

    __repr__ = kind_only


class NewPerson(Contract, frozen=True):
    """A member of staff."""

    handle: str
    name: str
    roles: tuple[PersonRole, ...]


class Invitation(Contract, frozen=True):
    """A one-time token, shown once, for 24 hours."""

    handle: str
    token: str

    __repr__ = kind_only


class PersonView(Contract, frozen=True):
    """The staff list (R 64(1)(g))."""

    handle: str
    name: str
    roles: tuple[str, ...]
    key: str | None
    fingerprint: str | None
    active: bool


class DoorView(Contract, frozen=True):
    """Something happened at the door. `time`: seconds since 1970."""

    time: int
    handle: str
    what: str


class Problem(Contract, frozen=True):
    """Why something was refused. `kind`: the error's name."""

    kind: str
    message: str
