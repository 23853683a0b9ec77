"""What the casework raises.

::

    CaseworkError
    ├── CaseRefused                 refused input (also an `InputError`)
    │   ├── UnknownThing            no such person, query, candidate or request, or no longer
    │   ├── Unsuitable              the probe's quality is below the policy's (R 38, 22(2))
    │   ├── WrongSchema             core data with a field that its schema does not have
    │   └── NoReason                personal data looked at, or a clock stopped, without a reason
    ├── NotYourRole                 the person's roles do not allow this
    ├── FourEyes                    a second person is needed, and this is the first one
    ├── NotYetLocked                another's word, or a candidate, before the review is over
    ├── AlreadyLocked               a decision is made once
    ├── NotConfirmed                core data without a confirmed match (R 47(1))
    ├── DeadlinePassed              too late, or too late without saying why
    ├── OnwardTransferRefused       nothing goes on to others without authorisation (R 60)
    ├── PurposeRefused              a use that R 50(2) does not allow
    ├── BadAssertion                a signature that does not stand for this decision
    └── StatementRefused            what another node states does not hold

No message holds a reference, a name, a fact or core data.
"""

from __future__ import annotations

from nodes.casework.refusals import REFUSALS, THINGS
from pets.errors import InputError, LineupError


class CaseworkError(LineupError):
    """Base of everything the casework raises. `key`: of its words in `REFUSALS`; `values`: what fills them."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(REFUSALS[key].format(**values))
        self.key, self.values = key, values


class CaseRefused(CaseworkError, InputError):
    """Refused input."""


class UnknownThing(CaseRefused):
    """There is no such thing, or no longer."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__("unknown", kind=THINGS[kind], name=name)
        self.kind = kind


class Unsuitable(CaseRefused):
    """The probe is unsuitable. `scores`: the components below the policy's limit."""

    def __init__(self, scores: dict[str, int], limit: int) -> None:
        told = ", ".join(f"{name} {score}" for name, score in scores.items())
        super().__init__("unsuitable", scores=told, limit=limit)
        self.scores = scores
        self.limit = limit


class WrongSchema(CaseRefused):
    """Core data that does not fit its closed schema (R 47(4)-(5))."""


class NoReason(CaseRefused):
    """A reason must be given."""


class NotYourRole(CaseworkError):
    """The person's roles do not allow this."""


class FourEyes(CaseworkError):
    """A second person must do this (AIA 14(5))."""


class NotYetLocked(CaseworkError):
    """Another's word, or to others than reviewers a candidate, is not shown before the review is over."""


class AlreadyLocked(CaseworkError):
    """A decision is made once."""


class NotConfirmed(CaseworkError):
    """Core data are asked for after a confirmed match only (R 47(1))."""


class DeadlinePassed(CaseworkError):
    """The time for it is over."""


class OnwardTransferRefused(CaseworkError):
    """Default deny (R 60)."""


class PurposeRefused(CaseworkError):
    """A use outside R 50(2)."""


class BadAssertion(CaseworkError):
    """A signature that does not stand for this decision."""


class StatementRefused(CaseworkError):
    """Another node's statement does not hold. `code`: one of `protocol.messages.ABORT_CODES`, told to the peer.

    `message`: for the log and the other node's operator; no person of this node is shown it.
    """

    def __init__(self, message: str, code: str = "disagreement") -> None:
        super().__init__("statement", message=message)
        self.code = code
