"""The operator's API under /api/v1: the operations that the pages work through too, for programs.

Signing in gives a token for the header `Authorization: Bearer`; cookies count for nothing here, so no site can make a
browser call it. What each endpoint takes and gives stands in the table below, which the OpenAPI description is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from nodes.casework.cases import QueryView
from nodes.casework.core_data import RequestView
from nodes.casework.deletion import DisclosureView, RecallView, View
from nodes.casework.outcomes import MatchView
from nodes.casework.review import BlindCandidate
from nodes.console import contracts as c
from nodes.console import oversight as o
from nodes.console.accounts import SignedIn
from nodes.console.errors import SignedOut, TooMany
from nodes.console.security import BODY_LIMIT
from nodes.console.texts import text
from nodes.console.web import Site, log, status_of
from nodes.operator.statistics import Count
from nodes.service.operator_api import Supplies
from nodes.service.under_way import UnderWay
from pets.errors import MALFORMED, LineupError

PREFIX = "/api/v1"
BODY_SECONDS = 60.0
JSON_LIMIT = 256 * 1024


@dataclass(frozen=True)
class Endpoint:
    """`body`: schema of what comes, bytes for a file, None for nothing. `gives`: of what goes.

    `name`: of the operation, a method of `Site.operations`, `.oversight` or `.door`. It takes the handle (at the door
    the session's token, if `session`), the parts of the path in order, and the body.
    """

    method: str
    path: str
    summary: str
    body: Any
    gives: Any
    name: str
    session: bool = True

    def run(self, site: Site, *given: Any) -> Any:
        """Call the operation."""
        part, name = self.name.split(".")
        return getattr(getattr(site, part), name)(*given)


GET, POST, DELETE = "GET", "POST", "DELETE"
ENDPOINTS = (
    Endpoint(GET, "/me", "Who is signed in", None, c.Me, "operations.me"),
    Endpoint(GET, "/holders", "Whom this node can ask", None, tuple[str, ...], "operations.holders"),
    Endpoint(POST, "/photos", "Upload a photo or a Type-10 file; faces and quality", bytes, c.IntakeView,
             "operations.upload"),
    Endpoint(GET, "/photos/{intake}", "One's own upload", None, c.IntakeView, "operations.intake"),
    Endpoint(GET, "/photos/{intake}/picture", "Its picture, drawn anew: a JPEG", None, bytes, "operations.picture"),
    Endpoint(POST, "/queries", "Open a query", c.QueryForm, c.Made, "operations.open_query"),
    Endpoint(GET, "/queries", "The history", None, list[QueryView], "operations.queries"),
    Endpoint(GET, "/queries/{query}", "One query", None, QueryView, "operations.query"),
    Endpoint(GET, "/queries/{query}/progress", "Progress by country", None, c.Progress, "operations.progress"),
    Endpoint(POST, "/queries/{query}/case", "Look at case and probe", c.Reason, c.Case, "operations.case"),
    Endpoint(GET, "/queries/{query}/launch", "What the second person signs", None, c.ToSign,
             "operations.launch_to_sign"),
    Endpoint(POST, "/queries/{query}/launch", "Approve the launch", c.Signed, c.Done, "operations.launch"),
    Endpoint(POST, "/queries/{query}/authorisation", "Lodge an authorisation", c.Made, c.Done, "operations.authorise"),
    Endpoint(POST, "/queries/{query}/stop", "The authorisation was refused", None, c.Done, "operations.stop"),
    Endpoint(GET, "/queries/{query}/candidates", "Candidates, blind", None, list[BlindCandidate],
             "operations.candidates"),
    Endpoint(GET, "/queries/{query}/matches", "How candidates ended", None, list[MatchView], "operations.matches"),
    Endpoint(POST, "/queries/{query}/candidates/{candidate}", "Candidate beside probe", c.Reason, c.Pictures,
             "operations.pictures"),
    Endpoint(POST, "/candidates/{candidate}/decision", "Lock one's decision", c.Decided, c.Done, "operations.decide"),
    Endpoint(GET, "/candidates/{candidate}/outcome", "The outcome", None, c.Done, "operations.outcome"),
    Endpoint(POST, "/candidates/{candidate}/votes", "Look at who found what", c.Reason, list[c.VoteView],
             "operations.votes"),
    Endpoint(POST, "/candidates/{candidate}/type-10", "The candidate as an ANSI/NIST-ITL file", c.Export, bytes,
             "operations.export"),
    Endpoint(GET, "/candidates/{candidate}/confirmation", "What reviewers sign", None, c.ToSign,
             "operations.confirmation_to_sign"),
    Endpoint(POST, "/candidates/{candidate}/confirmation", "Sign a match", c.Signed, c.Done, "operations.confirm"),
    Endpoint(POST, "/candidates/{candidate}/core-data/to-sign", "What the officer signs", c.Wanted, c.ToSign,
             "operations.request_to_sign"),
    Endpoint(POST, "/candidates/{candidate}/core-data", "Ask for core data", c.Wanted, c.Made, "operations.request"),
    Endpoint(DELETE, "/candidates/{candidate}", "Not needed any more", None, c.Done, "operations.delete"),
    Endpoint(POST, "/candidates/{candidate}/transfer", "Onward transfer", c.Transfer, c.Done, "operations.transfer"),
    Endpoint(GET, "/requests", "Requests for core data", None, list[RequestView], "operations.requests"),
    Endpoint(POST, "/requests/{request}", "Look at facts and data", c.Reason, c.RequestContent,
             "operations.request_content"),
    Endpoint(POST, "/requests/{request}/release/to-sign", "What the releasing person signs", c.Release, c.ToSign,
             "operations.release_to_sign"),
    Endpoint(POST, "/requests/{request}/release", "Release core data", c.Release, c.Done, "operations.release"),
    Endpoint(POST, "/requests/{request}/refusal/to-sign", "What the refusing person signs", c.Refusal, c.ToSign,
             "operations.refusal_to_sign"),
    Endpoint(POST, "/requests/{request}/refusal", "Refuse core data", c.Refusal, c.Done, "operations.refuse"),
    Endpoint(POST, "/requests/{request}/pause", "Stop the clock", c.Reason, c.Done, "operations.pause"),
    Endpoint(POST, "/requests/{request}/resume", "Let the clock run on", None, c.Done, "operations.resume"),
    Endpoint(POST, "/recalls", "Recall a reference", c.RecallForm, c.Done, "operations.recall"),
    Endpoint(GET, "/recalls", "Recalls", None, list[RecallView], "operations.recalls"),
    Endpoint(GET, "/disclosures", "What was given to whom, and deleted there", None, list[DisclosureView],
             "operations.disclosures"),
    Endpoint(GET, "/node", "The node", None, o.NodeView, "oversight.node"),
    Endpoint(GET, "/under-way", "Queries in flight", None, list[UnderWay], "oversight.under_way"),
    Endpoint(GET, "/preparations", "Preparations that wait", None, Supplies, "oversight.preparations"),
    Endpoint(GET, "/refusals", "Refusals by code", None, dict[str, int], "oversight.refusals"),
    Endpoint(GET, "/gallery", "The gallery", None, o.GalleryView, "oversight.gallery"),
    Endpoint(POST, "/gallery/log", "Look at who handled whom", c.Reason, list[o.HandledView], "oversight.handled"),
    Endpoint(GET, "/policy", "The policy", None, dict[str, Any], "oversight.policy"),
    Endpoint(GET, "/quotas", "Quotas of today", None, tuple[o.QuotaView, ...], "oversight.quotas"),
    Endpoint(POST, "/article-40", "The Article 40 log", c.Reason, list[o.LoggedQuery], "oversight.article_forty"),
    Endpoint(GET, "/days", "Queries by state and day", None, list[o.DayCount], "oversight.days"),
    Endpoint(GET, "/statistics/{year}", "Yearly counts", None, tuple[Count, ...], "oversight.statistics"),
    Endpoint(GET, "/reports/{year}/{form}", "Yearly report, html or csv", None, bytes, "oversight.report"),
    Endpoint(GET, "/logs", "Logs and checkpoints", None, list[o.LogView], "oversight.logs"),
    Endpoint(GET, "/evidence", "Evidence kept", None, list[o.EvidenceView], "oversight.evidence"),
    Endpoint(GET, "/evidence/{query}", "A bundle", None, bytes, "oversight.bundle"),
    Endpoint(POST, "/verify", "Check evidence", c.VerifyForm, dict[str, Any], "oversight.verify"),
    Endpoint(POST, "/views", "Look at who looked at personal data", c.Reason, list[View], "oversight.views"),
    Endpoint(POST, "/staff-list", "Look at the staff list", c.Reason, list[c.PersonView], "oversight.staff"),
    Endpoint(POST, "/door", "Look at what happened at the door", c.Reason, list[c.DoorView], "oversight.door_log"),
    Endpoint(POST, "/staff", "Add and invite a person", c.NewPerson, c.Invitation, "oversight.add_person"),
    Endpoint(POST, "/staff/{handle}/invitation", "Invite again", None, c.Invitation, "oversight.invite"),
    Endpoint(DELETE, "/staff/{handle}", "Close an account", None, c.Done, "oversight.close_account"),
)  # fmt: skip

DOOR = (
    Endpoint(GET, "/first", "Whether the first administrator is to come", None, bool, "door.unclaimed", False),
    Endpoint(POST, "/first", "The first administrator", c.First, c.Half, "door.first", False),
    Endpoint(POST, "/join", "Take up an invitation", c.Joining, c.Half, "door.join", False),
    Endpoint(POST, "/session", "First factor", c.Credentials, c.Half, "door.sign_in", False),
    Endpoint(POST, "/session/challenge", "Something fresh to sign", None, c.Half, "door.challenge"),
    Endpoint(POST, "/session/key", "Second factor", c.Signed, c.SessionToken, "door.give_key"),
    Endpoint(POST, "/session/new-key", "An invited person's key", c.NewKey, c.SessionToken, "door.set_key"),
    Endpoint(DELETE, "/session", "Sign out", None, c.Done, "door.sign_out"),
)


def api_routes() -> list[Route]:
    """Routes of the API."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for one in (*ENDPOINTS, *DOOR):
        by_path.setdefault(one.path, {})[one.method] = one
    return [
        *(Route(PREFIX + path, _handler(methods), methods=list(methods)) for path, methods in by_path.items()),
        Route(f"{PREFIX}/openapi.json", _guarded(_described, "page"), methods=[GET]),
    ]


def _handler(methods: dict[str, Endpoint]) -> Callable[[Request], Any]:
    async def run(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        site: Site = request.app.state.site
        given = await asyncio.to_thread(_who, request, endpoint)
        given += request.path_params.values()
        if endpoint.body is bytes:
            given.append(await _body(request, BODY_LIMIT))
        elif endpoint.body is not None:
            limit = BODY_LIMIT if endpoint.body is c.VerifyForm else JSON_LIMIT
            given.append(msgspec.json.decode(await _body(request, limit), type=endpoint.body))
        if endpoint.body is c.Credentials:
            site.limits.take("sign-in", f"handle {given[0].handle}")
        answer = await asyncio.to_thread(endpoint.run, site, *given)
        if endpoint.gives is bytes:
            return Response(answer, media_type="application/octet-stream")
        return _json(answer)

    return _guarded(run, _limit_of(methods.values()))


def _limit_of(endpoints: Iterable[Endpoint]) -> str:
    if any(one.body in (bytes, c.VerifyForm) for one in endpoints):
        return "upload"
    return "sign-in" if any(one in DOOR and one.method == POST for one in endpoints) else "page"


def _guarded(run: Callable[[Request], Any], limit: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            request.app.state.site.limits.take(limit, request.client.host if request.client else "")
            answer: Response = await run(request)
            return answer
        except LineupError as error:
            status = status_of(error)
            if status == 500:
                log.error("internal error", extra={"error": type(error).__name__})
            response = _json(
                c.Problem(type(error).__name__, str(error) if status < 500 else text("problem.internal")), status
            )
            if isinstance(error, TooMany):
                response.headers["retry-after"] = str(error.seconds)
            return response
        except (*MALFORMED, asyncio.TimeoutError, ClientDisconnect) as error:
            told = str(error) if isinstance(error, msgspec.ValidationError) else text("problem.form")
            return _json(c.Problem(type(error).__name__, told), 400)
        except Exception as error:  # its text may quote personal data: only its kind is logged
            log.error("internal error", extra={"error": type(error).__name__})
            return _json(c.Problem("InternalError", text("problem.internal")), 500)

    return endpoint


def _who(request: Request, endpoint: Endpoint) -> list[Any]:
    """Who calls an operation: the person, at the door only the session, or nobody yet. Raises `SignedOut`."""
    if not endpoint.session:
        return []
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise SignedOut
    if endpoint in DOOR:
        return [token]  # the door itself knows which stage it needs
    signed_in: SignedIn = request.app.state.site.accounts.session(token)
    if signed_in.stage != "full":
        raise SignedOut
    return [signed_in.handle]


async def _described(request: Request) -> Response:
    from nodes.console.openapi import describe

    return _json(describe())


async def _body(request: Request, limit: int) -> bytes:
    if int(request.headers.get("content-length", "0")) > limit:
        raise msgspec.ValidationError(text("refused.body").format(limit=limit))
    return await asyncio.wait_for(request.body(), BODY_SECONDS)


def _json(answer: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")
