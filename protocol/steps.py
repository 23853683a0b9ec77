"""What a sub-protocol says of itself: steps without input or output.

A sub-protocol is a generator. It yields effects and is sent their results:

`Send(to, message)`     a message leaves; the generator goes on at once
`Receive(sender, kind)` the generator sleeps until that party's next message, which must be of that kind
`ReceiveAny(senders)`   the same for the next message of any of several parties
`ScoreRows`, `Product`   heavy work on the gallery begins, done by whoever drives the machine (several queries share one
`Work`                  pass: `protocol.work`); the generator goes on at once, with one `Work` under way at most
`Scored()`              the generator sleeps until that work is done
`Phase(name)`           what the time from here on is spent on
`HasKeyring()`           whether this party has an identity; `Sign` and `Verify` then end a phase with signatures
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pets.params import Parameters
from pets.scoring import ScoringProbe
from protocol.errors import UnexpectedMessage
from protocol.messages import AnyMessage, Signature


@dataclass(frozen=True)
class Send:
    """A message leaves."""

    to: str
    message: AnyMessage


@dataclass(frozen=True)
class Receive:
    """Wait for the next message of `sender`, which must be a `kind`."""

    sender: str
    kind: type[Any]


@dataclass(frozen=True)
class ReceiveAny:
    """Wait for the next message of any of `senders`: the sender and its message."""

    senders: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ScoreRows:
    """Begin to score blocks first…first+count of int8 rows under an encrypted mask: uint32 (count, 2, 2, n)."""

    rows: npt.NDArray[np.int8] = field(repr=False)
    probe: ScoringProbe
    first: int
    count: int


@dataclass(frozen=True, eq=False)
class Product:
    """Begin to multiply blocks first…first+count of int8 rows with public numbers: D·u modulo t, uint32 (rows,).

    `values`: u, int32 (d,), each in [0, t).
    """

    rows: npt.NDArray[np.int8] = field(repr=False)
    values: npt.NDArray[np.int32] = field(repr=False)
    params: Parameters
    first: int
    count: int


Work = ScoreRows | Product
WorkResult = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Scored:
    """Wait for the result of the last `Work`."""


@dataclass(frozen=True)
class Phase:
    """The time from here on belongs to `name`."""

    name: str


@dataclass(frozen=True)
class HasKeyring:
    """Ask whether phases are signed."""


@dataclass(frozen=True)
class Sign:
    """Sign everything sent to `to` in this session so far."""

    to: str
    phase: str


@dataclass(frozen=True)
class Verify:
    """Check a signature against everything received from `sender` in this session before it."""

    sender: str
    phase: str
    message: Signature


T = TypeVar("T")
M = TypeVar("M")
Effect = Send | Receive | ReceiveAny | Work | Scored | Phase | HasKeyring | Sign | Verify
Step = Generator[Effect, Any, T]


def receive(sender: str, kind: type[M]) -> Step[M]:
    """Wait for a message of one kind, typed."""
    message = yield Receive(sender, kind)
    assert isinstance(message, kind)
    return message


A = TypeVar("A")
B = TypeVar("B")
AHEAD = 4  # messages that may wait for one of two sub-protocols while the other is waited for


def beside(first: Step[A], second: Step[B], kinds: tuple[type[Any], ...]) -> Step[tuple[A, B]]:
    """Run two sub-protocols side by side: neither waits for the other's messages.

    `kinds`: the messages that are the first one's; all others are the second one's. Raises `UnexpectedMessage` for one
    that is due in neither.
    """
    strands: list[Step[Any]] = [first, second]
    waits: dict[int, Receive] = {}
    queues: tuple[dict[str, deque[Any]], ...] = (defaultdict(deque), defaultdict(deque))
    results: list[Any] = [None, None]
    values: dict[int, Any] = {0: None, 1: None}  # what a strand goes on with
    while True:
        for index in (0, 1):
            while index in values:
                try:
                    effect = strands[index].send(values.pop(index))
                except StopIteration as end:
                    results[index] = end.value
                    break
                if not isinstance(effect, Receive):
                    values[index] = yield effect
                    continue
                waits[index] = effect
                if queues[index][effect.sender]:
                    values[index] = _due(waits.pop(index), queues[index][effect.sender].popleft())
        if not waits:
            if any(waiting for queue in queues for waiting in queue.values()):
                raise UnexpectedMessage("a message came that nobody waits for")
            return results[0], results[1]
        sender, message = yield ReceiveAny(tuple({wait.sender: None for wait in waits.values()}))
        index = 0 if isinstance(message, kinds) else 1
        if index in waits and waits[index].sender == sender:
            values[index] = _due(waits.pop(index), message)
        elif len(queues[index][sender]) < AHEAD:
            queues[index][sender].append(message)
        else:
            raise UnexpectedMessage(f"{sender} is {AHEAD} messages ahead")


def _due(wait: Receive, message: Any) -> Any:
    if not isinstance(message, wait.kind):
        raise UnexpectedMessage(f"{wait.sender} sent {type(message).__name__} where {wait.kind.__name__} was due")
    return message


def end_phase(phase: str, peers: Sequence[str]) -> Step[None]:
    """Exchange signatures with `peers` over all that was said in this session so far. Nothing without an identity."""
    yield from sign_phase(phase, peers)
    yield from check_phase(phase, peers)


def sign_phase(phase: str, peers: Sequence[str]) -> Step[None]:
    """Sign what was sent to each of `peers` so far."""
    if (yield HasKeyring()):
        for peer in peers:
            yield Sign(peer, phase)


def check_phase(phase: str, peers: Sequence[str]) -> Step[None]:
    """Wait for, and check, the signature of each of `peers`."""
    if (yield HasKeyring()):
        for peer in peers:
            message = yield from receive(peer, Signature)
            yield Verify(peer, phase, message)


class Checker(Protocol):
    """Knows the keys of others."""

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        """Raise unless `signature` is `peer`'s over `message`."""
        ...


class Keyring(Checker, Protocol):
    """A party's identity: it signs, and knows the keys of the others."""

    def sign(self, message: bytes) -> bytes:
        """Sign."""
        ...
