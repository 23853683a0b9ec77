"""What holder and router do when a requester opens a conversation: they prepare, or search with what was prepared."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nodes.casework.deletion import owing
from nodes.config.names import Purpose
from nodes.config.schema import Role
from nodes.pool import UnknownPreparation
from nodes.query.gate import Gate
from nodes.store import StoreError
from pets.errors import ParameterError
from pets.params import SHARE_BITS
from protocol.announcing import Plan, announce_digest, parties_of
from protocol.errors import QueryRefused
from protocol.messages import JoinedPreparation, Prepare, Search
from protocol.party import Context, Party
from protocol.preparation import PAIRS, HolderPreparation, Preparation, RouterPreparation
from protocol.preparing import PreparingHolder, PreparingRequester, PreparingRouter
from protocol.searching import SearchingHolder, SearchingRouter
from protocol.session import Event

if TYPE_CHECKING:
    from nodes.service.node import Node

log = logging.getLogger("lineup.node")

ROW_BYTES = 12  # what a holder keeps of each row in a preparation that waits
ROUTER_ROW_BYTES = 2 * (SHARE_BITS + PAIRS) / 8  # and a router: two components of z and of its neighbour products


class Answering:
    """`machine` is asked before anything is done, `ended` when it is over: what was made then waits in the pool."""

    def __init__(self, node: Node, gate: Gate) -> None:
        self._node = node
        self._gate = gate

    @property
    def roots(self) -> frozenset[bytes]:
        """Of the versions of the gallery that preparations were made for which wait, or are being made."""
        machines = [driver.machine for driver in list(self._node.drivers.values())]  # before what waits
        making = [machine.gallery.root for machine in machines if isinstance(machine, PreparingHolder)]
        return frozenset((*self._node.pool.roots, *making))

    def machine(self, announce: Prepare | Search, conversation: bytes) -> Party:
        """The party that this node is in a conversation. Raises `QueryRefused`, and what the gate raises."""
        if self._node.config.role is Role.REQUESTER:
            raise QueryRefused("state", f"{self._node.name} is a requester and answers no queries")
        if isinstance(announce, Prepare):
            return self._prepare(announce, conversation)
        return self._search(announce, conversation)

    def ended(self, machine: Party, recorded: bool) -> None:
        """A conversation is over. What was made waits from now on; without records it is erased.

        Raises OSError where it cannot be noted what made it: it is erased then too.
        """
        if isinstance(machine, (PreparingRequester, PreparingRouter, PreparingHolder)):
            self._keep(machine, recorded)
        elif isinstance(machine, (SearchingRouter, SearchingHolder)):
            if isinstance(machine, SearchingHolder):
                self._node.galleries.give_back(machine.live.now)
            if not machine.preparation.spent:
                self._give_up(machine.preparation)

    def _keep(self, machine: PreparingRequester | PreparingRouter | PreparingHolder, recorded: bool) -> None:
        made = machine.preparation
        try:
            if made is not None and made.rings and recorded:
                self._node.archive.keep_preparation(machine)
        except BaseException:
            recorded = False
            raise
        finally:
            if made is not None and not recorded:
                made.erase()
            if not isinstance(machine, PreparingRequester):  # which may use it now, and puts it by itself
                self._put_by(machine)

    def _put_by(self, machine: PreparingRouter | PreparingHolder) -> None:
        made = machine.preparation
        if made is None or not made.rings:
            self._node.pool.release(machine.query)
            return
        preparation_id = made.preparation_id
        self.let_wait(machine.query, made)
        self._node.promise(preparation_id)

    def let_wait(self, conversation: bytes, made: Preparation) -> None:
        """Put what was made into the pool, unless one of its parties is no longer a peer.

        After it is there: who removes a peer drops what waits with it, and may do so just before.
        """
        preparation_id, parties = made.preparation_id, {made.requester, made.router, *made.rings}
        self._node.pool.add(conversation, made, time.time())
        if parties - {self._node.name} - set(self._node.peers):
            self._node.pool.drop(preparation_id)

    def _prepare(self, announce: Prepare, conversation: bytes) -> Party:
        self._gate.check_preparation(announce, conversation)
        try:
            plan = Plan.announced(announce)
        except ParameterError as error:
            raise QueryRefused("parameters", str(error)) from None
        if self._node.config.role is Role.ROUTER:
            expected = self._node.pool.largest(announce.requester)  # the holders will tell how many rows
            self._admit(announce, conversation, expected)
            return PreparingRouter(self._context(announce, conversation, self._measure(announce, conversation, plan)))
        gallery = self._node.galleries.current(announce.preset, plan.dim, plan.model)
        size = ROW_BYTES * gallery.blocks * plan.params.n + 8 * plan.params.n * plan.dim
        self._admit(announce, conversation, size)
        return PreparingHolder(self._context(announce, conversation), gallery)

    def _measure(self, announce: Prepare, conversation: bytes, plan: Plan) -> Callable[[Event], None]:
        """Stops a preparation at the router as soon as the holders have told that there is no room for it.

        Of several holders the one that told most is named, not who told last: else one could fill the room with what
        it says, and have another left out.
        """
        rows: dict[str, int] = {}

        def watch(event: Event) -> None:
            message = event.message
            if event.direction == "received" and isinstance(message, JoinedPreparation) and message.blocks:
                rows[event.peer] = message.blocks * plan.params.n
                by = max(rows, key=lambda name: rows[name]) if len(announce.holders) > 1 else ""
                self._node.pool.grow(conversation, int(ROUTER_ROW_BYTES * sum(rows.values())), by)

        return watch

    def _admit(self, announce: Prepare, conversation: bytes, size: int) -> None:
        """Keep a place for one of about `size` bytes, then claim and count it. What finds no place leaves nothing."""
        pool = self._node.pool
        pool.admit(conversation, announce.requester, size, time.time())
        try:
            self._gate.admit_preparation(announce, conversation)
        except BaseException:
            pool.release(conversation)
            raise

    def _search(self, announce: Search, conversation: bytes) -> Party:
        self._gate.check(announce, conversation)
        if self._owes_receipts(announce.requester):
            raise QueryRefused("state", owing(announce.requester))
        if not self._waits(announce):
            raise UnknownPreparation(announce.preparation, f"of {announce.requester} does not wait here")
        self._gate.admit(announce, conversation)
        made = self._node.pool.take(announce.preparation, time.time(), announce.requester)
        try:
            if self._node.config.role is Role.HOLDER:
                return self._searching_holder(announce, conversation, made)
            if not isinstance(made, RouterPreparation):
                raise UnknownPreparation(made.preparation_id, "was not made by a router")
            return SearchingRouter(self._context(announce, conversation), made)
        except BaseException:
            self._give_up(made)
            raise

    def _owes_receipts(self, requester: str) -> bool:
        """Whether the requester has let the time of a recall pass (`casework.refuse_without_receipts`)."""
        follow_up = self._node.follow_up
        if follow_up is None:
            return False
        try:
            return follow_up.desk.owes_receipts(requester)
        except StoreError as error:
            raise QueryRefused("internal", str(error)) from error

    def _waits(self, announce: Search) -> bool:
        """Looked at first: what was not prepared uses up no quota, and a quota that is used up no preparation."""
        wanted = announce.preparation, announce.requester
        return any((item.preparation_id, item.requester) == wanted for item in self._node.pool.standing())

    def _searching_holder(self, announce: Search, conversation: bytes, made: Preparation) -> SearchingHolder:
        ring = made.rings.get(self._node.name)
        if ring is None or not isinstance(made, HolderPreparation):
            raise UnknownPreparation(made.preparation_id, "was not made by this holder")
        context = self._answering(announce, conversation)
        assert announce.warrant is not None  # the gate has checked it
        purpose, empty = Purpose(announce.warrant.purpose), (made.dim, made.model)
        lent = self._node.galleries.lend(made.preset, ring.root, empty, purpose)
        if lent is None:
            raise UnknownPreparation(made.preparation_id, "is for a version of the gallery that is gone")
        gallery, live = lent
        try:
            return SearchingHolder(context, gallery, made, live)
        except BaseException:
            self._node.galleries.give_back(live)
            raise

    def _context(
        self, announce: Prepare | Search, conversation: bytes, watch: Callable[[Event], None] | None = None
    ) -> Context:
        """What a party of any role and conversation is told."""
        node = self._node
        threads = node.threads if isinstance(announce, Search) else node.preparing_threads
        parties = parties_of(announce)
        return Context(
            node.name, conversation, parties, threads, keyring=node.keyring,
            recorder=node.recorder(conversation, watch), admitted=announce_digest(announce), accept=node.pool.spend,
        )  # fmt: skip

    def _answering(self, announce: Search, conversation: bytes) -> Context:
        """And a holder in a search."""
        return replace(
            self._context(announce, conversation),
            keep=self._node.archive.keep_holder,
            answer=partial(self._gate.answer, announce),
            release=partial(self._release, announce, conversation),
        )

    def _release(self, announce: Search, query: bytes, references: tuple[str, ...]) -> frozenset[str]:
        """Count and note what is about to be released, and give what of it is contested.

        Refused, not written down, or its marks not read, nothing of it leaves, nor if one of it was forgotten
        meanwhile. That and the marks are looked at last: who contests or forgets one of it before is heeded here, and
        who does so later finds whom to tell.
        """
        assert self._node.follow_up is not None
        try:
            self._gate.release(announce, references)
            self._node.follow_up.disclosed(query, announce.requester, references)
            for reference in references:
                self._node.store.subject(reference)
            return self._node.store.contested(references)
        except StoreError as error:
            raise QueryRefused("internal", str(error)) from error

    def _give_up(self, made: Preparation) -> None:
        self._node.pool.drop(made.preparation_id)
        made.erase()
