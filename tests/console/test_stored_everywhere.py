"""Text that somebody planted wherever the casework takes text is shown as text on every page, printout and report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nodes.console import web
from tests.console.test_roles import RIGHT, page
from tests.kit.casework import Offices, draft
from tests.kit.two_consoles import ROLES, Two, two_consoles

EVIL = "</dd><script>alert('planted')</script><img src=x onerror=alert(1)>\" onfocus=\"alert(2)"
LIVE = re.compile(r"<script>alert|<img src=x|\" onfocus=\"alert")
TOLD = "alert(&#39;planted&#39;)"


def planted(offices: Offices) -> dict[str, str]:
    """A case in which everybody wrote it."""
    french, spanish = offices.french, offices.spanish
    evil = {"case": f"case {EVIL}", "offence": f"offence {EVIL}", "authorisation": EVIL[:60]}
    query = offices.searched(offices.enrol(), **evil)
    (one,) = offices.fr.candidates_for(french.rita, query)
    for who in ("rita", "remo"):
        offices.fr.lock_decision(french.people[who], one.id, "same person", EVIL)
    for who in ("rita", "remo"):
        offices.fr.confirm(french.people[who], one.id, french.sign(who, "confirm", one.id))
    offices.carry()
    asked: dict[str, Any] = {"fields": ("first-names", "case-number"), "facts": EVIL, "offence": "robbery"}
    signed = french.sign("olga", "request-core-data", one.id, **asked)
    request = offices.fr.request_core_data(french.olga, one.id, *asked.values(), signed)
    offices.carry()
    offices.es.pause_clock(spanish.lena, request, EVIL)
    offices.es.resume_clock(spanish.lena, request)
    offices.release(request, {"first-names": EVIL, "case-number": EVIL})
    offices.fr.onward_transfer(french.olga, one.id, EVIL[:60], EVIL)
    offices.fr.view(french.olga, f"core-data:{request}", EVIL, "core-data")
    offices.es.view(spanish.lena, f"facts:{request}", EVIL, "core-data")
    offices.es.add_person(None, "evil", EVIL[:80], ["officer"])
    offices.fr.add_person(None, "evil", EVIL[:80], ["officer"])
    gallery = offices.es.office.gallery
    assert gallery is not None
    gallery.flag_contested(offices.references[0], offices.clock())
    gallery.clear_contested(offices.references[0], EVIL, offices.clock())
    open_draft = offices.fr.open_query(french.olga, draft(np.ones(128, np.int8), "ES", **evil))
    return {"match": one.id, "candidate": one.id, "request": request, "query": query, "draft": open_draft,
            "intake": "0" * 32, "handle": "evil"}  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two_consoles(tmp_path_factory.mktemp("evil"), planted) as made:
        yield made


def pages(two: Two) -> Iterator[tuple[str, str]]:
    """Every page, and every answer to a form that cannot be undone by nothing, as everybody sees it."""
    for method, path, data, _ in RIGHT:
        if data is None or "reason" in data or path.endswith(("/ask", "/release")):
            for handle in ROLES:
                given = None if data is None else {name: EVIL if name in ("facts", "record-case-number", "reason")
                                                   else value for name, value in data.items()}  # fmt: skip
                yield f"{method} {path} as {handle}", page(two, handle, method, path, given).text
    for handle in ("sven", "olga"):
        for path in (f"/core-data/{two.things['request']}",):
            answer = two.browsers["FR", handle].post(path, {"reason": "to read"}, form="/")
            yield f"POST {path} of FR as {handle}", answer.text


def test_no_page_runs_what_somebody_wrote(two: Two) -> None:
    shown = dict(pages(two))
    assert not [name for name, text in shown.items() if LIVE.search(text)]
    told = {name for name, text in shown.items() if TOLD in text}  # it is shown, as text
    for path in ("POST /staff as", "POST /supervision as", "POST /queries/{query} as olga",
                 "POST /queries/{draft}/approve as anton", "POST /core-data/{request} as lena"):  # fmt: skip
        assert any(name.startswith(path) for name in told), path


def test_control_without_escaping_it_runs(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    for made in (two.fr, two.es):
        bare = web.environment()
        bare.autoescape = False
        monkeypatch.setattr(made.site, "templates", bare)
    live = {name.split(" as ")[0] for name, text in pages(two) if LIVE.search(text)}
    assert len(live) >= 5, live


def test_the_yearly_report_and_the_address_line_carry_no_text_of_anybody(two: Two) -> None:
    sven = two.browsers["FR", "sven"]
    for form in ("html", "csv"):
        answer = sven.get(f"/supervision/report/2020/{form}")
        assert answer.status_code == 200
        assert "planted" not in answer.text
        assert answer.headers["content-disposition"].startswith("attachment")
    for path in (f"/queries/{EVIL}", f"/review/{EVIL}", f"/core-data/{EVIL}", f"/supervision/evidence/{EVIL}",
                 f"/supervision/report/{EVIL}/csv"):  # fmt: skip
        assert not LIVE.search(sven.http.get(path).text), path
