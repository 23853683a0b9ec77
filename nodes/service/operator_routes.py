"""What a node's own operator asks of it over HTTP. Only `/health` answers others too, with one word."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nodes.config.schema import operator_name
from nodes.identity.tls import running_out
from nodes.query.metrics import CONTENT_TYPE
from nodes.service.bodies import read_body
from nodes.service.node import Node
from nodes.service.operator_api import BODY_LIMIT, PrepareRequest, SearchRequest
from nodes.service.outage import known
from nodes.service.refusals import Handler, calling, guarded, refusal
from nodes.service.requester import RequesterNode
from nodes.service.streams import LINES, streamed
from nodes.service.supplies import supplies
from nodes.service.under_way import peers_up, under_way
from nodes.store import StoreError
from pets.errors import InputError


class ApprovalNeeded(InputError):
    """A search that no second person has approved (R rec. 29)."""


def _by_operator(node: Node, request: Request) -> bool:
    return calling(request) == operator_name(node.name)


async def _body(node: Node, request: Request) -> bytes:
    return await read_body(request, BODY_LIMIT, node.config.limits.read_timeout_seconds)


async def search(request: Request) -> Response:
    """Search other nodes' galleries, if no second person has to approve it."""
    node: Node = request.app.state.node
    if not _by_operator(node, request) or not isinstance(node, RequesterNode):
        return refusal(403, "state")
    assert node.follow_up is not None
    if await asyncio.to_thread(node.follow_up.must_be_approved):
        raise ApprovalNeeded("a second person approves a search here: `lineup case open`, then `lineup case approve`")
    asked = msgspec.json.decode(await _body(node, request), type=SearchRequest)
    if request.headers.get("accept") == LINES:
        searching: RequesterNode = node
        return streamed(lambda told, _: searching.search(asked, told=told))  # goes on if nobody listens any more
    return Response(msgspec.json.encode(await node.search(asked)), media_type="application/json")


async def prepare(request: Request) -> Response:
    """Make preparations with other nodes."""
    node: Node = request.app.state.node
    if not _by_operator(node, request) or not isinstance(node, RequesterNode):
        return refusal(403, "state")
    supply, wanted = node.supply, msgspec.json.decode(await _body(node, request), type=PrepareRequest)
    supply.check(wanted)  # before the first line: a refusal has a status
    return streamed(lambda told, stop: supply.prepare(wanted, told, stop))


async def hold(request: Request) -> Response:
    """Obey an order of the supervisor: keep what would be deleted, or keep it no longer."""
    node: Node = request.app.state.node
    if not _by_operator(node, request):
        return refusal(403, "state")
    order = await asyncio.to_thread(node.archive.obey, await _body(node, request))
    return JSONResponse({"order": type(order).__struct_config__.tag, "number": order.number})


async def status(request: Request) -> Response:
    """What `lineup node status` shows."""
    node: Node = request.app.state.node
    if not _by_operator(node, request):
        return refusal(403, "state")
    cluster = node.galleries.cluster
    told = {} if cluster is None else {"cluster": msgspec.to_builtins(await asyncio.to_thread(cluster.told))}
    return JSONResponse(
        {
            "name": node.name,
            "role": node.config.role.value,
            "address": node.config.address,
            "queries_running": node.queries_running,
            "subjects": await asyncio.to_thread(node.store.count),
            "draining": node.draining,
            "peers": sorted(node.peers),
            "logs": [f"{kind} {journal.header.log.hex()}" for kind, journal in node.archive.logs.items()],
            "contradicting_logs": [f"{kind} of {name}" for name, kind in node.gossip.accused],
            "alarms": node.all_alarms,
            "release_limit": await asyncio.to_thread(node.standing),
            "put_aside": [str(one) for one in await asyncio.to_thread(node.put_aside)],
            "latencies": msgspec.to_builtins(node.metrics.latencies),
            **told,
            "preparations": msgspec.to_builtins(await asyncio.to_thread(supplies, node)),
        }
    )


async def queries(request: Request) -> Response:
    """The queries under way."""
    node: Node = request.app.state.node
    if not _by_operator(node, request):
        return refusal(403, "state")
    return Response(msgspec.json.encode(under_way(node)), media_type="application/json")


async def searches(request: Request) -> Response:
    """How far each search of this requester is, by holder."""
    node: Node = request.app.state.node
    if not _by_operator(node, request) or not isinstance(node, RequesterNode):
        return refusal(403, "state")
    return Response(msgspec.json.encode(node.searches()), media_type="application/json")


async def peers(request: Request) -> Response:
    """Which peers answer."""
    node: Node = request.app.state.node
    if not _by_operator(node, request):
        return refusal(403, "state")
    return JSONResponse(await peers_up(node))


async def outages(request: Request) -> Response:
    """The outages that peers plan, as far as they told; answered at once."""
    node: Node = request.app.state.node
    if not _by_operator(node, request):
        return refusal(403, "state")
    return Response(msgspec.json.encode(known(node)), media_type="application/json")


async def reread(request: Request) -> Response:
    """Read the folder of peers again."""
    node: Node = request.app.state.node
    if not _by_operator(node, request) or node.reread is None:
        return refusal(403, "state")
    await node.reread()
    return JSONResponse({"peers": sorted(node.peers), "refused": node.peer_faults})


async def health(request: Request) -> Response:
    """Whether the node is well; to its operator also what is not."""
    node: Node = request.app.state.node
    failing = await asyncio.to_thread(node.failing)
    state = "degraded" if failing else "draining" if node.draining else "ok"
    answer: dict[str, object] = {"status": state}
    if _by_operator(node, request):
        answer |= {"contradicting_logs": len(node.gossip.accused), "alarms": node.all_alarms}
        answer |= {"release_limit": told} if (told := await asyncio.to_thread(_standing, node)) else {}
        ending = await asyncio.to_thread(running_out, node.config, datetime.now(timezone.utc))
        answer |= {"running_out": ending} if ending else {}
        answer |= {"failing": failing} if failing else {}
    return JSONResponse(answer, 200 if state == "ok" else 503)


async def metrics(request: Request) -> Response:
    """Figures for Prometheus. Counts and times would tell a peer of queries that are not its own."""
    node: Node = request.app.state.node
    if not _by_operator(node, request):
        return refusal(403, "state")
    ending = await asyncio.to_thread(running_out, node.config, datetime.now(timezone.utc))
    node.metrics.running_out(len(ending))
    return Response(node.metrics.render(), media_type=CONTENT_TYPE)


def _standing(node: Node) -> list[str]:
    """Who is refused; nobody while the store cannot be asked, which `failing` tells."""
    try:
        return node.standing()
    except StoreError:
        return []


def _route(path: str, handler: Handler, method: str) -> Route:
    return Route(f"/operator/v1/{path}", guarded(handler, explain=True), methods=[method])


ROUTES = [
    _route("search", search, "POST"),
    _route("prepare", prepare, "POST"),
    _route("hold", hold, "POST"),
    _route("status", status, "GET"),
    _route("peers", peers, "GET"),
    _route("peers", reread, "POST"),
    _route("outages", outages, "GET"),
    _route("queries", queries, "GET"),
    _route("searches", searches, "GET"),
    Route("/health", health, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
