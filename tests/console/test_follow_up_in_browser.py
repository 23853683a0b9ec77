"""What follows a match, in a browser at both states: clock, refusal, deletion, authorisation, recall, receipts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.kit.browser import (
    People,
    Person,
    Running,
    approve,
    ask,
    open_query,
    refused,
    reload_until,
    review,
    show,
)


def searched(people: People, photo: Any, case: str, **more: str) -> str:
    """A query that a second person approved, with a candidate under review."""
    officer, agnes = people("FR", "olivia"), people("FR", "agnes")
    query = open_query(officer, photo, case, **more)
    approve(agnes, query)
    rosa = people("FR", "rosa")
    rosa.page.goto(f"{rosa.origin}/review/{query}")
    reload_until(rosa, "Compare")
    return query


@pytest.fixture(scope="module")
def reviewed(people: People, nodes: Running) -> str:
    """A query without an authorisation whose candidate is under review; only the last test ends it."""
    return searched(people, nodes.staged.photos.obama2, "2026/1003", authorisation="")


def confirmed(people: People, photo: Any, case: str) -> str:
    """A confirmed match; gives the query."""
    query = searched(people, photo, case)
    reviewers = people("FR", "rosa"), people("FR", "remi")
    for person in reviewers:
        review(person, query, "same person")
    for person in reviewers:
        person.page.goto(f"{person.origin}/review/{query}")
        person.go(person.page.get_by_role("link", name="Sign the match"))
        person.sign()
    reload_until(reviewers[0], "confirmed")
    return query


def asked(people: People, query: str) -> str:
    """Core data asked for; gives the request, which the other state has."""
    officer, lena = people("FR", "olivia"), people("ES", "lena")
    officer.page.goto(f"{officer.origin}/queries/{query}")
    officer.go(officer.page.get_by_role("link", name="Ask for core data").first)
    ask(officer)
    officer.sign()
    officer.page.wait_for_url("**/core-data/*")
    request = str(officer.page.url.rsplit("/", 1)[1])
    lena.page.goto(f"{lena.origin}/core-data")
    reload_until(lena, request[:12])
    return request


def at(person: Person, path: str) -> Any:
    person.page.goto(f"{person.origin}{path}")
    return person.page


def test_the_clock_is_stopped_core_data_are_refused_and_the_candidate_deleted(people: People, nodes: Running) -> None:
    query = confirmed(people, nodes.staged.photos.obama2, "2026/1001")
    request = asked(people, query)
    officer, lena, dario = people("FR", "olivia"), people("ES", "lena"), people("ES", "dario")

    # stopped for a reason, seen by the state that asked; then it runs on
    page = at(lena, f"/core-data/{request}")
    page.get_by_label("Which judicial authorisation is sought").fill("Juzgado 3, 17/2026")
    lena.go(page.get_by_role("button", name="Stop the clock"))
    assert page.get_by_role("button", name="Let the clock run on").count() == 1
    lena.check("request-paused")
    at(officer, f"/core-data/{request}")
    reload_until(officer, "paused")
    lena.go(lena.page.get_by_role("button", name="Let the clock run on"))
    reload_until(lena, "Stop the clock")
    reload_until(officer, "waiting")

    # refused, with a signature; the state that asked sees it
    page = at(lena, f"/core-data/{request}")
    refuse = page.locator("form", has=page.get_by_label("Why", exact=True))
    refuse.get_by_label("Why", exact=True).select_option("not-released")
    lena.go(refuse.get_by_role("button", name="Go on to sign"))
    assert "not released" in page.locator("main").inner_text()
    lena.sign()
    reload_until(lena, "refused")
    assert page.get_by_role("button", name="Stop the clock").count() == 0
    reload_until(officer, "refused")
    officer.check("core-data-refused")

    # not needed any more: deleted here, and the holder gets the receipt
    at(dario, "/recalls")
    before = dario.page.locator("main").inner_text().count("deleted there")
    page = at(officer, f"/queries/{query}")
    page.locator("summary", has_text="End or pass on").click()
    page.get_by_label("Recipient").fill(" ")
    officer.go(page.get_by_role("button", name="Note a transfer"))
    refused(officer, "EntryRefused")  # a recipient of blanks is no wish to delete
    page = at(officer, f"/queries/{query}")
    page.locator("summary", has_text="End or pass on").click()
    officer.go(page.get_by_role("button", name="Not needed: delete now"))
    told = re.search(r"Receipt: ([0-9a-f]{64})", page.locator("main").inner_text())
    assert told
    page = at(officer, f"/queries/{query}")
    assert "deleted: not needed any more" in page.locator("main").inner_text()
    assert page.get_by_title(told[1]).count() == 1
    assert page.get_by_role("link", name="Ask for core data").count() == 0
    for _ in range(60):
        if at(dario, "/recalls").locator("main").inner_text().count("deleted there") == before + 1:
            break
        dario.page.wait_for_timeout(500)
    else:
        raise AssertionError("the receipt never came")
    dario.check("receipts")


def test_an_onward_transfer_with_authorisation_is_noted(people: People, reviewed: str) -> None:
    officer, dora = people("FR", "olivia"), people("FR", "sven")
    page = at(officer, f"/queries/{reviewed}")
    page.locator("summary", has_text="End or pass on").click()
    page.get_by_label("Recipient").fill("Eurojust")
    page.get_by_label("Authorisation of the state").fill("ES 17/2026")
    officer.go(page.get_by_role("button", name="Note a transfer"))
    assert "The transfer is noted" in page.locator("main").inner_text()
    at(dora, "/supervision")
    show(dora, "monthly check", "Show these logs")
    assert "ES 17/2026" in dora.page.locator("main").inner_text()


def test_an_authorisation_is_lodged_and_a_refused_one_stops_and_deletes(
    people: People, nodes: Running, reviewed: str
) -> None:
    officer = people("FR", "olivia")
    page = at(officer, f"/queries/{reviewed}")
    assert "not lodged" in page.locator("main").inner_text()
    page.get_by_label("Judicial authorisation").fill("TJ Paris 26-900")
    officer.go(page.get_by_role("button", name="Lodge the authorisation"))
    assert "not lodged" not in page.locator("main").inner_text()
    assert page.get_by_role("button", name="Lodge the authorisation").count() == 0

    query = searched(people, nodes.staged.photos.obama3, "2026/1004", authorisation="")
    page = at(officer, f"/queries/{query}")
    officer.check("authorisation-missing")
    officer.go(page.get_by_role("button", name="It was refused: stop and delete"))
    text = page.locator("main").inner_text()
    assert "deleted: no judicial authorisation" in text
    officer.check("stopped")
    rosa = people("FR", "rosa")
    at(rosa, f"/review/{query}")
    assert rosa.page.get_by_role("link", name="Compare").count() == 0


def test_a_recall_is_seen_at_the_other_side(people: People, nodes: Running, reviewed: str) -> None:
    query = reviewed
    officer, dario = people("FR", "olivia"), people("ES", "dario")
    reference = nodes.staged.references["ES"]

    def recall(kind: str) -> None:
        page = at(dario, "/recalls")
        page.get_by_label("Reference").fill(reference)
        page.get_by_label("Kind").select_option(kind)
        page.get_by_label("Why").fill("the person objects")
        dario.go(page.get_by_role("button", name="Recall"))
        assert "Told: " in dario.page.locator("main").inner_text()

    recall("contested")
    at(officer, f"/queries/{query}")
    reload_until(officer, "accuracy contested")
    rosa = people("FR", "rosa")
    assert "accuracy contested" in at(rosa, f"/review/{query}").locator("main").inner_text()
    recall("delete")
    reload_until(officer, "deleted: recalled by its holder")
    officer.check("recalled")
    assert at(rosa, f"/review/{query}").get_by_role("link", name="Compare").count() == 0
