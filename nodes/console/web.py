"""What every page has in common: who asks, the form that came, the template that goes, and what an error looks like."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nodes.casework import errors as casework
from nodes.casework.exchange.type10 import ExchangeMissing
from nodes.console import texts
from nodes.console.accounts import Accounts, SignedIn
from nodes.console.contracts import T
from nodes.console.door import Door
from nodes.console.errors import (
    ConsoleError,
    EntryRefused,
    FormRefused,
    SignedOut,
    SignInRefused,
    TooMany,
    UploadRefused,
)
from nodes.console.limits import RateLimits
from nodes.console.operations import Operations
from nodes.console.oversight import Oversight
from nodes.console.security import BODY_LIMIT, Forms
from nodes.operator.client import NodeNotRunning
from pets.errors import InputError, LineupError
from protocol.approval import PersonRole
from protocol.roles import Role

log = logging.getLogger("lineup.console")
MultiPartParser.spool_max_size = BODY_LIMIT  # an uploaded face is never spooled to disk
FORM_SECONDS = 60.0
BAD_FORM = (HTTPException, MultiPartException, asyncio.TimeoutError, ClientDisconnect, UnicodeError)
TEMPLATES = Path(__file__).parent / "templates"
STATUS: tuple[tuple[type[LineupError], int], ...] = (
    (SignedOut, 401), (SignInRefused, 401), (FormRefused, 403), (TooMany, 429), (casework.NotYourRole, 403),
    (casework.NotYetLocked, 403), (casework.OnwardTransferRefused, 403), (casework.PurposeRefused, 403),
    (casework.UnknownThing, 404), (casework.FourEyes, 409), (casework.AlreadyLocked, 409),
    (casework.NotConfirmed, 409), (casework.DeadlinePassed, 409), (casework.BadAssertion, 422),
    (UploadRefused, 422), (NodeNotRunning, 503), (InputError, 422),
)  # fmt: skip


def status_of(error: LineupError) -> int:
    """The status that tells of an error."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


@dataclass
class Site:
    """What all pages share."""

    operations: Operations
    oversight: Oversight
    door: Door
    accounts: Accounts
    forms: Forms
    limits: RateLimits
    templates: Environment = field(default_factory=lambda: environment())


