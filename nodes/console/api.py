"""The operator's API under /api/v1: the same operations as the pages, for programs.

Signing in gives a token for the header `Authorization: Bearer`; cookies count for nothing here, so no site can make a
browser call it. What each endpoint takes and gives stands in the table below, which the OpenAPI description is made of.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
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
from nodes.console import passkeys
from nodes.console.accounts import SignedIn
from nodes.console.errors import SignedOut, SignInRefused, TooMany
from nodes.console.security import BODY_LIMIT
from nodes.console.texts import text
from nodes.console.web import Site, log, status_of
from nodes.operator.statistics import Count
from nodes.service.operator_api import Supplies
from nodes.service.under_way import UnderWay
from nodes.verify.page import as_data
from pets.errors import MALFORMED, LineupError

PREFIX = "/api/v1"
YEAR = re.compile("[0-9]{4}")
BODY_SECONDS = 60.0
JSON_LIMIT = 256 * 1024


class VerifyForm(c.Contract, frozen=True):
    """Evidence bundles to check, base64."""

    bundles: tuple[bytes, ...]


@dataclass(frozen=True)
class Endpoint:
    """`body`: schema of what comes, bytes for a file, None for nothing. `gives`: of what goes. `run`: site, handle,
    parts of the path in order, body."""

    method: str
    path: str
    summary: str
    body: Any
    gives: Any
    run: Callable[..., Any]


def _operation(name: str) -> Callable[..., Any]:
    return lambda site, who, *given: getattr(site.operations, name)(who, *given)


def _oversight(name: str) -> Callable[..., Any]:
    return lambda site, who, *given: getattr(site.oversight, name)(who, *given)


def _verify(site: Site, who: str, form: VerifyForm) -> dict[str, Any]:
    return as_data(site.oversight.verify(who, form.bundles), [])


GET, POST, DELETE = "GET", "POST", "DELETE"
ENDPOINTS = (
    Endpoint(GET, "/me", "Who is signed in", None, c.Me, _operation("me")),
    Endpoint(GET, "/holders", "Whom this node can ask", None, tuple[str, ...],
             lambda site, who: site.operations.person(who) and site.operations.holders()),
    Endpoint(POST, "/photos", "Upload a photo; faces and quality", bytes, c.IntakeView, _operation("upload")),
    Endpoint(POST, "/queries", "Open a query", c.QueryForm, c.Made, _operation("open_query")),
    Endpoint(GET, "/queries", "The history", None, list[QueryView], _operation("queries")),
    Endpoint(GET, "/queries/{query}", "One query", None, QueryView, _operation("query")),
    Endpoint(GET, "/queries/{query}/progress", "Progress by country", None, c.Progress, _operation("progress")),
    Endpoint(POST, "/queries/{query}/case", "Look at case and probe", c.Reason, c.Case, _operation("case")),
    Endpoint(GET, "/queries/{query}/launch", "What the second person signs", None, c.ToSign,
             _operation("launch_to_sign")),
    Endpoint(POST, "/queries/{query}/launch", "Approve the launch", c.Signed, c.Done, _operation("launch")),
    Endpoint(POST, "/queries/{query}/authorisation", "Lodge an authorisation", c.Made, c.Done, _operation("authorise")),
    Endpoint(POST, "/queries/{query}/stop", "The authorisation was refused", None, c.Done, _operation("stop")),
    Endpoint(GET, "/queries/{query}/candidates", "Candidates, blind", None, list[BlindCandidate],
             _operation("candidates")),
    Endpoint(GET, "/queries/{query}/matches", "How candidates ended", None, list[MatchView], _operation("matches")),
    Endpoint(POST, "/queries/{query}/candidates/{candidate}", "Candidate beside probe", c.Reason, c.Pictures,
             _operation("pictures")),
    Endpoint(POST, "/candidates/{candidate}/decision", "Lock one's decision", c.Decided, c.Done, _operation("decide")),
    Endpoint(GET, "/candidates/{candidate}/outcome", "The outcome", None, c.Done, _operation("outcome")),
    Endpoint(GET, "/candidates/{candidate}/votes", "Who found what", None, list[c.VoteView], _operation("votes")),
    Endpoint(GET, "/candidates/{candidate}/confirmation", "What reviewers sign", None, c.ToSign,
             _operation("confirmation_to_sign")),
    Endpoint(POST, "/candidates/{candidate}/confirmation", "Sign a match", c.Signed, c.Done, _operation("confirm")),
    Endpoint(POST, "/candidates/{candidate}/core-data/to-sign", "What the officer signs", c.Wanted, c.ToSign,
             _operation("request_to_sign")),
    Endpoint(POST, "/candidates/{candidate}/core-data", "Ask for core data", c.Wanted, c.Made, _operation("request")),
    Endpoint(DELETE, "/candidates/{candidate}", "Not needed any more", None, c.Done, _operation("delete")),
    Endpoint(POST, "/candidates/{candidate}/transfer", "Onward transfer", c.Transfer, c.Done, _operation("transfer")),
    Endpoint(GET, "/requests", "Requests for core data", None, list[RequestView], _operation("requests")),
    Endpoint(POST, "/requests/{request}", "Look at facts and data", c.Reason, c.RequestContent,
             _operation("request_content")),
    Endpoint(POST, "/requests/{request}/release/to-sign", "What the releasing person signs", c.Release, c.ToSign,
             _operation("release_to_sign")),
    Endpoint(POST, "/requests/{request}/release", "Release core data", c.Release, c.Done, _operation("release")),
    Endpoint(POST, "/requests/{request}/refusal/to-sign", "What the refusing person signs", c.Refusal, c.ToSign,
             _operation("refusal_to_sign")),
    Endpoint(POST, "/requests/{request}/refusal", "Refuse core data", c.Refusal, c.Done, _operation("refuse")),
    Endpoint(POST, "/requests/{request}/pause", "Stop the clock", c.Reason, c.Done, _operation("pause")),
    Endpoint(POST, "/requests/{request}/resume", "Let the clock run on", None, c.Done, _operation("resume")),
    Endpoint(POST, "/recalls", "Recall a reference", c.RecallForm, c.Done, _operation("recall")),
    Endpoint(GET, "/recalls", "Recalls", None, list[RecallView], _operation("recalls")),
    Endpoint(GET, "/disclosures", "What was given to whom, and deleted there", None, list[DisclosureView],
             _operation("disclosures")),
    Endpoint(GET, "/node", "The node", None, o.NodeView, _oversight("node")),
    Endpoint(GET, "/under-way", "Queries in flight", None, list[UnderWay], _oversight("under_way")),
    Endpoint(GET, "/preparations", "Preparations that wait", None, Supplies, _oversight("preparations")),
    Endpoint(GET, "/refusals", "Refusals by code", None, dict[str, int], _oversight("refusals")),
    Endpoint(GET, "/gallery", "The gallery", None, o.GalleryView, _oversight("gallery")),
    Endpoint(GET, "/gallery/log", "Who handled whom", None, list[o.HandledView], _oversight("handled")),
    Endpoint(GET, "/policy", "The policy", None, dict[str, Any], _oversight("policy")),
    Endpoint(GET, "/quotas", "Quotas of today", None, tuple[o.QuotaView, ...], _oversight("quotas")),
    Endpoint(POST, "/article-40", "The Article 40 log", c.Reason, list[o.LoggedQuery], _oversight("article_forty")),
    Endpoint(GET, "/days", "Queries by state and day", None, list[o.DayCount], _oversight("days")),
    Endpoint(GET, "/statistics/{year}", "Yearly counts", None, tuple[Count, ...],
             lambda site, who, year: site.oversight.statistics(who, int(year) if YEAR.fullmatch(year) else 0)),
    Endpoint(GET, "/logs", "Logs and checkpoints", None, list[o.LogView], _oversight("logs")),
    Endpoint(GET, "/evidence", "Evidence kept", None, list[o.EvidenceView], _oversight("evidence")),
    Endpoint(GET, "/evidence/{query}", "A bundle", None, bytes, _oversight("bundle")),
    Endpoint(POST, "/verify", "Check evidence", VerifyForm, dict[str, Any], _verify),
    Endpoint(GET, "/views", "Who looked at personal data", None, list[View], _oversight("views")),
    Endpoint(GET, "/staff", "The staff list", None, list[c.PersonView], _oversight("staff")),
    Endpoint(POST, "/staff", "Add and invite a person", c.NewPerson, c.Invitation, _oversight("add_person")),
    Endpoint(POST, "/staff/{handle}/invitation", "Invite again", None, c.Invitation, _oversight("invite")),
    Endpoint(DELETE, "/staff/{handle}", "Close an account", None, c.Done, _oversight("close_account")),
)  # fmt: skip


def api_routes() -> list[Route]:
    """Routes of the API."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for one in ENDPOINTS:
        by_path.setdefault(one.path, {})[one.method] = one
    routes = [Route(PREFIX + path, _handler(methods), methods=list(methods)) for path, methods in by_path.items()]
    return [
        *routes,
        Route(f"{PREFIX}/session", _guarded(_sign_in, "sign-in"), methods=[POST]),
        Route(f"{PREFIX}/session/key", _guarded(_give_key, "sign-in"), methods=[POST]),
        Route(f"{PREFIX}/session", _guarded(_sign_out, "page"), methods=[DELETE]),
        Route(f"{PREFIX}/openapi.json", _guarded(_described, "page"), methods=[GET]),
    ]


