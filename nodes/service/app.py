"""A node over HTTP, as an ASGI application. The TLS certificate says who asks (`nodes.service.server`)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nodes.config.schema import Role, operator_name
from nodes.identity.tls import running_out
from nodes.query.metrics import CONTENT_TYPE
from nodes.service.follow_up import BODY_LIMIT as FOLLOW_UP_LIMIT
from nodes.service.node import Node
from nodes.service.operator_api import STANDING, PrepareRequest, SearchRequest, Standing
from nodes.service.requester import AskingNode
from nodes.service.streams import LINES, streamed
from nodes.service.supplies import supplies
from nodes.service.supply import PREPARED, compare
from nodes.service.under_way import peers_up, under_way
from nodes.store import StoreError
from nodes.transport import units as transfer
from nodes.transport.outbox import PeerRefused
from pets.errors import MALFORMED, CryptoError, InputError, LineupError
from protocol.errors import BadFrame, FrameTooLarge, OutOfTurn, QueryRefused, UnknownVersion

log = logging.getLogger("lineup.service")

OPERATOR_BODY_LIMIT = 65536
STREAMS_OF_ONE_PEER = 256  # as many queries as a node may be configured to run; each may keep a unit in memory
DOCUMENTS_OF_ONE_PEER = 4  # a correct peer sends one after the other; each may have 16 MB
OPENING_UNITS = 2  # a channel's hello and the announcement
Handler = Callable[[Request], Awaitable[Response]]


class BodyTooLarge(InputError):
    """A request body beyond its limit."""


class BodyTooSlow(InputError):
    """A request body that trickles."""


class ApprovalNeeded(InputError):
    """A search that no second person has approved (R rec. 29)."""


def make_app(node: Node) -> Starlette:
    """The application of a node. Every route asks who is calling; all but the operator are told no more than whether
    the node is well."""
    streams: Counter[str] = Counter()  # bodies of units that are being read, by peer
    documents: Counter[str] = Counter()  # and documents of the follow-up

    async def units(request: Request) -> Response:
        peer = _peer(request)
        if peer is None or peer not in node.peers:
            return _refusal(403, "state")
        if streams[peer] >= STREAMS_OF_ONE_PEER:
            return _refusal(503, "capacity")  # a correct peer tries again
        query, offset = request.path_params["query"], request.query_params.get("offset", "")
        if len(query) != 32 or not _is_hex(query) or not offset.isdecimal() or len(offset) > 9:
            return _refusal(400, "bad-frame")
        streams[peer] += 1
        try:
            await _take_units(request, node, peer, bytes.fromhex(query), int(offset))
        finally:
            streams[peer] -= 1
        return Response(status_code=202)

    async def checkpoints(request: Request) -> Response:
        if _peer(request) not in node.peers:
            return _refusal(403, "state")
        return Response(await asyncio.to_thread(node.gossip.tell), media_type="application/msgpack")

    async def consistency(request: Request) -> Response:
        if _peer(request) not in node.peers:
            return _refusal(403, "state")
        kind, first, second = (request.query_params.get(name, "") for name in ("log", "first", "second"))
        if kind not in node.keeper.logs or not all(size.isdecimal() and len(size) <= 15 for size in (first, second)):
            return _refusal(400, "bad-frame")
        proof = await asyncio.to_thread(node.gossip.prove, kind, int(first), int(second))
        return Response(proof, media_type="application/msgpack")

    async def standing(request: Request) -> Response:
        peer = _peer(request)
        if peer is None or peer not in node.peers:
            return _refusal(403, "state")
        shut = await asyncio.to_thread(node.shut_out)
        return Response(msgspec.json.encode(Standing(shut.get(peer))), media_type="application/json")

    async def follow_up(request: Request) -> Response:
        peer = _peer(request)
        if peer is None or peer not in node.peers or node.follow_up is None:
            return _refusal(403, "state")
        if documents[peer] >= DOCUMENTS_OF_ONE_PEER:
            return _refusal(503, "capacity")
        documents[peer] += 1
        try:
            body = await _read(request, FOLLOW_UP_LIMIT, node.config.limits.read_timeout_seconds)
            answer = await node.follow_up.answer(peer, body)
        finally:
            documents[peer] -= 1
        return Response(answer, media_type="application/octet-stream")

    async def search(request: Request) -> Response:
        if _peer(request) != operator_name(node.name) or not isinstance(node, AskingNode):
            return _refusal(403, "state")
        assert node.follow_up is not None
        if await asyncio.to_thread(node.follow_up.must_be_approved):
            raise ApprovalNeeded(
                "a second person approves a search here: `lineup case open`, then `lineup case approve`"
            )
        body = await _read(request, OPERATOR_BODY_LIMIT, node.config.limits.read_timeout_seconds)
        asked = msgspec.json.decode(body, type=SearchRequest)
        if request.headers.get("accept") == LINES:
            return streamed(lambda told, _: node.search(asked, told=told))  # who has asked is answered, heard or not
        return Response(msgspec.json.encode(await node.search(asked)), media_type="application/json")

    async def prepare(request: Request) -> Response:
        if _peer(request) != operator_name(node.name) or not isinstance(node, AskingNode):
            return _refusal(403, "state")
        body = await _read(request, OPERATOR_BODY_LIMIT, node.config.limits.read_timeout_seconds)
        supply, wanted = node.supply, msgspec.json.decode(body, type=PrepareRequest)
        supply.check(wanted)  # before the first line: a refusal has a status
        return streamed(lambda told, stop: supply.prepare(wanted, told, stop))

    async def prepared(request: Request) -> Response:
        peer = _peer(request)
        if peer is None or peer not in node.peers or node.peers[peer].role is not Role.REQUESTER:
            return _refusal(403, "state")
        body = await _read(request, OPERATOR_BODY_LIMIT, node.config.limits.read_timeout_seconds)
        lost = await asyncio.to_thread(compare, node, peer, body)
        return Response(lost, media_type="application/msgpack")

    async def hold(request: Request) -> Response:
        if _peer(request) != operator_name(node.name):
            return _refusal(403, "state")
        body = await _read(request, OPERATOR_BODY_LIMIT, node.config.limits.read_timeout_seconds)
        order = await asyncio.to_thread(node.keeper.obey, body)
        return JSONResponse({"order": type(order).__struct_config__.tag, "number": order.number})

    async def status(request: Request) -> Response:
        if _peer(request) != operator_name(node.name):
            return _refusal(403, "state")
        return JSONResponse(
            {
                "name": node.name,
                "role": node.config.role.value,
                "address": node.config.address,
                "queries_running": node.queries_running,
                "subjects": await asyncio.to_thread(node.store.count),
                "draining": node.draining,
                "peers": sorted(node.peers),
                "logs": [f"{kind} {journal.header.log.hex()}" for kind, journal in node.keeper.logs.items()],
                "contradicting_logs": [f"{kind} of {name}" for name, kind in node.gossip.accused],
                "alarms": node.all_alarms,
                "release_limit": await asyncio.to_thread(node.standing),
                "preparations": msgspec.to_builtins(await asyncio.to_thread(supplies, node)),
            }
        )

    async def queries(request: Request) -> Response:
        if _peer(request) != operator_name(node.name):
            return _refusal(403, "state")
        return Response(msgspec.json.encode(under_way(node)), media_type="application/json")

    async def searches(request: Request) -> Response:
        if _peer(request) != operator_name(node.name) or not isinstance(node, AskingNode):
            return _refusal(403, "state")
        return Response(msgspec.json.encode(node.searches()), media_type="application/json")

    async def peers(request: Request) -> Response:
        if _peer(request) != operator_name(node.name):
            return _refusal(403, "state")
        return JSONResponse(await peers_up(node))

    async def reread(request: Request) -> Response:
        if _peer(request) != operator_name(node.name) or node.reread is None:
            return _refusal(403, "state")
        await node.reread()
        return JSONResponse({"peers": sorted(node.peers), "refused": node.peer_faults})

    async def health(request: Request) -> Response:
        failing = await asyncio.to_thread(node.failing)
        status = "degraded" if failing else "draining" if node.draining else "ok"
        answer: dict[str, object] = {"status": status}
        if _peer(request) == operator_name(node.name):
            answer |= {"contradicting_logs": len(node.gossip.accused), "alarms": node.all_alarms}
            answer |= {"release_limit": told} if (told := await asyncio.to_thread(_standing, node)) else {}
            ending = await asyncio.to_thread(running_out, node.config, datetime.now(timezone.utc))
            answer |= {"running_out": ending} if ending else {}
            answer |= {"failing": failing} if failing else {}
        return JSONResponse(answer, 200 if status == "ok" else 503)

    async def metrics(request: Request) -> Response:
        if _peer(request) != operator_name(node.name):  # counts and times tell a peer of queries that are not its own
            return _refusal(403, "state")
        ending = await asyncio.to_thread(running_out, node.config, datetime.now(timezone.utc))
        node.metrics.running_out(len(ending))
        return Response(node.metrics.render(), media_type=CONTENT_TYPE)

    def guarded(handler: Handler, *, explain: bool = False) -> Handler:
        async def run(request: Request) -> Response:
            try:
                return await handler(request)
            except LineupError as error:
                return _answer_error(node, request, error, explain)
            except MALFORMED as error:
                return _refusal(400, "bad-frame", str(error) if explain else None)
            except ClientDisconnect:
                return _refusal(400, "bad-frame")

        return run

    app = Starlette(
        routes=[
            Route("/v1/queries/{query}/units", guarded(units), methods=["POST"]),
            Route("/v1/checkpoints", guarded(checkpoints), methods=["GET"]),
            Route(STANDING, guarded(standing), methods=["GET"]),
            Route("/v1/consistency", guarded(consistency), methods=["GET"]),
            Route("/v1/follow-up", guarded(follow_up), methods=["POST"]),
            Route("/operator/v1/search", guarded(search, explain=True), methods=["POST"]),
            Route(PREPARED, guarded(prepared), methods=["POST"]),
            Route("/operator/v1/prepare", guarded(prepare, explain=True), methods=["POST"]),
            Route("/operator/v1/hold", guarded(hold, explain=True), methods=["POST"]),
            Route("/operator/v1/status", guarded(status, explain=True), methods=["GET"]),
            Route("/operator/v1/peers", guarded(peers, explain=True), methods=["GET"]),
            Route("/operator/v1/peers", guarded(reread, explain=True), methods=["POST"]),
            Route("/operator/v1/queries", guarded(queries, explain=True), methods=["GET"]),
            Route("/operator/v1/searches", guarded(searches, explain=True), methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]
    )
    app.router.redirect_slashes = False  # it would send to whatever Host the request names
    return app


def _standing(node: Node) -> list[str]:
    """Who is refused; nobody while the store cannot be asked, which `failing` tells."""
    try:
        return node.standing()
    except StoreError:
        return []


def _peer(request: Request) -> str | None:
    name = request.scope.get("lineup_peer")
    return name if isinstance(name, str) else None


async def _take_units(request: Request, node: Node, peer: str, query: bytes, offset: int) -> None:
    """Hand units to the node as they arrive. While a query is slow, nothing more is read from the sender.

    Raises `BodyTooSlow` if a unit, or the body as a whole, takes longer than this node waits, and what `UnitReader` and
    `Node.accept` raise.
    """
    _check_declared(request, transfer.BODY_LIMIT)
    limits, reader = node.config.limits, transfer.UnitReader()
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


async def _read(request: Request, limit: int, seconds: float) -> bytes:
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


def _answer_error(node: Node, request: Request, error: LineupError, explain: bool) -> Response:
    """A refusal with a closed code. `explain`: with the error's text, for the node's own operator and nobody else."""
    status, code = _refused_with(error)
    if isinstance(error, (QueryRefused, PeerRefused)):
        node.metrics.refused(code)
    if status == 500:
        log.error("internal error", extra={"error": type(error).__name__})
    else:
        query = request.path_params.get("query")
        log.info("refused", extra={"code": code, "peer": _peer(request), "query": query})
    return _refusal(status, code, str(error) if explain and isinstance(error, InputError) else None)


def _refused_with(error: LineupError) -> tuple[int, str]:
    """The status and the closed code that tell of an error."""
    if isinstance(error, (QueryRefused, PeerRefused)):
        return 409, error.code
    for kinds, status, code in (
        ((BodyTooLarge, FrameTooLarge), 413, "bad-frame"),
        ((BodyTooSlow,), 408, "timeout"),
        ((OutOfTurn,), 409, "out-of-turn"),
        ((UnknownVersion,), 400, "version"),
        ((BadFrame,), 400, "bad-frame"),
        ((CryptoError,), 400, "crypto"),
        ((InputError,), 422, "parameters"),
    ):
        if isinstance(error, kinds):
            return status, code
    return 500, "internal"


def _refusal(status: int, code: str, message: str | None = None) -> JSONResponse:
    return JSONResponse({"code": code} | ({"message": message} if message is not None else {}), status)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
