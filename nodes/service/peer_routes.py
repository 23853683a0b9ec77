"""What peers ask of a node over HTTP: units of queries, logs, standing, follow-up, and lists of preparations."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nodes.config.schema import Role
from nodes.service.bodies import read_body, take_units
from nodes.service.follow_up import BODY_LIMIT as FOLLOW_UP_LIMIT
from nodes.service.node import Node
from nodes.service.operator_api import BODY_LIMIT, STANDING, Standing
from nodes.service.refusals import calling, guarded, refusal
from nodes.service.supply import PREPARED, compare

STREAMS_OF_ONE_PEER = 256  # as many queries as a node may be configured to run; each may keep a unit in memory
DOCUMENTS_OF_ONE_PEER = 4  # a correct peer sends one after the other; each may have 16 MB


class Reading:
    """How many bodies of each peer are being read."""

    def __init__(self) -> None:
        self.streams: Counter[str] = Counter()  # of units
        self.documents: Counter[str] = Counter()  # of the follow-up


@contextmanager
def _counted(bodies: Counter[str], peer: str) -> Iterator[None]:
    bodies[peer] += 1
    try:
        yield
    finally:
        bodies[peer] -= 1


def _peer_of(node: Node, request: Request) -> str | None:
    """The name of the peer that calls; None if it is none of this node's."""
    name = calling(request)
    return name if name in node.peers else None


async def units(request: Request) -> Response:
    """Units of a query, from a number on."""
    node: Node = request.app.state.node
    streams = request.app.state.reading.streams
    peer = _peer_of(node, request)
    if peer is None:
        return refusal(403, "state")
    if streams[peer] >= STREAMS_OF_ONE_PEER:
        return refusal(503, "capacity")  # a correct peer tries again
    query, offset = request.path_params["query"], request.query_params.get("offset", "")
    if len(query) != 32 or not _is_hex(query) or not offset.isdecimal() or len(offset) > 9:
        return refusal(400, "bad-frame")
    with _counted(streams, peer):
        await take_units(request, node, peer, bytes.fromhex(query), int(offset))
    return Response(status_code=202)


async def checkpoints(request: Request) -> Response:
    """The checkpoints of this node's logs, and those that it was shown."""
    node: Node = request.app.state.node
    if _peer_of(node, request) is None:
        return refusal(403, "state")
    return Response(await asyncio.to_thread(node.gossip.tell), media_type="application/msgpack")


async def consistency(request: Request) -> Response:
    """A proof that one of this node's logs has only grown between two sizes."""
    node: Node = request.app.state.node
    if _peer_of(node, request) is None:
        return refusal(403, "state")
    kind, first, second = (request.query_params.get(name, "") for name in ("log", "first", "second"))
    if kind not in node.archive.logs or not all(size.isdecimal() and len(size) <= 15 for size in (first, second)):
        return refusal(400, "bad-frame")
    proof = await asyncio.to_thread(node.gossip.prove, kind, int(first), int(second))
    return Response(proof, media_type="application/msgpack")


async def standing(request: Request) -> Response:
    """Whether the peer that calls has used up what is released to it."""
    node: Node = request.app.state.node
    peer = _peer_of(node, request)
    if peer is None:
        return refusal(403, "state")
    shut = await asyncio.to_thread(node.shut_out)
    return Response(msgspec.json.encode(Standing(shut.get(peer))), media_type="application/json")


async def follow_up(request: Request) -> Response:
    """A document of the follow-up, and its answer."""
    node: Node = request.app.state.node
    documents = request.app.state.reading.documents
    peer = _peer_of(node, request)
    if peer is None or node.follow_up is None:
        return refusal(403, "state")
    if documents[peer] >= DOCUMENTS_OF_ONE_PEER:
        return refusal(503, "capacity")
    with _counted(documents, peer):
        body = await read_body(request, FOLLOW_UP_LIMIT, node.config.limits.read_timeout_seconds)
        answer = await node.follow_up.answer(peer, body)
    return Response(answer, media_type="application/octet-stream")


async def prepared(request: Request) -> Response:
    """Which of a requester's preparations this node does not have."""
    node: Node = request.app.state.node
    peer = _peer_of(node, request)
    if peer is None or node.peers[peer].role is not Role.REQUESTER:
        return refusal(403, "state")
    body = await read_body(request, BODY_LIMIT, node.config.limits.read_timeout_seconds)
    lost = await asyncio.to_thread(compare, node, peer, body)
    return Response(lost, media_type="application/msgpack")


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


ROUTES = [
    Route("/v1/queries/{query}/units", guarded(units), methods=["POST"]),
    Route("/v1/checkpoints", guarded(checkpoints), methods=["GET"]),
    Route(STANDING, guarded(standing), methods=["GET"]),
    Route("/v1/consistency", guarded(consistency), methods=["GET"]),
    Route("/v1/follow-up", guarded(follow_up), methods=["POST"]),
    Route(PREPARED, guarded(prepared), methods=["POST"]),
]
