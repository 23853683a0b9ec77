"""Everything that one query sends to one peer, in order, repeated until it was taken or the peer is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from nodes.transfer import take_batch
from pets.errors import LineupError

FIRST_PAUSE_SECONDS = 0.1


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

    async def deliver(self, peer: str, query: bytes, offset: int, units: list[bytes]) -> None:
        """Hand over units. Raises `PeerUnreachable` (worth another try) or `PeerRefused` (final)."""
        ...

    async def ask(self, peer: str, path: str) -> bytes:
        """What a peer answers to a question. Raises `PeerUnreachable` or `PeerRefused`."""
        ...


class Outbox:
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
        self._units: list[bytes] = []
        self._offset = 0
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, units: list[bytes]) -> None:
        """Queue units."""
        self._units += units
        self._wake.set()

    async def flush(self, seconds: float) -> None:
        """Wait until everything was taken, but not longer than `seconds`."""
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
                batch = take_batch(self._units)
                try:
                    await self._deliver(batch)
                except LineupError as error:
                    self._units.clear()
                    self._failed(self._peer, error)
                    return
                del self._units[: len(batch)]
                self._offset += len(batch)

    async def _deliver(self, batch: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._transport.deliver(self._peer, self._query, self._offset, batch)
            except PeerUnreachable:
                if loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
