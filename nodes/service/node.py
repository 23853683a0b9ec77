"""A node: one process that serves its role in many conversations. Knows nothing of HTTP: see `nodes.service.app`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timezone

import anyio

from nodes.casework import desk
from nodes.config import console
from nodes.config.schema import Role
from nodes.config.storage import rows_folder
from nodes.evidence.archive import Archive
from nodes.identity.identity import NodeIdentity, NodeKeyring, Peer
from nodes.identity.peers import Told
from nodes.pool import FOLDER, Pool, UnknownPreparation
from nodes.query.driver import Credentials, QueryDriver, RecordFailed
from nodes.query.early_units import EarlyUnits
from nodes.query.gate import Gate, has_room
from nodes.query.metrics import Metrics
from nodes.query.scorer import GIVE_WAY_SECONDS, Precedence, Scorer
from nodes.query.turns import Turns
from nodes.service.answering import Answering
from nodes.service.clocks import Clocks
from nodes.service.expiry import Expired, delete_expired
from nodes.service.follow_up import FollowUp
from nodes.service.galleries import Galleries
from nodes.service.gossip import Gossip
from nodes.service.guard import Guard
from nodes.service.health import failing
from nodes.service.outage import Outage
from nodes.service.pace import Pace
from nodes.service.together import to_the_end
from nodes.store import EmptyStore
from nodes.store.aside import Aside, put_aside
from nodes.store.resident import Resident
from nodes.store.store import GalleryStore
from nodes.transport.send_queue import PeerRefused, Transport
from pets.errors import LineupError
from pets.params import preset
from pets.threads import default_threads
from protocol.engine import warm_up
from protocol.errors import QueryRefused
from protocol.messages import Search
from protocol.party import Party
from protocol.preparing import PreparingHolder, PreparingRequester, PreparingRouter
from protocol.session import Event, State

log = logging.getLogger("lineup.node")

HEALTH_SECONDS = 5.0  # however often somebody asks
STOP_SECONDS = 6.0  # for queries that were stopped to hand over their last frames
PROMISED_SECONDS = 3.0
REQUESTER_PATIENCE = 2  # times that of the nodes it asks
REMEMBERED = 10_000  # conversations that are over and whose late frames are passed over
_PREPARING = (PreparingRequester, PreparingRouter, PreparingHolder)


def answered(machine: Party) -> bool:
    """Whether a search came to its end with one holder at least."""
    return any(session.state is State.FINISHED for session in machine.ring_sessions)


class Node:
    """Holder or router in the conversations of others; `nodes.service.requester.RequesterNode` adds asking.

    `peers`: by name. `archive`: logs and evidence. `store`: gallery, quotas and the claims on queries answered; the
    router has one without subjects. `resident`: its rows, where they were read while it was checked.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        peers: Mapping[str, Peer],
        store: GalleryStore,
        transport: Transport,
        archive: Archive,
        resident: Resident | None = None,
    ) -> None:
        config = identity.config
        self.identity = identity
        self.config = config
        self.name = config.name
        self.peers = peers
        self.store = store
        self.archive = archive
        self.metrics = Metrics(config.name, config.role.value)
        self.threads = config.limits.threads or default_threads()
        self.preparing_threads = max(1, int(self.threads * config.preparations.cpu_share))
        self.pool = Pool(archive.folder / FOLDER, archive.key, store, config.preparations)
        self.pace = Pace()
        self.metrics.watch(self.pool)
        self.drivers: dict[bytes, QueryDriver] = {}
        self.draining = False
        self._guard = Guard(config.name, archive.ledger)
        self.alarms: list[str] = []  # since this node was started: for its operator, and stopping nothing
        self.peer_faults: list[str] = []  # what was refused when the peers were read again (`nodes.service.reload`)
        self.outages: dict[str, Outage] = {}  # what peers told of theirs (`nodes.service.outage`)
        self.heard_of_outages: set[str] = set()  # the peers that answered when they were last asked
        self.reread: Callable[[], Awaitable[None]] | None = None  # reads the peers again, in a node that serves
        self.clocks = Clocks(config.policy.clock_skew_seconds, self.metrics.clocks_differ)
        self.transport = transport
        self.keyring = NodeKeyring(identity, peers)
        self._credentials = Credentials(self.keyring, identity.sealing, Told(peers, lambda peer: peer.sealing_key))
        self._gate = Gate(identity, peers, store, archive, self.keyring, self.metrics)
        self.galleries = Galleries(config, store, self._guard, self.threads, archive.folder, resident)
        self.answering = Answering(self, self._gate)
        # Searches before preparations, which have a worker of their own and a part of the threads.
        self._precedence = Precedence(min(GIVE_WAY_SECONDS, config.limits.read_timeout_seconds / 3))
        self._scorer = Scorer(self.threads)
        self._turns = Turns(max(2, self.threads))
        self._preparing_scorer = Scorer(self.preparing_threads, self._precedence.give_way)
        self._preparing_turns = Turns(1)
        self._early = EarlyUnits()
        self._over: OrderedDict[bytes, None] = OrderedDict()
        self._opening: dict[bytes, asyncio.Task[QueryDriver]] = {}
        self._awaited: set[bytes] = set()  # preparations that are being put away, and that a search waits for
        self.askers: dict[bytes, str] = {}  # who asked each query that is under way
        self.preparers: dict[bytes, str] = {}  # and each preparation
        self._begun: dict[bytes, float] = {}  # when each search that is under way began
        self._promised: dict[bytes, float] = {}  # preparations whose search is let in while this node shuts down
        self._failing: tuple[str, ...] = ()
        self._health_until = 0.0
        keys = Told(peers, lambda peer: peer.verify_key)
        self.gossip = Gossip(self.name, identity.peer.verify_key, keys, archive, transport, self.metrics)
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
            opening.add_done_callback(lambda task: self._opened(query, task))
        return await asyncio.shield(opening)

    def _opened(self, query: bytes, opening: asyncio.Task[QueryDriver]) -> None:
        del self._opening[query]
        if not opening.cancelled():
            opening.exception()  # else the loop would log it where nobody waits for it any more

    def _keep_early(self, peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
        """Keep what comes before the announcement does: never from the requester, whose announcement comes first."""
        if self.peers[peer].role is Role.REQUESTER:
            raise PeerRefused(self.name, "timeout")  # this node has forgotten the query, after a restart
        self._early.keep(self.name, peer, query, offset, units)

    async def _first_contact(self, peer: str, query: bytes, units: list[bytes]) -> QueryDriver:
        """A conversation this node has not met: check its announcement, then take part in it."""
        try:
            self._take_place(self.askers, peer, query)
            announce = await asyncio.to_thread(self._gate.announcement, peer, query, units)
            if isinstance(announce, Search):
                await self._until_made(announce)
            if self.draining and not (isinstance(announce, Search) and announce.preparation in self._promised):
                raise PeerRefused(self.name, "capacity")
            if isinstance(announce, Search):
                self._promised.pop(announce.preparation, None)
            else:
                del self.askers[query]
                self._take_place(self.preparers, peer, query)
            driver = self.drive(await asyncio.to_thread(self.answering.machine, announce, query))
        except BaseException as error:
            self._leave_place(query)
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

    def _take_place(self, places: dict[bytes, str], peer: str, query: bytes) -> None:
        """Searches and preparations have as many places each, so that neither shuts out the other."""
        if not has_room(peer, places.values(), self.config.limits.concurrent_queries):
            raise PeerRefused(self.name, "capacity")
        places[query] = peer

    def _leave_place(self, query: bytes) -> None:
        self.askers.pop(query, None)
        self.preparers.pop(query, None)

    async def _until_made(self, announce: Search) -> None:
        """The requester may be done with a preparation, and name it, while this node still puts it away.

        One search waits for it, as it serves no other: any number would have places here, and no quota counts them.
        Raises `UnknownPreparation` for the others.
        """
        wanted = announce.preparation
        for driver in list(self.drivers.values()):
            machine = driver.machine
            if not isinstance(machine, (PreparingRouter, PreparingHolder)) or machine.preparation_id != wanted:
                continue
            if machine.parties.requester != announce.requester or wanted in self._awaited:
                raise UnknownPreparation(wanted, f"is being made, and not for this search of {announce.requester}")
            self._awaited.add(wanted)
            try:
                with anyio.move_on_after(self.config.limits.read_timeout_seconds):
                    await driver.until_finished()
            finally:
                self._awaited.remove(wanted)

    def recorder(self, conversation: bytes, watch: Callable[[Event], None] | None = None) -> Callable[[Event], None]:
        """For the context of a machine that `drive` will run: what it sends and takes goes to the archive, then to
        `watch`. A record that fails is this node's fault and stops the query; it is no fault of the protocol."""

        def record(event: Event) -> None:
            try:
                self.archive.record(conversation, event)
            except Exception as error:
                raise RecordFailed(type(error).__name__) from error
            if watch is not None:
                watch(event)

        return record

    def drive(self, machine: Party) -> QueryDriver:
        """Run a machine of this node."""
        preparing = isinstance(machine, _PREPARING)
        self.archive.begin(machine.query, None if preparing else machine.parties)
        seconds = self.config.limits.read_timeout_seconds
        # The requester waits longer than those it asks: so it hears from them whom they waited for in vain.
        patience = seconds * REQUESTER_PATIENCE if machine.role is Role.REQUESTER else seconds
        driver = QueryDriver(
            machine,
            self._credentials,
            self.transport,
            self._preparing_scorer if preparing else self._scorer,
            self._preparing_turns if preparing else self._turns,
            patience,
            self.config.limits.query_timeout_seconds,
            self._ended,
            seconds,
        )
        self.drivers[machine.query] = driver
        self._live.add(driver)
        driver.task.add_done_callback(lambda _: self._live.discard(driver))
        if preparing:
            self.preparers.setdefault(machine.query, self.name)
            self.pace.begin(machine.query)
        else:
            self._precedence.begin()
            self.metrics.started()
            self._begun[machine.query] = time.perf_counter()
        return driver

    def serve(self, states: tuple[str, ...]) -> None:
        """From now on these states may ask."""
        self._gate.serve(states)

    def part_with(self, peer: str, error: LineupError) -> None:
        """Stop every query that a peer takes part in; it is no longer a peer."""
        for driver in list(self.drivers.values()):
            driver.failed_peers.setdefault(peer, error)
            driver.blame(peer, error)
        self.clocks.forget(peer)

    @property
    def all_alarms(self) -> list[str]:
        """What the operator should look at: `alarms`, staff that is gone, refused peers, clocks that differ, and what
        is wrong with a cluster."""
        cluster = self.galleries.cluster
        lost = [] if cluster is None else cluster.alarms
        told = [] if self.follow_up is None else self.follow_up.alarms
        return [*self.alarms, *told, *self.peer_faults, *self.clocks.alarms, *lost]

    @property
    def queries_running(self) -> int:
        """How many searches are under way; preparations are told apart (`nodes.service.supplies`)."""
        return sum(not isinstance(driver.machine, _PREPARING) for driver in list(self.drivers.values()))

    @property
    def idle(self) -> bool:
        """Nothing is under way, and every last frame was handed over."""
        promised = self.draining and any(until > time.monotonic() for until in self._promised.values())
        under_way = self._live or self._opening or promised
        return not under_way and (self.follow_up is None or self.follow_up.idle)

    def promise(self, preparation_id: bytes) -> None:
        """A preparation was made. If this node shuts down, its search may still come, and soon: it was under way."""
        now = time.monotonic()
        still = {known: until for known, until in self._promised.items() if until > now}
        self._promised = {**still, preparation_id: now + PROMISED_SECONDS}

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
        while self._live or self._opening:  # a search may begin its next attempt meanwhile, or be let in
            for driver in list(self._live):
                await driver.close()
                self._live.discard(driver)
            if self._opening:
                await asyncio.wait(list(self._opening.values()))
                await asyncio.sleep(0)  # until they are noted as over
        if self.follow_up is not None:
            self.follow_up.close()
        await asyncio.to_thread(self.galleries.close)
        self.pool.close()
        self.store.close()
        self.archive.close()

    async def _until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.idle and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def warm(self) -> None:
        """Compile or load every kernel, and read the gallery, before the first conversation needs them.

        Raises `ClusterError` where the cluster that is configured is not there.
        """
        if self.galleries.cluster is not None:
            self.galleries.cluster.connect()  # before anything that takes long
        warm_up(preset(self.config.policy.presets[0]))
        if roots := self._read_galleries():
            dropped = self.pool.drop_where(gallery_root_not_in=roots)  # they would find nobody who came since
            log.info(f"{dropped} preparations for an earlier gallery dropped", extra={"node": self.name})

    def _read_galleries(self) -> frozenset[bytes]:
        """Read what changed, so that no preparation waits for that; gives the roots, none without a gallery.

        Of the first preset, and of every other that something waits for.
        """
        policy = self.config.policy
        if self.config.role is not Role.HOLDER or not policy.purposes:
            return frozenset()
        first, *others = policy.presets
        waits = self.pool.presets
        names = (first, *(name for name in others if name in waits))
        try:
            return frozenset(self.galleries.of(name).current().root for name in names)
        except EmptyStore:
            log.info("the gallery is empty")
            return frozenset()

    def follow_gallery(self) -> None:
        """Release subjects forgotten since."""
        if gone := self.galleries.follow():
            log.info(f"{gone} rows overwritten in memory", extra={"node": self.name})

    def inspect(self) -> None:
        """The daily look at the database and the galleries made of it (`nodes.service.guard`)."""
        self._guard.inspect(self.store, self.galleries.all)

    def shut_out(self) -> dict[str, date]:
        """States that this node refuses for their limit of releases, and the day from which it serves them again."""
        policy, today = self.config.policy, datetime.now(timezone.utc).date()
        return self.store.shut_out(policy.releases_per_reference, today, policy.release_window_days)

    def standing(self) -> list[str]:
        """Who is refused for a limit of releases, here or by others, in words for the operator."""
        return [f"{state} is refused until {day}" for state, day in sorted(self.shut_out().items())]

    def put_aside(self) -> list[Aside]:
        """What restores and accepted losses put aside, and nobody has deleted yet."""
        config, folder = self.config, self.archive.folder
        files = [rows_folder(config), folder / desk.FILE, folder / console.FILE]
        return put_aside(*files, *([config.storage.file] if config.storage.file is not None else []))

    def delete_expired(self) -> Expired:
        """Delete what is past its time (`nodes.service.expiry`)."""
        now = datetime.now(timezone.utc)
        self.pool.erase_expired(now.timestamp())
        done = delete_expired(self.store, self.archive, self.config, now, self.archive.writing)
        if self.follow_up is not None:
            self.follow_up.desk.delete_expired_case_data()
        if done.subjects:
            self.follow_gallery()
            self._read_galleries()
        return done

    def failing(self) -> tuple[str, ...]:
        """What keeps this node from working (`nodes.service.health`); looked at every few seconds at most."""
        if time.monotonic() >= self._health_until:
            self._health_until = time.monotonic() + HEALTH_SECONDS  # first: many may ask at once
            self._failing = failing(self.config, self.archive, self.store)
            with suppress(LineupError, OSError):  # a loss is kept in `faults`, all else is told by `failing`
                self._guard.meet(self.store)
        cluster = self.galleries.cluster
        lost = ("cluster",) if cluster is not None and cluster.fault else ()
        return tuple(dict.fromkeys((*self._failing, *self._guard.faults, *lost)))

    async def _ended(self, driver: QueryDriver) -> None:
        machine = driver.machine
        assert isinstance(machine, Party)
        self._early.take(machine.query)
        self._over[machine.query] = None
        while len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
        if isinstance(machine, _PREPARING):
            made = machine.preparation is not None and bool(machine.preparation.rings)
            if (seconds := self.pace.end(machine.query, made)) is not None:
                self.metrics.prepared(seconds)
        else:
            self._precedence.end()
            self.metrics.finished()
            seconds = time.perf_counter() - self._begun.pop(machine.query)
            if machine.role is not Role.REQUESTER and answered(machine):
                self.metrics.searched(seconds)  # a requester tells it itself, from the probe on
        self._leave_place(machine.query)
        await to_the_end(self._keep_records(machine))  # also where this node is closed just then
        self.drivers.pop(machine.query, None)
        self.gossip.meet_soon({peer for session in machine.sessions.values() for peer in session.peers})
        for session in machine.sessions.values():
            if not session.whole or session.state.value == "aborted":
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

    async def _keep_records(self, machine: Party) -> None:
        try:
            await asyncio.to_thread(self._put_away, machine)
        except Exception as error:  # a disk that is full must not take the node down with it
            log.error("records incomplete", extra={"query": machine.query.hex(), "error": type(error).__name__})

    def _put_away(self, machine: Party) -> None:
        """The records of a conversation that is over, and then what it made."""
        recorded = False
        try:
            self.archive.end(machine)
            recorded = True
        finally:
            self.answering.ended(machine, recorded)
