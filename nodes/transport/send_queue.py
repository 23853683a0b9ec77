"""Everything that one query sends to one peer, in order, repeated until it was taken or the peer is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import anyio

from nodes.transport.units import BODY_BYTES, BODY_UNITS, Units
from pets.errors import LineupError

FIRST_PAUSE_SECONDS = 0.1
HELD_OPEN_SECONDS = 0.5  # how long a body waits for more units: longer than a round takes, much shorter than patience


class PeerUnreachable(LineupError):
    """A peer took nothing for as long as this node waits."""


class PeerRefused(LineupError):
    """A peer answered, and refused. `code`: one of `protocol.messages.ABORT_CODES`."""

    def __init__(self, peer: str, code: str) -> None:
        super().__init__(f"{peer} refused: {code}")
        self.peer = peer
        self.code = code


class Transport(Protocol):
    """Carries units to peers: HTTP in production, something in memory in tests."""

    async def deliver(self, peer: str, query: bytes, offset: int, units: Units) -> None:
        """Hand over all that `units` gives. Raises `PeerUnreachable` (worth another try) or `PeerRefused` (final)."""
        ...

    async def ask(self, peer: str, path: str) -> bytes:
        """What a peer answers to a question. Raises `PeerUnreachable` or `PeerRefused`."""
        ...

    async def tell(self, peer: str, path: str, body: bytes) -> bytes:
        """Hand a document to a peer; gives its answer. Raises `PeerUnreachable` or `PeerRefused`."""
        ...


class SendQueue:
    """`failed` is told once when the peer is given up, after `patience` seconds without success or a refusal."""

    def __init__(
        self,
        transport: Transport,
        peer: str,
        query: bytes,
        patience: float,
        failed: Callable[[str, LineupError], None],
    ) -> None:
        self._transport = transport
        self._peer = peer
        self._query = query
        self._patience = patience
        self._failed = failed
        self._units: list[bytes] = []  # those that nobody has acknowledged; the first has the number `_offset`
        self._offset = 0
        self._given = 0  # how many of them are in the body that is under way
        self._ending = False
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, units: list[bytes]) -> None:
        """Queue units."""
        self._units += units
        self._wake.set()

    async def flush(self, seconds: float) -> None:
        """Nothing more will be queued: wait until everything was taken, but not longer than `seconds`."""
        self._ending = True
        self._wake.set()
        deadline = asyncio.get_running_loop().time() + seconds
        while self._units and not self._task.done() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Stop sending."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._units:
                try:
                    await self._deliver()
                except Exception as error:  # whatever it is, the query must not wait for this peer
                    self._units.clear()
                    if not isinstance(error, LineupError):
                        error = PeerUnreachable(f"{self._peer}: {type(error).__name__}")
                    self._failed(self._peer, error)
                    return
                del self._units[: self._given]
                self._offset += self._given

    async def _deliver(self) -> None:
        """Send one body, again from its first unit if it does not arrive."""
        loop = asyncio.get_running_loop()
        failing_since, pause = None, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._transport.deliver(self._peer, self._query, self._offset, self._body())
            except PeerUnreachable:
                failing_since = failing_since or loop.time()
                if loop.time() + pause > failing_since + self._patience:
                    raise
            await asyncio.sleep(pause)
            pause *= 2

    async def _body(self) -> Units:
        """Units as they are queued. The body ends when it is full, or when nothing more comes for a while.

        The first body of all ends at once: it opens the query, and a refusal must not have to wait.
        """
        self._given = size = 0
        while True:
            fresh = self._units[self._given : BODY_UNITS]
            size += sum(map(len, fresh))
            self._given += len(fresh)
            if fresh:
                yield fresh
            if not self._offset or size >= BODY_BYTES or self._given == BODY_UNITS:
                return
            if self._given < len(self._units):
                continue
            if self._ending:
                return
            self._wake.clear()
            with anyio.move_on_after(HELD_OPEN_SECONDS):
                await self._wake.wait()
            if self._given == len(self._units):
                return
