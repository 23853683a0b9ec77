"""A node: one process that serves its role in many queries at once. Knows nothing of HTTP: see `nodes.service.app`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timezone
from functools import partial

import numpy as np

from nodes.config.schema import Purpose, Role
from nodes.evidence.keeper import Keeper
from nodes.identity.identity import NodeIdentity, NodeNotary, Peer
from nodes.identity.peers import Told
from nodes.query.driver import Credentials, QueryDriver, RecordFailed
from nodes.query.early import EarlyUnits
from nodes.query.gate import Gate, has_room
from nodes.query.metrics import Metrics
from nodes.query.scorer import Scorer
from nodes.service.clocks import Clocks
from nodes.service.expiry import Expired, expire
from nodes.service.follow_up import FollowUp
from nodes.service.gossip import Gossip
from nodes.service.guard import Guard
from nodes.service.health import failing
from nodes.store import Category, EmptyStore, GalleryStore, StoreError
from nodes.store.derived import DerivedGallery
from nodes.transport.outbox import PeerRefused, Transport
from pets.errors import LineupError
from pets.params import preset
from pets.threads import default_threads
from protocol.engine import warm_up
from protocol.errors import QueryRefused
from protocol.gallery import Gallery
from protocol.holder import Holder
from protocol.machine import Machine
from protocol.messages import Announce
from protocol.router import Router
from protocol.session import Event
from protocol.terms import announce_digest

log = logging.getLogger("lineup.node")

HEALTH_SECONDS = 5.0  # however often somebody asks
STOP_SECONDS = 6.0  # for queries that were stopped to hand over their last frames
REMEMBERED = 10_000  # queries that are over and whose late frames are passed over


class Node:
    """Holder or router in the queries of others; `nodes.service.requester.AskingNode` adds the requester's part.

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
        self._guard = Guard(config.name, keeper.ledger)
        self.alarms: list[str] = []  # since this node was started: for its operator, and stopping nothing
        self.peer_faults: list[str] = []  # what was refused when the peers were read again (`nodes.service.reload`)
        self.reread: Callable[[], Awaitable[None]] | None = None  # reads the peers again, in a node that serves
        self.clocks = Clocks(config.policy.clock_skew_seconds, self.metrics.clocks_differ)
        self.transport = transport
        self.notary = NodeNotary(identity, peers)
        self._credentials = Credentials(self.notary, identity.sealing, Told(peers, lambda peer: peer.sealing_key))
        self._gate = Gate(identity, peers, store, keeper, self.notary, self.metrics)
        self._scorer = Scorer(self.threads)
        self._compute = asyncio.Semaphore(max(2, self.threads))
        self._galleries: dict[tuple[str, frozenset[Category]], DerivedGallery] = {}
        self._early = EarlyUnits()
        self._over: OrderedDict[bytes, None] = OrderedDict()
        self._opening: dict[bytes, asyncio.Task[QueryDriver]] = {}
        self.askers: dict[bytes, str] = {}  # who asked each query that is under way
        self._failing: tuple[str, ...] = ()
        self._health_until = 0.0
        keys = Told(peers, lambda peer: peer.verify_key)
        self.gossip = Gossip(self.name, identity.peer.verify_key, keys, keeper, transport, self.metrics)
        self.follow_up = FollowUp(self) if config.role is not Role.ROUTER else None  # no person decides at the router
        self._live: set[QueryDriver] = set()  # those in `drivers`, and those that still hand over their last frames

    async def accept(self, peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
        """Take units from an authenticated peer. Raises `PeerRefused` with a closed code, or a `ProtocolError`."""
        if peer not in self.peers:
            raise PeerRefused(self.name, "state")
        opens = offset == 0 and self.peers[peer].role is Role.REQUESTER
        if query in self._over:
            if opens:
                raise PeerRefused(self.name, "replay")
            return  # a late frame: nobody waits for it
        driver = self.drivers.get(query)
        if driver is None:
            if not opens:
                self._keep_early(peer, query, offset, units)
                return
            driver = await self._open(peer, query, units)
        driver.accept(peer, offset, units)
        await driver.room()

    async def _open(self, peer: str, query: bytes, units: list[bytes]) -> QueryDriver:
        """The driver of a query that its requester opens. If it asks again meanwhile, it gets the same answer."""
        opening = self._opening.get(query)
        if opening is None:
            opening = self._opening[query] = asyncio.create_task(self._first_contact(peer, query, units))
            opening.add_done_callback(lambda _: self._opening.pop(query))
        return await asyncio.shield(opening)

    def _keep_early(self, peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
        """Keep what comes before the announcement does: never from the requester, whose announcement comes first."""
        if self.peers[peer].role is Role.REQUESTER:
            raise PeerRefused(self.name, "timeout")  # this node has forgotten the query, after a restart
        self._early.keep(self.name, peer, query, offset, units)

    async def _first_contact(self, peer: str, query: bytes, units: list[bytes]) -> QueryDriver:
        """A query this node has not met: check its announcement, then work on it."""
        if self.draining or not has_room(peer, self.askers.values(), self.config.limits.concurrent_queries):
            raise PeerRefused(self.name, "capacity")
        self.askers[query] = peer
        try:
            announce = await asyncio.to_thread(self._gate.announcement, peer, query, units)
            driver = self.drive(await asyncio.to_thread(self._machine, announce, query))
        except BaseException as error:
            del self.askers[query]
            self._early.take(query)
            if isinstance(error, LineupError) and getattr(error, "code", "") == "clock":
                self.gossip.meet_soon({peer})  # so that this node's operator is told by how much
            raise
        driver.accept(peer, 0, units)
        for sender, (first, held) in self._early.take(query):
            try:
                driver.accept(sender, first, held)
            except LineupError as error:  # its own fault, not the fault of who opened the query
                driver.blame(sender, error)
        return driver

    def drive(self, machine: Machine) -> QueryDriver:
        """Run a machine of this node."""
        machine.notary = self.notary
        self.keeper.attach(machine)
        machine.recorder = self._strict(machine.recorder)
        driver = QueryDriver(
            machine,
            self._credentials,
            self.transport,
            self._scorer,
            self._compute,
            self.config.limits.read_timeout_seconds,
            self.config.limits.query_timeout_seconds,
            self._ended,
        )
        self.drivers[machine.query] = driver
        self._live.add(driver)
        driver.task.add_done_callback(lambda _: self._live.discard(driver))
        self.metrics.started()
        return driver

    def serve(self, states: tuple[str, ...]) -> None:
        """From now on these states may ask."""
        self._gate.serve(states)

    def part_with(self, peer: str, error: LineupError) -> None:
        """Stop every query that a peer takes part in; it is none any more."""
        for driver in list(self.drivers.values()):
            driver.failed_peers.setdefault(peer, error)
            driver.blame(peer, error)
        self.clocks.forget(peer)

    @property
    def all_alarms(self) -> list[str]:
        """What the operator should look at: `alarms`, peers that were refused, clocks that differ."""
        return [*self.alarms, *self.peer_faults, *self.clocks.alarms]

    @property
    def idle(self) -> bool:
        """Nothing is under way, and every last frame was handed over."""
        return not self._live and not self._opening and (self.follow_up is None or self.follow_up.idle)

    async def drain(self, seconds: float) -> None:
        """Take no new queries; give those that run `seconds` to end, then stop them and tell the peers."""
        self.draining = True
        await self._until_idle(seconds)
        for driver in list(self.drivers.values()):
            driver.stop(QueryRefused("capacity", f"{self.name} is shutting down"))
        await self._until_idle(STOP_SECONDS)

    async def close(self) -> None:
        """Stop at once and close everything."""
        self.draining = True
        await self.gossip.close()
        for driver in list(self._live):
            await driver.close()
        if self.follow_up is not None:
            self.follow_up.close()
        self.store.close()
        self.keeper.close()

    async def _until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.idle and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def _machine(self, announce: Announce, query: bytes) -> Machine:
        if self.config.role is Role.REQUESTER:
            raise QueryRefused("state", f"{self.name} is a requester and answers no queries")
        self._gate.admit(announce, query)
        machine: Machine
        if self.config.role is Role.ROUTER:
            machine = Router(self.name, announce.requester, announce.holders, query, self.threads)
        else:
            others = tuple(name for name in announce.holders if name != self.name)
            gallery = self._gallery(announce)
            machine = Holder(self.name, announce.requester, announce.router, gallery, query, others, self.threads)
            machine.answering = partial(self._gate.answer, announce)
            machine.releasing = partial(self._release, announce, query)
        machine.admitted = announce_digest(announce)
        return machine

    def _release(self, announce: Announce, query: bytes, references: tuple[str, ...]) -> None:
        """Count and note what is about to be released; refused, or not written down, nothing of it leaves."""
        self._gate.release(announce, references)
        assert self.follow_up is not None
        try:
            self.follow_up.disclosed(query, announce.requester, references)
        except StoreError as error:
            raise QueryRefused("internal", str(error)) from error

    def _gallery(self, announce: Announce) -> Gallery:
        assert announce.warrant is not None  # the gate has checked it
        try:
            self._guard.meet(self.store)
            return self._derived(announce.preset, Purpose(announce.warrant.purpose)).current(datetime.now(timezone.utc))
        except EmptyStore:
            return Gallery.enrol(np.empty((0, announce.dim), np.int8), preset(announce.preset), (), announce.model)
        except LineupError as error:  # the query is claimed: it is not answered differently another time
            log.error("no gallery", extra={"error": type(error).__name__})
            raise QueryRefused("internal", "the gallery cannot be used") from error

    def _derived(self, name: str, purpose: Purpose) -> DerivedGallery:
        """What a query of this purpose searches. Purposes that look at the same categories share one gallery."""
        categories = self.config.policy.searched(purpose)
        made = self._galleries.get((name, categories))
        if made is None:
            made = DerivedGallery(self.store, preset(name), categories=categories, threads=self.threads)
        return self._galleries.setdefault((name, categories), made)

    def warm(self) -> None:
        """Compile or load every kernel, and derive the gallery, before the first query needs them."""
        policy = self.config.policy
        warm_up(preset(policy.presets[0]), self.threads)
        if self.config.role is Role.HOLDER and policy.purposes:
            try:
                self._derived(policy.presets[0], policy.purposes[0]).current(datetime.now(timezone.utc))
            except EmptyStore:
                log.info("the gallery is empty")

    def inspect(self) -> None:
        """The daily look at the database and the galleries made of it (`nodes.service.guard`)."""
        self._guard.inspect(self.store, list(self._galleries.values()))

    def shut_out(self) -> dict[str, date]:
        """States that this node refuses for their limit of releases, and the first day on which it does no more."""
        policy, today = self.config.policy, datetime.now(timezone.utc).date()
        return self.store.shut_out(policy.releases_per_reference, today, policy.release_window_days)

    def standing(self) -> list[str]:
        """Who is refused for a limit of releases, here or by others, in words for the operator."""
        return [f"{state} is refused until {day}" for state, day in sorted(self.shut_out().items())]

    def expire(self) -> Expired:
        """Delete what is past its time (`nodes.service.expiry`)."""
        now = datetime.now(timezone.utc)
        done = expire(self.store, self.keeper, self.config, now, self.keeper.writing)
        if self.follow_up is not None:
            self.follow_up.desk.expire()
        if done.subjects:
            self.warm()  # so that no query waits for the new gallery
        return done

    def failing(self) -> tuple[str, ...]:
        """What keeps this node from working (`nodes.service.health`); looked at every few seconds at most."""
        if time.monotonic() >= self._health_until:
            self._health_until = time.monotonic() + HEALTH_SECONDS  # first: many may ask at once
            self._failing = failing(self.config, self.keeper, self.store)
            with suppress(LineupError, OSError):  # a loss is kept in `faults`, all else is told by `failing`
                self._guard.meet(self.store)
        return tuple(dict.fromkeys((*self._failing, *self._guard.faults)))

    async def _ended(self, driver: QueryDriver) -> None:
        machine = driver.machine
        self.drivers.pop(machine.query, None)
        self.askers.pop(machine.query, None)
        self._early.take(machine.query)
        self._over[machine.query] = None
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
        self.metrics.finished()
        try:
            await asyncio.to_thread(self.keeper.end, machine)
        except Exception as error:  # a disk that is full must not take the node down with it
            log.error("records incomplete", extra={"query": machine.query.hex(), "error": type(error).__name__})
        self.gossip.meet_soon({peer for session in machine.sessions.values() for peer in session.peers})
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
                        "code": getattr(session.failure, "code", None),
                        "by": getattr(session.failure, "by", None) or None,
                    },
                )

    def _strict(self, recorder: Callable[[Event], None] | None) -> Callable[[Event], None]:
        """A recorder whose failure is this node's fault and stops the query, not a fault of the protocol."""

        def record(event: Event) -> None:
            assert recorder is not None
            try:
                recorder(event)
            except Exception as error:
                raise RecordFailed(type(error).__name__) from error

        return record
