"""What can go wrong between parties.

::

    ProtocolError                   (a pets.errors.LineupError)
    ├── BadFrame                    the bytes are not a message of this version
    │   ├── MalformedFrame          truncated, unknown fields, wrong types
    │   ├── UnknownVersion
    │   └── FrameTooLarge
    ├── OutOfTurn                   a well-formed message at the wrong moment
    │   ├── DuplicateMessage        a sequence number that was already used
    │   ├── MissingMessage          a sequence number was skipped
    │   ├── UnexpectedMessage       another type than the protocol's next one
    │   └── WrongAddress            another query, receiver, session or sender than this party serves
    ├── WrongSize                   an array of another length than parameters, rows and rung dictate
    ├── Disagreement                two parties were told different things
    │   └── FalseRefusal            a check refused what the requester knows to be good: somebody lies
    ├── ProbeRefused                admission said no
    │   └── MaskRefused             the form of an encrypted mask was refused
    ├── PreparationSpent            a preparation was to be used a second time
    ├── ConfirmationFailed          an answer does not fit the confirmation block: the query is frozen
    ├── QueryRefused                this party's policy does not serve the query, and why
    └── PeerAborted                 another party stopped and said why
"""

from __future__ import annotations

from pets.errors import LineupError


class ProtocolError(LineupError):
    """Base of everything that stops a query between parties."""


class BadFrame(ProtocolError):
    """Bytes that are not a message of this version."""


class MalformedFrame(BadFrame):
    """Truncated bytes, unknown fields or wrong types."""


class UnknownVersion(BadFrame):
    """A version of the wire format that this software does not speak."""


class FrameTooLarge(BadFrame):
    """More bytes than the largest message of its type may have."""


class OutOfTurn(ProtocolError):
    """A well-formed message at the wrong moment."""


class DuplicateMessage(OutOfTurn):
    """A sequence number that was already used."""


class MissingMessage(OutOfTurn):
    """A sequence number was skipped."""


class UnexpectedMessage(OutOfTurn):
    """Another type of message than the protocol's next one."""


class WrongAddress(OutOfTurn):
    """Another query, receiver, session or sender than this party serves."""


class WrongSize(ProtocolError):
    """An array of another length than parameters, rows and rung dictate."""


class Disagreement(ProtocolError):
    """Two parties were told different things, or terms that cannot be accepted."""


class ProbeRefused(ProtocolError):
    """Admission said no: the probe is not a quantised unit vector."""


class FalseRefusal(Disagreement):
    """A mask or probe that this requester had checked was refused in `holder`'s ring: that holder or the router lied.

    Every ring stops.
    """

    def __init__(self, holder: str, router: str, what: str = "probe") -> None:
        super().__init__(f"a checked {what} was refused in the ring of {holder}: {holder} or {router} lied")
        self.holder = holder


class MaskRefused(ProbeRefused):
    """The encrypted mask is not constant, or has noise stuffed into it."""


class PreparationSpent(ProtocolError):
    """A preparation was to be used a second time."""


class ConfirmationFailed(ProtocolError):
    """An answer does not fit the confirmation block. The query is frozen and nothing is released."""


class QueryRefused(ProtocolError):
    """This party does not serve the query, or no longer does. `code`: one of `protocol.messages.ABORT_CODES`.

    `by`: the party whose silence made it stop; empty if it refuses by itself.
    """

    def __init__(self, code: str, message: str, by: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.by = by


class PeerAborted(ProtocolError):
    """Another party stopped the query. `peer`: who; `code`: why, one of `protocol.messages.ABORT_CODES`.

    `by`: whom it says that it was for: itself, or a party that refused, was silent or at fault before.
    """

    def __init__(self, peer: str, code: str, by: str = "") -> None:
        self.by = by or peer
        super().__init__(f"{peer} stopped the query: {code}" + (f", for {self.by}" if self.by != peer else ""))
        self.peer = peer
        self.code = code
