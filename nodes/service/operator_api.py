"""What the operator of a requester node asks for, and the answer: closed schemas (R 24, 33)."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

import msgspec

from nodes.casework.contents import Aim, Depicted
from protocol.messages import Decimals, Digest, Name
from protocol.release import Released
from protocol.shown import kind_only

AnswerStatus = Literal["candidates", "no hit", "too many candidates", "refused", "unreachable"]

# What a code says to an officer: what happened; who can do what about it; whether asking again helps. A node sends no
# more than the code and a name: a text could carry data.
REFUSALS = {
    "purpose": "its policy does not serve this purpose; choose another (--purpose); the same again does not help",
    "threshold": "its policy asks for a higher threshold (--threshold); asking again the same does not help",
    "cap": "its policy releases fewer candidates than asked for; ask again with fewer (--max-candidates)",
    "state": "its policy does not serve this state, or your node is not among its peers; its operator can change both; "
    "asking again does not help",
    "clock": "the clocks of the two nodes differ by too much; the operators compare them; then ask again",
    "parameters": "its policy does not accept the ladder (--ladder) or the preset; asking again the same does not help",
    "warrant": "the warrant is not valid there, too old or used before; ask anew, with a new warrant",
    "quota": "this state's searches or preparations of the day are used up there, or one person was released to it too "
    "often; `lineup node status` shows until when; asking again helps then, or tomorrow",
    "capacity": "it is busy, shutting down, or as many preparations wait there as may; ask again in some minutes",
    "replay": "it answered this very query before, or lost its database and cannot know; ask anew in some minutes; if "
    "it stays, your operator asks its operator",
    "unprepared": "it has no part of what was prepared any more, perhaps after a restart; ask again",
    "timeout": "it did not answer in time; your operator and its operator look at the line; asking again may help",
    "internal": "it failed at something of its own, such as a full disk; its operator finds it in its log; "
    "ask again when that is mended",
    "peer": "it stopped the query because another node did; asking again may help",
    "disagreement": "it was told something else than others, so a node is faulty or lies; tell your operator, "
    "who exports the evidence; asking again is no remedy",
    "confirmation": "a confirmation did not fit, so a node is faulty or lied, and the query is frozen; tell your "
    "operator and the supervisor; do not ask again before they know why",
    "false-refusal": "your node had checked the probe, so that holder or the router lied to read from it; the query "
    "was stopped everywhere; tell your operator and the supervisor; do not ask again before they know why",
    "version": "it runs another version; the operators bring both to one; asking again does not help",
    "crypto": "a signature or a seal did not hold; the operators compare the keys' fingerprints; "
    "asking again does not help",
    "bad-frame": "it could not read a message; the operators compare versions; asking again may help",
    "out-of-turn": "a message came at the wrong moment, perhaps after a restart; ask again, "
    "and tell your operator if it stays",
    "wrong-size": "a message had another length than agreed; tell your operator; asking again does not help",
}
TOO_MANY = (
    "more people than the cap look like the probe, and nobody is named; ask with a better photo, a higher threshold "
    "(--threshold) or a higher cap (--max-candidates); the same again gives the same"
)


BODY_LIMIT = 65536  # of a request, in bytes
STANDING = "/v1/standing"


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a holder tells a peer of itself alone: the first day after its limit of releases; None if it is served."""

    refused_until: date | None


class SearchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A joint query. `template`: int8 (dim,), quantised. `justification` and persons stay at this node."""

    template: bytes
    model: Digest
    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    threshold: Decimals
    case: str
    offence: str
    maximum_penalty_years: float
    officer: str
    approver: str
    purpose: str = "INVESTIGATION"
    subject: Depicted = "suspect"
    aim: Aim = "identify"
    cap: Annotated[int, msgspec.Meta(ge=1, le=99)] = 10
    ladder: Decimals = "0.02"
    preset: str = "n4096_q60_t20"

    __repr__ = kind_only


class HolderAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one holder's part ended. An unreachable node is never a no-hit.

    `hits`: confirmed, by rank. `reason`: why it was refused or given up, a key of `REFUSALS`. `by`: the node that
    refused, failed or was silent: holder, router, or this node itself; None where two may have lied.
    """

    status: AnswerStatus
    hits: tuple[Released, ...] = ()
    threshold_used: str | None = None
    reason: str | None = None
    by: str | None = None

    @property
    def references(self) -> tuple[str, ...]:
        """Of its hits, by rank."""
        return tuple(hit.reference for hit in self.hits)


class SearchReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers by holder. `queries`: IDs of the attempts (a retry is a fresh query), hexadecimal.

    `answered_in`: the attempt in which each holder answered, if it did. `prepared`: whether a preparation that waited
    was used, or one had to be made now, which took `seconds_preparing` of `seconds_offline`.
    """

    request_number: str
    queries: tuple[str, ...]
    answers: dict[str, HolderAnswer]
    seconds_offline: float
    seconds_online: float
    answered_in: dict[str, str] = {}
    prepared: Literal["waiting", "now"] = "waiting"
    seconds_preparing: float = 0.0


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a search is. `rows`: of all holders, scored for a preparation so far, `of` how many; 0: not known yet.

    Where several are prepared, `made` of `count` are done, and rows are those of all. `by_holder`: rows, of how many.
    """

    phase: Literal["preparing", "searching"]
    rows: int = 0
    of: int = 0
    made: int = 0
    count: int = 1
    by_holder: dict[str, tuple[int, int]] = {}


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one holder's part of a search is. `rows` of `of` are scored for its preparation; 0: not known yet.

    `prepared`: whether a preparation that waited is used, or one was made now; None before either is known. `answer`:
    how it ended; None while it is under way, or where it has answered and others of the same attempt have not.
    """

    phase: Literal["preparing", "searching", "over"]
    rows: int = 0
    of: int = 0
    prepared: Literal["waiting", "now"] | None = None
    answer: AnswerStatus | None = None


class SearchUnderWay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search at the requester. `stages`: by holder; one that is not named was not begun."""

    request_number: str
    stages: dict[str, Stage]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One line of an answer that takes long: how far it is; in the end a report, or a `code` that refuses."""

    progress: Progress | None = None
    report: msgspec.Raw = msgspec.Raw()  # empty: not yet
    code: str | None = None
    message: str | None = None


MAX_PREPARED = 1000


class PrepareRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Preparations to make before there is a probe. `dim`, `model`: of the probes to come."""

    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PREPARED)]
    dim: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    model: Digest
    preset: str = "n4096_q60_t20"


class PrepareReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many were made, of how many, in how many seconds. `refused`: by holder, why it is in none, or not in all."""

    made: int
    asked: int
    seconds: float
    refused: dict[str, HolderAnswer] = {}


class WaitingTold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A preparation that waits. `preparation`: the number of its evidence. `made`, `expires`: UTC, ISO 8601."""

    preparation: str
    requester: str
    holders: tuple[str, ...]
    made: str
    expires: str
    age_seconds: float
    size_bytes: int
    on_disk: bool


class Supplies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What waits at a node, and what happened since it was started.

    `per_day`: how many it could make in a day at the pace of the last ones, None before the first. `quota_per_day`:
    searches that its policy grants all its states together; None at a requester. `limit_per_day`: preparations that
    it makes with one state in a UTC day; None at a requester. `today`: by state, how many it began.
    """

    waiting: tuple[WaitingTold, ...]
    being_made: int
    made: int
    spent: int
    expired: int
    dropped: int
    refused: int
    per_day: int | None
    quota_per_day: int | None
    limit_per_day: int | None = None
    today: dict[str, int] = {}


def explained(holder: str, answer: HolderAnswer) -> str:
    """What an officer reads of a refusal: who refused, why, who can do what about it, whether asking again helps."""
    reason = answer.reason or "internal"
    who = f", by {answer.by}" if answer.by else ""
    if answer.by not in (None, holder):
        who += f", not {holder}"
    return f"{reason}{who}: {REFUSALS.get(reason, REFUSALS['internal'])}"
