"""The console as an ASGI application: pages, files that come with them, and the operator's API."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from nodes.console import pages_desk, pages_door, pages_oversight, pages_search
from nodes.console.api import api_routes
from nodes.console.security import Guard
from nodes.console.web import Site, page

STATIC = Path(__file__).parent / "static"
GET, POST, BOTH = ["GET"], ["POST"], ["GET", "POST"]


def make_console(site: Site) -> Starlette:
    """The application."""
    door, search, desk, oversight = pages_door, pages_search, pages_desk, pages_oversight
    routes = [
        Route("/health", page(oversight.health, open_to_all=True), methods=GET),
        Route("/sign-in", page(door.sign_in, limit="sign-in", open_to_all=True), methods=BOTH),
        Route("/sign-in/key", page(door.key, limit="sign-in", open_to_all=True), methods=BOTH),
        Route("/first", page(door.first, limit="sign-in", open_to_all=True), methods=BOTH),
        Route("/join", page(door.join, limit="sign-in", open_to_all=True), methods=BOTH),
        Route("/join/key", page(door.join_key, limit="sign-in", open_to_all=True), methods=BOTH),
        Route("/sign-out", page(door.sign_out, open_to_all=True), methods=POST),
        Route("/", page(search.start), methods=GET),
        Route("/queries", page(search.history), methods=GET),
        Route("/queries/new", page(search.new_query, limit="upload"), methods=BOTH),
        Route("/queries/new/{intake}", page(search.describe), methods=BOTH),
        Route("/queries/{query}", page(search.query), methods=BOTH),
        Route("/queries/{query}/progress", page(search.progress), methods=GET),
        Route("/queries/{query}/approve", page(search.approve), methods=POST),
        Route("/queries/{query}/authorisation", page(search.lodge), methods=POST),
        Route("/review", page(search.reviews), methods=GET),
        Route("/review/{query}", page(search.review), methods=GET),
        Route("/review/{query}/{candidate}", page(search.candidate), methods=BOTH),
        Route("/review/{query}/{candidate}/confirm", page(search.confirm), methods=BOTH),
        Route("/candidates/{candidate}/ask", page(search.ask), methods=BOTH),
        Route("/candidates/{candidate}/type-10", page(search.export), methods=POST),
        Route("/candidates/{candidate}/end", page(search.end), methods=POST),
        Route("/core-data", page(desk.requests), methods=GET),
        Route("/core-data/{request}", page(desk.request), methods=BOTH),
        Route("/core-data/{request}/release", page(desk.release), methods=POST),
        Route("/core-data/{request}/refuse", page(desk.refuse), methods=POST),
        Route("/core-data/{request}/clock", page(desk.clock), methods=POST),
        Route("/recalls", page(desk.recalls), methods=BOTH),
        Route("/node", page(oversight.node), methods=GET),
        Route("/incoming", page(oversight.incoming), methods=BOTH),
        Route("/supervision", page(oversight.supervision), methods=BOTH),
        Route("/supervision/counts", page(oversight.counts), methods=GET),
        Route("/supervision/report/{year}/{form}", page(oversight.report), methods=GET),
        Route("/supervision/evidence/{query}", page(oversight.bundle), methods=GET),
        Route("/supervision/verify", page(oversight.verify, limit="upload"), methods=POST),
        Route("/staff", page(oversight.staff), methods=BOTH),
        Mount("/static", StaticFiles(directory=STATIC)),
        *api_routes(),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, settings=site.operations.config.console)])
    app.router.redirect_slashes = False  # it would send to whatever Host the request names
    app.state.site = site
    return app
