"""Bodies of requests, read within a limit of bytes and of time."""

from __future__ import annotations

import asyncio

import anyio
from starlette.requests import Request

from nodes.service.node import Node
from nodes.transport.units import BODY_LIMIT, UnitReader
from pets.errors import InputError

OPENING_UNITS = 2  # a channel's hello and the announcement


class BodyTooLarge(InputError):
    """A request body beyond its limit."""


class BodyTooSlow(InputError):
    """A request body that trickles."""


async def take_units(request: Request, node: Node, peer: str, query: bytes, offset: int) -> None:
    """Hand units to the node as they arrive. While a query is slow, nothing more is read from the sender.

    Raises `BodyTooSlow` if a unit, or the body as a whole, takes longer than this node waits, and what `UnitReader` and
    `Node.accept` raise.
    """
    _check_declared(request, BODY_LIMIT)
    limits, reader = node.config.limits, UnitReader()
    ends = anyio.current_time() + limits.query_timeout_seconds
    waiting: list[bytes] = []  # a channel's hello is judged together with what it brings
    with anyio.CancelScope(deadline=anyio.current_time() + limits.read_timeout_seconds) as scope:
        async for piece in request.stream():
            node.metrics.received(len(piece))
            if units := reader.feed(piece):
                waiting += units
                if offset or len(waiting) >= OPENING_UNITS:
                    scope.deadline = ends  # a slow query is not the sender's fault
                    await node.accept(peer, query, offset, waiting)
                    offset, waiting = offset + len(waiting), []
                scope.deadline = min(ends, anyio.current_time() + limits.read_timeout_seconds)
    if scope.cancelled_caught:
        raise BodyTooSlow(f"a unit that took more than {limits.read_timeout_seconds} s")
    reader.end()
    if not offset:
        await node.accept(peer, query, 0, waiting)


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body, at most `limit` bytes within `seconds`. Raises `BodyTooLarge`, `BodyTooSlow`."""
    _check_declared(request, limit)
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > limit:
                raise BodyTooLarge(f"a body of more than {limit} bytes")

    try:
        await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError:
        raise BodyTooSlow(f"a body that took more than {seconds:g} s") from None
    return bytes(body)


def _check_declared(request: Request, limit: int) -> None:
    """Raise `BodyTooLarge` for a request that says it has more than `limit` bytes."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit:
        raise BodyTooLarge(f"a body of {declared[:20]} bytes, the limit is {limit}")
