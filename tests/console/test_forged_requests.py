"""Forged forms, forged cookies, other hosts, roles not held. Each attack with its control."""

from __future__ import annotations

import re
import secrets

import httpx
import pytest

from nodes.console.security import HEADERS
from tests.kit.console import PASSWORD, House

NEW = {"handle": "eve", "name": "Eve", "roles": "admin"}


def hired(house: House) -> bool:
    return "eve" in {one.handle for one in house.site.operations.desk.staff()}


def test_a_form_without_its_token_is_refused(house: House) -> None:
    browser = house.signed_in("alma")
    assert browser.http.post("/staff", data=NEW).status_code == 403
    assert browser.http.post("/staff", data=NEW | {"csrf": ""}).status_code == 403
    assert browser.http.post("/staff", data=NEW | {"csrf": "0" * 64}).status_code == 403
    assert not hired(house)
    assert browser.post("/staff", NEW).status_code == 200  # control: the same form with its token
    assert hired(house)


def test_another_sessions_token_is_refused(house: House) -> None:
    alma, olga = house.signed_in("alma"), house.signed_in("olga")
    stolen = olga.token("/")
    assert alma.http.post("/staff", data={"again": "olga", "csrf": stolen}).status_code == 403
    own = alma.token("/staff")
    assert alma.http.post("/staff", data={"again": "remo", "csrf": own}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}],
)  # fmt: skip
def test_a_form_sent_from_another_site_is_refused_even_with_the_token(house: House, headers: dict[str, str]) -> None:
    browser = house.signed_in("alma")
    data = {"again": "remo", "csrf": browser.token("/staff")}
    assert browser.http.post("/staff", data=data, headers=headers).status_code == 403
    fine = {"origin": house.origin, "sec-fetch-site": "same-origin"}
    assert browser.http.post("/staff", data=data, headers=fine).status_code == 200


def test_a_forged_cookie_opens_nothing(house: House) -> None:
    name = house.site.forms.session_cookie
    for forged in (secrets.token_urlsafe(32), "", "olga", "../../console.db", "x" * 4000):
        browser = house.visitor()
        browser.http.cookies.set(name, forged)
        assert browser.get("/queries").status_code == 303
    control = house.visitor()
    control.http.cookies.set(name, house.signed_in("olga").http.cookies[name])
    assert control.get("/queries").status_code == 200


def test_the_database_does_not_hold_what_browsers_hold(house: House) -> None:
    token = house.signed_in("olga").http.cookies[house.site.forms.session_cookie]
    folder = house.site.operations.folder
    stored = b"".join(path.read_bytes() for path in folder.glob("console.db*"))
    assert b"olga" in stored  # control: the right files
    for secret in (token, PASSWORD):
        assert secret.encode() not in stored


def test_cookies_are_for_this_site_and_no_script(house: House) -> None:
    browser = house.visitor()
    answer = browser.post("/sign-in", {"handle": "olga", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_the_api_takes_no_cookie_and_pages_take_no_bearer(house: House) -> None:
    browser = house.signed_in("olga")
    assert browser.get("/api/v1/me").status_code == 401
    token = browser.http.cookies[house.site.forms.session_cookie]
    bearer = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=house.origin, trust_env=False) as plain:
        assert plain.get("/queries", headers=bearer).status_code == 303
        assert plain.get("/api/v1/me", headers=bearer).json()["handle"] == "olga"  # control
        half = house.site.accounts.sign_in("olga", PASSWORD)
        assert plain.get("/api/v1/me", headers={"authorization": f"Bearer {half.token}"}).status_code == 401


def test_another_host_is_not_served(house: House) -> None:
    """DNS rebinding: a site makes its own name point to loopback."""
    with httpx.Client(base_url=house.origin, trust_env=False) as client:
        assert client.get("/sign-in", headers={"host": "evil.example"}).status_code == 421
        assert client.get("/sign-in").status_code == 200


def test_every_answer_carries_the_headers(house: House) -> None:
    browser = house.signed_in("olga")
    for path in ("/", "/queries", "/nothing-here", "/static/console.js", "/api/v1/me", "/health"):
        answer = browser.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (path, name)
        assert answer.headers["cache-control"] == "no-store"
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


def test_no_page_has_what_the_content_policy_forbids(house: House) -> None:
    for handle in ("olga", "rita", "sven", "alma"):
        browser = house.signed_in(handle)
        pages = ["/", "/node", *re.findall(r'<li><a href="(/[^"]*)"', browser.get("/").text)]
        for path in dict.fromkeys(pages):
            answer = browser.get(path)
            assert answer.status_code == 200, path
            assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=|javascript:|https?://(?!localhost|127)",
                                 answer.text), path  # fmt: skip


