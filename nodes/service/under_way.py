"""Queries under way at a node, as its operator may see them: who asks whom, how far each part is. No personal data."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from nodes.transport.send_queue import PeerRefused, PeerUnreachable
from protocol.machine import Machine
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
from protocol.session import Session
from protocol.steps import Receive, ReceiveAny

if TYPE_CHECKING:
    from nodes.service.node import Node


PEER_SECONDS = 5.0


class Part(msgspec.Struct, frozen=True):
    """One part of a conversation. `name`: the holder; empty for what is said with all of them first.

    `state`: idle, running, finished, refused, frozen, aborted. `phase`: of the protocol, such as score or compare.
    """

    name: str
    state: str
    phase: str
    waits_for: str


class UnderWay(msgspec.Struct, frozen=True):
    """A query, or a preparation. `asked_by`: the node that asks; `parties`: the others."""

    query: str
    asked_by: str
    parties: tuple[str, ...]
    parts: tuple[Part, ...]
    kind: Literal["preparation", "search"] = "search"


def under_way(node: Node) -> Sequence[UnderWay]:
    """Every conversation that this node takes part in now."""
    return [_told(node, driver.machine) for driver in list(node.drivers.values())]


async def peers_up(node: Node) -> dict[str, bool]:
    """Which peers answer now and say that they can work, asked all at once."""

    async def up(peer: str) -> bool:
        try:
            await asyncio.wait_for(node.transport.ask(peer, "/health"), PEER_SECONDS)
        except (PeerUnreachable, PeerRefused, asyncio.TimeoutError):
            return False
        return True

    names = sorted(name for name in node.peers if name != node.name)
    return dict(zip(names, await asyncio.gather(*map(up, names)), strict=True))


def _told(node: Node, machine: Machine) -> UnderWay:
    sessions: dict[str, Session] = dict(machine.sessions)
    parties = sorted({peer for session in sessions.values() for peer in session.peers})
    asked_by = node.askers.get(machine.query) or node.preparers.get(machine.query, node.name)
    searching = isinstance(machine, (SearchingRequester, SearchingRouter, SearchingHolder))
    parts = tuple(map(_part, sessions.values()))
    return UnderWay(machine.query.hex(), asked_by, tuple(parties), parts, "search" if searching else "preparation")


def _part(session: Session) -> Part:
    waiting = session.waiting
    awaited: tuple[str, ...] = (waiting.sender,) if isinstance(waiting, Receive) else ()
    awaited = waiting.senders if isinstance(waiting, ReceiveAny) else awaited
    return Part("" if session.whole else session.name, session.state.value, session.phase, ", ".join(awaited))