@dataclass
class Visit:
    """One request of a browser. `form`: fields that came, `files`: contents of files. `signed_in`: None before.

    A page does what it does through `operations`, `oversight` and `door`, by the operations that the API has; the rest
    of the site is for the machinery here. Tests hold pages to that.
    """

    site: Site
    request: Request
    signed_in: SignedIn | None
    form: Mapping[str, list[str]] = field(repr=False)
    files: Mapping[str, list[bytes]] = field(repr=False)

    @property
    def who(self) -> str:
        """Handle of whoever is signed in, in full. Raises `SignedOut`."""
        if self.signed_in is None or self.signed_in.stage != "full":
            raise SignedOut
        return self.signed_in.handle

    @property
    def token(self) -> str:
        """Of the session, in full or not. Raises `SignedOut`."""
        if self.signed_in is None:
            raise SignedOut
        return self.signed_in.token

    @property
    def operations(self) -> Operations:
        """What is done with cases."""
        return self.site.operations

    @property
    def oversight(self) -> Oversight:
        """What the node shows of itself."""
        return self.site.oversight

    @property
    def door(self) -> Door:
        """Who comes in."""
        return self.site.door

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return self.request.client.host if self.request.client else ""

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def text(self, name: str) -> str:
        """A field of the form, empty if it did not come."""
        return next(iter(self.form.get(name, ())), "").strip()

    def exactly(self, name: str) -> str:
        """A field as it came, blanks and all: a password."""
        return next(iter(self.form.get(name, ())), "")

    def texts(self, name: str) -> tuple[str, ...]:
        """Every value of a field."""
        return tuple(self.form.get(name, ()))

    def number(self, name: str) -> float:
        """A field that is a number. Raises `EntryRefused`."""
        try:
            return float(self.text(name).replace(",", "."))
        except ValueError:
            raise EntryRefused(
                texts.text("refused.number").format(field=texts.text(f"field.{name}"), given=self.text(name)[:40])
            ) from None

    def needs(self, *roles: PersonRole) -> None:
        """Refuse the form of an operation to whom the operation would be refused. Raises `NotYourRole`."""
        if not set(roles) & set(self.operations.me(self.who).roles):
            raise casework.NotYourRole("role-needed", handle=self.who, wanted=" or ".join(roles))

    def limit(self, who: str) -> None:
        """Count one more try to sign in. Raises `TooMany`."""
        self.site.limits.take("sign-in", who)

    def show(self, template: str, status: int = 200, **more: Any) -> Response:
        """A page."""
        me = None
        if self.signed_in is not None and self.signed_in.stage == "full":
            me = self.site.operations.me(self.signed_in.handle)
        cookie, fresh = self.site.forms.bound_to(self.request), None
        if not cookie:
            cookie = fresh = base64.urlsafe_b64encode(_random()).decode()
        config = self.site.operations.config
        content = self.site.templates.get_template(template).render(
            me=me, csrf=self.site.forms.token(cookie), here=self.request.url.path,
            node={"name": config.name, "role": config.role.value}, nav=navigation(me) if me else (), **more,
        )  # fmt: skip
        response = HTMLResponse(content, status)
        if fresh:
            self.site.forms.set(response, self.site.forms.visitor_cookie, fresh)
        return response

    def go(self, path: str) -> Response:
        """To another page."""
        return RedirectResponse(path, 303)

    def enter(self, token: str, path: str) -> Response:
        """To another page, with a new session."""
        response = self.go(path)
        self.site.forms.set(response, self.site.forms.session_cookie, token)
        return response

    def leave(self, path: str) -> Response:
        """To another page, without a session."""
        response = self.go(path)
        self.site.forms.clear(response)
        return response

    def sign(self, what: str, action: str, summary: list[tuple[str, str]], to_sign: Any, **hidden: Any) -> Response:
        """The page on which a decision is signed. `hidden`: fields that go with it, text or tuples of text."""
        pairs = [(name, value) for name, values in hidden.items() for value in
                 (values if isinstance(values, tuple) else (values,))]  # fmt: skip
        options = None if to_sign.options is None else json.dumps(to_sign.options)
        return self.show(
            "sign.html", what=what, action=action, summary=summary, digest=to_sign.digest, options=options, hidden=pairs
        )


Handler = Callable[[Visit], Response]


