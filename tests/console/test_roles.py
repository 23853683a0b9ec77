"""Every page, every form and every operation of the API, asked for by every role, about things that are really there.

`RIGHT` says who may. Everybody else is refused for the role, whatever the request says; whoever may gets further.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from nodes.console.api import ENDPOINTS, PREFIX
from nodes.console.app import make_console
from tests.kit.two_consoles import ROLES, Two, a_case, two_consoles

ALL = set(ROLES.values())
OVERSEERS = {"data-protection", "supervisor"}
SIGNED = "00" * 64
# About things of FR, unless the path is one of HOLDER's. What a page shows to all is no personal data.
Row = tuple[str, str, dict[str, Any] | None, set[str]]
RIGHT: tuple[Row, ...] = (
    ("GET", "/", None, ALL),
    ("GET", "/queries", None, ALL),
    ("GET", "/queries/new", None, ALL),  # an empty form
    ("POST", "/queries/new", {}, {"officer"}),
    ("GET", "/queries/new/{intake}", None, {"officer"}),
    ("POST", "/queries/new/{intake}", {"case": "x"}, {"officer"}),
    ("GET", "/queries/{query}", None, ALL),
    ("POST", "/queries/{query}", {"reason": "x"}, {"officer", "approver", *OVERSEERS}),
    ("GET", "/queries/{query}/progress", None, ALL),
    ("POST", "/queries/{draft}/approve", {"reason": "x"}, {"approver"}),
    ("POST", "/queries/{draft}/approve", {"assertion": SIGNED}, {"approver"}),
    ("GET", "/review", None, ALL),
    ("GET", "/review/{query}", None, {"reviewer"}),
    ("GET", "/review/{query}/{candidate}", None, {"reviewer"}),
    ("POST", "/review/{query}/{candidate}", {"reason": "x"}, {"reviewer"}),
    ("POST", "/review/{query}/{candidate}", {"verdict": "same person", "note": "x"}, {"reviewer"}),
    ("GET", "/review/{query}/{candidate}/confirm", None, {"reviewer"}),
    ("POST", "/review/{query}/{candidate}/confirm", {"assertion": SIGNED}, {"reviewer"}),
    ("GET", "/candidates/{candidate}/ask", None, ALL),  # an empty form
    ("POST", "/candidates/{match}/ask", {"fields": "gender", "facts": "x", "category": "x"}, {"officer"}),
    ("POST", "/candidates/{match}/ask", {"fields": "gender", "facts": "x", "category": "x", "assertion": SIGNED},
     {"officer"}),
    ("GET", "/core-data", None, ALL),
    ("GET", "/core-data/{request}", None, ALL),
    ("POST", "/candidates/{match}/type-10", {"reason": "x"}, {"officer", "data-protection"}),
    ("POST", "/core-data/{request}", {"reason": "x"}, {"officer", "releaser", "data-protection"}),
    ("POST", "/core-data/{request}/release", {"kind": "identified", "record-case-number": "x"}, {"releaser"}),
    ("POST", "/core-data/{request}/release", {"kind": "identified", "record-case-number": "x", "assertion": SIGNED},
     {"releaser"}),
    ("POST", "/core-data/{request}/refuse", {"why": "withdrawn"}, {"releaser"}),
    ("POST", "/core-data/{request}/refuse", {"why": "withdrawn", "assertion": SIGNED}, {"releaser"}),
    ("POST", "/core-data/{request}/clock", {"reason": "x"}, {"releaser"}),
    ("POST", "/core-data/{request}/clock", {"resume": "yes"}, {"releaser"}),
    ("GET", "/recalls", None, ALL),
    ("POST", "/recalls", {"reference": "ES-0", "reason": "x", "kind": "delete"}, {"releaser", "data-protection"}),
    ("GET", "/node", None, ALL),
    ("GET", "/incoming", None, {*OVERSEERS, "admin"}),
    ("POST", "/incoming", {"reason": "x"}, {*OVERSEERS, "admin"}),
    ("GET", "/supervision", None, OVERSEERS),
    ("POST", "/supervision", {"reason": "x"}, OVERSEERS),
    ("GET", "/supervision/counts", None, {*OVERSEERS, "admin"}),
    ("GET", "/supervision/report/2020/csv", None, {*OVERSEERS, "admin"}),
    ("GET", "/supervision/evidence/{query}", None, OVERSEERS),
    ("POST", "/supervision/verify", {"query": "x"}, OVERSEERS),
    ("GET", "/staff", None, {*OVERSEERS, "admin"}),
    ("POST", "/staff", {"reason": "x"}, {*OVERSEERS, "admin"}),
    ("POST", "/staff", {"handle": "new", "name": "New", "roles": "officer"}, {"admin"}),
    ("POST", "/staff", {"again": "remo"}, {"admin"}),
    ("POST", "/queries/{query}/authorisation", {"authorisation": "x"}, {"officer", "approver"}),
    ("POST", "/candidates/{match}/end", {"recipient": "x", "authorisation": ""}, {"officer", "data-protection"}),
    # what cannot be undone comes last
    ("POST", "/candidates/{match}/end", {"delete": "yes"}, {"officer", "data-protection"}),
    ("POST", "/queries/{query}/authorisation", {"refused": "yes"}, {"officer", "approver", "data-protection"}),
    ("POST", "/staff", {"close": "remo"}, {"admin"}),
)  # fmt: skip
API: dict[tuple[str, str], tuple[Any, set[str]]] = {
    ("GET", "/me"): (None, ALL),
    ("GET", "/holders"): (None, ALL),
    ("POST", "/photos"): (b"junk", {"officer"}),
    ("GET", "/photos/{intake}"): (None, {"officer"}),
    ("GET", "/photos/{intake}/picture"): (None, {"officer"}),
    ("POST", "/queries"): ({"intake": "{intake}", "face": 9, "holders": ["ES"], "case": "x", "offence": "x",
                            "maximum-penalty-years": 5}, {"officer"}),
    ("GET", "/queries"): (None, ALL),
    ("GET", "/queries/{query}"): (None, ALL),
    ("GET", "/queries/{query}/progress"): (None, ALL),
    ("POST", "/queries/{query}/case"): ({"reason": "x"}, {"officer", "approver", *OVERSEERS}),
    ("GET", "/queries/{query}/launch"): (None, {"approver"}),
    ("POST", "/queries/{query}/launch"): ({"assertion": SIGNED}, {"approver"}),
    ("POST", "/queries/{query}/authorisation"): ({"id": ""}, {"officer", "approver"}),
    ("GET", "/queries/{query}/candidates"): (None, {"reviewer"}),
    ("GET", "/queries/{query}/matches"): (None, {"officer", "approver", *OVERSEERS}),
    ("POST", "/queries/{query}/candidates/{candidate}"): ({"reason": "x"}, {"reviewer"}),
    ("POST", "/candidates/{candidate}/decision"): ({"verdict": "same person", "note": "x"}, {"reviewer"}),
    ("GET", "/candidates/{candidate}/outcome"): (None, {"reviewer", "officer", "approver", *OVERSEERS}),
    ("POST", "/candidates/{candidate}/votes"): ({"reason": "x"}, {"reviewer", "officer", *OVERSEERS}),
    ("POST", "/candidates/{candidate}/type-10"): ({"reason": "x"}, {"officer", "data-protection"}),
    ("GET", "/candidates/{candidate}/confirmation"): (None, {"reviewer"}),
    ("POST", "/candidates/{candidate}/confirmation"): ({"assertion": SIGNED}, {"reviewer"}),
    ("POST", "/candidates/{candidate}/core-data/to-sign"): ({"fields": ["gender"], "facts": "x", "offence": "x"},
                                                            {"officer"}),
    ("POST", "/candidates/{candidate}/core-data"): ({"fields": ["gender"], "facts": "x", "offence": "x"}, {"officer"}),
    ("POST", "/candidates/{candidate}/transfer"): ({"recipient": "x"}, {"officer", "data-protection"}),
    ("GET", "/requests"): (None, ALL),
    ("POST", "/requests/{request}"): ({"reason": "x"}, {"officer", "releaser", "data-protection"}),
    ("POST", "/requests/{request}/release/to-sign"): ({"kind": "identified", "record": {}}, {"releaser"}),
    ("POST", "/requests/{request}/release"): ({"kind": "identified", "record": {}}, {"releaser"}),
    ("POST", "/requests/{request}/refusal/to-sign"): ({"reason": "withdrawn"}, {"releaser"}),
    ("POST", "/requests/{request}/refusal"): ({"reason": "withdrawn"}, {"releaser"}),
    ("POST", "/requests/{request}/pause"): ({"reason": "x"}, {"releaser"}),
    ("POST", "/requests/{request}/resume"): (None, {"releaser"}),
    ("POST", "/recalls"): ({"reference": "ES-0", "why": "x"}, {"releaser", "data-protection"}),
    ("GET", "/recalls"): (None, ALL),
    ("GET", "/disclosures"): (None, ALL),  # empty for whom it is not
    ("GET", "/node"): (None, ALL),
    ("GET", "/under-way"): (None, ALL),
    ("GET", "/preparations"): (None, ALL),
    ("GET", "/refusals"): (None, {*OVERSEERS, "admin", "releaser"}),
    ("GET", "/gallery"): (None, ALL),
    ("POST", "/gallery/log"): ({"reason": "x"}, {*OVERSEERS, "admin"}),
    ("GET", "/policy"): (None, ALL),
    ("GET", "/quotas"): (None, ALL),
    ("POST", "/article-40"): ({"reason": "x"}, {*OVERSEERS, "admin"}),
    ("GET", "/days"): (None, OVERSEERS),
    ("GET", "/statistics/{year}"): (None, {*OVERSEERS, "admin"}),
    ("GET", "/reports/{year}/{form}"): (None, {*OVERSEERS, "admin"}),
    ("GET", "/logs"): (None, {*OVERSEERS, "admin"}),
    ("GET", "/evidence"): (None, OVERSEERS),
    ("GET", "/evidence/{query}"): (None, OVERSEERS),
    ("POST", "/verify"): ({"bundles": []}, OVERSEERS),
    ("POST", "/views"): ({"reason": "x"}, OVERSEERS),
    ("POST", "/staff-list"): ({"reason": "x"}, {*OVERSEERS, "admin"}),
    ("POST", "/door"): ({"reason": "x"}, {*OVERSEERS, "admin"}),
    ("POST", "/staff"): ({"handle": "x", "name": "x", "roles": []}, {"admin"}),
    ("POST", "/staff/{handle}/invitation"): (None, {"admin"}),
    ("POST", "/queries/{query}/stop"): (None, {"officer", "approver", "data-protection"}),
    ("DELETE", "/candidates/{candidate}"): (None, {"officer", "data-protection"}),
    ("DELETE", "/staff/{handle}"): (None, {"admin"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two_consoles(tmp_path_factory.mktemp("two"), a_case) as made:
        yield made


def test_the_tables_name_every_page_and_every_endpoint(two: Two) -> None:
    pages = {
        (method, re.sub(r"{\w+}", "*", route.path))
        for route in make_console(two.fr.site).routes
        if isinstance(route, Route) and not route.path.startswith(PREFIX)
        for method in (route.methods or set()) - {"HEAD"}
    }
    door = {"/health", "/sign-in", "/sign-in/key", "/first", "/join", "/join/key", "/sign-out"}
    named = {(method, re.sub(r"{\w+}|2020|csv", "*", path)) for method, path, *_ in RIGHT}
    assert {page for page in pages if page[1] not in door} == named
    assert {(one.method, one.path) for one in ENDPOINTS} == set(API)


def test_without_the_role_no_page_does_anything(two: Two) -> None:
    let_in = []
    for method, path, data, right in RIGHT:
        for handle, role in ROLES.items():
            if role not in right:
                answer = page(two, handle, method, path, data)
                if (answer.status_code, "NotYourRole" in answer.text) != (403, True):
                    let_in.append((handle, method, path, data, answer.status_code))
    # whoever opened the query is told that before the role
    assert let_in == [("olga", "POST", "/queries/{draft}/approve", {"assertion": SIGNED}, 409)]


def test_without_the_role_no_endpoint_does_anything(two: Two) -> None:
    let_in = []
    for (method, path), (body, right) in API.items():
        for handle, role in ROLES.items():
            if role not in right:
                answer = endpoint(two, handle, method, path, body)
                if (answer.status_code, "NotYourRole" in answer.text) != (403, True):
                    let_in.append((handle, method, path, answer.status_code))
    assert let_in == [("olga", "POST", "/queries/{query}/launch", 409)]  # as above


def test_control_with_the_role_every_endpoint_gets_further(two: Two) -> None:
    for (method, path), (body, right) in API.items():
        if method == "DELETE" or path.endswith("/stop"):
            continue  # left for the pages
        for handle, role in ROLES.items():
            if role in right:
                answer = endpoint(two, handle, method, path, body)
                kind = answer.json().get("kind") if answer.status_code >= 400 else None
                assert (answer.status_code, kind) != (403, "NotYourRole"), (handle, method, path)
                assert answer.status_code != 500, (handle, method, path)


def test_control_with_the_role_every_page_gets_further(two: Two) -> None:
    for method, path, data, right in RIGHT:
        for handle, role in ROLES.items():
            if role in right:
                answer = page(two, handle, method, path, data)
                assert "NotYourRole" not in answer.text, (handle, method, path, data)
                assert answer.status_code != 500, (handle, method, path, data)


def page(two: Two, handle: str, method: str, path: str, data: dict[str, Any] | None) -> httpx.Response:
    browser = two.browser(path, handle)
    if method == "GET":
        return browser.get(two.fill(path))
    files = {"photo": ("p.jpg", b"junk")} if path == "/queries/new" else None
    answer: httpx.Response = browser.post(two.fill(path), data, form="/", files=files)
    return answer


def endpoint(two: Two, handle: str, method: str, path: str, body: Any) -> httpx.Response:
    browser = two.browser(PREFIX + path, handle)
    token = browser.http.cookies[browser.house.site.forms.session_cookie]
    more: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {} if body is None else {"json": body}
    bearer = {"authorization": f"Bearer {token}"}
    return browser.house.bare.request(method, PREFIX + two.fill(path), headers=bearer, **more)
