"""Nodes show each other the checkpoints of their transcript logs, so that a split view shows while they run.

After each query with a peer, and now and then, a node asks the peer for the newest checkpoint of its log and for those
that the peer was shown of others' logs. Each is compared with the one that this node was shown before: the log's owner
has to prove that the one extends the other (RFC 9162, 2.1.4). So a log that shows two peers two histories is found as
soon as the two meet, and one that was cut or rewritten as soon as anybody comes back.

Two checkpoints that do not fit are kept both (`nodes.witnesses`); a line in the log, the health page, the metrics and
every later bundle say so. Nothing is stopped: what it means is for people to find out.

What a checkpoint tells a peer besides: how many messages a node has logged in all.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from nodes.checkpoints import Checkpoint, Proof, check_checkpoint, check_checkpoint_consistent
from nodes.journals import CONTEXT
from nodes.keeper import Keeper
from nodes.log_errors import BadCheckpoint, CheckpointError, InconsistentCheckpoints
from nodes.metrics import Metrics
from nodes.outbox import PeerRefused, PeerUnreachable, Transport
from nodes.verify.format import Witnessed
from pets.errors import MALFORMED, LineupError
from pets.merkle import MerkleError
from pets.signatures import VerifyKey

log = logging.getLogger("lineup.gossip")

PAUSE_SECONDS = 1.0  # after a query, so that the peers have ended it too
EVERY_SECONDS = 600.0
REMEMBERED = 10_000  # trees that were proven once and are not proven again


class Told(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The answer to `/v1/checkpoint`: the node's own newest checkpoint, and those that it was shown."""

    checkpoint: Checkpoint
    witnessed: Annotated[tuple[Witnessed, ...], msgspec.Meta(max_length=128)]


class Gossip:
    """One node's part. `keys`: of this node and of its peers. `writing`: held by whoever reads or writes the log."""

    def __init__(
        self,
        name: str,
        keys: Mapping[str, VerifyKey],
        keeper: Keeper,
        writing: threading.Lock,
        transport: Transport,
        metrics: Metrics,
    ) -> None:
        self._name, self._keys, self._keeper, self._writing = name, keys, keeper, writing
        self._transport, self._metrics = transport, metrics
        self._proven: set[tuple[bytes, int, bytes]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._comparing = asyncio.Lock()
        self._closed = False
        metrics.accused(len(self.accused))

    @property
    def accused(self) -> list[str]:
        """Whose logs showed two histories."""
        return self._keeper.witnesses.accused

    # What this node answers.

    def tell(self) -> bytes:
        """`Told`, encoded."""
        with self._writing:
            checkpoint = self._keeper.transcript.last_checkpoint
        return msgspec.msgpack.encode(Told(checkpoint, self._keeper.witnesses.all()))

    def prove(self, first: int, second: int) -> bytes:
        """The consistency proof between two sizes of this node's log, encoded. Raises `NoSuchProof`."""
        with self._writing:
            return msgspec.msgpack.encode(self._keeper.transcript.consistency_proof(first, second))

    # What it asks.

    def meet_soon(self, peers: Iterable[str]) -> None:
        """Meet peers shortly, without waiting for it."""
        if not self._closed:
            task = asyncio.create_task(self._meet_after(PAUSE_SECONDS, tuple(peers)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def meet_for_ever(self) -> None:
        """Meet all peers now and then."""
        while True:
            await self._meet_after(EVERY_SECONDS, tuple(self._keys))

    async def meet(self, peer: str) -> None:
        """Ask one peer, and compare what it tells. A peer that cannot be reached is met another time."""
        try:
            told = _decode(await self._transport.ask(peer, "/v1/checkpoint"), Told, peer)
        except (PeerUnreachable, PeerRefused) as error:
            log.info("no checkpoint", extra={"peer": peer, "error": type(error).__name__})
            return
        async with self._comparing:
            await self._compare(peer, told.checkpoint)
            for shown in told.witnessed:
                await self._compare(shown.peer, shown.checkpoint)

    async def close(self) -> None:
        """Meet nobody any more."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _meet_after(self, seconds: float, peers: tuple[str, ...]) -> None:
        await asyncio.sleep(seconds)
        for peer in peers:
            if peer != self._name:
                try:
                    await self.meet(peer)
                except (LineupError, OSError) as error:  # this node's own disk: the next meeting may work
                    log.error("checkpoints not compared", extra={"peer": peer, "error": type(error).__name__})

    async def _compare(self, owner: str, checkpoint: Checkpoint) -> None:
        """Compare a checkpoint of `owner`'s log, shown by whomever, with what this node knows of that log."""
        witnesses, tree = self._keeper.witnesses, (checkpoint.log, checkpoint.size, checkpoint.root)
        if owner not in self._keys or owner in self.accused or tree in self._proven:
            return
        key = self._keys[owner]
        try:
            check_checkpoint(checkpoint, checkpoint.log, lambda signature, said: key.verify(signature, said, CONTEXT))
        except BadCheckpoint:
            log.warning("a checkpoint that its owner did not sign", extra={"peer": owner})
            return
        known = self._own_newest() if owner == self._name else witnesses.newest(owner)
        if known is None:
            witnesses.keep(owner, checkpoint)
            return
        older, newer = sorted((known, checkpoint), key=lambda one: (one.size, one.time))
        try:
            await self._check_extends(owner, older, newer)
        except CheckpointError as error:
            witnesses.accuse(owner, known, checkpoint)
            self._metrics.accused(len(self.accused))
            log.error("a log showed two histories", extra={"peer": owner, "error": type(error).__name__})
            return
        except (PeerUnreachable, PeerRefused) as error:
            log.info("no proof", extra={"peer": owner, "error": type(error).__name__})
            return
        if owner != self._name and newer is checkpoint:
            witnesses.keep(owner, checkpoint)
        if len(self._proven) >= REMEMBERED:
            self._proven.clear()
        self._proven.add(tree)

    def _own_newest(self) -> Checkpoint:
        with self._writing:
            return self._keeper.transcript.last_checkpoint

    async def _check_extends(self, owner: str, older: Checkpoint, newer: Checkpoint) -> None:
        """Raise a `CheckpointError` unless the log of `newer` extends that of `older`, as its owner proves.

        Raises `PeerUnreachable` where the owner cannot be asked, `PeerRefused` (state) where it does not talk to us.
        """
        proof: Proof = ()
        if older.log == newer.log and older.size < newer.size:
            try:
                if owner == self._name:
                    data = await asyncio.to_thread(self.prove, older.size, newer.size)
                else:
                    path = f"/v1/consistency?first={older.size}&second={newer.size}"
                    data = await self._transport.ask(owner, path)
                proof = _decode(data, Proof, owner)
            except (MerkleError, PeerRefused) as error:
                if isinstance(error, PeerRefused) and error.code == "state":
                    raise
                raise InconsistentCheckpoints(older, newer, "its owner gives no proof") from None
        check_checkpoint_consistent(older, newer, proof)


def _decode(data: bytes, kind: Any, peer: str) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except MALFORMED:
        raise PeerRefused(peer, "bad-frame") from None
