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
    ├── NotYetLocked                another's word before one's own is locked
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

from pets.errors import InputError, LineupError


class CaseworkError(LineupError):
    """Base of everything the casework raises."""


class CaseRefused(CaseworkError, InputError):
    """Refused input."""


class UnknownThing(CaseRefused):
    """There is no such thing, or no longer."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"there is no {kind} {name!r:.80}, or no longer")
        self.kind = kind


class Unsuitable(CaseRefused):
    """The probe is unsuitable. `scores`: the components below the policy's limit."""

    def __init__(self, scores: dict[str, int], limit: int) -> None:
        told = ", ".join(f"{name} {score}" for name, score in scores.items())
        super().__init__(f"unsuitable image: {told}; the limit is {limit} of 100 (R 38)")
        self.scores = scores
        self.limit = limit


class WrongSchema(CaseRefused):
    """Core data that does not fit its closed schema (R 47(4)-(5))."""


class NoReason(CaseRefused):
    """A reason must be given."""


class NotYourRole(CaseworkError):
    """The person's roles do not allow this."""

    def __init__(self, handle: str, wanted: str) -> None:
        super().__init__(f"{handle} may not do this: it needs the role {wanted}")
        self.wanted = wanted


class FourEyes(CaseworkError):
    """A second person must do this (AIA 14(5))."""


class NotYetLocked(CaseworkError):
    """Another's word is not shown before one's own decision is locked."""


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
    """Another node's statement does not hold. `code`: one of `protocol.messages.ABORT_CODES`, told to the peer."""

    def __init__(self, message: str, code: str = "disagreement") -> None:
        super().__init__(message)
        self.code = code
