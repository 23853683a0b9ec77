"""Three parties compute on shared bits: who sends what for inputs and AND gates (protocol/DESIGN.md, section 5).

The ring is holder (0), requester (1), router (2). Key k_j is known to parties j-1 and j; everything is sent to the
previous party.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np

from pets.bits import PARTIES, Bits, Planes, held_bits, party_bits
from pets.circuits import Circuit, T
from pets.errors import StreamReused
from pets.prf import Keystream, Label, derive_key
from pets.replicated import Masks, and_local, in_party_order, input_of_following, input_of_previous, share_input
from protocol.errors import Disagreement
from protocol.messages import (
    AdmissionBit,
    AdmissionGates,
    AdmissionInput,
    CapBit,
    FormBit,
    Gates,
    InputShare,
    PairSecret,
)
from protocol.roles import Seat
from protocol.steps import Send, Step, check_phase, receive, sign_phase
from protocol.wire import array, as_bytes

NAMES = {AdmissionBit: "admission bit", CapBit: "cap bit", FormBit: "form bit"}


def other(seat: Seat) -> Seat:
    """The other key owner: the router to the requester and the requester to the router."""
    return Seat.ROUTER if seat is Seat.REQUESTER else Seat.REQUESTER


@dataclass
class Ring:
    """One party's seat in the ring of one session. `secrets_`: k_seat and k_{seat+1}."""

    seat: Seat
    names: tuple[str, str, str]
    query_id: bytes
    own_secret: bytes = field(repr=False)
    following_secret: bytes = field(repr=False)
    threads: int = 1
    _used: set[tuple[Label, ...]] = field(default_factory=set)

    @property
    def previous(self) -> str:
        """The party everything is sent to."""
        return self.names[(self.seat - 1) % PARTIES]

    @property
    def following(self) -> str:
        """The party everything comes from."""
        return self.names[(self.seat + 1) % PARTIES]

    def masks(self, *purpose: Label) -> Masks:
        """Fresh streams for one purpose: HKDF(pair secret, query id, holder, purpose…).

        Raises `StreamReused` when the same purpose is asked for twice.
        """
        if purpose in self._used:
            raise StreamReused(f"masks for {purpose} were already drawn in this query")
        self._used.add(purpose)
        own, following = (
            Keystream(derive_key(secret, "masks", self.query_id, self.names[Seat.HOLDER], *purpose))
            for secret in (self.own_secret, self.following_secret)
        )
        return Masks(self.seat, own, following)


def join_ring(seat: Seat, names: tuple[str, str, str], preparation_id: bytes, threads: int) -> Step[Ring]:
    """Party j draws k_j and hands it to party j-1; it receives k_{j+1} from party j+1."""
    own = secrets.token_bytes(32)
    yield Send(names[(seat - 1) % PARTIES], PairSecret(own))
    message = yield from receive(names[(seat + 1) % PARTIES], PairSecret)
    return Ring(seat, names, preparation_id, own, message.secret, threads)


def masked_bits(ring: Ring, first: Planes, second: Planes, third: Planes) -> Bits:
    """Shared bits whose three components are given, x_0, x_1, x_2: a party needs only to know its own two of them."""
    components = (first, second, third)
    return party_bits(ring.seat, components[ring.seat], components[(ring.seat + 1) % PARTIES])


def own_bits(ring: Ring, parts: Planes) -> Bits:
    """Shared bits of which this party holds two components, uint64 (2, planes, words), in its order. Not copied."""
    return held_bits(ring.seat, parts)


def share_inputs(
    ring: Ring, masks: Masks, value: Planes, kind: type[InputShare] | type[AdmissionInput] = InputShare
) -> Step[tuple[Bits, Bits, Bits]]:
    """Every party shares one value of the same shape, uint64 (planes, words). Returns them in ring order."""
    own = share_input(masks, value)
    yield Send(ring.previous, kind(as_bytes(own.parts[0])))
    previous = input_of_previous(masks, own.shape)
    message = yield from receive(ring.following, kind)
    received = array(message.data, own.shape, np.uint64, "input share")
    return in_party_order(ring.seat, own, previous, input_of_following(masks, received))


def evaluate(
    ring: Ring, masks: Masks, circuit: Circuit[T], kind: type[Gates] | type[AdmissionGates] = Gates
) -> Step[T]:
    """Run a circuit on shares: one message to the previous party for each round."""
    try:
        x, y = next(circuit)
        while True:
            z = and_local(masks, x, y, ring.threads)
            yield Send(ring.previous, kind(as_bytes(z.parts[0])))
            message = yield from receive(ring.following, kind)
            z.parts[1] = array(message.data, z.shape, np.uint64, "AND gates")
            x, y = circuit.send(z)
    except StopIteration as end:
        result: T = end.value
        return result


def open_bit(
    ring: Ring, bit: Bits, kind: type[AdmissionBit] | type[CapBit] | type[FormBit], phase: str | None = None
) -> Step[bool]:
    """Lane 0 of a bit, to everybody. Each party lacks one component, which both others hold and must agree on.

    The other lanes hold what nobody may see and never leave. `phase`: what ends with the bit. Each party signs with
    its component, all that it said until then, and goes on once it has both others' signatures. Raises `Disagreement`
    where the two others do not agree.
    """
    own = [bool(part[0, 0] & np.uint64(1)) for part in bit.parts]
    # Party i holds x_i, x_{i+1}. Its predecessor lacks x_{i+1}, its successor lacks x_i.
    yield Send(ring.previous, kind(own[1]))
    yield Send(ring.following, kind(own[0]))
    if phase is not None:
        yield from sign_phase(phase, (ring.previous, ring.following))
    from_previous = yield from receive(ring.previous, kind)
    from_following = yield from receive(ring.following, kind)
    if from_previous.component != from_following.component:
        raise Disagreement(f"the two other parties sent different components of the {NAMES[kind]}")
    if phase is not None:
        yield from check_phase(phase, (ring.previous, ring.following))
    return own[0] ^ own[1] ^ from_previous.component
