"""What the sender of a refused request is told: a status and a closed code. Only the own operator gets the reason."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from nodes.service.bodies import BodyTooLarge, BodyTooSlow
from nodes.service.node import Node
from nodes.transport.send_queue import PeerRefused
from pets.errors import MALFORMED, CryptoError, InputError, LineupError
from protocol.errors import BadFrame, FrameTooLarge, OutOfTurn, QueryRefused, UnknownVersion

log = logging.getLogger("lineup.service")

Handler = Callable[[Request], Awaitable[Response]]


def guarded(handler: Handler, *, explain: bool = False) -> Handler:
    """Answer errors of a route as refusals. `explain`: with the reason, for the node's own operator only."""

    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except LineupError as error:
            return _answer_error(request, error, explain)
        except MALFORMED as error:
            return refusal(400, "bad-frame", str(error) if explain else None)
        except ClientDisconnect:
            return refusal(400, "bad-frame")

    return run


def calling(request: Request) -> str | None:
    """The name in the caller's certificate."""
    name = request.scope.get("lineup_peer")
    return name if isinstance(name, str) else None


def refusal(status: int, code: str, message: str | None = None) -> JSONResponse:
    """A refusal with a closed code."""
    return JSONResponse({"code": code} | ({"message": message} if message is not None else {}), status)


def _answer_error(request: Request, error: LineupError, explain: bool) -> Response:
    """A refusal with a closed code. `explain`: with the error's text, for the node's own operator and nobody else."""
    node: Node = request.app.state.node
    status, code = _refused_with(error)
    if isinstance(error, (QueryRefused, PeerRefused)):
        node.metrics.refused(code)
    if status == 500:
        log.error("internal error", extra={"error": type(error).__name__})
    else:
        query = request.path_params.get("query")
        log.info("refused", extra={"code": code, "peer": calling(request), "query": query})
    return refusal(status, code, str(error) if explain and isinstance(error, InputError) else None)


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
