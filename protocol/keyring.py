"""Set-up: nonces, the query id, the split key with commit-then-open, pair secrets (protocol/DESIGN.md, section 5).

Why commit first: whoever chooses its b last could choose it as -b_other + a·s + e and own the joint key alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pets.bits import PARTIES
from pets.key_source import KeySource
from pets.keys import JointKey, KeyShare, check_commitment, commit_public, erased_on_failure
from pets.params import Parameters
from pets.sampling import common_polynomial
from protocol.compute import Ring
from protocol.errors import Disagreement
from protocol.messages import Announce, Joined, KeyCommitment, KeyPair, PairSecret, PublicShare
from protocol.steps import Send, Step, receive
from protocol.terms import announce_digest, query_id
from protocol.wire import residue_array

Residues = npt.NDArray[np.uint32]


@dataclass
class QueryKey:
    """What requester and router hold of the query's key: an own share and the joint key."""

    share: KeyShare
    joint: JointKey

    @property
    def params(self) -> Parameters:
        """Parameters of the query."""
        return self.joint.params


def gather_nonces(
    announce: Announce, own: Joined | None, own_name: str, others: Sequence[str]
) -> Step[tuple[bytes, dict[str, Joined]]]:
    """Exchange `Joined` with all others and derive the query id. The requester's nonce is in its announcement."""
    if own is not None:
        for name in (announce.requester, *others):
            yield Send(name, own)
    joined = {} if own is None else {own_name: own}
    for name in others:
        message = yield from receive(name, Joined)
        if message.announce != announce_digest(announce):
            raise Disagreement(f"{name} joined another announcement than {own_name} did")
        if (name in announce.holders) != (message.blocks is not None and message.gallery is not None):
            raise Disagreement(f"{name} stated a gallery though it is no holder, or none though it is one")
        joined[name] = message
    return query_id(announce, joined), joined


def requester_key(announce: Announce, params: Parameters, identity: bytes, keys: KeySource) -> Step[QueryKey]:
    """The requester's side: it sees a commitment before it shows its own b, and the opening after."""
    router = announce.router
    commitment = yield from receive(router, KeyCommitment)
    if commitment.query_id != identity:
        raise Disagreement(f"{router} derived another query id")
    share = keys.sample_share(params, common_polynomial(params, identity), identity)
    with erased_on_failure(share):
        yield Send(router, PublicShare(share.public.tobytes()))
        message = yield from receive(router, PublicShare)
        opened = residue_array(message.data, (), params, "public share of the router")
        check_commitment(commitment.digest, opened, identity, router)
        return (yield from _report(announce, params, identity, share, (share.public, opened)))


def router_key(announce: Announce, params: Parameters, identity: bytes, keys: KeySource) -> Step[QueryKey]:
    """The router's side: commit, receive the requester's b, open."""
    requester = announce.requester
    share = keys.sample_share(params, common_polynomial(params, identity), identity)
    with erased_on_failure(share):
        yield Send(requester, KeyCommitment(identity, commit_public(share.public, identity, announce.router)))
        message = yield from receive(requester, PublicShare)
        theirs = residue_array(message.data, (), params, "public share of the requester")
        yield Send(requester, PublicShare(share.public.tobytes()))
        return (yield from _report(announce, params, identity, share, (theirs, share.public)))


def holder_key(announce: Announce, params: Parameters, identity: bytes) -> Step[JointKey]:
    """The holder's side: it accepts only if requester and router report the same pair."""
    pairs = []
    for name in (announce.requester, announce.router):
        message = yield from receive(name, KeyPair)
        if message.query_id != identity:
            raise Disagreement(f"{name} derived another query id")
        pairs.append(message)
    if pairs[0] != pairs[1]:
        raise Disagreement("requester and router report different key pairs")
    requesters = residue_array(pairs[0].requester, (), params, "public share of the requester")
    routers = residue_array(pairs[0].router, (), params, "public share of the router")
    return JointKey.combine(params, identity, (requesters, routers))


def join_ring(index: int, names: tuple[str, str, str], identity: bytes, threads: int) -> Step[Ring]:
    """Party j draws k_j and hands it to party j-1; it receives k_{j+1} from party j+1."""
    own = secrets.token_bytes(32)
    yield Send(names[(index - 1) % PARTIES], PairSecret(own))
    message = yield from receive(names[(index + 1) % PARTIES], PairSecret)
    return Ring(index, names, identity, own, message.secret, threads)


def _report(
    announce: Announce, params: Parameters, identity: bytes, share: KeyShare, pair: tuple[Residues, Residues]
) -> Step[QueryKey]:
    """Tell every holder both public shares."""
    for holder in announce.holders:
        yield Send(holder, KeyPair(identity, pair[0].tobytes(), pair[1].tobytes()))
    return QueryKey(share, JointKey.combine(params, identity, pair))
