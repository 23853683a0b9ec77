"""What the operator of a requester node asks for, and the answer: closed schemas (R 24, 33)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol.messages import Decimals, Digest, Name

Subject = Literal["suspect", "convicted", "victim", "missing", "remains"]
Aim = Literal["identify", "verify"]
AnswerStatus = Literal["candidates", "no hit", "too many candidates", "refused", "unreachable"]

# What a holder's code says to an officer. A node sends no more than the code: a text could carry data.
REFUSALS = {
    "purpose": "its policy does not serve this purpose (--purpose)",
    "threshold": "its policy asks for a higher threshold (--threshold)",
    "cap": "its policy releases fewer candidates (--max-candidates)",
    "state": "its policy does not serve this state",
    "clock": "the clocks of the two nodes differ by too much",
    "parameters": "its policy does not accept the ladder (--ladder), the preset or the missing seed",
    "warrant": "the warrant is not valid there, or too old",
    "quota": "this state's quota of the day is used up there, or one person was released to it too often",
    "capacity": "it is busy or shutting down; try again later",
}


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
    subject: Subject = "suspect"
    aim: Aim = "identify"
    cap: Annotated[int, msgspec.Meta(ge=1, le=99)] = 10
    ladder: Decimals = "0.02"
    preset: str = "n4096_q60_t20"


class HolderAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one holder's part ended. An unreachable node is never a no-hit. `reason`: why it refused or was given up."""

    status: AnswerStatus
    references: tuple[str, ...] = ()
    threshold_used: str | None = None
    reason: str | None = None


class SearchReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers by holder. `queries`: identities of the attempts (a retry is a fresh query), hexadecimal.

    `answered_in`: the attempt in which each holder answered, if it did.
    """

    request_number: str
    queries: tuple[str, ...]
    answers: dict[str, HolderAnswer]
    seconds_offline: float
    seconds_online: float
    answered_in: dict[str, str] = {}
