"""A whole case in a browser, between nodes that run; each refusal on the way; keyboard, contrast, print, no script."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import parse_qs

import pytest

from tests.kit.browser import (
    People,
    Person,
    Running,
    approve,
    ask,
    fill_release,
    open_query,
    passkey,
    refused,
    release,
    reload_until,
    review,
    show,
)


@pytest.fixture(scope="module")
def arthur(people: People) -> Person:
    """An approver with a passkey."""
    return passkey(people, "FR", "arthur")


@pytest.fixture(scope="module")
def approved(people: People, nodes: Running, arthur: Person) -> tuple[str, str]:
    """A query that was approved, and the signature that approved it."""
    query = open_query(people("FR", "olivia"), nodes.staged.photos.obama3, "2026/0501")
    sent: list[str] = []
    arthur.page.on(
        "request", lambda request: sent.append(request.post_data or "") if "approve" in request.url else None
    )
    approve(arthur, query)
    (assertion,) = {parse_qs(body)["assertion"][0] for body in sent if "assertion=" in body}
    return query, assertion


def test_a_whole_case(people: People, nodes: Running, arthur: Person) -> None:
    officer, photos = people("FR", "olivia"), nodes.staged.photos
    officer.check("start")
    query = open_query(officer, photos.obama2)
    officer.check("query")

    # approved by a second person, with a passkey; watched live, without a reload
    approve(arthur, query)
    officer.page.goto(f"{officer.origin}/queries/{query}")
    officer.page.wait_for_function("() => document.querySelector('#progress')?.innerText.includes('under review')",
                                   timeout=90_000)  # fmt: skip
    assert "candidates" in officer.page.locator("#progress").inner_text()
    assert "no hit" in officer.page.locator("#progress").inner_text()
    rosa, remi = people("FR", "rosa"), people("FR", "remi")
    rosa.page.goto(f"{rosa.origin}/review/{query}")
    reload_until(rosa, "Compare")

    # a reviewer peeks: the first one's word is not shown before the second one has decided
    review(rosa, query, "same person")
    remi.page.goto(f"{remi.origin}/review/{query}")
    remi.go(remi.page.get_by_role("link", name="Compare").first)
    candidate = remi.page.url.rsplit("/", 1)[1]
    assert "rosa" not in remi.page.content()
    assert "ears and brows" not in remi.page.content()
    review(remi, query, "same person")
    rosa.page.goto(f"{rosa.origin}/review/{query}/{candidate}")
    show(rosa, "to sign", "Show side by side")
    assert "remi" in rosa.page.locator("dl.facts").inner_text()  # control: once the review is over

    # core data before both have signed are refused
    officer.page.goto(f"{officer.origin}/candidates/{candidate}/ask")
    officer.check("ask")
    ask(officer)
    refused(officer, "NotConfirmed")
    for reviewer in (rosa, remi):
        reviewer.page.goto(f"{reviewer.origin}/review/{query}")
        reviewer.go(reviewer.page.get_by_role("link", name="Sign the match"))
        reviewer.sign()
    reload_until(rosa, "confirmed")

    # core data: asked for, released at the other state, received
    officer.page.goto(f"{officer.origin}/candidates/{candidate}/ask")
    ask(officer)
    officer.sign()
    officer.page.wait_for_url("**/core-data/*")
    request = officer.page.url.rsplit("/", 1)[1]
    lena = people("ES", "lena")
    lena.page.goto(f"{lena.origin}/core-data")
    reload_until(lena, request[:12])
    lena.check("requests")
    late_release(lena, nodes, request)
    release(lena, request)
    reload_until(lena, "released")
    officer.page.goto(f"{officer.origin}/core-data/{request}")
    reload_until(officer, "released")
    officer.page.get_by_label("Why do you look").fill("for the file")
    officer.go(officer.page.get_by_role("button", name="Show facts and data"))
    assert "Planted-Garcia" in officer.page.locator("main").inner_text()
    officer.check("core-data")
    reference = officer.page.locator("dl.panel code").first.inner_text()
    assert reference == nodes.staged.references["ES"]

    # onward transfer is refused; recalled by the holder, deleted by the requester, receipt received
    officer.page.goto(f"{officer.origin}/queries/{query}")
    officer.check("query-confirmed")
    officer.page.locator("summary", has_text="End or pass on").click()
    officer.page.get_by_label("Recipient").fill("another agency")
    officer.go(officer.page.get_by_role("button", name="Note a transfer"))
    refused(officer, "OnwardTransferRefused")
    dario = people("ES", "dario")
    dario.page.goto(f"{dario.origin}/recalls")
    dario.page.get_by_label("Reference").fill(reference)
    dario.page.get_by_label("Why").fill("another person's photo")
    dario.go(dario.page.get_by_role("button", name="Recall"))
    dario.page.goto(f"{dario.origin}/recalls")
    reload_until(dario, "receipt received")
    dario.check("recalls")
    officer.page.goto(f"{officer.origin}/queries/{query}")
    reload_until(officer, "recalled by its holder")
    assert officer.page.get_by_role("link", name="Ask for core data").count() == 0


def late_release(lena: Person, nodes: Running, request: str) -> None:
    """After 48 hours a release says why, or is refused."""
    lena.page.goto(f"{lena.origin}/core-data/{request}")
    nodes.clock.ahead += timedelta(hours=49)
    fill_release(lena)
    refused(lena, "DeadlinePassed")
    nodes.clock.ahead -= timedelta(hours=49)


def test_the_same_person_does_not_approve_and_another_role_neither(people: People, nodes: Running) -> None:
    officer = people("FR", "olivia")
    query = open_query(officer, nodes.staged.photos.obama3, "2026/0500")
    assert officer.page.get_by_role("button", name="Look and go on to sign").count() == 0
    token = officer.page.locator("input[name=csrf]").first.get_attribute("value")
    fetch = """async ([url, body]) => { const r = await fetch(url, {method: 'POST', body: new URLSearchParams(body)});
               return [r.status, await r.text()] }"""
    url = f"/queries/{query}/approve"
    status, text = officer.page.evaluate(fetch, [url, {"csrf": token, "reason": "x", "assertion": "00" * 64}])
    assert status == 409, text
    assert "FourEyes" in text
    status, _ = officer.page.evaluate(fetch, [url, {"reason": "x"}])
    assert status == 403  # no token
    rosa = people("FR", "rosa")
    rosa.page.goto(f"{rosa.origin}/queries/new")
    rosa.page.get_by_label("Photo").set_input_files(nodes.staged.photos.obama)
    rosa.go(rosa.page.get_by_role("button", name="Upload"))
    refused(rosa, "NotYourRole")


def test_of_several_faces_one_is_chosen(people: People, nodes: Running) -> None:
    officer = people("FR", "olivia")
    page = officer.page
    page.goto(f"{officer.origin}/queries/new")
    page.get_by_label("Photo").set_input_files(nodes.staged.photos.six_faces)
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/queries/new/*")
    assert page.locator("svg rect").count() == 6
    officer.check("several")
    page.get_by_label(re.compile("^Face 3")).check()
    page.get_by_label("Case number").fill("2026/0800")
    page.get_by_label("Offence").fill("armed robbery")
    page.get_by_role("button", name="Put up for approval").click()
    page.wait_for_url(re.compile(r"/queries/[0-9a-f]{32}$"))


def test_a_replayed_assertion_and_a_forged_cookie_are_refused(
    people: People, nodes: Running, arthur: Person, approved: tuple[str, str]
) -> None:
    first, assertion = approved
    second = open_query(people("FR", "olivia"), nodes.staged.photos.tom_hanks, "2026/0701")
    fetch = """async ([url, body]) => { const r = await fetch(url, {method: 'POST', body: new URLSearchParams(body)});
               return [r.status, await r.text()] }"""
    token = arthur.page.locator("input[name=csrf]").first.get_attribute("value")
    body = {"csrf": token, "assertion": assertion}
    status, text = arthur.page.evaluate(fetch, [f"/queries/{second}/approve", body])
    assert (status, "BadAssertion" in text) == (422, True)
    status, text = arthur.page.evaluate(fetch, [f"/queries/{first}/approve", body])
    assert (status, "AlreadyLocked" in text) == (409, True)
    stranger = people.visitor("FR")
    name = nodes.sites["FR"].forms.session_cookie
    stranger.page.context.add_cookies([{"name": name, "value": "forged" * 8, "url": stranger.origin}])
    stranger.page.goto(f"{stranger.origin}/queries")
    assert "/sign-in" in stranger.page.url


def test_a_disagreement_is_no_match_and_is_counted(people: People, approved: tuple[str, str]) -> None:
    query, _ = approved
    sven, rosa, remi = people("FR", "sven"), people("FR", "rosa"), people("FR", "remi")
    rosa.page.goto(f"{rosa.origin}/review/{query}")
    reload_until(rosa, "Compare")
    review(rosa, query, "same person")
    review(remi, query, "not the same person")
    reload_until(remi, "disagreement")
    assert remi.page.get_by_role("link", name="Sign the match").count() == 0
    sven.page.goto(f"{sven.origin}/supervision")
    assert "disagreement" in sven.page.locator("main").inner_text()
    sven.check("supervision")


def test_a_supervisor_downloads_and_verifies_evidence(people: People) -> None:
    sven = people("FR", "sven")
    page = sven.page
    page.goto(f"{sven.origin}/supervision")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the bundle").first.click()
    assert download.value.suggested_filename.endswith(".bundle")
    query = page.locator("td code", has_text=re.compile("^[0-9a-f]{32}$")).first.inner_text()
    page.get_by_label("Query of this node").fill(query)
    sven.go(page.get_by_role("button", name="Verify"))
    assert "All that could be checked holds" in page.locator("main").inner_text()
    sven.check("verified")
    page.goto(f"{sven.origin}/supervision")
    page.get_by_label("Bundles of the other parties").set_input_files(
        {"name": "x.bundle", "mimeType": "application/octet-stream", "buffer": b"planted junk"}
    )
    sven.go(page.get_by_role("button", name="Verify"))
    assert "All that could be checked holds" not in page.locator("main").inner_text()


@pytest.mark.parametrize(
    ("node", "handle", "paths"),
    [("FR", "sven", ("/incoming", "/supervision/counts", "/node", "/staff")), ("ES", "selma", ("/node", "/incoming",
     "/supervision", "/recalls")), ("EU", "sofia", ("/", "/node", "/incoming", "/supervision"))],
)  # fmt: skip
def test_every_role_has_its_pages(people: People, node: str, handle: str, paths: tuple[str, ...]) -> None:
    person = people(node, handle)
    for path in paths:
        answer = person.page.goto(person.origin + path)
        if path == "/incoming" and node == "FR":
            assert answer.status == 200
        assert answer.status == 200, path
        person.check(f"{node}{path.replace('/', '-')}")


def read_log(person: Person) -> None:
    person.page.goto(f"{person.origin}/incoming")
    person.page.get_by_label("Why do you look at the log?").fill("monthly check")
    person.go(person.page.get_by_role("button", name="Show the log"))


def test_the_router_shows_the_article_forty_log_and_no_person(people: People) -> None:
    sofia = people("EU", "sofia")
    read_log(sofia)
    text = sofia.page.locator("main").inner_text()
    assert "FR" in text
    assert "DE, ES" in text
    sofia.page.goto(f"{sofia.origin}/node")
    assert sofia.page.locator(".state", has_text=re.compile("^up$")).count() == 3
    read_log(sofia)
    sofia.check("log")
    for planted in ("2026/0417", "robbery", "Olivia", "Planted"):
        assert planted not in sofia.page.content()


def test_dark_and_printed_pages_say_it_too(people: People) -> None:
    person = people.visitor("FR", color_scheme="dark")
    person.page.goto(f"{person.origin}/sign-in")
    person.check("dark")
    assert person.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    sven = people("FR", "sven")
    sven.page.goto(f"{sven.origin}/supervision")
    sven.page.emulate_media(media="print")
    assert sven.page.locator(".banner").is_visible()
    # the header of a table: repeated on every sheet, above what stands there and not over it
    style = "(({display, breakInside}) => [display, breakInside])(getComputedStyle(document.querySelector('.banner')))"
    assert sven.page.evaluate(style) == ["table-header-group", "avoid"]
    assert not sven.page.locator("header nav").is_visible()
    assert not sven.page.locator("form").first.is_visible()
    sven.page.emulate_media(media="screen")


def test_a_log_in_by_keyboard_alone(people: People, nodes: Running) -> None:
    person = people.visitor("FR")
    page = person.page
    page.goto(f"{person.origin}/sign-in")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("olivia")
    page.keyboard.press("Tab")
    page.keyboard.type(nodes.staged.password)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/sign-in/key"))
    assert page.evaluate("document.querySelectorAll('[tabindex]:not([tabindex=\"0\"]):not(main)').length") == 0


def test_without_a_script_a_query_is_opened_and_approved(people: People, nodes: Running) -> None:
    from nodes.casework.persons import sign_with_file

    def by_hand(person: Person) -> None:
        digest = re.search(r"--key FILE ([0-9a-f]{64})", person.page.content())
        assert digest
        person.page.locator("summary", has_text="Sign on the command line").click()
        signature = sign_with_file(person.key, bytes.fromhex(digest[1])).signature.hex()  # type: ignore[arg-type]
        person.page.get_by_label("Signature").fill(signature)
        person.go(person.page.get_by_role("button", name="Give the signature"))

    def enter(handle: str) -> Person:
        person = people.visitor("FR", java_script_enabled=False)
        person.key = nodes.staged.keys / f"FR-{handle}.key"
        person.page.goto(f"{person.origin}/sign-in")
        person.page.get_by_label("Handle").fill(handle)
        person.page.get_by_label("Password").fill(nodes.staged.password)
        person.go(person.page.get_by_role("button", name="Continue"))
        by_hand(person)
        return person

    officer = enter("olivia")
    page = officer.page
    page.goto(f"{officer.origin}/queries/new")
    page.get_by_label("Photo").set_input_files(nodes.staged.photos.biden)
    officer.go(page.get_by_role("button", name="Upload"))
    page.get_by_label("Case number").fill("2026/0600")
    page.get_by_label("Offence").fill("fraud")
    page.get_by_role("button", name="Put up for approval").click()
    page.wait_for_url(re.compile(r"/queries/[0-9a-f]{32}$"))
    assert "waits for approval" in page.locator("main").inner_text()
    query = page.url.rsplit("/", 1)[1]
    approver = enter("agnes")
    approver.page.goto(f"{approver.origin}/queries/{query}")
    approver.page.locator("#f-approve-reason").fill("to approve the launch")
    approver.go(approver.page.get_by_role("button", name="Look and go on to sign"))
    by_hand(approver)
    page.reload()
    for _ in range(60):  # the page loads itself again while the search runs
        if "no hit" in page.locator("#progress").inner_text():
            break
        page.wait_for_timeout(1000)
    assert "candidates" in page.locator("#progress").inner_text()  # Germany has this face


def test_every_page_was_looked_at(people: People) -> None:
    """Whatever page a role can reach was checked above by axe-core."""
    assert {"new", "describe", "query", "review", "candidate", "sign", "ask", "request", "requests", "core-data",
            "recalls", "staff", "supervision", "verified"} - people.seen - {"sign"} == set()  # fmt: skip
