"""A node: one process that serves its role in many queries at once. Knows nothing of HTTP: see `nodes.service`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np

from nodes.config import Role
from nodes.driver import Credentials, QueryDriver
from nodes.identity import NodeIdentity, Peer
from nodes.keeper import Keeper
from nodes.metrics import Metrics
from nodes.notary import NodeNotary
from nodes.outbox import PeerRefused, Transport
from nodes.policy import Policy
from nodes.scorer import Scorer
from nodes.store import EmptyStore, GalleryStore, QueryReplayed, Status
from nodes.store.derived import DerivedGallery
from pets.params import preset
from pets.threads import default_threads
from protocol import wire
from protocol.channel import ReceivingChannel
from protocol.errors import OutOfTurn, QueryRefused, UnexpectedMessage
from protocol.gallery import Gallery
from protocol.holder import Holder
from protocol.machine import Machine
from protocol.messages import Announce
from protocol.router import Router
from protocol.terms import announce_digest, parse_decimal
from protocol.warrant import check_announcement

log = logging.getLogger("lineup.node")

EARLY_UNITS = 128  # units that may wait for a query whose announcement has not arrived
EARLY_QUERIES = 256
REMEMBERED = 10_000  # queries that are over and whose late frames are passed over


@dataclass
class _Early:
    units: list[tuple[str, int, list[bytes]]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(len(units) for _, _, units in self.units)


class Node:
    """Holder or router in the queries of others; `nodes.asking.AskingNode` adds the requester's part.

    `peers`: by name. `keeper`: logs and evidence. `store`: gallery, quotas and the claims on queries answered; the
    router has one without subjects.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        peers: Mapping[str, Peer],
        store: GalleryStore,
        transport: Transport,
        keeper: Keeper,
    ) -> None:
        config = identity.config
        self.identity = identity
        self.config = config
        self.name = config.name
        self.peers = peers
        self.store = store
        self.keeper = keeper
        self.metrics = Metrics(config.name, config.role.value)
        self.threads = config.limits.threads or default_threads()
        self.drivers: dict[bytes, QueryDriver] = {}
        self.draining = False
        self._transport = transport
        self.notary = NodeNotary(identity, peers)
        self._credentials = Credentials(
            self.notary, identity.sealing, {name: peer.sealing_key for name, peer in peers.items()}
        )
        self._policy = Policy(config.policy, store.take_quota)
        self._scorer = Scorer(self.threads)
        self._compute = asyncio.Semaphore(max(2, self.threads))
        self._galleries: dict[str, DerivedGallery] = {}
        self._early: OrderedDict[bytes, _Early] = OrderedDict()
        self._over: OrderedDict[bytes, None] = OrderedDict()
        self._opening: dict[bytes, asyncio.Lock] = {}

    async def accept(self, peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
        """Take units from an authenticated peer. Raises `PeerRefused` with a closed code, or a `ProtocolError`."""
        if peer not in self.peers:
            raise PeerRefused(self.name, "state")
        if query in self._over:
            return
        driver = self.drivers.get(query)
        if driver is None:
            async with self._opening.setdefault(query, asyncio.Lock()):
                driver = self.drivers.get(query)
                if driver is None and query not in self._over:
                    driver = await self._first_contact(peer, query, offset, units)
            self._opening.pop(query, None)
            if driver is None:
                return
        driver.accept(peer, offset, units)

    async def _first_contact(self, peer: str, query: bytes, offset: int, units: list[bytes]) -> QueryDriver | None:
        """A query this node has not met: open it with its announcement, or keep what came before the announcement."""
        if offset or self.peers[peer].role is not Role.REQUESTER:
            early = self._early.setdefault(query, _Early())
            if early.count + len(units) > EARLY_UNITS:
                raise PeerRefused(self.name, "capacity")
            early.units.append((peer, offset, units))
            while len(self._early) > EARLY_QUERIES:
                self._early.popitem(last=False)
            return None
        if self.draining or len(self.drivers) >= self.config.limits.concurrent_queries:
            raise PeerRefused(self.name, "capacity")
        announce = await asyncio.to_thread(self._peek, peer, query, units)
        machine = await asyncio.to_thread(self._machine, announce, query)
        driver = self.drive(machine)
        for sender, first, held in self._early.pop(query, _Early()).units:
            driver.accept(sender, first, held)
        return driver

    def drive(self, machine: Machine) -> QueryDriver:
        """Run a machine of this node."""
        machine.notary = self.notary
        self.keeper.attach(machine)
        driver = QueryDriver(
            machine,
            self._credentials,
            self._transport,
            self._scorer,
            self._compute,
            self.config.limits.read_timeout_seconds,
            self._ended,
        )
        self.drivers[machine.query] = driver
        self.metrics.started()
        return driver

    async def close(self, seconds: float) -> None:
        """Take no new queries, give those that run `seconds` to end, then stop them."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self.drivers and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for driver in list(self.drivers.values()):
            await driver.close()
        self.store.close()
        self.keeper.close()

    def _peek(self, peer: str, query: bytes, units: list[bytes]) -> Announce:
        """The announcement inside a requester's first units."""
        if len(units) < 2:
            raise OutOfTurn(f"{peer} opens a query without an announcement")
        channel = ReceivingChannel(query, peer, self.name, units[0], self.identity.sealing, self.notary)
        message = wire.decode(channel.open(units[1])).message
        if not isinstance(message, Announce):
            raise UnexpectedMessage(f"{peer} opens a query with {type(message).__name__}")
        if unknown := {message.router, *message.holders} - set(self.peers):
            raise QueryRefused("disagreement", f"the query names unknown parties {sorted(unknown)}")
        return message

    def _machine(self, announce: Announce, query: bytes) -> Machine:
        if self.config.role is Role.REQUESTER:
            raise QueryRefused("state", f"{self.name} is a requester and answers no queries")
        self._admit(announce)
        if self.config.role is Role.ROUTER:
            return Router(self.name, announce.requester, announce.holders, query, self.threads)
        others = tuple(name for name in announce.holders if name != self.name)
        gallery = self._gallery(announce)
        return Holder(self.name, announce.requester, announce.router, gallery, query, others, self.threads)

    def _admit(self, announce: Announce) -> None:
        """Warrant, policy, replay, quota: in this order, before any work. Raises `QueryRefused`."""
        now = time.time()
        policy = self.config.policy
        warrant = check_announcement(announce, self.notary, now, policy.clock_skew_seconds)
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
        digest = announce_digest(announce)
        try:
            self.store.claim_query(digest, digest, datetime.now(timezone.utc))
        except QueryReplayed as error:
            raise QueryRefused("replay", str(error)) from error
        self._policy.take_quota(warrant.state, Status.IDENTIFIED if warrant.identified else Status.UNIDENTIFIED, now)

    def _gallery(self, announce: Announce) -> Gallery:
        params = preset(announce.preset)
        derived = self._galleries.get(announce.preset)
        if derived is None:
            derived = self._galleries[announce.preset] = DerivedGallery(self.store, params, threads=self.threads)
        try:
            return derived.current(datetime.now(timezone.utc))
        except EmptyStore:
            return Gallery.enrol(np.empty((0, announce.dim), np.int8), params, (), announce.model)

    def warm(self) -> None:
        """Derive the gallery before the first query needs it."""
        if self.config.role is Role.HOLDER:
            name = self.config.policy.presets[0]
            derived = self._galleries.setdefault(name, DerivedGallery(self.store, preset(name), threads=self.threads))
            try:
                derived.current(datetime.now(timezone.utc))
            except EmptyStore:
                log.info("the gallery is empty")

    def _ended(self, driver: QueryDriver) -> None:
        machine = driver.machine
        self.drivers.pop(machine.query, None)
        self.keeper.end(machine)
        self.metrics.finished()
        self._over[machine.query] = None
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
        for session in machine.sessions.values():
            if session.name or session.state.value == "aborted":
                self.metrics.ended(session.state.value)
                log.info(
                    "session over",
                    extra={
                        "query": machine.query.hex(),
                        "session": session.name,
                        "state": session.state.value,
                        "error": type(session.failure).__name__ if session.failure else None,
                    },
                )
