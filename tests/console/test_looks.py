"""Every look at personal data is for a reason that is written down: probes, candidates, notes, staff, logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from nodes.casework.deletion import View
from nodes.console import contracts as c
from nodes.console import oversight as o
from nodes.console.api import ENDPOINTS, Endpoint
from tests.console.test_roles import endpoint
from tests.kit.two_consoles import Two, a_case, two_consoles

PERSONAL = {c.Case, c.Pictures, c.VoteView, c.RequestContent, c.PersonView, c.DoorView, View, o.HandledView,
            o.LoggedQuery}  # fmt: skip
REASON = "planted monthly check"
# What is looked at, by whom, and how it is called in the log.
LOOKS = {
    "operations.case": ("olga", "case:{query}"),
    "operations.pictures": ("rita", "candidate:{candidate}"),
    "operations.votes": ("olga", "notes:{match}"),
    "operations.request_content": ("lena", "facts:{request}"),
    "oversight.staff": ("alma", "staff list"),
    "oversight.door_log": ("alma", "door"),
    "oversight.views": ("sven", "views"),
    "oversight.handled": ("dora", "gallery log"),
    "oversight.article_forty": ("sven", "article-40 log"),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two_consoles(tmp_path_factory.mktemp("looks"), a_case) as made:
        yield made


def personal(one: Endpoint) -> bool:
    return bool({one.gives, *get_args(one.gives)} & PERSONAL)


def path_of(two: Two, one: Endpoint) -> str:
    path = one.path.replace("{candidate}", "{match}") if one.name == "operations.votes" else one.path
    return two.fill(path)


def looks(two: Two, one: Endpoint) -> list[View]:
    house = two.es if one.name == "operations.request_content" else two.fr
    desk = house.site.operations.desk
    return desk.views(desk.person("sven"))


def test_no_operation_gives_personal_data_without_a_reason() -> None:
    assert {one.name for one in ENDPOINTS if personal(one)} == set(LOOKS)
    assert {one.name for one in ENDPOINTS if personal(one) and one.body is not c.Reason} == set()
    assert next(one for one in ENDPOINTS if one.name == "operations.export").body is c.Export  # with a reason too


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_is_refused_without_a_reason_and_written_down_with_it(two: Two, name: str) -> None:
    one = next(one for one in ENDPOINTS if one.name == name)
    handle, what = LOOKS[name]
    path = path_of(two, one)
    before = len(looks(two, one))
    for none in ({}, {"reason": ""}, {"reason": " "}):
        answer = endpoint(two, handle, one.method, path, none)
        assert answer.status_code in (400, 422), answer.text
    assert len(looks(two, one)) == before
    assert endpoint(two, handle, one.method, path, {"reason": REASON}).status_code == 200
    fresh = looks(two, one)[: len(looks(two, one)) - before]
    assert (handle, two.fill(what), REASON) in [(view.person, view.what, view.reason) for view in fresh]


PAGES: tuple[tuple[str, str, str, str], ...] = (
    ("alma", "/staff", "Rita Planted", "staff list"),
    ("sven", "/supervision", "planted look", "views"),
    ("rita", "/review/{query}/{candidate}", "Features compared", "candidate:{candidate}"),
)


@pytest.mark.parametrize(("handle", "path", "personal", "what"), PAGES)
def test_a_page_shows_it_only_for_a_reason(two: Two, handle: str, path: str, personal: str, what: str) -> None:
    desk, browser = two.fr.site.operations.desk, two.browsers["FR", handle]
    desk.note_look(desk.person("dora"), "something", "planted look", "audit")
    before = len(desk.views(desk.person("sven")))
    page = browser.get(two.fill(path)).text
    assert personal not in page
    assert re.search(r'name="reason"', page)
    assert browser.post(two.fill(path), {"reason": " "}).status_code == 422
    assert len(desk.views(desk.person("sven"))) == before
    assert personal in browser.post(two.fill(path), {"reason": REASON}).text  # control: with one it is there
    fresh = desk.views(desk.person("sven"))[:-before]
    assert (handle, two.fill(what), REASON) in [(view.person, view.what, view.reason) for view in fresh]


def test_an_act_on_the_staff_list_shows_nobody_unless_the_list_was_asked_for(two: Two) -> None:
    alma = two.browsers["FR", "alma"]
    assert "Rita Planted" not in alma.post("/staff", {"again": "remo"}).text
    assert "Rita Planted" in alma.post("/staff", {"again": "remo", "reason": REASON}).text  # as its own forms do


def test_the_staff_list_says_who_is_closed_and_has_no_column_for_what_the_reader_cannot_do(two: Two) -> None:
    desk = two.fr.site.operations.desk
    alma, dora = two.browsers["FR", "alma"], two.browsers["FR", "dora"]
    assert ">To do<" in alma.post("/staff", {"reason": REASON}).text, "the control"
    shown = dora.post("/staff", {"reason": REASON}).text
    assert "Rita Planted" in shown
    assert ">To do<" not in shown
    assert "(closed)" not in shown
    desk.close_account(desk.person("alma"), desk.person("remo"))
    assert ">remo (closed)<" in dora.post("/staff", {"reason": REASON}).text


def test_ones_own_upload_is_a_look_too(two: Two) -> None:
    from nodes.cli.demo_photos import demo_photos

    desk, olga = two.fr.site.operations.desk, two.browsers["FR", "olga"]
    answer = olga.post("/queries/new", files={"photo": ("p.jpg", demo_photos().obama2.read_bytes(), "image/jpeg")})
    place = answer.headers["location"]
    olga.get(place)
    seen = desk.views(desk.person("sven"))[0]
    assert (seen.person, seen.what) == ("olga", f"upload:{place.rsplit('/', 1)[1]}")