@pytest.mark.parametrize(
    ("handle", "path"),
    [("olga", "/staff"), ("olga", "/supervision"), ("olga", "/incoming"), ("rita", "/queries/new"),
     ("sven", "/queries/new"), ("alma", "/supervision")],
)  # fmt: skip
def test_pages_of_other_roles_are_refused(house: House, handle: str, path: str) -> None:
    browser = house.signed_in(handle)
    answer = browser.get(path)
    if path == "/queries/new":  # the form may be seen; what it sends is refused
        answer = browser.post(path, files={"photo": ("p.jpg", b"x")})
    assert answer.status_code == 403, answer.text
    assert "NotYourRole" in answer.text


@pytest.mark.parametrize(("handle", "path"), [("alma", "/staff"), ("sven", "/supervision"), ("sven", "/incoming")])
def test_control_the_right_roles_see_them(house: House, handle: str, path: str) -> None:
    assert house.signed_in(handle).get(path).status_code == 200


def test_a_role_taken_away_counts_at_once(house: House) -> None:
    desk = house.site.operations.desk
    desk.add_person(None, "uwe", "Uwe Planted", ["supervisor"])
    half = house.site.accounts.accept(house.site.accounts.invite("uwe"), PASSWORD)
    full = house.site.accounts.key_enrolled(half, b"", 0)
    browser = house.visitor()
    browser.http.cookies.set(house.site.forms.session_cookie, full.token)
    assert browser.get("/supervision").status_code == 200
    assert house.signed_in("alma").post("/staff", {"close": "uwe"}).status_code == 200
    assert browser.get("/supervision").status_code == 303


def test_a_person_cannot_give_itself_a_role(house: House) -> None:
    browser = house.signed_in("olga")
    for data in (NEW | {"handle": "mallory"}, {"again": "alma"}, {"close": "alma"}):
        answer = browser.post("/staff", data, form="/")
        assert answer.status_code == 403
    assert house.signed_in("alma").get("/staff").status_code == 200


def test_where_a_log_in_leads_stays_inside(house: House) -> None:
    for outside in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        browser = house.visitor()
        page = browser.http.get("/sign-in", params={"next": outside}).text
        assert 'name="next" value="/"' in page
        answer = browser.post("/sign-in", {"handle": "olga", "password": PASSWORD, "next": outside})
        assert answer.headers["location"] == "/sign-in/key?next=/"
    control = house.visitor().http.get("/sign-in", params={"next": "/queries"}).text
    assert 'name="next" value="/queries"' in control


def test_bodies_that_are_too_large_or_do_not_say_their_size_are_refused(house: House) -> None:
    browser = house.signed_in("olga")
    token = browser.token("/")

    def endless():  # type: ignore[no-untyped-def]
        yield b"csrf=" + token.encode()

    assert browser.http.post("/sign-out", content=endless()).status_code == 413
    assert browser.http.post("/queries/new", content=b"x" * (18 << 20)).status_code == 413
    many = "&".join(f"f{number}=1" for number in range(200))
    head = {"content-type": "application/x-www-form-urlencoded"}
    assert browser.http.post("/sign-out", content=f"csrf={token}&{many}".encode(), headers=head).status_code == 400
    assert browser.http.post("/sign-out", content=f"csrf={token}".encode(), headers=head).status_code == 303


