"""What a requester's first message must pass before a node does any work for it, and a release before it leaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timezone

import msgspec

from nodes.config.schema import Role
from nodes.evidence.archive import Archive
from nodes.identity.identity import NodeIdentity, NodeKeyring, Peer
from nodes.query.metrics import Metrics
from nodes.query.policy import Policy, PolicyRefused, Reason
from nodes.store import QueryReplayed, QuotaExceeded, Status, StoreUnavailable
from nodes.store.store import GalleryStore
from pets.errors import ParameterError
from pets.prf import labelled_hash
from protocol import wire
from protocol.announcing import announce_digest, parties_of, prepare_statement
from protocol.channel import ReceivingChannel
from protocol.errors import OutOfTurn, QueryRefused, UnexpectedMessage
from protocol.messages import Prepare, Search
from protocol.roles import Parties
from protocol.session import WHOLE
from protocol.terms import parse_decimal
from protocol.warrant import check_announcement, warrant_claim

log = logging.getLogger("lineup.gate")

WARRANT_STEP = "warrant"
REFERENCE_STEP = "reference"


def reference_claim(query: bytes) -> bytes:
    """What a node claims of a query's reference, under which it keeps evidence."""
    return labelled_hash("query-reference", query)


class Gate:
    """`store`: claims, quotas and counts of releases; `archive`: evidence of queries answered before."""

    def __init__(
        self,
        identity: NodeIdentity,
        peers: Mapping[str, Peer],
        store: GalleryStore,
        archive: Archive,
        keyring: NodeKeyring,
        metrics: Metrics,
    ) -> None:
        self._name, self._metrics = identity.config.name, metrics
        self._identity, self._peers, self._store, self._archive, self._keyring = (
            identity,
            peers,
            store,
            archive,
            keyring,
        )
        self._policy = Policy(identity.config.policy, store.take_quota, store.take_releases)
        self._clock_skew = identity.config.policy.clock_skew_seconds

    def serve(self, states: tuple[str, ...]) -> None:
        """From now on these states may ask; the rest of the policy stays as it was at the start."""
        self._policy.config = msgspec.structs.replace(self._policy.config, states=states)

    def announcement(self, peer: str, conversation: bytes, units: list[bytes]) -> Prepare | Search:
        """The announcement inside a requester's first units. Raises `ProtocolError`, `QueryRefused`, `CryptoError`."""
        if len(units) < 2:
            raise OutOfTurn(f"{peer} opens a conversation without an announcement")
        channel = ReceivingChannel(conversation, peer, self._name, units[0], self._identity.sealing, self._keyring)
        envelope = wire.decode(channel.open(units[1]))
        message = envelope.message
        # Exactly the place where the machine will look for it: otherwise another announcement could stand there.
        if (envelope.query, envelope.session, envelope.sender, envelope.receiver, envelope.sequence) != (
            conversation, WHOLE, peer, self._name, 0,
        ):  # fmt: skip
            raise OutOfTurn(f"{peer} opens a conversation with a message that is not its first")
        if not isinstance(message, (Prepare, Search)):
            raise UnexpectedMessage(f"{peer} opens a conversation with {type(message).__name__}")
        try:
            self._check_parties(peer, parties_of(message))
        except ParameterError as error:
            raise QueryRefused("disagreement", str(error)) from None
        return message

    def _check_parties(self, peer: str, parties: Parties) -> None:
        if parties.requester != peer:
            raise QueryRefused("warrant", f"{peer} opens a conversation with the announcement of {parties.requester}")
        if unknown := {parties.router, *parties.holders} - set(self._peers):
            raise QueryRefused("disagreement", f"the announcement names unknown parties {sorted(unknown)}")
        roles = [(parties.router, Role.ROUTER), *((holder, Role.HOLDER) for holder in parties.holders)]
        for name, role in roles:
            if self._peers[name].role is not role:
                raise QueryRefused("disagreement", f"{name} is no {role.value}: it is a {self._peers[name].role.value}")

    def check_preparation(self, prepare: Prepare, conversation: bytes) -> None:
        """Who asks, the policy, replay: nothing is kept of what is refused. Raises `QueryRefused`.

        No warrant: there is no probe yet.
        """
        if not prepare.signature:
            raise QueryRefused("warrant", f"{prepare.requester} asks for a preparation without a signature")
        self._keyring.check(prepare.requester, prepare_statement(prepare), prepare.signature)
        self._policy.check_preparation(requester_state=prepare.requester[:2], preset=prepare.preset)
        with self._claiming():
            self._check_fresh(conversation)

    def admit_preparation(self, prepare: Prepare, conversation: bytes) -> None:
        """Claim and count one that `check_preparation` passed and that has a place. Raises `QueryRefused`.

        Both or neither; counted is what is about to be made, whatever becomes of it.
        """
        claim, digest = reference_claim(conversation), announce_digest(prepare)
        limit, now = self._identity.config.preparations.per_day, datetime.now(timezone.utc)
        with self._claiming():
            try:
                self._store.admit_preparation(claim, digest, prepare.requester[:2], limit, now, step=REFERENCE_STEP)
            except QuotaExceeded as error:
                raise PolicyRefused(Reason.QUOTA, str(error)) from error

    def check(self, announce: Search, conversation: bytes) -> None:
        """Warrant, policy, replay: whatever can be refused before anything is used up. Raises `QueryRefused`."""
        now = time.time()
        warrant = check_announcement(announce, self._keyring, now, self._clock_skew)
        self._policy.check_query(
            requester_state=warrant.state,
            purpose=warrant.purpose,
            threshold=parse_decimal(announce.threshold, "threshold"),
            cap=announce.cap,
            ladder=parse_decimal(announce.ladder, "ladder step"),
            preset=announce.preset,
            issued=warrant.issued,
            expires=warrant.expires,
            now=now,
        )
        with self._claiming():
            lost = self._store.claims_lost_until
            if lost is not None and warrant.issued <= lost + self._clock_skew:
                raise QueryRefused("replay", "the warrant is older than a restore in which answered queries were lost")
            self._check_fresh(conversation)
            if self._store.has_claimed(warrant_claim(warrant)[0], WARRANT_STEP):
                raise QueryRefused("warrant", f"warrant {warrant.request_number} was answered here before")
            self._policy.take_releases(warrant.state, (), now)

    def admit(self, announce: Search, conversation: bytes) -> None:
        """Claim and count a query that `check` passed, before any work. Raises `QueryRefused`.

        Neither the announcement nor its reference ever comes again: evidence is kept under the reference. Claim and
        quota together first: a query refused for its quota is refused for its quota when it comes again.
        """
        now, digest, warrant = time.time(), announce_digest(announce), announce.warrant
        assert warrant is not None  # `check` has seen it

        def claim(state: str, kind: Status, _: date, limit: int) -> int:
            when = datetime.fromtimestamp(now, timezone.utc)
            used = self._store.admit_query(digest, digest, state, kind, limit, when)
            self._store.claim_query(reference_claim(conversation), digest, when, step=REFERENCE_STEP)
            return used

        status = Status.IDENTIFIED if warrant.identified else Status.UNIDENTIFIED
        with self._claiming():
            Policy(self._policy.config, claim, self._store.take_releases).take_quota(warrant.state, status, now)

    def _check_fresh(self, conversation: bytes) -> None:
        """Raise `QueryRefused` (replay) for a reference that was used before."""
        if self._archive.keeps(conversation):
            raise QueryRefused("replay", "there is evidence of a query with this reference")
        if self._store.has_claimed(reference_claim(conversation), REFERENCE_STEP):
            raise QueryRefused("replay", "this reference was used before")

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        """What the store says, as a refusal. It is final: asked again, it would look like a replay."""
        try:
            yield
        except QueryReplayed as error:
            raise QueryRefused("replay", str(error)) from error
        except StoreUnavailable as error:
            log.error("the store cannot be used", extra={"error": type(error).__name__})
            raise QueryRefused("internal", str(error)) from error

    def answer(self, announce: Search) -> None:
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

    def release(self, announce: Search, references: tuple[str, ...]) -> None:
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
