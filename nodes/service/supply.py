"""Keeps a requester's node supplied with preparations, and both sides agreed on which there are.

What its last search or `lineup prepare` wanted is made again, when nothing else is under way, until `ready` wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec

from nodes.config.schema import Role
from nodes.private_files import replace_private
from nodes.service.drops import Drops
from nodes.service.operator_api import HolderAnswer, PrepareReport, PrepareRequest, Progress
from nodes.service.preparer import Making, Preparer, Told
from nodes.service.together import to_the_end, together
from nodes.transport.send_queue import PeerRefused
from pets.errors import MALFORMED, LineupError
from pets.params import preset
from protocol.announcing import Plan
from protocol.messages import Digest

if TYPE_CHECKING:
    from nodes.service.node import Node
    from nodes.service.requester import RequesterNode

log = logging.getLogger("lineup.supply")

PREPARED = "/v1/prepared"  # where a peer takes the list of what a requester has
FILE = "wanted.json"
SIDE_BY_SIDE = 4  # they share passes over the galleries
LOOK_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 900.0  # after failures
COMPARE_SECONDS = 600.0
SETTLED_SECONDS = 60.0  # a peer may put one away a little later than this node

Why = Callable[[Making, Sequence[str]], Mapping[str, HolderAnswer]]
Identities = Annotated[list[Digest], msgspec.Meta(max_length=1000)]


class Supply:
    """Of one requester's node. `why`: by holder, why a preparation that was tried has no ring of it."""

    def __init__(self, node: RequesterNode, preparer: Preparer, why: Why) -> None:
        self._node = node
        self._preparer = preparer
        self._why = why
        self._file = node.archive.folder / FILE
        self._compared = -COMPARE_SECONDS
        self._making = 0
        self._drops = Drops()

    async def prepare(
        self, request: PrepareRequest, told: Told = lambda _: None, stop: asyncio.Event | None = None
    ) -> PrepareReport:
        """Make some, a few side by side; starts no further one once a holder refuses or is silent, or `stop` is set.

        Raises `InputError` for holders or parameters that this node does not know.
        """
        self.check(request)
        started = time.perf_counter()
        await self.compare(at_once=True, holders=request.holders)
        rows = [Progress("preparing")] * request.count
        refused: dict[str, HolderAnswer] = {}
        made, begun = 0, 0

        def tell(index: int, progress: Progress) -> None:
            rows[index] = progress
            each = max(one.of for one in rows)
            told(Progress("preparing", sum(one.rows for one in rows), each * request.count, made, request.count))

        async def work() -> None:
            nonlocal made, begun
            while begun < request.count and not refused and not (stop is not None and stop.is_set()):
                index, begun = begun, begun + 1
                waits, missing, _ = await self._make(request, partial(tell, index))
                refused.update(missing)
                made += waits  # not in one line: `made` would be read before the others have added theirs

        await together(work() for _ in range(min(SIDE_BY_SIDE, request.count)))
        if made:
            await asyncio.to_thread(self.want, request)
        return PrepareReport(made, request.count, time.perf_counter() - started, refused)

    def check(self, request: PrepareRequest) -> None:
        """Raise `InputError` unless this node can ask for it, `PeerRefused` (capacity) while it shuts down."""
        self._node.check_holders(request.holders)
        plan_of(request)
        if self._node.draining:
            raise PeerRefused(self._node.name, "capacity")

    def want(self, request: PrepareRequest) -> None:
        """Note what is to be kept ready from now on, also after a restart. It says nothing of any probe."""
        wanted = msgspec.structs.replace(request, count=1)
        if wanted == self.wanted:
            return
        try:
            replace_private(self._file, msgspec.json.encode(wanted))
        except OSError as error:
            log.warning("not noted what to keep ready", extra={"error": type(error).__name__})

    def searched(self, request: PrepareRequest) -> None:
        """Note what a search would have used. What is kept ready for these holders and others serves it as well."""
        wanted = self.wanted
        alike = msgspec.structs.replace(request, count=1, holders=wanted.holders) if wanted is not None else None
        if wanted is None or alike != wanted or not set(request.holders) <= set(wanted.holders):
            self.want(request)

    @property
    def wanted(self) -> PrepareRequest | None:
        """What is to be kept ready; None before anything was asked for."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=PrepareRequest)
        except (OSError, *MALFORMED):
            return None

    @property
    def missing(self) -> int:
        """How many of what is wanted do not wait so far."""
        wanted = self.wanted
        return 0 if wanted is None else max(0, self._wished - self._ready(wanted))

    @property
    def _wished(self) -> int:
        return self._node.config.preparations.ready

    def _ready(self, wanted: PrepareRequest) -> int:
        """How many wait that serve a search of these holders."""
        return self._node.pool.ready(wanted.holders, wanted.dim, wanted.preset, wanted.model, time.time())

    async def run_for_ever(self) -> None:
        """Refill and compare, as long as the node runs. Failures only make the pauses longer."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                well = await self.round()
            except Exception as error:  # whatever it is, the next round may work
                log.warning("preparing failed", extra={"error": type(error).__name__})
                well = False
            pause = LOOK_SECONDS if well else min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def round(self) -> bool:
        """Make one that is missing, if nothing else is under way. False if that failed.

        Not yet with a peer that had this node drop what waited, again and again (`nodes.service.drops`).
        """
        node = self._node
        await asyncio.to_thread(node.pool.erase_expired, time.time())
        if node.draining or node.drivers or node.searching:
            return True
        await self.compare()
        wanted = await asyncio.to_thread(lambda: self.wanted if self.missing else None)
        if wanted is None or self._drops.pause((node.router,), time.monotonic()):
            return True
        at_once = tuple(name for name in wanted.holders if not self._drops.pause((name,), time.monotonic()))
        wanted = msgspec.structs.replace(wanted, holders=at_once)
        if not at_once or self._ready(wanted) >= self._wished:
            return True
        refused, router_failed = await self._make_one(wanted)
        instead = _to_ask_instead(wanted.holders, refused, router_failed)
        instead = instead[: 2 * self._wished]  # there is room for no more than that
        enough = self._wished if len(instead) == 1 else 1
        for holders in instead:  # a search of these need not wait for the others
            if self._ready(fewer := msgspec.structs.replace(wanted, holders=holders)) < enough:
                await self._make_one(fewer)
        await asyncio.to_thread(self._make_room, wanted)
        return not refused

    async def _make_one(self, wanted: PrepareRequest) -> tuple[Mapping[str, HolderAnswer], bool]:
        """Let one wait with the holders that took part; gives why the others did not, and whether the router failed."""
        _, refused, router_failed = await self._make(wanted)
        for name, answer in refused.items():
            log.warning("not prepared", extra={"peer": name, "code": answer.reason, "by": answer.by})
        return refused, router_failed

    def _make_room(self, wanted: PrepareRequest) -> None:
        """Of what was made for other searches keep no more than as many again; the peers hear of it.

        Afterwards: what is made in place of what somebody stops is not dropped to be made anew each round.
        """
        pool, ready = self._node.pool, self._node.config.preparations.ready
        other = pool.oldest_besides(wanted.holders, wanted.dim, wanted.preset, wanted.model)
        if other is not None and len(pool.standing()) > 2 * ready:
            pool.drop(other)
            self._compared = -COMPARE_SECONDS

    async def compare(self, at_once: bool = False, holders: Sequence[str] = ()) -> None:
        """Tell every peer which preparations this node has with it, now and then: each drops what the other lost or
        outgrew. Not which it has with others: from what is used up a holder could count their searches.

        Not while one is being made, or searched with as soon as it is: it is not in the pool of this node then.
        `holders`: told too, though nothing waits with them or is wanted of them.
        """
        late = time.monotonic() - self._compared >= COMPARE_SECONDS
        if self._making or self._node.searching or not (late or at_once):
            return
        self._compared = time.monotonic()
        waiting = await asyncio.to_thread(self._node.pool.standing)
        wanted = self.wanted.holders if self.wanted else ()
        asked = {self._node.router}.union(holders, wanted, *(one.holders for one in waiting))
        await together(self._compare_with(peer) for peer in sorted(asked))

    async def _compare_with(self, peer: str) -> None:
        node = self._node
        holder = None if peer == node.router else peer
        mine = await asyncio.to_thread(node.pool.preparation_ids, node.name, None, holder)
        try:
            told = await node.transport.tell(peer, PREPARED, msgspec.msgpack.encode(sorted(mine)))
            lost = set(msgspec.msgpack.decode(told, type=Identities)) & mine
        except (LineupError, *MALFORMED) as error:
            log.info("preparations not compared", extra={"peer": peer, "error": type(error).__name__})
            return
        settled = time.time() - SETTLED_SECONDS
        waiting = [one for one in node.pool.standing() if one.preparation_id in lost and one.made < settled]
        dropped = [one.preparation_id for one in waiting if peer in (node.router, *one.holders)]
        for preparation_id in dropped:
            log.info(
                "dropped: its peer lost its part, or has another gallery now",
                extra={"peer": peer, "preparation": preparation_id.hex()},
            )
            await asyncio.to_thread(node.pool.drop, preparation_id)
        if dropped:
            self._drops.note(peer, time.monotonic())

    async def _make(
        self, request: PrepareRequest, told: Told | None = None
    ) -> tuple[bool, Mapping[str, HolderAnswer], bool]:
        """Make one and let it wait; whether it does, who has no ring in it, and whether the router failed."""
        self._making += 1
        try:
            making = await self._preparer.make(self._node.router, request.holders, plan_of(request), told)
            missing = self._why(making, request.holders)  # first: the pool erases what it has sealed
            waits = await to_the_end(asyncio.to_thread(self._preparer.put_by, making))
            return waits, missing, making.router_failed
        finally:
            self._making -= 1


def compare(node: Node, requester: str, listed: bytes) -> bytes:
    """At holder and router: drop what a requester no longer has; tell it which of its preparations it should not use.

    Those are the ones that are not here, and those for an earlier version of the gallery: they would not find who was
    enrolled since. Raises what msgspec raises for a list that is none.
    """
    theirs = msgspec.msgpack.decode(listed, type=Identities)
    node.pool.retain(requester, theirs)
    roots = node.galleries.roots() if node.config.role is Role.HOLDER else None
    good = node.pool.preparation_ids(requester, roots)
    return msgspec.msgpack.encode([preparation_id for preparation_id in theirs if preparation_id not in good])


def plan_of(request: PrepareRequest) -> Plan:
    """What is to be prepared. Raises `ParameterError`."""
    return Plan(preset(request.preset), request.dim, request.model)


def _to_ask_instead(
    asked: tuple[str, ...], refused: Mapping[str, HolderAnswer], router_failed: bool
) -> list[tuple[str, ...]]:
    """Those who did not refuse. If all was stopped, whom a holder names says nothing: each alone, then."""
    rest = tuple(name for name in asked if name not in refused)
    if rest:
        return [rest] if refused else []
    return [(name,) for name in asked] if len(asked) > 1 and not router_failed else []
