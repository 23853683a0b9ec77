"""What a requester's first message must pass before a node does any work for it, and a release before it leaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from datetime import date, datetime, timezone

import msgspec

from nodes.config.schema import Role
from nodes.evidence.keeper import Keeper
from nodes.identity.identity import NodeIdentity, NodeNotary, Peer
from nodes.query.metrics import Metrics
from nodes.query.policy import Policy, PolicyRefused
from nodes.store import GalleryStore, QueryReplayed, Status, StoreUnavailable
from pets.prf import labelled_hash
from protocol import wire
from protocol.channel import ReceivingChannel
from protocol.errors import OutOfTurn, QueryRefused, UnexpectedMessage
from protocol.messages import Announce
from protocol.terms import announce_digest, parse_decimal
from protocol.warrant import check_announcement, warrant_claim

log = logging.getLogger("lineup.gate")

WARRANT_STEP = "warrant"
REFERENCE_STEP = "reference"


def reference_claim(query: bytes) -> bytes:
    """What a node claims of a query's reference, under which it keeps evidence."""
    return labelled_hash("query-reference", query)


class Gate:
    """`store`: claims, quotas and counts of releases; `keeper`: evidence of queries answered before."""

    def __init__(
        self,
        identity: NodeIdentity,
        peers: Mapping[str, Peer],
        store: GalleryStore,
        keeper: Keeper,
        notary: NodeNotary,
        metrics: Metrics,
    ) -> None:
        self._name, self._metrics = identity.config.name, metrics
        self._identity, self._peers, self._store, self._keeper, self._notary = identity, peers, store, keeper, notary
        self._policy = Policy(identity.config.policy, store.take_quota, store.take_releases)

    def serve(self, states: tuple[str, ...]) -> None:
        """From now on these states may ask; the rest of the policy stays as it was at the start."""
        self._policy.config = msgspec.structs.replace(self._policy.config, states=states)

    def announcement(self, peer: str, query: bytes, units: list[bytes]) -> Announce:
        """The announcement inside a requester's first units. Raises `ProtocolError`, `QueryRefused`, `CryptoError`."""
        if len(units) < 2:
            raise OutOfTurn(f"{peer} opens a query without an announcement")
        channel = ReceivingChannel(query, peer, self._name, units[0], self._identity.sealing, self._notary)
        envelope = wire.decode(channel.open(units[1]))
        message = envelope.message
        # Exactly the place where the machine will look for it: otherwise another announcement could stand there.
        if (envelope.query, envelope.session, envelope.sender, envelope.receiver, envelope.sequence) != (
            query, "", peer, self._name, 0,
        ):  # fmt: skip
            raise OutOfTurn(f"{peer} opens a query with a message that is not its first")
        if not isinstance(message, Announce):
            raise UnexpectedMessage(f"{peer} opens a query with {type(message).__name__}")
        if message.requester != peer:
            raise QueryRefused("warrant", f"{peer} opens a query with the announcement of {message.requester}")
        if unknown := {message.router, *message.holders} - set(self._peers):
            raise QueryRefused("disagreement", f"the query names unknown parties {sorted(unknown)}")
        roles = [(message.router, Role.ROUTER), *((holder, Role.HOLDER) for holder in message.holders)]
        for name, role in roles:
            if self._peers[name].role is not role:
                raise QueryRefused("disagreement", f"{name} is no {role.value}: it is a {self._peers[name].role.value}")
        return message

    def admit(self, announce: Announce, query: bytes) -> None:
        """Warrant, policy, replay, quota: in this order, before any work. Raises `QueryRefused`."""
        now = time.time()
        policy = self._identity.config.policy
        warrant = check_announcement(announce, self._notary, now, policy.clock_skew_seconds)
        self._policy.check_query(
            requester_state=warrant.state,
            purpose=warrant.purpose,
            threshold=parse_decimal(announce.threshold, "threshold"),
            cap=announce.cap,
            ladder=parse_decimal(announce.ladder, "ladder step"),
            preset=announce.preset,
            seed_digest=announce.seed_digest,
            issued=warrant.issued,
            expires=warrant.expires,
            now=now,
        )
        digest = announce_digest(announce)

        def claim(state: str, kind: Status, _: date, limit: int) -> int:
            """Neither the announcement nor its reference ever comes again: evidence is kept under the reference.

            Claim and quota together first: a query refused for its quota is refused for its quota when it comes again.
            """
            lost = self._store.claims_lost_until
            if lost is not None and warrant.issued <= lost + policy.clock_skew_seconds:
                raise QueryRefused("replay", "the warrant is older than a restore in which answered queries were lost")
            if self._keeper.keeps(query):
                raise QueryRefused("replay", "there is evidence of a query of this reference")
            when = datetime.fromtimestamp(now, timezone.utc)
            used = self._store.admit_query(digest, digest, state, kind, limit, when)
            self._store.claim_query(reference_claim(query), digest, when, step=REFERENCE_STEP)
            if self._store.has_claimed(warrant_claim(warrant)[0], WARRANT_STEP):
                raise QueryRefused("warrant", f"warrant {warrant.request_number} was answered here before")
            return used

        status = Status.IDENTIFIED if warrant.identified else Status.UNIDENTIFIED
        try:
            self._policy.take_releases(warrant.state, (), now)
            Policy(policy, claim, self._store.take_releases).take_quota(warrant.state, status, now)
        except QueryReplayed as error:
            raise QueryRefused("replay", str(error)) from error
        except StoreUnavailable as error:  # a refusal is final: asked again, it would look like a replay
            log.error("the store cannot be used", extra={"error": type(error).__name__})
            raise QueryRefused("internal", str(error)) from error

    def answer(self, announce: Announce) -> None:
        """Claim the warrant, once and for all, before anything that depends on the probe leaves. Raises `QueryRefused`.

        Not when the query is admitted: one that fails before it is answered is asked again with the same warrant.
        """
        assert announce.warrant is not None  # `admit` has checked it
        number, digest = warrant_claim(announce.warrant)
        try:
            self._store.claim_query(number, digest, datetime.now(timezone.utc), step=WARRANT_STEP)
        except QueryReplayed:
            refusal = f"warrant {announce.warrant.request_number} was answered here before"
            raise QueryRefused("warrant", refusal) from None
        except StoreUnavailable as error:
            log.error("the store cannot be used", extra={"error": type(error).__name__})
            raise QueryRefused("internal", str(error)) from error

    def release(self, announce: Announce, references: tuple[str, ...]) -> None:
        """Count what is about to be released. Raises `QueryRefused`, and then nothing of it leaves."""
        assert announce.warrant is not None  # `admit` has checked it
        state = announce.warrant.state
        try:
            self._policy.take_releases(state, references, time.time())
        except PolicyRefused:
            self._metrics.withheld()
            log.warning("release withheld: a state reached its limit for one reference", extra={"state": state})
            raise
        except StoreUnavailable as error:
            log.error("the store cannot be used", extra={"error": type(error).__name__})
            raise QueryRefused("internal", str(error)) from error


def has_room(asker: str, askers: Collection[str], places: int) -> bool:
    """Whether a query of `asker` may begin beside those under way, each of which is in `askers` with who asked.

    The last quarter of the places is kept for those that have none: nobody shuts the others out by asking much.
    """
    kept = places // 4 if asker in askers else 0
    return len(askers) < places - kept
