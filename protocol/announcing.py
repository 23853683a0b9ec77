"""Announcements of preparations and searches, the answers to them, and the ids that follow from both."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from pets.params import Parameters, check_dim, preset
from pets.prf import labelled_hash
from protocol.errors import Disagreement
from protocol.messages import DerivedId, Joined, JoinedPreparation, Prepare, Search
from protocol.roles import Parties, Role
from protocol.steps import Keyring, Send, Step, check_phase, receive, sign_phase
from protocol.terms import SYNTHETIC_MODEL

J = TypeVar("J", Joined, JoinedPreparation)


@dataclass(frozen=True)
class Plan:
    """What a preparation is made for. Raises `ParameterError` for a dimension that no template has."""

    params: Parameters
    dim: int
    model: bytes = SYNTHETIC_MODEL

    def __post_init__(self) -> None:
        check_dim(self.dim)

    @classmethod
    def announced(cls, message: Prepare) -> Plan:
        """The plan that an announcement states, checked. Raises `ParameterError`."""
        return cls(preset(message.preset), message.dim, message.model)

    def announce(self, parties: Parties, seed_digest: bytes, keyring: Keyring | None) -> Prepare:
        """The requester's announcement, with a fresh nonce, signed where there is an identity."""
        prepare = Prepare(
            requester=parties.requester,
            router=parties.router,
            holders=parties.holders,
            nonce=secrets.token_bytes(32),
            preset=self.params.preset,
            dim=self.dim,
            model=self.model,
            seed_digest=seed_digest,
        )
        if keyring is None:
            return prepare
        return msgspec.structs.replace(prepare, signature=keyring.sign(prepare_statement(prepare)))


def prepare_statement(message: Prepare) -> bytes:
    """What the signature in an announcement of a preparation is over."""
    return labelled_hash("prepare", msgspec.msgpack.encode(msgspec.structs.replace(message, signature=b"")))


def announce_digest(message: Prepare | Search) -> bytes:
    """Hash of every field of an announcement, 32 bytes."""
    return labelled_hash("announce", msgspec.msgpack.encode(message))


def parties_of(message: Prepare | Search) -> Parties:
    """The parties that an announcement names. Raises `ParameterError` for one in two roles."""
    return Parties(message.requester, message.router, message.holders)


def commit_seed(seed: bytes, owner: str) -> bytes:
    """Commitment to a secret seed of 32 random bytes, which need no salt."""
    return labelled_hash("preparation-seed", owner, seed)


def gather(announce: Prepare | Search, name: str, own: J | None, kind: type[J]) -> Step[dict[str, J]]:
    """Answer an announcement to all and collect the answers. The requester has none: its nonce is in what it announces.

    Raises `Disagreement` for an answer to another announcement, for a holder without a gallery or another with one.
    """
    parties = parties_of(announce)
    if own is not None:
        for other in parties.others(name):
            yield Send(other, own)
    joined = {} if own is None else {name: own}
    for other in parties.others(name):
        if other == parties.requester:
            continue
        message: J = yield from receive(other, kind)
        if message.announce != announce_digest(announce):
            raise Disagreement(f"{other} answered another announcement than {name} did")
        if (parties.role_of(other) is Role.HOLDER) != (message.blocks is not None and message.gallery is not None):
            raise Disagreement(f"{other} stated a gallery but is not a holder, or stated none but is one")
        joined[other] = message
    return joined


def derive_id(announce: Prepare | Search, joined: Mapping[str, Joined | JoinedPreparation]) -> bytes:
    """Hash of the announcement and of all answers, 32 bytes: it never repeats if one party is honest."""
    answers = [item for name in sorted(joined) for item in (name, msgspec.msgpack.encode(joined[name]))]
    return labelled_hash("identity", announce_digest(announce), *answers)


def end_set_up(identity: bytes, name: str, parties: Parties) -> Step[None]:
    """Router and holders compare the id that they derived, and all sign what was said. Nothing was used before.

    A holder that forgot a search (it was restored from a backup) would else take the router's old messages for new
    ones: the id has its fresh nonce in it, and the old messages do not. Requester and holder compare with `Difference`,
    requester and router with `Echo`. Raises `Disagreement`.

    Of several holders one may die while it signs. So nobody signs to the requester who waits for such a signature: no u
    leaves before all have them, and the other holders can be asked again, for they have computed nothing.
    """
    role, others, first = parties.role_of(name), parties.others(name), _signatures_before(name, parties)
    compared = {Role.ROUTER: parties.holders, Role.HOLDER: (parties.router,), Role.REQUESTER: ()}[role]
    last = (parties.requester,) if first else ()
    for other in compared:
        yield Send(other, DerivedId(identity))
    yield from sign_phase("set-up", tuple(other for other in others if other not in last))
    yield from _check_set_up(identity, first, compared)
    yield from sign_phase("set-up", last)
    yield from _check_set_up(identity, tuple(other for other in others if other not in first), compared)


def _signatures_before(name: str, parties: Parties) -> tuple[str, ...]:
    """The holders whose signatures a party must have before it signs to the requester: in a joint query, all others.

    With one holder there is nobody else whose answer it could take with it, and the requester need not wait.
    """
    if name == parties.requester or len(parties.holders) == 1:
        return ()
    return tuple(holder for holder in parties.holders if holder != name)


def _check_set_up(identity: bytes, peers: tuple[str, ...], compared: tuple[str, ...]) -> Step[None]:
    """Wait for, and check, what each of `peers` says last in the set-up: the id, if it tells one, and its signature."""
    for peer in peers:
        if peer in compared:
            check_same_id((yield from receive(peer, DerivedId)), identity, peer)
        yield from check_phase("set-up", (peer,))


def check_same_id(message: DerivedId, identity: bytes, other: str) -> None:
    """Raise `Disagreement` for another id than this party's own."""
    if message.identity != identity:
        raise Disagreement(f"{other} derived another id: it answered another nonce, or this is an old message of it")
