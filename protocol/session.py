"""One conversation of one party: where it stands, what waits, and what is on its record."""

from __future__ import annotations

import enum
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pets.errors import LineupError
from protocol import wire
from protocol.messages import AnyMessage
from protocol.steps import Receive, ReceiveAny, Scored, Step, Work

WHOLE = "*"  # the session of a preparation or query as a whole; all others are named after a holder


@dataclass(frozen=True)
class Event:
    """One frame of `size` bytes, sent or consumed. Transcript logs keep its digests, and the message if it is harmless.

    `content`: hash of the message, whoever it is sent to. `digest`: hash of its place and of `content`.
    """

    session: str
    direction: Literal["sent", "received"]
    peer: str
    sequence: int
    message: AnyMessage
    content: bytes
    digest: bytes
    size: int


class Arrived(NamedTuple):
    """A message on the record: its envelope, the hash of its content, the size of its frame in bytes."""

    envelope: wire.Envelope
    content: bytes
    size: int


class State(enum.Enum):
    """Where a session stands."""

    IDLE = "idle"
    RUNNING = "running"
    FINISHED = "finished"
    REFUSED = "refused"
    FROZEN = "frozen"
    ABORTED = "aborted"

    @property
    def over(self) -> bool:
        """No further message is accepted."""
        return self is not State.RUNNING and self is not State.IDLE


@dataclass
class Session:
    """One conversation of one party. `peers`: who may speak in it."""

    name: str
    peers: tuple[str, ...]
    state: State = State.IDLE
    failure: LineupError | None = None
    phase: str = "offline"
    task: Step[Any] | None = None
    finish: Callable[[Any], None] | None = None
    waiting: Receive | ReceiveAny | Scored | None = None
    scoring: Work | None = None
    scored: npt.NDArray[np.uint32] | None = field(
        default=None, repr=False
    )  # the result of `scoring`, until it is asked for
    inbox: dict[str, deque[Arrived]] = field(default_factory=lambda: defaultdict(deque), repr=False)
    received: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    chains: dict[tuple[str, str], bytes] = field(default_factory=lambda: defaultdict(lambda: bytes(32)))
    unchecked: Arrived | None = None

    @property
    def whole(self) -> bool:
        """Whether it is about the preparation or query as a whole, and not about one holder."""
        return self.name == WHOLE
