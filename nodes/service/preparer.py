"""Preparations at the requester's node: found among those that wait, or made now."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodes.pool import UnknownPreparation
from nodes.query.driver import QueryDriver
from nodes.service.operator_api import Progress
from nodes.service.together import to_the_end
from nodes.transport.send_queue import PeerRefused, PeerUnreachable
from protocol.announcing import Plan
from protocol.errors import PeerAborted, QueryRefused
from protocol.messages import FOUND_IN_OTHERS, JoinedPreparation, PreparedBlocks
from protocol.party import Context
from protocol.preparation import Preparation, RequesterPreparation
from protocol.preparing import PreparingRequester
from protocol.roles import Parties
from protocol.session import Event

if TYPE_CHECKING:
    from nodes.service.node import Node

Told = Callable[[Progress], None]


class Tally:
    """Rows that holders have scored for a preparation, of how many: read off its frames, in any thread."""

    def __init__(self, plan: Plan) -> None:
        self._rows: dict[str, int] = {}
        self._of: dict[str, int] = {}
        self._block_bytes = 8 * plan.params.n
        self._n = plan.params.n

    def __call__(self, event: Event) -> None:
        """Take a frame into account."""
        if event.direction != "received":
            return
        if isinstance(event.message, JoinedPreparation):
            if event.message.blocks:
                self._of[event.peer] = self._n * event.message.blocks
        elif isinstance(event.message, PreparedBlocks):
            rows = self._n * (len(event.message.data) // self._block_bytes)
            self._rows[event.session] = self._rows.get(event.session, 0) + rows

    @property
    def progress(self) -> Progress:
        """How far it is, in all and by holder."""
        by_holder = {name: (self._rows.get(name, 0), of) for name, of in list(self._of.items())}
        rows, of = (sum(counts) for counts in zip(*by_holder.values(), strict=True)) if by_holder else (0, 0)
        return Progress("preparing", rows, of, by_holder=by_holder)


@dataclass(frozen=True)
class Making:
    """A preparation that was tried: its machine tells what came of it."""

    driver: QueryDriver
    machine: PreparingRequester

    @property
    def made(self) -> RequesterPreparation | None:
        """What was made, with the rings that were finished; None if none was."""
        made = self.machine.preparation
        return made if made is not None and made.rings else None

    @property
    def router_failed(self) -> bool:
        """Whether the router refused, or cannot be reached: without it nothing is made.

        Not where it was silent, or stopped for something that it found in others: a holder may have kept it waiting, or
        have lied to it alone.
        """
        router, failure = self.machine.parties.router, self.machine.whole.failure
        if isinstance(self.driver.failed_peers.get(router), (PeerRefused, PeerUnreachable)):
            return True
        if not isinstance(failure, PeerAborted) or not failure.peer == failure.by == router:
            return False
        return failure.code not in FOUND_IN_OTHERS


class Preparer:
    """Takes and makes preparations for a requester's node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def waiting(self, holders: Collection[str], plan: Plan) -> RequesterPreparation | None:
        """A waiting preparation that serves these holders; the caller owns it. None if there is none."""
        pool = self._node.pool
        while True:
            now = time.time()
            preparation_id = pool.find(holders, plan.dim, plan.params.preset, plan.model, now)
            if preparation_id is None:
                return None
            try:
                made = pool.take(preparation_id, now)
            except UnknownPreparation:  # it cannot be read any more, or was used
                continue
            except QueryRefused:  # the store does not say just now; it would of no other
                return None
            if isinstance(made, RequesterPreparation):
                return made
            self.give_up(made)

    async def find(self, holders: Collection[str], plan: Plan) -> RequesterPreparation | None:
        """As `waiting`. What is found once the caller was cancelled is given up: nobody would own it."""
        finding = asyncio.create_task(asyncio.to_thread(self.waiting, holders, plan))
        try:
            return await to_the_end(finding)
        except asyncio.CancelledError:
            if finding.exception() is None and (made := finding.result()) is not None:
                await to_the_end(asyncio.to_thread(self.give_up, made))
            raise

    async def make(self, router: str, holders: Sequence[str], plan: Plan, told: Told | None = None) -> Making:
        """Try to make one, and wait until that is over."""
        node = self._node
        parties = Parties(node.name, router, tuple(holders))
        conversation = secrets.token_bytes(16)
        tally = Tally(plan)
        context = Context(
            node.name, conversation, parties, node.preparing_threads, keyring=node.keyring,
            recorder=node.recorder(conversation, tally),
        )  # fmt: skip
        machine = PreparingRequester(context, plan)
        driver = node.drive(machine)
        try:
            while not driver.finished:
                if told is not None:
                    told(tally.progress)
                driver.changed.clear()
                await driver.changed.wait()
        except BaseException as error:
            await driver.break_off(error)
            if machine.preparation is not None:
                machine.preparation.erase()
            raise
        return Making(driver, machine)

    def put_by(self, making: Making) -> bool:
        """Let what was made wait; False if nothing was. Raises OSError if it cannot be kept: it is erased then."""
        made = making.made
        if made is None:
            return False
        self._node.answering.let_wait(making.machine.query, made)
        return True

    def give_up(self, made: Preparation) -> None:
        """Drop it unused. Nothing happens to one that was used."""
        if not made.spent:
            self._node.pool.drop(made.preparation_id)
        made.erase()
