"""Pages at the door: the first administrator, invitations, password, key, out."""

from __future__ import annotations

import hmac
import json

from starlette.responses import Response

from nodes.console import passkeys
from nodes.console.accounts import SignedIn
from nodes.console.errors import SignInRefused
from nodes.console.web import Visit
from protocol.approval import PersonRole

FIRST_ROLES: tuple[PersonRole, ...] = ("admin",)


def sign_in(visit: Visit) -> Response:
    """Handle and password."""
    site = visit.site
    if visit.request.method == "GET":
        if site.accounts.empty:
            return visit.go("/first")
        return visit.show("sign_in.html", next=_inside(visit.request.query_params.get("next", "/")))
    site.limits.take("sign-in", f"handle {visit.text('handle')}")
    half = site.accounts.sign_in(visit.text("handle"), next(iter(visit.form.get("password", ())), ""))
    return _enter(visit, half, f"/sign-in/key?next={_inside(visit.text('next'))}")


def key(visit: Visit) -> Response:
    """The second factor: a signature of the person's key."""
    site, half = visit.site, visit.half
    if half.stage != "password":
        return visit.go("/join/key")
    person = site.operations.person(half.handle)
    credential = site.accounts.credential(half.handle)
    if visit.request.method == "GET":
        challenge = site.accounts.challenge(half)
        options = passkeys.to_sign(site.operations.config.console, credential, challenge) if credential else None
        return visit.show(
            "key.html",
            challenge=challenge.hex(),
            options=None if options is None else json.dumps(options),
            next=_inside(visit.request.query_params.get("next", "/")),
        )
    challenge = site.accounts.take_challenge(half)
    try:
        count = passkeys.check_sign_in(person.key, credential, visit.text("assertion"), challenge)
    except SignInRefused:
        site.accounts.failed_key(half)
        raise
    return _enter(visit, site.accounts.key_shown(half, count), _inside(visit.text("next")))


def first(visit: Visit) -> Response:
    """The first administrator, with the token that stands on the terminal."""
    site = visit.site
    if not site.accounts.empty or site.first_token is None:
        return visit.go("/sign-in")
    if visit.request.method == "GET":
        return visit.show("first.html")
    if not hmac.compare_digest(visit.text("token").encode(), site.first_token.encode()):
        raise SignInRefused
    desk = site.operations.desk
    known = {one.handle for one in desk.staff()}
    if visit.text("handle") not in known:
        desk.add_person(None, visit.text("handle"), visit.text("name"), FIRST_ROLES)
    else:
        desk.person(visit.text("handle")).needs("admin")
    token = site.accounts.invite(visit.text("handle"))
    half = site.accounts.accept(token, next(iter(visit.form.get("password", ())), ""))
    site.first_token = None
    return _enter(visit, half, "/join/key")


def join(visit: Visit) -> Response:
    """An invitation is taken up: a password."""
    if visit.request.method == "GET":
        return visit.show("join.html")
    half = visit.site.accounts.accept(visit.text("token"), next(iter(visit.form.get("password", ())), ""))
    return _enter(visit, half, "/join/key")


def join_key(visit: Visit) -> Response:
    """An invitation is taken up: a key, shown to be one's own."""
    site, half = visit.site, visit.half
    if half.stage != "enrol":
        return visit.go("/sign-in/key")
    settings = site.operations.config.console
    if visit.request.method == "GET":
        challenge = site.accounts.challenge(half)
        options = json.dumps(passkeys.to_register(settings, half.handle, challenge))
        return visit.show("join_key.html", challenge=challenge.hex(), options=options)
    challenge = site.accounts.take_challenge(half)
    answer = visit.text("assertion")
    if answer.startswith("{"):
        made, credential, count = passkeys.registered(settings, answer, challenge)
    else:
        made, credential, count = passkeys.key_file(visit.text("public"), answer, challenge), b"", 0
    desk = site.operations.desk
    desk.set_key(None, site.operations.person(half.handle), made)
    return _enter(visit, site.accounts.key_enrolled(half, credential, count), "/")


def sign_out(visit: Visit) -> Response:
    """End the session."""
    if visit.signed_in is not None:
        visit.site.accounts.sign_out(visit.signed_in.token)
    response = visit.go("/sign-in")
    visit.site.forms.clear(response)
    return response


def _enter(visit: Visit, session: SignedIn, path: str) -> Response:
    response = visit.go(path)
    visit.site.forms.set(response, visit.site.forms.session_cookie, session.token)
    return response


def _inside(path: str) -> str:
    """A path of this console; the start for anything that leads elsewhere."""
    fine = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if fine and len(path) < 200 else "/"