def _handler(methods: dict[str, Endpoint]) -> Callable[[Request], Any]:
    async def run(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        site: Site = request.app.state.site
        who = await asyncio.to_thread(_who, request)
        given: list[Any] = list(request.path_params.values())
        if endpoint.body is bytes:
            given.append(await _body(request, BODY_LIMIT))
        elif endpoint.body is not None:
            limit = BODY_LIMIT if endpoint.body is VerifyForm else JSON_LIMIT
            given.append(msgspec.json.decode(await _body(request, limit), type=endpoint.body))
        answer = await asyncio.to_thread(endpoint.run, site, who, *given)
        if endpoint.gives is bytes:
            return Response(answer, media_type="application/octet-stream")
        return _json(answer)

    limit = "upload" if any(one.body in (bytes, VerifyForm) for one in methods.values()) else "page"
    return _guarded(run, limit)


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


def _bearer(request: Request, stage: str) -> SignedIn:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise SignedOut
    signed_in: SignedIn = request.app.state.site.accounts.session(token)
    if signed_in.stage != stage:
        raise SignedOut
    return signed_in


def _who(request: Request) -> str:
    return _bearer(request, "full").handle


async def _sign_in(request: Request) -> Response:
    site: Site = request.app.state.site
    given = msgspec.json.decode(await _body(request, JSON_LIMIT), type=c.Credentials)
    site.limits.take("sign-in", f"handle {given.handle}")

    def run() -> c.Half:
        half = site.accounts.sign_in(given.handle, given.password)
        challenge = site.accounts.challenge(half)
        return c.Half(half.token, challenge.hex(), site.operations.options(given.handle, challenge))

    return _json(await asyncio.to_thread(run))


async def _give_key(request: Request) -> Response:
    site: Site = request.app.state.site
    signed = msgspec.json.decode(await _body(request, JSON_LIMIT), type=c.Signed)

    def run() -> c.SessionToken:
        half = _bearer(request, "password")
        challenge = site.accounts.take_challenge(half)
        key, credential = site.operations.person(half.handle).key, site.accounts.credential(half.handle)
        try:
            count = passkeys.check_sign_in(key, credential, signed.assertion, challenge)
        except SignInRefused:
            site.accounts.failed_key(half)
            raise
        return c.SessionToken(site.accounts.key_shown(half, count).token)

    return _json(await asyncio.to_thread(run))


async def _sign_out(request: Request) -> Response:
    def run() -> c.Done:
        request.app.state.site.accounts.sign_out(_bearer(request, "full").token)
        return c.Done("signed out")

    return _json(await asyncio.to_thread(run))


async def _described(request: Request) -> Response:
    from nodes.console.openapi import describe

    return _json(describe())


async def _body(request: Request, limit: int) -> bytes:
    if int(request.headers.get("content-length", "0")) > limit:
        raise msgspec.ValidationError(f"a body of more than {limit} bytes")
    return await asyncio.wait_for(request.body(), BODY_SECONDS)


def _json(answer: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")
