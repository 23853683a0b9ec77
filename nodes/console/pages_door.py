"""Pages at the door: the first administrator, invitations, password, key, out."""

from __future__ import annotations

import json

from starlette.responses import Response

from nodes.console import contracts as c
from nodes.console.web import Visit, converted

KEY_PAGES = {"password": "/sign-in/key", "enrol": "/join/key"}


def sign_in(visit: Visit) -> Response:
    """Handle and password."""
    if visit.request.method == "GET":
        if visit.door.unclaimed():
            return visit.go("/first")
        return visit.show("sign_in.html", next=_inside(visit.request.query_params.get("next", "/")))
    visit.limit(f"handle {visit.text('handle')}")
    given = converted({"handle": visit.text("handle"), "password": visit.exactly("password")}, c.Credentials)
    half = visit.door.sign_in(given)
    return visit.enter(half.token, f"{KEY_PAGES[half.stage]}?next={_inside(visit.text('next'))}")


def key(visit: Visit) -> Response:
    """The second factor: a signature of the person's key."""
    if visit.request.method == "POST":
        session = visit.door.give_key(visit.token, converted({"assertion": visit.text("assertion")}, c.Signed))
        return visit.enter(session.token, _inside(visit.text("next")))
    half = visit.door.challenge(visit.token)
    if half.stage != "password":
        return visit.go(KEY_PAGES[half.stage])
    return visit.show("key.html", challenge=half.challenge, options=_json(half),
                      next=_inside(visit.request.query_params.get("next", "/")))  # fmt: skip


def first(visit: Visit) -> Response:
    """The first administrator, with the token that stands on the terminal."""
    if not visit.door.unclaimed():
        return visit.go("/sign-in")
    if visit.request.method == "GET":
        return visit.show("first.html")
    given = {name: visit.text(name) for name in ("token", "handle", "name")} | {"password": visit.exactly("password")}
    half = visit.door.first(converted(given, c.First))
    return visit.enter(half.token, KEY_PAGES[half.stage])


def join(visit: Visit) -> Response:
    """An invitation is taken up: a password."""
    if visit.request.method == "GET":
        return visit.show("join.html")
    given = {"token": visit.text("token"), "password": visit.exactly("password")}
    half = visit.door.join(converted(given, c.Joining))
    return visit.enter(half.token, KEY_PAGES[half.stage])


def join_key(visit: Visit) -> Response:
    """An invitation is taken up: a key, shown to be one's own."""
    if visit.request.method == "POST":
        given = {"assertion": visit.text("assertion"), "public": visit.text("public")}
        return visit.enter(visit.door.set_key(visit.token, converted(given, c.NewKey)).token, "/")
    half = visit.door.challenge(visit.token)
    if half.stage != "enrol":
        return visit.go(KEY_PAGES[half.stage])
    return visit.show("join_key.html", challenge=half.challenge, options=_json(half))


def sign_out(visit: Visit) -> Response:
    """End the session."""
    if visit.signed_in is not None:
        visit.door.sign_out(visit.token)
    return visit.leave("/sign-in")


def _json(half: c.Half) -> str | None:
    return None if half.options is None else json.dumps(half.options)


def _inside(path: str) -> str:
    """A path of this console; the start for anything that leads elsewhere."""
    fine = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if fine and len(path) < 200 else "/"
