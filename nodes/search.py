"""What the operator of a requester node asks for, and the answer: closed schemas (R 24, 33)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol.messages import Decimals, Digest, Name

AnswerStatus = Literal["candidates", "no hit", "too many candidates", "refused", "unreachable"]


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
    subject: Literal["suspect", "convicted", "victim", "missing", "remains"] = "suspect"
    aim: Literal["identify", "verify"] = "identify"
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
    """Answers by holder. `queries`: identities of the attempts (a retry is a fresh query), hexadecimal."""

    request_number: str
    queries: tuple[str, ...]
    answers: dict[str, HolderAnswer]
    seconds_offline: float
    seconds_online: float
