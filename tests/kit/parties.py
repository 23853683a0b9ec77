"""Names of parties, and frames on their way between them: what attacks look at and change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from protocol import wire
from protocol.messages import AnyMessage, Message

REQUESTER, ROUTER, HOLDER = "REQUESTER", "ROUTER", "HOLDER"


@dataclass(frozen=True)
class Delivery:
    """One frame on its way, before any attack on it."""

    sender: str
    receiver: str
    frame: bytes

    @property
    def envelope(self) -> wire.Envelope:
        return wire.decode(self.frame)

    @property
    def message(self) -> AnyMessage:
        return self.envelope.message

    def of(self, kind: type[Message], sender: str | None = None, receiver: str | None = None) -> bool:
        """Whether it carries a `kind`, from and to whom."""
        return isinstance(self.message, kind) and sender in (None, self.sender) and receiver in (None, self.receiver)


Attack = Callable[[Delivery], Iterable[bytes] | None]
"""What arrives instead of a frame; None lets it pass."""


def forge(frame: bytes, **changes: Any) -> bytes:
    """The frame with changed fields: those of the envelope by their name, all others are the message's."""
    envelope = wire.decode(frame)
    outer = {name: changes.pop(name) for name in list(changes) if name in wire.Envelope.__struct_fields__}
    if changes:
        outer["message"] = msgspec.structs.replace(envelope.message, **changes)
    return wire.encode(msgspec.structs.replace(envelope, **outer))


def role(name: str) -> str:
    """The role that a name of `Trio` stands for."""
    return name.split("-")[0].lower()
