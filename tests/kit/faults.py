"""What can go wrong between nodes: `Faults` sits between a node and the network and breaks one delivery."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nodes.transport.send_queue import PeerUnreachable, Transport
from nodes.transport.units import Units
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter

if TYPE_CHECKING:
    from tests.kit.network import Network

During = Literal["preparing", "searching"]
Kind = Literal[
    "kill", "restart", "cut", "drop", "lose", "lose-answer", "delay", "duplicate", "reorder", "truncate", "corrupt"
]
DURING: tuple[During, ...] = ("preparing", "searching")
SEARCHING = (SearchingRequester, SearchingRouter, SearchingHolder)
KINDS: tuple[Kind, ...] = ("cut", "drop", "lose", "lose-answer", "delay", "duplicate", "reorder", "truncate", "corrupt")
# Those after which the answers must be complete: the sender notices, or nothing is lost.
HARMLESS: frozenset[Kind] = frozenset({"cut", "drop", "lose-answer", "delay", "duplicate"})


@dataclass
class Fault:
    """What happens to unit `step` from `sender` to `receiver`, counted from 0 in each query.

    drop: the connection breaks before it, and the sender is told. lose: it alone is missing. lose-answer: its body
    arrives, and the sender thinks it did not. delay: it and what follows come later. duplicate: the body comes
    twice. reorder: it comes after the next one. truncate, corrupt: it is changed. cut: just before it every connection
    of the receiver breaks, in the middle of whatever body (`TlsNetwork` only). kill, restart: the sender dies just
    before its `step`-th unit to anybody (`receiver` is None), and restart starts it again at once.
    `during`: only units of preparations, or of searches, are counted and broken.
    """

    kind: Kind
    sender: str
    step: int
    receiver: str | None = None
    fired: bool = False
    during: During | None = None


class Faults:
    """A `Transport` that breaks what `network.fault` says, and keeps what was said."""

    def __init__(self, inner: Transport, sender: str, network: Network) -> None:
        self._inner = inner
        self._sender = sender
        self._network = network

    async def deliver(self, peer: str, query: bytes, offset: int, units: Units) -> None:
        fault = self._network.fault
        if (
            fault is None
            or fault.sender != self._sender
            or fault.fired
            or fault.receiver not in (None, peer)
            or fault.during not in (None, self._kind(query))
        ):
            await self._inner.deliver(peer, query, offset, self._kept(peer, query, offset, units))
            return
        said: list[list[bytes]] = []
        await self._inner.deliver(peer, query, offset, self._broken(fault, offset, units, said))
        if fault.fired and fault.kind == "duplicate":
            await self._inner.deliver(peer, query, offset, in_turn(*said))
        if fault.fired and fault.kind == "lose-answer":
            raise PeerUnreachable("answer dropped")

    def _kind(self, query: bytes) -> During | None:
        """What kind of conversation this is, as long as it is under way."""
        node = self._network.nodes.get(self._sender)
        driver = None if node is None else node.drivers.get(query)
        if driver is None:
            return None
        return "searching" if isinstance(driver.machine, SEARCHING) else "preparing"

    async def _kept(self, peer: str, query: bytes, offset: int, units: Units) -> Units:
        async for some in units:
            if self._network.keep:
                self._network.kept.append((self._sender, peer, query, offset, some))
                offset += len(some)
            yield some

    async def _broken(self, fault: Fault, offset: int, units: Units, said: list[list[bytes]]) -> Units:
        held: list[bytes] = []
        async for some in units:
            said.append(some)
            for unit in some:
                if self._due(fault, offset):
                    fault.fired = True
                    if fault.kind == "reorder":
                        held = [unit]
                    else:
                        for changed in await self._break(fault, unit):
                            yield [changed]
                else:
                    yield [unit, *held]
                    held = []
                offset += 1
        if held:
            yield held

    def _due(self, fault: Fault, number: int) -> bool:
        if fault.receiver is None:
            number = self._network.steps["units"]
            self._network.steps["units"] += 1
        return number == fault.step and not fault.fired

    async def _break(self, fault: Fault, unit: bytes) -> list[bytes]:
        """What arrives in place of a unit."""
        if fault.receiver is None:
            self._network.kill_soon(self._sender, again=fault.kind == "restart")
            await asyncio.Event().wait()
        if fault.kind == "cut":
            assert fault.receiver is not None
            self._network.cut(fault.receiver)
        if fault.kind == "drop":
            raise PeerUnreachable("dropped")
        if fault.kind == "lose":
            return []
        if fault.kind == "delay":
            await asyncio.sleep(0.3)
        if fault.kind == "truncate":
            return [unit[: len(unit) // 2]]
        if fault.kind == "corrupt":
            middle = len(unit) // 2
            return [unit[:middle] + bytes([unit[middle] ^ 1]) + unit[middle + 1 :]]
        return [unit]

    async def ask(self, peer: str, path: str) -> bytes:
        return await self._inner.ask(peer, path)

    async def tell(self, peer: str, path: str, body: bytes) -> bytes:
        return await self._inner.tell(peer, path, body)


async def in_turn(*pieces: list[bytes]) -> Units:
    """Units that are all there already."""
    for piece in pieces:
        yield piece
