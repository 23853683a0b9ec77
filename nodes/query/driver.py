"""Drives one party of one conversation: frames in and out of end-to-end channels, scoring, silence, the end."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import anyio

from nodes.query.scorer import Scorer
from nodes.query.turns import Turns
from nodes.transport.send_queue import PeerRefused, SendQueue, Transport
from pets.errors import LineupError
from pets.sealing import SealingKey, SealingPublicKey
from protocol.channel import ReceivingChannel, SendingChannel
from protocol.errors import MissingMessage, PeerAborted, QueryRefused
from protocol.party import Party
from protocol.session import Session
from protocol.steps import Keyring, Receive, ReceiveAny, Work

log = logging.getLogger("lineup.driver")

Action = Callable[[], None]

LINGER_SECONDS = 5.0  # how long a query that is over keeps trying to hand over its last frames
INBOUND_BYTES = 16 * 2**20  # what of one query may wait to be worked on before nothing more is read from its peers
UNIT_BYTES = 512  # that each unit takes beside its own while it waits: a body may bring a thousand empty ones


@dataclass(frozen=True)
class Credentials:
    """What a node brings to a conversation. `sealing_keys`: the peers' public keys."""

    keyring: Keyring
    sealing_key: SealingKey
    sealing_keys: Mapping[str, SealingPublicKey]


class Silence(QueryRefused):
    """A peer said nothing for as long as this node waits, or the query took longer than it may. Code `timeout`."""

    def __init__(self, message: str, by: str = "") -> None:
        super().__init__("timeout", message, by)