def converted(fields: Mapping[str, object], kind: type[T]) -> T:
    """A form as its contract has it. Raises `InputError`."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from None


def file(data: bytes, name: str, kind: str = "application/octet-stream") -> Response:
    """A file to be kept. `name`: of letters, digits, hyphens and dots."""
    return Response(data, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


def page(handler: Handler, *, limit: str = "page", open_to_all: bool = False) -> Callable[[Request], Any]:
    """An endpoint. Unless `open_to_all`, nobody sees it without a full session."""

    async def endpoint(request: Request) -> Response:
        site: Site = request.app.state.site
        visit = Visit(site, request, None, {}, {})
        try:
            token = request.cookies.get(site.forms.session_cookie)
            if token:
                visit.signed_in = await asyncio.to_thread(_session, site, token)
            inside = visit.signed_in is not None and visit.signed_in.stage == "full"
            asker = visit.signed_in.handle if visit.signed_in and inside else visit.address
            site.limits.take(limit if request.method == "POST" else "page", asker)
            if request.method == "POST":
                await asyncio.wait_for(_read_form(visit), FORM_SECONDS)
                site.forms.check(request, visit.text("csrf"))
            if not open_to_all:
                _ = visit.who
            return await asyncio.to_thread(handler, visit)
        except SignedOut:
            response = RedirectResponse(f"/sign-in?next={quote(request.url.path)}", 303)
            site.forms.clear(response)
            return response
        except (LineupError, *BAD_FORM) as error:
            return await asyncio.to_thread(_problem, visit, error)
        except Exception as error:  # its text may quote personal data: only its kind is logged
            log.error("internal error", extra={"error": type(error).__name__})
            return await asyncio.to_thread(_problem, visit, ConsoleError("internal"))

    return endpoint


def _session(site: Site, token: str) -> SignedIn | None:
    try:
        return site.accounts.session(token)
    except SignedOut:
        return None


async def _read_form(visit: Visit) -> None:
    fields: dict[str, list[str]] = {}
    files: dict[str, list[bytes]] = {}
    async with visit.request.form(max_files=16, max_fields=100, max_part_size=256 * 1024) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.setdefault(name, []).append(await value.read())
            else:
                fields.setdefault(name, []).append(value)
    visit.form, visit.files = fields, files


def _problem(visit: Visit, error: BaseException) -> Response:
    status = status_of(error) if isinstance(error, LineupError) else 400
    words = texts.text("problem.internal"), ""
    if status != 500:
        words = words_of(error) if isinstance(error, LineupError) else (texts.text("problem.form"), "")
    kinds = (kind.__name__ for kind in type(error).__mro__)
    what = next((texts.KINDS[kind] for kind in kinds if kind in texts.KINDS), "")
    response = visit.show("problem.html", status, words=words, what=what, kind=type(error).__name__)
    if isinstance(error, TooMany):
        response.headers["retry-after"] = str(error.seconds)
    return response


def words_of(error: LineupError) -> tuple[str, str]:
    """What a page says of a refusal, out of the catalogue; and, where that has no text for it, the program's words."""
    if isinstance(error, casework.CaseworkError):
        return _sentence(texts.refusal(error.key, error.values)), ""
    return (_sentence(str(error)), "") if isinstance(error, (ConsoleError, ExchangeMissing)) else ("", str(error))


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def environment() -> Environment:
    """Templates: everything that is put into one is escaped."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
    made.globals.update(t=texts.text, name_of=texts.name_of)
    made.filters.update(name_of=texts.name_of, moment=_moment, utc=_utc, picture=_picture, hours=_hours)
    return made


def navigation(me: Any) -> list[tuple[str, str]]:
    """The pages that somebody's roles and this node's role make useful: path, key of its text."""
    roles: set[PersonRole] = set(me.roles)
    links: list[tuple[str, str, set[str], set[Role]]] = [
        ("/", "nav.start", set(), set()),
        ("/queries/new", "nav.new", {"officer"}, {Role.REQUESTER}),
        ("/queries", "nav.queries", {"officer", "approver", "data-protection", "supervisor"}, {Role.REQUESTER}),
        ("/review", "nav.review", {"reviewer"}, {Role.REQUESTER}),
        ("/core-data", "nav.core-data", {"officer", "releaser", "data-protection"}, {Role.REQUESTER, Role.HOLDER}),
        ("/recalls", "nav.recalls", {"releaser", "data-protection", "supervisor"}, {Role.HOLDER}),
        ("/node", "nav.node", set(), set()),
        ("/incoming", "nav.incoming", {"data-protection", "supervisor", "admin"}, {Role.HOLDER, Role.ROUTER}),
        ("/supervision", "nav.supervision", {"data-protection", "supervisor"}, set()),
        ("/staff", "nav.staff", {"admin", "data-protection", "supervisor"}, set()),
    ]
    return [
        (path, key)
        for path, key, wanted, where in links
        if (not wanted or wanted & roles) and (not where or me.node_role in where)
    ]


def _moment(seconds: int | None) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _utc(told: str) -> str:
    """A time that a node told in ISO 8601, as all others are shown."""
    return _moment(int(datetime.fromisoformat(told).timestamp()))


def _hours(seconds: int) -> str:
    sign, seconds = ("−" if seconds < 0 else ""), abs(seconds)
    return f"{sign}{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _picture(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _random() -> bytes:
    import secrets

    return secrets.token_bytes(24)
