"""Text that somebody stored is shown as text. With the control that the attack works unescaped."""

from __future__ import annotations

import re

import numpy as np
import pytest

from nodes.casework.contents import Draft
from nodes.console import web
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.console import House

EVIL = "<script>alert('planted')</script><img src=x onerror=alert(1)>\" onfocus=\"alert(2)"
LIVE = re.compile(r"<script>alert|<img src=x|\" onfocus=\"alert")


@pytest.fixture(scope="module")
def query(house: House) -> str:
    desk = house.site.operations.desk
    draft = Draft(np.ones(128, np.int8).tobytes(), SYNTHETIC_MODEL, ("ES",), f"case {EVIL}", f"offence {EVIL}", 5.0)
    return desk.open_query(desk.person("olga"), draft)


def test_case_and_offence_are_shown_as_text(house: House, query: str) -> None:
    page = house.signed_in("olga").post(f"/queries/{query}", {"reason": "planted reason"}).text
    assert "alert(&#39;planted&#39;)" in page
    assert not LIVE.search(page)


def test_what_is_signed_is_shown_as_text(house: House, query: str) -> None:
    data = {"reason": f"because {EVIL}"}
    page = house.signed_in("anton").post(f"/queries/{query}/approve", data, form=f"/queries/{query}").text
    assert "alert(&#39;planted&#39;)" in page
    assert not LIVE.search(page)


def test_reasons_names_and_errors_are_shown_as_text(house: House) -> None:
    sven, alma = house.signed_in("sven"), house.signed_in("alma")
    views = sven.post("/supervision", {"reason": "to monitor"}).text
    assert "because &lt;script&gt;" in views
    assert not LIVE.search(views)
    alma.post("/staff", {"handle": "named", "name": EVIL[:60], "roles": "officer"})
    staff = alma.post("/staff", {"reason": EVIL}).text
    assert "&lt;script&gt;" in staff
    assert not LIVE.search(staff)
    error = alma.post("/staff", {"handle": EVIL, "name": "x", "roles": "officer"}).text
    assert not LIVE.search(error)
    assert not LIVE.search(sven.http.get("/supervision/counts", params={"year": EVIL}).text)
    assert not LIVE.search(house.visitor().http.get("/sign-in", params={"next": f"/{EVIL}"}).text)


def test_control_without_escaping_the_attack_works(house: House, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = web.environment()
    bare.autoescape = False
    monkeypatch.setattr(house.site, "templates", bare)
    page = house.signed_in("olga").post(f"/queries/{query}", {"reason": "planted reason"}).text
    assert LIVE.search(page)
