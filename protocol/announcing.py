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


def answer(announce: Prepare | Search, name: str, own: Joined | JoinedPreparation) -> Step[None]:
    """Answer an announcement to all."""
    for other in parties_of(announce).others(name):
        yield Send(other, own)


def gather(announce: Prepare | Search, name: str, own: J | None, kind: type[J]) -> Step[dict[str, J]]:
    """Collect the answers of all, and `own`. The requester has none: its nonce is in what it announces.

    Raises `Disagreement` for an answer to another announcement, for a holder without a gallery or another with one.
    """
    parties = parties_of(announce)
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


def sign_set_up(name: str, parties: Parties) -> Step[None]:
    """Router and holders sign the set-up to one another, as soon as they have said all of it that is for the other."""
    yield from sign_phase("set-up", tuple(other for other in parties.others(name) if other != parties.requester))


def end_set_up(identity: bytes, name: str, parties: Parties) -> Step[None]:
    """Router and holders tell the requester the id that they derived. All wait for what the others sign.

    Raises `Disagreement` for another id: the requester stops before anything of its own was used.

    Of several holders one may die while it signs. So nobody signs to the requester who waits for such a signature: no u
    leaves before all have them, and the other holders can be asked again, for they have computed nothing.
    """
    requester, others = parties.requester, parties.others(name)
    if name == requester:
        yield from sign_phase("set-up", others)
        for other in others:
            check_same_id((yield from receive(other, DerivedId)), identity, other)
            yield from check_phase("set-up", (other,))
        return
    first = _signatures_before(name, parties)
    yield from check_phase("set-up", first)
    yield Send(requester, DerivedId(identity))
    yield from sign_phase("set-up", (requester,))
    yield from check_phase("set-up", tuple(other for other in others if other not in first))


def _signatures_before(name: str, parties: Parties) -> tuple[str, ...]:
    """The holders whose signatures router and holders must have before they sign to the requester: all others."""
    return tuple(holder for holder in parties.holders if holder != name)


def compare_ids(identity: bytes, other: str) -> Step[None]:
    """A ring begins: router and holder compare, and sign, the id that they derived. Nothing was used before.

    A holder that forgot a search (it was restored from a backup) would else take the router's old messages for new
    ones: the id has its fresh nonce in it, and the old messages do not. Requester and holder compare with `Difference`,
    requester and router with `Echo`: what each told the requester above says nothing where the requester lies. Raises
    `Disagreement`.
    """
    yield Send(other, DerivedId(identity))
    yield from sign_phase("id", (other,))
    check_same_id((yield from receive(other, DerivedId)), identity, other)
    yield from check_phase("id", (other,))


def check_same_id(message: DerivedId, identity: bytes, other: str) -> None:
    """Raise `Disagreement` for another id than this party's own."""
    if message.identity != identity:
        raise Disagreement(f"{other} derived another id: it answered another nonce, or this is an old message of it")
