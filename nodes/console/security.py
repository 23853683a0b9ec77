"""What every answer and every form carries: headers, cookies, tokens against forged forms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nodes.config.console import LOOPBACK, ConsoleConfig
from nodes.console.errors import FormRefused
from nodes.console.texts import text

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), publickey-credentials-get=(self)",
    "x-frame-options": "DENY",
}
BODY_LIMIT = 17 << 20  # bytes: an upload and its form


class Guard:
    """Middleware: refuses other hosts and bodies that say they are too large, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, settings: ConsoleConfig) -> None:
        self._app = app
        self._secure = settings.secure
        host = urlsplit(settings.url).netloc
        self._hosts = {host}
        if settings.host in LOOPBACK:  # the proxy, or a program on this machine
            self._hosts |= {f"127.0.0.1:{settings.port}", f"localhost:{settings.port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
                if self._secure:
                    headers["strict-transport-security"] = "max-age=31536000"
            await send(message)

        answer: Response | None = None
        if request.headers.get("host", "") not in self._hosts:
            answer = PlainTextResponse(text("refused.host"), 421)
        elif not _fits(request):
            answer = PlainTextResponse(text("refused.body").format(limit=BODY_LIMIT), 413)
        await (answer or self._app)(scope, receive, with_headers)


def _fits(request: Request) -> bool:
    """Whether the body's size is told, as every browser does, and within the limit."""
    length = request.headers.get("content-length", "0")
    return length.isdecimal() and int(length) <= BODY_LIMIT and "transfer-encoding" not in request.headers


class Forms:
    """Tokens against forged forms, bound to the cookie that the browser came with."""

    def __init__(self, settings: ConsoleConfig, node: str) -> None:
        self._key = secrets.token_bytes(32)  # a restart makes open forms stale
        self._secure = settings.secure
        self._origin = settings.url
        prefix = "__Host-" if settings.secure else ""
        # the node's name, because browsers share cookies between ports of one host
        self.session_cookie, self.visitor_cookie = f"{prefix}lineup-{node}", f"{prefix}lineup-visitor-{node}"

    def bound_to(self, request: Request) -> str:
        """The cookie that this browser's forms are bound to; empty if it has none."""
        return request.cookies.get(self.session_cookie) or request.cookies.get(self.visitor_cookie) or ""

    def token(self, cookie: str) -> str:
        """What stands in forms for the holder of a cookie."""
        return hmac.new(self._key, cookie.encode(), hashlib.sha256).hexdigest()

    def check(self, request: Request, token: str) -> None:
        """Raise `FormRefused` unless the form is this console's, for this browser, sent from one of its pages."""
        cookie = self.bound_to(request)
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "same-origin")
        if (
            not cookie
            or not hmac.compare_digest(self.token(cookie).encode(), token.encode())
            or (origin is not None and origin != self._origin)
            or site != "same-origin"
        ):
            raise FormRefused

    def set(self, response: Response, name: str, value: str) -> None:
        """Give the browser a cookie that no script reads and no other site sends."""
        response.set_cookie(name, value, httponly=True, samesite="strict", secure=self._secure, path="/")

    def clear(self, response: Response) -> None:
        """Take the session's cookie away."""
        response.delete_cookie(self.session_cookie, httponly=True, samesite="strict", secure=self._secure, path="/")
