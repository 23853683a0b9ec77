"""What a person sees of a search while it prepares and runs, by country, and of the preparations that wait."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import pytest

from nodes.casework import cases
from nodes.cli.demo_photos import demo_photos
from nodes.console import operations
from nodes.console.client import ConsoleClient, ConsoleRefused, key_file
from nodes.console.contracts import CountryProgress, QueryForm
from nodes.service.operator_api import SearchUnderWay, Stage, Supplies, WaitingTold
from tests.kit.browser import Person
from tests.kit.console import PASSWORD, House

SUPPLIES = Supplies(
    (WaitingTold("5e" * 16, "FR", ("ES",), "2026-03-01T08:00:00+00:00", "2026-03-01T20:30:00+00:00", 60.0, 10, False),),
    1, 1, 0, 0, 0, 0, None, None,
)  # fmt: skip


class Node:
    """What a running node would tell of the search."""

    def __init__(self) -> None:
        self.number = ""
        self.stage: Stage | None = None

    def searches(self, _: Any) -> list[SearchUnderWay]:
        return [SearchUnderWay(self.number, {} if self.stage is None else {"ES": self.stage})]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(operations, "searches", made.searches)
    return made


def client(house: House, handle: str) -> ConsoleClient:
    made = ConsoleClient(house.origin)
    made.sign_in(handle, PASSWORD, key_file(house.keys[handle]))
    return made


def launched(house: House, node: Node) -> str:
    """A query that two persons launched and the node has taken up."""
    office = house.site.operations.desk.office
    with client(house, "olga") as olga, client(house, "anton") as anton:
        intake = olga.upload(demo_photos().obama2.read_bytes()).id
        query = olga.open_query(QueryForm(intake, 0, ("ES",), "C-1", "robbery", 5.0, "0.5"))
        anton.approve(query)
    with office.vault.writing() as session:
        launch = cases.take_approved(office, session)
        assert launch is not None
        node.number = launch.number
    return query


def test_the_api_tells_of_each_country_from_its_preparation_on(house: House, node: Node) -> None:
    query = launched(house, node)
    with client(house, "olga") as olga:
        for stage, told in (
            (None, CountryProgress("ES", "waiting", "")),
            (Stage("preparing"), CountryProgress("ES", "preparing", "")),
            (Stage("preparing", 4096, 8192), CountryProgress("ES", "preparing", "", 4096, 8192)),
            (Stage("searching", prepared="now"), CountryProgress("ES", "searching", "", 0, 0, "now")),
            (Stage("searching", prepared="waiting"), CountryProgress("ES", "searching", "", 0, 0, "waiting")),
            (Stage("over", prepared="now"), CountryProgress("ES", "answered", "", 0, 0, "now")),
            (Stage("over", prepared="now", answer="no hit"), CountryProgress("ES", "no hit", "", 0, 0, "now")),
        ):
            node.stage = stage
            progress = olga.progress(query)
            assert (progress.state, progress.running, progress.countries) == ("running", True, (told,))
        node.number = f"FR-{secrets.token_hex(8)}"  # control: another search's stages are not this one's
        assert olga.progress(query).countries == (CountryProgress("ES", "waiting", ""),)


def test_the_api_tells_which_preparations_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(house, "lena") as lena:
        with pytest.raises(ConsoleRefused, match="NodeNotRunning"):
            lena.preparations()
        monkeypatch.setattr("nodes.operator.client.preparations", lambda _: SUPPLIES)
        assert lena.preparations() == SUPPLIES


def test_the_page_follows_a_search_without_a_reload(house: House, node: Node, browser: Any) -> None:
    query = launched(house, node)
    page = browser.new_context(viewport={"width": 1100, "height": 800}).new_page()
    person = Person(page, house.origin, house.keys["olga"])
    person.sign_in("olga", PASSWORD)
    page.goto(f"{house.origin}/queries/{query}")
    page.evaluate("window.notReloaded = true")
    for stage, told in (
        (Stage("preparing"), ("preparing", "begun")),
        (Stage("preparing", 4096, 8192), ("preparing", "4096 / 8192 rows")),
        (Stage("searching", prepared="now"), ("searching", "made for this search")),
        (Stage("searching", prepared="waiting"), ("searching", "one that waited is used")),
        (Stage("over", prepared="waiting"), ("answered", "one that waited is used")),
    ):
        node.stage = stage
        for text in told:
            page.locator("#progress td", has_text=text).wait_for(timeout=20_000)
        person.check(f"progress-{told[0]}")
    assert page.evaluate("window.notReloaded")
    page.context.close()


def test_the_page_of_the_node_lists_the_preparations_that_wait(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the running node; control: while it does not run there is no list, rather than an empty one."""
    olga = house.signed_in("olga")
    assert "Preparations that wait" not in olga.get("/node").text
    status = {"queries_running": 0, "contradicting_logs": [], "preparations": msgspec.to_builtins(SUPPLIES)}
    for name, told in (("peers", {}), ("status", status), ("health", {"status": "ok"}), ("queries", [])):
        monkeypatch.setattr(f"nodes.operator.client.{name}", lambda _, told=told: told)
    shown = olga.get("/node").text
    for text in ("Preparations that wait", "5e" * 16, "2026-03-01 08:00 UTC", "2026-03-01 20:30 UTC", "now: 1"):
        assert text in shown, text
