"""Planned outages (R 32): a node's operator writes one down, its peers ask for it, and know it while the node is gone.

`outage.json` in the node's folder holds the one that is announced. Every peer asks for it each minute (`/v1/outage`)
and keeps in memory what it was told until that is over. An outage that nobody planned cannot be told: its node is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nodes.private_files import write_public
from nodes.transport.send_queue import PeerRefused, PeerUnreachable
from pets.errors import MALFORMED, InputError

if TYPE_CHECKING:
    from nodes.service.node import Node

log = logging.getLogger("lineup.outage")

FILE = "outage.json"
PATH = "/v1/outage"
EVERY_SECONDS = 60.0
PEER_SECONDS = 5.0
MAX_WHY = 200
YEARS = range(2000, 2101)  # so that a time can be told in every time zone


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node will not answer from `begins` to `ends`, both with a time zone. `why`: in words, for operators."""

    begins: datetime
    ends: datetime
    why: str

    def __post_init__(self) -> None:
        if self.begins.tzinfo is None or self.ends.tzinfo is None:
            raise ValueError("an outage's times have a time zone")
        if self.begins.year not in YEARS or self.ends.year not in YEARS:
            raise ValueError(f"an outage's times are in the years {YEARS[0]} to {YEARS[-1]}")
        if self.ends <= self.begins:
            raise ValueError("an outage ends after it begins")
        if not 0 < len(self.why) <= MAX_WHY or not self.why.isprintable():
            raise ValueError(f"why: 1 to {MAX_WHY} printable characters")


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node tells a peer."""

    outage: Outage | None


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node knows of its peers' outages. `unheard`: of these nothing is known, they did not answer."""

    planned: dict[str, Outage]
    unheard: tuple[str, ...]


def announce(folder: Path, outage: Outage | None) -> None:
    """Write an outage down, or take it back. Raises OSError."""
    if outage is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        write_public(folder / FILE, msgspec.json.encode(outage))


def announced(folder: Path, now: datetime) -> Outage | None:
    """The outage that this node's operator wrote down, until it is over. Raises `InputError` for a damaged file."""
    try:
        outage = msgspec.json.decode((folder / FILE).read_bytes(), type=Outage)
    except FileNotFoundError:
        return None
    except (*MALFORMED, ValueError) as error:
        raise InputError(f"{folder / FILE} is damaged: {error}") from None
    return None if outage.ends <= now else outage


def known(node: Node) -> Known:
    """What the peers told when they were last asked. Waits for nobody."""
    now = datetime.now(timezone.utc)
    planned = {peer: one for peer, one in node.outages.items() if peer in node.peers and one.ends > now}
    told = {node.name, *planned, *node.heard_of_outages}
    return Known(planned, tuple(sorted(peer for peer in node.peers if peer not in told)))


async def ask_peers(node: Node) -> None:
    """What each peer plans. Of one that does not answer, what it told before stands until it is over."""
    now = datetime.now(timezone.utc)
    for peer in [name for name, outage in node.outages.items() if outage.ends <= now or name not in node.peers]:
        del node.outages[peer]
    asked: list[Awaitable[None]] = [_ask(node, peer) for peer in sorted(node.peers) if peer != node.name]
    await asyncio.gather(*asked)


async def _ask(node: Node, peer: str) -> None:
    node.heard_of_outages.discard(peer)
    try:
        answer = await asyncio.wait_for(node.transport.ask(peer, PATH), PEER_SECONDS)
        told = msgspec.json.decode(answer, type=Told).outage
    except (PeerUnreachable, PeerRefused, asyncio.TimeoutError):
        return
    except (*MALFORMED, ValueError) as error:
        log.warning("no outage", extra={"peer": peer, "error": type(error).__name__})
        return
    node.heard_of_outages.add(peer)
    if told is None or told.ends <= datetime.now(timezone.utc):
        node.outages.pop(peer, None)
    elif node.outages.get(peer) != told:
        node.outages[peer] = told
        log.warning(f"outage planned from {told.begins} to {told.ends}", extra={"peer": peer})


async def follow(node: Node) -> None:
    """Ask again and again."""
    while True:
        try:
            await ask_peers(node)
        except Exception as error:  # whatever it is, they are asked again
            log.error("peers not asked for outages", extra={"node": node.name, "error": type(error).__name__})
        await asyncio.sleep(EVERY_SECONDS)