class InternalError(QueryRefused):
    """This node cannot go on, for example because it cannot write its log. Code `internal`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("internal", f"this node cannot go on: {type(cause).__name__}")


class RecordFailed(Exception):
    """This node cannot write down what happens. Not a `LineupError`: no part of the protocol may go on from it."""


class QueryDriver:
    """Runs `machine` until all its sessions are over: `changed` is set after every step, `ended` called at the end.

    `patience`: seconds without anything that a session waits for, after which the query is given up; what else comes
    does not count, or whoever sends it could delay all others. `lifetime`: seconds the query may take in all; `reach`:
    seconds for which a peer is tried that cannot be reached, None for as many as `patience`. All machine code runs in
    worker threads, one step at a time, in the `turns` of the state that asked. `failed_peers`: who was given up, and
    why; `awaited`: whom each session last waited for.
    """

    def __init__(
        self,
        machine: Party,
        credentials: Credentials,
        transport: Transport,
        scorer: Scorer,
        turns: Turns,
        patience: float,
        lifetime: float,
        ended: Callable[[QueryDriver], Awaitable[None]],
        reach: float | None = None,
    ) -> None:
        self.machine = machine
        self.failed_peers: dict[str, LineupError] = {}
        self.awaited: dict[str, tuple[str, ...]] = {}
        self.changed = asyncio.Event()
        self.finished = False
        self._credentials = credentials
        self._transport = transport
        self._scorer = scorer
        self._turns = turns
        self._patience = patience
        self._reach = patience if reach is None else reach
        self._lifetime = lifetime
        self._ended = ended
        self._sending: dict[str, SendingChannel] = {}
        self._receiving: dict[str, ReceivingChannel] = {}
        self._accepted: dict[str, int] = defaultdict(int)
        self._send_queues: dict[str, SendQueue] = {}
        self._inbound: asyncio.Queue[tuple[Action, int]] = asyncio.Queue()
        self._waiting_bytes = 0
        self._quiet_since = 0.0  # when its sessions last went on
        self._waited = 0.0  # the longest since then that this node waited for its turn
        self._scoring: set[asyncio.Task[None]] = set()
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(lambda _: self.changed.set())

    def accept(self, peer: str, offset: int, units: list[bytes]) -> None:
        """Take units from a peer; those that were taken before are passed over.

        Raises `MissingMessage` for a gap, `PeerRefused` from who takes no part (state).
        """
        if not any(peer in session.peers for session in self.machine.sessions.values()):
            raise PeerRefused(self.machine.name, "state")
        expected = self._accepted[peer]
        if offset > expected:
            raise MissingMessage(f"unit {offset} of {peer} came before {expected}")
        fresh = units[expected - offset :]
        self._accepted[peer] += len(fresh)
        for unit in fresh:
            size = len(unit) + UNIT_BYTES
            self._waiting_bytes += size
            self.call(partial(self._take, peer, unit), size)

    async def room(self) -> None:
        """Wait while too much waits to be worked on."""
        while self._waiting_bytes > INBOUND_BYTES and not self.finished:
            self.changed.clear()
            await self.changed.wait()

    def call(self, action: Action, size: int = 0) -> None:
        """Have something done to the machine, in its turn. `size`: bytes that wait with it."""
        self._inbound.put_nowait((action, size))

    def blame(self, peer: str, error: LineupError) -> None:
        """Stop everything that `peer` takes part in."""
        self.call(partial(self._abort_with, peer, error))

    def stop(self, error: LineupError) -> None:
        """Stop everything, and tell the peers."""
        self.call(partial(self._abort_all, error))

    async def break_off(self, error: BaseException) -> None:
        """For whoever can wait for it no more, before what it uses is erased: stop everything, and tell the peers.

        Waits for the end also where it is cancelled meanwhile; the caller raises `error` in any case. A task that was
        cancelled before its first step ends nothing: there is nothing to wait for then.
        """
        self.stop(InternalError(error))
        while not (self.finished or self.task.done()):
            with suppress(asyncio.CancelledError):
                self.changed.clear()
                await self.changed.wait()

    @property
    def over(self) -> bool:
        """All sessions are over."""
        return all(session.state.over for session in self.machine.sessions.values())

    async def until_finished(self) -> None:
        """Wait until it is over, and its node has put away what is left of it."""
        while not self.finished:
            self.changed.clear()
            await self.changed.wait()

    async def close(self) -> None:
        """Stop at once, without a word to anybody."""
        self.task.cancel()
        for task in self._scoring:
            task.cancel()
        for send_queue in self._send_queues.values():
            send_queue.close()
        await asyncio.wait({self.task})
        if not self.finished:  # a task that is cancelled before its first step never runs, nor does what it would end
            await self._finish()

    async def _run(self) -> None:
        self._quiet_since = asyncio.get_running_loop().time()
        deadline = self._quiet_since + self._lifetime
        try:
            await self._step([self.machine.start])
            while not self.over:
                actions = await self._next_actions(deadline)
                await self._step([action for action, _ in actions])
                self._waiting_bytes -= sum(size for _, size in actions)
        finally:
            for task in self._scoring:  # its work would take memory, and passes of others
                task.cancel()
            await self._finish()
        await asyncio.gather(*(send_queue.flush(LINGER_SECONDS) for send_queue in self._send_queues.values()))
        for send_queue in self._send_queues.values():
            send_queue.close()

    async def _finish(self) -> None:
        try:
            await self._ended(self)
        finally:
            self.finished = True
            self.changed.set()

    async def _next_actions(self, deadline: float) -> list[tuple[Action, int]]:
        """All that is to be done now; waits for the first of it. When time is up, what came by then is done first."""
        loop = asyncio.get_running_loop()
        actions: list[tuple[Action, int]] = []
        if self._inbound.empty():
            until = deadline if self._scoring else min(deadline, self._silent_from)
            # Not `asyncio.wait_for`, which may lose a cancellation that comes together with a result.
            with anyio.move_on_after(max(0.0, until - loop.time())):
                actions.append(await self._inbound.get())
        while not self._inbound.empty():
            actions.append(self._inbound.get_nowait())
        if loop.time() >= deadline:
            error = Silence(f"the query took more than {self._lifetime:g} s")
            actions.append((partial(self._abort_all, error), 0))
        elif loop.time() >= self._silent_from and not self._scoring:
            actions.append((partial(self._give_up, self.machine.moves), 0))
        return actions

    @property
    def _silent_from(self) -> float:
        """When patience ends, unless a session goes on before. One wait for a turn is made good: not each, or frames
        that nobody waits for would put it off as long as somebody sends them to a node that is busy."""
        return self._quiet_since + self._patience + self._waited

    async def _step(self, actions: list[Action]) -> None:
        loop = asyncio.get_running_loop()
        asked, moves = loop.time(), self.machine.moves
        async with self._turns.of(self.machine.parties.requester):
            self._waited = max(self._waited, loop.time() - asked)  # that was this node, not a peer
            sealed = await asyncio.to_thread(self._act, actions)
        if self.machine.moves != moves:
            self._quiet_since, self._waited = loop.time(), 0.0
        for peer, units in sealed.items():
            if peer not in self._send_queues:
                self._send_queues[peer] = SendQueue(
                    self._transport, peer, self.machine.query, self._reach, self._peer_failed
                )
            self._send_queues[peer].put(units)
        while self.machine.wanted:
            task = asyncio.create_task(self._score(*self.machine.wanted.popleft()))
            self._scoring.add(task)
            task.add_done_callback(self._scoring.discard)
        for session in self.machine.sessions.values():
            if awaited := _awaited(session):
                self.awaited[session.name] = awaited
        self.changed.set()

    def _act(self, actions: list[Action]) -> dict[str, list[bytes]]:
        """Run actions in this thread and seal what they made the machine say."""
        self._do(actions)
        sealed: dict[str, list[bytes]] = defaultdict(list)
        while self.machine.outgoing:
            peer, frame = self.machine.outgoing.popleft()
            if peer not in self._sending:
                credentials = self._credentials
                key = credentials.sealing_keys.get(peer)
                if key is None:  # removed since the query was opened
                    own = self.machine.name
                    gone = QueryRefused("state", f"{peer} is no peer of {own} any more", own)
                    self.failed_peers.setdefault(peer, gone)
                    self._do([partial(self._abort_with, peer, gone)])
                    continue
                channel = SendingChannel(self.machine.query, self.machine.name, peer, key, credentials.keyring)
                self._sending[peer] = channel
                sealed[peer].append(channel.hello)
            sealed[peer].append(self._sending[peer].seal(frame))
        return sealed

    def _do(self, actions: list[Action]) -> None:
        try:
            for action in actions:
                # On such an error the machine has stopped the session, kept the error and told its peers.
                with suppress(LineupError):
                    action()
        except Exception as error:  # whatever it is, the peers must hear that this party stopped
            cause = type(error.__cause__ or error).__name__
            log.error("internal error", extra={"error": cause, "query": self.machine.query.hex()})
            self.machine.stop_recording()  # the recorder may be what failed
            self._abort_all(InternalError(error))

    def _take(self, peer: str, unit: bytes) -> None:
        try:
            channel = self._receiving.get(peer)
            if channel is None:
                self._receiving[peer] = ReceivingChannel(
                    self.machine.query,
                    peer,
                    self.machine.name,
                    unit,
                    self._credentials.sealing_key,
                    self._credentials.keyring,
                )
                return
            frame = channel.open(unit)
        except LineupError as error:
            self._abort_with(peer, error)
            raise
        self.machine.handle(frame, peer)

    async def _score(self, session: Session, want: Work) -> None:
        try:
            scored = await self._scorer.score(want)
        except Exception as error:  # whatever it is, the session must not wait for ever
            self.call(partial(self.machine.abort, session, InternalError(error)))
        else:
            self.call(partial(self.machine.supply, session, want, scored))

    def _peer_failed(self, peer: str, error: LineupError) -> None:
        self.failed_peers.setdefault(peer, error)
        code = error.code if isinstance(error, PeerRefused) else None
        self.blame(peer, Silence(str(error), peer) if code is None else PeerAborted(peer, code))

    def _abort_with(self, peer: str, error: LineupError) -> None:
        for session in list(self.machine.sessions.values()):
            if peer in session.peers:
                self.machine.abort(session, error)

    def _abort_all(self, error: LineupError) -> None:
        for session in list(self.machine.sessions.values()):
            self.machine.abort(session, error)

    def _give_up(self, moves: int) -> None:
        """Nothing of use came for too long: name the peer each session waits for, and stop.

        `moves`: of the machine, when that was found. What was done since may have been of use after all.
        """
        if self.machine.moves != moves:
            return
        for session in list(self.machine.sessions.values()):
            if not session.state.over:
                awaited = _awaited(session)
                told = f"{' and '.join(awaited) or 'nobody'} said nothing for {self._patience:g} s"
                # Of two it may be that one only waits for the other: then nobody is named.
                error = Silence(told, awaited[0] if len(awaited) == 1 else "")
                if error.by:
                    self.failed_peers.setdefault(error.by, error)
                self.machine.abort(session, error)


def _awaited(session: Session) -> tuple[str, ...]:
    """Whose message a session waits for; of two sub-protocols side by side each may wait for another."""
    if isinstance(session.waiting, Receive):
        return (session.waiting.sender,)
    return session.waiting.senders if isinstance(session.waiting, ReceiveAny) else ()
