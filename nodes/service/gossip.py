"""Nodes show each other the checkpoints of their logs, so that a split view shows while they run.

After each query with a peer, and now and then, a node asks the peer for the newest checkpoints of its two logs and for
those that the peer was shown of others' logs. Each is compared with the one that this node was shown before: the log's
owner has to prove that the one extends the other (RFC 9162, 2.1.4). So a log that shows two peers two histories is
found as soon as the two meet, and one that was cut or rewritten as soon as anybody comes back.

Two checkpoints that do not fit are kept both (`nodes.evidence.witnesses`); a line in the log, the health page, the
metrics and every later bundle say so. Nothing is stopped: what it means is for people to find out.

What a checkpoint tells a peer besides: how many messages, and how many queries, a node has logged in all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from nodes.evidence.archive import Archive
from nodes.logs.checkpoints import (
    BadCheckpoint,
    Checkpoint,
    CheckpointError,
    InconsistentCheckpoints,
    Proof,
    check_checkpoint,
    check_checkpoint_consistent,
)
from nodes.logs.entries import Kind
from nodes.logs.of_node import CONTEXT
from nodes.query.metrics import Metrics
from nodes.transport.send_queue import PeerRefused, PeerUnreachable, Transport
from nodes.verify.format import Witnessed
from pets.errors import MALFORMED
from pets.merkle import MerkleError
from pets.signatures import VerifyKey

log = logging.getLogger("lineup.gossip")

PAUSE_SECONDS = 1.0  # after a query, so that the peers have ended it too
EVERY_SECONDS = 600.0
NO_SUCH_PROOF = "crypto"  # the code with which a node says that its log never had such a size
REMEMBERED = 10_000  # trees that were proven once and are not proven again


# The answer to `/v1/checkpoints`: the newest of each of the node's own logs, and those that it was shown.
Told = Annotated[tuple[Witnessed, ...], msgspec.Meta(max_length=256)]


class Gossip:
    """One node's part. `own`: its key, `keys`: those of its peers, which may change."""

    def __init__(
        self,
        name: str,
        own: VerifyKey,
        keys: Mapping[str, VerifyKey],
        archive: Archive,
        transport: Transport,
        metrics: Metrics,
    ) -> None:
        self._name, self._own, self._keys, self._archive = name, own, keys, archive
        self._transport, self._metrics = transport, metrics
        self._proven: set[tuple[bytes, int, bytes]] = set()
        self._due: set[str] = set()
        self._meeting: asyncio.Task[None] | None = None
        self._comparing = asyncio.Lock()
        self._closed = False
        metrics.accused(len(self.accused))

    @property
    def accused(self) -> list[tuple[str, Kind]]:
        """(node, log) of each log that showed two histories."""
        return self._archive.witnesses.accused

    # What this node answers.

    def tell(self) -> bytes:
        """`Told`, encoded."""
        own = [self._own_newest(kind) for kind in self._archive.logs]
        return msgspec.msgpack.encode((*own, *self._archive.witnesses.all()))

    def prove(self, kind: Kind, first: int, second: int) -> bytes:
        """The consistency proof between two sizes of one of this node's logs, encoded. Raises `NoSuchProof`."""
        with self._archive.writing:
            return msgspec.msgpack.encode(self._archive.logs[kind].consistency_proof(first, second))

    # What it asks.

    def meet_soon(self, peers: Iterable[str]) -> None:
        """Meet peers shortly, each once however often it is named until then."""
        self._due.update(peers)
        if not self._closed and (self._meeting is None or self._meeting.done()):
            self._meeting = asyncio.create_task(self._meet_due())

    async def meet_for_ever(self) -> None:
        """Meet all peers now and then."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            self.meet_soon(self._keys)

    async def meet(self, peer: str) -> None:
        """Ask one peer, and compare what it tells. A peer that cannot be reached is met another time."""
        try:
            told = _decode(await self._transport.ask(peer, "/v1/checkpoints"), Told, peer)
        except (PeerUnreachable, PeerRefused) as error:
            log.info("no checkpoint", extra={"peer": peer, "error": type(error).__name__})
            return
        numbers: Counter[tuple[str, Kind]] = Counter()
        async with self._comparing:
            for shown in told:
                whose = shown.header.owner, shown.header.kind
                numbers[whose] += 1
                if numbers[whose] <= 2:  # nobody has more to tell of one log
                    await self._compare(shown)

    async def close(self) -> None:
        """Meet no further peer."""
        self._closed = True
        if self._meeting is not None:
            self._meeting.cancel()
            await asyncio.wait({self._meeting})

    async def _meet_due(self) -> None:
        while self._due:
            await asyncio.sleep(PAUSE_SECONDS)
            peers, self._due = sorted(self._due - {self._name}), set()
            for peer in peers:
                try:
                    await self.meet(peer)
                except Exception as error:  # whatever it is, the other peers are met, and this one another time
                    log.error("checkpoints not compared", extra={"peer": peer, "error": type(error).__name__})

    async def _compare(self, shown: Witnessed) -> None:
        """Compare a checkpoint, whoever showed it, with what this node knows of that log."""
        witnesses, owner, kind = self._archive.witnesses, shown.header.owner, shown.header.kind
        checkpoint = shown.checkpoint
        tree = checkpoint.log, checkpoint.size, checkpoint.root
        key = self._own if owner == self._name else self._keys.get(owner)
        if key is None or (owner, kind) in self.accused or tree in self._proven:
            return
        try:
            check_checkpoint(checkpoint, shown.header.log, lambda signature, said: key.verify(signature, said, CONTEXT))
        except BadCheckpoint:
            log.warning("a checkpoint that its owner did not sign", extra={"peer": owner})
            return
        # In a thread, as all that waits for a disk or for who holds the logs: other queries go on meanwhile.
        own = owner == self._name
        known = await asyncio.to_thread(self._own_newest, kind) if own else witnesses.newest(owner, kind)
        if known is None:
            await asyncio.to_thread(witnesses.keep, shown)
            return
        older, newer = sorted((known, shown), key=lambda one: (one.checkpoint.size, one.checkpoint.time))
        try:
            await self._check_extends(owner, kind, older.checkpoint, newer.checkpoint)
        except CheckpointError as error:
            await asyncio.to_thread(witnesses.accuse, known, shown)
            self._metrics.accused(len(self.accused))
            log.error("a log showed two histories", extra={"peer": owner, "error": type(error).__name__})
            return
        except (PeerUnreachable, PeerRefused) as error:
            log.info("no proof", extra={"peer": owner, "error": type(error).__name__})
            return
        if not own and newer is shown:
            await asyncio.to_thread(witnesses.keep, shown)
        if len(self._proven) >= REMEMBERED:
            self._proven.clear()
        self._proven.add(tree)

    def _own_newest(self, kind: Kind) -> Witnessed:
        own = self._archive.logs[kind]
        with self._archive.writing:
            return Witnessed(own.header, own.last_checkpoint)

    async def _check_extends(self, owner: str, kind: Kind, older: Checkpoint, newer: Checkpoint) -> None:
        """Raise a `CheckpointError` unless the log of `newer` extends that of `older`, as its owner proves.

        Raises `PeerUnreachable` where the owner cannot be asked, `PeerRefused` where it does not answer the question.
        """
        proof: Proof = ()
        if older.log == newer.log and older.size < newer.size:
            try:
                if owner == self._name:
                    data = await asyncio.to_thread(self.prove, kind, older.size, newer.size)
                else:
                    path = f"/v1/consistency?log={kind}&first={older.size}&second={newer.size}"
                    data = await self._transport.ask(owner, path)
                proof = _decode(data, Proof, owner)
            except (MerkleError, PeerRefused) as error:
                if isinstance(error, PeerRefused) and error.code != NO_SUCH_PROOF:
                    raise  # another version, or something between the two: an accusation stays for good
                raise InconsistentCheckpoints(older, newer, "its owner has no proof") from None
        check_checkpoint_consistent(older, newer, proof)


def _decode(data: bytes, kind: Any, peer: str) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except MALFORMED:
        raise PeerRefused(peer, "bad-frame") from None