def test_the_article_forty_log_is_read_for_a_reason_that_is_written_down(house: House) -> None:
    sven = house.signed_in("sven")
    assert sven.post("/incoming", {"reason": ""}).status_code == 422
    assert "The log is empty" not in sven.get("/incoming").text
    assert "The log is empty" in sven.post("/incoming", {"reason": "planted monthly check"}).text
    views = house.site.operations.desk.views(house.site.operations.desk.person("sven"))
    assert (views[0].what, views[0].purpose, views[0].reason) == ("article-40 log", "audit", "planted monthly check")
    assert house.signed_in("olga").post("/incoming", {"reason": "x"}, form="/").status_code == 403


def test_a_supervisor_changes_nothing(house: House) -> None:
    """Read-only: every form of the console is refused to who is nothing but a supervisor."""
    sven, nobody = house.signed_in("sven"), "0" * 32
    forms = {
        f"/queries/{nobody}/approve": {"reason": "x", "assertion": "00"},
        f"/queries/{nobody}/authorisation": {"refused": "yes"},
        f"/review/{nobody}/{nobody}": {"verdict": "same person", "note": "x"},
        f"/candidates/{nobody}/end": {"delete": "yes"},
        f"/candidates/{nobody}/ask": {"fields": "gender", "facts": "x", "category": "x", "assertion": "00"},
        f"/core-data/{nobody}/release": {"kind": "identified", "record-gender": "x", "assertion": "00"},
        f"/core-data/{nobody}/refuse": {"why": "withdrawn", "assertion": "00"},
        f"/core-data/{nobody}/clock": {"reason": "x"},
        "/recalls": {"reference": "x", "reason": "x", "kind": "delete"},
        "/staff": {"close": "olga"},
    }
    for path, data in forms.items():
        answer = sven.post(path, data, form="/")
        assert answer.status_code in (403, 404), (path, answer.status_code)
    assert sven.http.post("/queries/new", data={"csrf": sven.token("/")}, files={"photo": b"x"}).status_code == 403
    assert sven.post("/incoming", {"reason": "to monitor"}).status_code == 200  # control: what is for reading opens


def test_a_session_that_was_left_is_worth_nothing_any_more(house: House) -> None:
    """A stolen cookie, and a stolen token of a form, once their owner has signed out or given the key."""
    name = house.site.forms.session_cookie
    thief = house.visitor()

    olga = house.signed_in("olga")
    cookie, token = olga.http.cookies[name], olga.token("/")
    thief.http.cookies.set(name, cookie)
    assert thief.get("/queries").status_code == 200  # control: as long as she is signed in, the theft works
    assert olga.post("/sign-out", form="/").status_code == 303
    assert thief.get("/queries").status_code == 303
    assert thief.http.post("/queries/new", data={"csrf": token}).headers["location"].startswith("/sign-in")

    again = house.signed_in("olga")  # a new session has other tokens, and does not take the old one's
    assert again.http.cookies[name] != cookie
    assert again.http.post("/sign-out", data={"csrf": token}).status_code == 403
    assert again.http.post("/sign-out", data={"csrf": again.token("/")}).status_code == 303

    half = house.visitor()
    half.post("/sign-in", {"handle": "olga", "password": PASSWORD})
    planted = half.http.cookies[name]  # whoever knows it before the key is given
    page = half.get("/sign-in/key").text
    challenge = re.search(r'data-key-file="([0-9a-f]{64})"', page)
    assert challenge
    assert half.give_key("olga", challenge[1], page).headers["location"] == "/"
    assert half.get("/queries").status_code == 200
    thief.http.cookies.set(name, planted)
    assert thief.get("/queries").status_code == 303
    assert half.give_key("olga", challenge[1], page).status_code in (303, 403)  # the signature a second time
    thief.http.cookies.set(name, planted)
    assert (
        thief.give_key("olga", challenge[1], thief.get("/sign-in/key").text or page)
        .headers.get("location", "/sign-in")
        .startswith("/sign-in")
    )


def test_control_a_token_serves_its_own_session_as_often_as_it_likes(house: House) -> None:
    alma = house.signed_in("alma")
    token = alma.token("/staff")
    for _ in range(2):
        assert alma.http.post("/staff", data={"again": "remo", "csrf": token}).status_code == 200
