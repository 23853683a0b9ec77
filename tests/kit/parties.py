"""All parties of one query on an in-memory network, driven step by step: what tests of the protocol start from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pets import residues
from pets.errors import LineupError
from pets.params import Parameters
from protocol import wire
from protocol.engine import LocalQuery, Outcome, PlainEngine
from protocol.gallery import Gallery
from protocol.holder import Holder
from protocol.memory import MemoryNetwork
from protocol.messages import AnyMessage, Message, Release
from protocol.requester import Requester
from protocol.router import Router
from protocol.session import State
from protocol.terms import Terms
from tests.kit.ring import RING

REQUESTER, ROUTER, HOLDER = "REQUESTER", "ROUTER", "HOLDER"

Templates = npt.NDArray[np.int8]


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


def enrol(templates: Templates, params: Parameters = RING) -> Gallery:
    """A gallery whose reference numbers name the rows."""
    return Gallery.enrol(templates, params, tuple(f"row-{row}" for row in range(len(templates))))


class Trio:
    """A requester, a router and one holder for each gallery (named HOLDER, or HOLDER-0 …), and what travelled."""

    def __init__(
        self,
        *galleries: Gallery,
        threshold: str = "0.5",
        cap: int = 10,
        ladder: str = "0.02",
        attack: Attack | None = None,
    ) -> None:
        encoded = galleries[0].encoded
        self.terms = Terms(Decimal(threshold), encoded.dim, encoded.params, cap, Decimal(ladder))
        names = [HOLDER] if len(galleries) == 1 else [f"{HOLDER}-{i}" for i in range(len(galleries))]
        self.galleries = dict(zip(names, galleries, strict=True))
        self.attack = attack
        self.deliveries: list[Delivery] = []
        self.query = LocalQuery.start(REQUESTER, ROUTER, self.galleries, self.terms)
        self.network = MemoryNetwork(self.query.machines, tap=self._tap)

    def offline(self) -> Trio:
        """Everything that needs no probe."""
        self.network.run()
        return self

    def online(self, probe: npt.NDArray[Any], *, unchecked: bool = False) -> Trio:
        """Submit a probe and search; `unchecked` goes past the requester's own look at it."""
        (self.requester._submit if unchecked else self.requester.submit)(probe)
        self.network.run()
        return self

    def search(self, probe: npt.NDArray[Any], *, unchecked: bool = False) -> Trio:
        """Offline, then online."""
        return self.offline().online(probe, unchecked=unchecked)

    @property
    def requester(self) -> Requester:
        return self.query.requester

    @property
    def router(self) -> Router:
        return self.query.router

    @property
    def holder(self) -> Holder:
        return next(iter(self.query.holders.values()))

    @property
    def failures(self) -> list[LineupError]:
        return self.network.failures

    @property
    def states(self) -> dict[tuple[str, str], State]:
        """(party, session) -> state, of the sessions about one holder."""
        return {(m.name, s.name): s.state for m in self.query.machines for s in m.sessions.values() if s.name}

    def outcome(self, holder: str = HOLDER) -> Outcome:
        """How the search ended, as the holder knows it; the requester must have been told the same."""
        assert not self.failures, self.failures
        result, answer = self.query.holders[holder].result, self.requester.answers[holder]
        assert result is not None
        assert (answer.status, answer.threshold_used) == (result.status, result.threshold_used)
        gallery = self.galleries[holder]
        assert answer.references == tuple(gallery.reference(hit.row) for hit in result.hits)
        return Outcome(result.status, result.threshold_used, result.hits)

    def expected(self, probe: Templates, holder: str = HOLDER) -> Outcome:
        """What the plaintext twin finds."""
        return PlainEngine().search(self.galleries[holder], probe[None], self.terms)[0]

    def sent(self, kind: type[Message], sender: str | None = None, receiver: str | None = None) -> list[Delivery]:
        """All frames of a kind that left, whether or not an attack let them arrive."""
        return [delivery for delivery in self.deliveries if delivery.of(kind, sender, receiver)]

    def assert_stopped(self, *errors: type[LineupError], state: State | None = None) -> None:
        """Some party raised one of `errors`; nothing was released; every party is over; key shares are erased.

        `state`: what the holder's session must say.
        """
        assert any(isinstance(failure, errors) for failure in self.failures), self.failures
        assert not self.sent(Release)
        assert not self.requester.answers
        for name, holder in self.query.holders.items():
            assert holder.result is None
            assert state is None or holder.sessions[name].state is state, self.states
        assert set(self.states.values()) <= {State.ABORTED, State.FROZEN}, self.states
        for machine in (self.requester, self.router):
            assert key_erased(machine)

    def _tap(self, sender: str, receiver: str, frame: bytes) -> Iterable[bytes]:
        delivery = Delivery(sender, receiver, frame)
        self.deliveries.append(delivery)
        replaced = None if self.attack is None else self.attack(delivery)
        return (frame,) if replaced is None else replaced


def key_erased(machine: Requester | Router) -> bool:
    """Whether nothing is left of the machine's share of the key."""
    return machine._key is None or not machine._key.share.secret.any()


def role(name: str) -> str:
    """The role that a name of `Trio` stands for."""
    return name.split("-")[0].lower()


def total_of_secrets(trio: Trio) -> npt.NDArray[np.uint32]:
    """s_Q + s_R in NTT form, which no party ever holds; take it between offline and online."""
    assert trio.requester._key is not None
    assert trio.router._key is not None
    both = trio.requester._key.share.secret, trio.router._key.share.secret
    return residues.add(*both, trio.terms.params)
