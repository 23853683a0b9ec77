"""The API: its description, its refusals, the typed client; pages and API do the same."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pytest

from nodes.cli.demo_photos import demo_photos
from nodes.console import contracts as c
from nodes.console.api import ENDPOINTS, PREFIX
from nodes.console.client import ConsoleClient, ConsoleRefused, ConsoleUnreachable, key_file
from nodes.console.openapi import describe
from pets import thresholds
from tests.kit.console import PASSWORD, House


def client(house: House, handle: str) -> ConsoleClient:
    made = ConsoleClient(house.origin)
    made.sign_in(handle, PASSWORD, key_file(house.keys[handle]))
    return made


def form(intake: str, **changes: object) -> c.QueryForm:
    values = {"intake": intake, "face": 0, "holders": ("ES",), "case": "C-1", "offence": "robbery",
              "maximum_penalty_years": 5.0}  # fmt: skip
    return c.QueryForm(**values | changes)  # type: ignore[arg-type]


def test_the_description_names_every_endpoint_and_resolves(house: House) -> None:
    with httpx.Client(base_url=house.origin, trust_env=False) as http:
        document = http.get("/api/v1/openapi.json").json()
    assert document == msgspec.json.decode(msgspec.json.encode(describe()))
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert {(one.method, PREFIX + one.path) for one in ENDPOINTS} <= told
    text = msgspec.json.encode(document).decode()
    for name in re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"]
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


def test_no_endpoint_answers_without_a_session(house: House) -> None:
    with httpx.Client(base_url=house.origin, trust_env=False) as http:
        for one in ENDPOINTS:
            path = PREFIX + re.sub(r"{\w+}", "00", one.path)
            answer = http.request(one.method, path, content=b"{}" if one.method == "POST" else b"")
            assert answer.status_code == 401, one.path
            assert answer.json()["kind"] == "SignedOut"


def test_a_query_by_two_persons(house: House) -> None:
    with client(house, "olga") as olga, client(house, "anton") as anton:
        assert olga.me().roles == ("officer",)
        intake = olga.upload(demo_photos().obama2.read_bytes())
        assert intake.faces[0].suitable
        query = olga.open_query(form(intake.id))
        with pytest.raises(ConsoleRefused, match="NotYourRole") as refused:
            olga.approve(query)
        assert refused.value.status == 403
        anton.approve(query)
        assert anton.progress(query).state == "approved"
        with pytest.raises(ConsoleRefused, match="AlreadyLocked"):
            anton.approve(query)
        assert [view.id for view in olga.queries() if view.state == "approved"] == [query]


def test_a_query_takes_the_threshold_of_the_models_default(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "BY_EMBEDDER", dict.fromkeys(thresholds.BY_EMBEDDER, Decimal("0.61")))
    photo = demo_photos().obama2.read_bytes()
    with client(house, "olga") as olga:
        intake = olga.upload(photo)
        assert intake.threshold == "0.61"
        assert olga.case(olga.open_query(form(intake.id)), "to check").threshold == "0.61"
        named = olga.open_query(form(olga.upload(photo).id, threshold="0.7"))  # control: one that is named stands
        assert olga.case(named, "to check").threshold == "0.7"
    page = house.signed_in("olga")
    shown = page.get(page.post("/queries/new", files={"photo": ("p.jpg", photo, "image/jpeg")}).headers["location"])
    assert 'name="threshold" type="text" value="0.61"' in shown.text


def test_without_a_calibrated_model_a_query_must_name_its_threshold(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "BY_EMBEDDER", {})
    with client(house, "olga") as olga:
        intake = olga.upload(demo_photos().obama2.read_bytes())
        assert intake.threshold is None
        with pytest.raises(ConsoleRefused, match="no default threshold"):
            olga.open_query(form(intake.id))
        assert olga.open_query(form(intake.id, threshold="0.4"))


def test_whoever_opened_a_query_cannot_approve_it(house: House) -> None:
    desk = house.site.operations.desk
    desk.add_person(None, "both", "Both Planted", ["officer", "approver"], None)
    from nodes.casework.persons import new_key_file

    house.keys["both"] = house.keys["olga"].with_name("both.key")
    desk.set_key(None, desk.person("both"), new_key_file(house.keys["both"]))
    half = house.site.accounts.accept(house.site.accounts.invite("both"), "planted-Passw0rd-4711")
    house.site.accounts.key_enrolled(half, b"", 0)
    with ConsoleClient(house.origin) as both, client(house, "anton") as anton:
        both.sign_in("both", "planted-Passw0rd-4711", key_file(house.keys["both"]))
        query = both.open_query(form(both.upload(demo_photos().obama2.read_bytes()).id))
        with pytest.raises(ConsoleRefused, match="FourEyes") as refused:
            both.approve(query)
        assert refused.value.status == 409
        anton.approve(query)  # control: another person's approval stands


def test_an_assertion_for_one_query_stands_for_no_other(house: House) -> None:
    """Replay: the approver's signature under one launch is sent for another."""
    with client(house, "olga") as olga, client(house, "anton") as anton:
        photo = demo_photos().obama2.read_bytes()
        first, second = (olga.open_query(form(olga.upload(photo).id, case=case)) for case in ("A", "B"))
        digest = anton.call("GET", f"/queries/{first}/launch", c.ToSign).digest
        signed = c.Signed(key_file(house.keys["anton"])(bytes.fromhex(digest), None))
        with pytest.raises(ConsoleRefused, match="BadAssertion"):
            anton.call("POST", f"/queries/{second}/launch", c.Done, signed)
        anton.call("POST", f"/queries/{first}/launch", c.Done, signed)  # control
        with pytest.raises(ConsoleRefused, match="AlreadyLocked"):
            anton.call("POST", f"/queries/{first}/launch", c.Done, signed)


def test_a_year_of_five_thousand_digits_is_no_year(house: House) -> None:
    with client(house, "sven") as sven, pytest.raises(ConsoleRefused, match="no such year") as refused:
        sven.call("GET", f"/statistics/{'9' * 5000}", c.Done)
    assert refused.value.status == 422


def test_bad_input_is_named(house: House) -> None:
    with client(house, "olga") as olga:
        intake = olga.upload(demo_photos().six_faces.read_bytes())
        assert len(intake.faces) > 1
        for changes, told in (
            ({"holders": ("XX",)}, "XX"), ({"face": 40}, "face 41"), ({"maximum_penalty_years": 0.5}, "0.5"),
            ({"purpose": "FISHING"}, "FISHING"), ({"case": " "}, "case"),
        ):  # fmt: skip
            with pytest.raises(ConsoleRefused, match=told):
                olga.open_query(form(intake.id, **changes))
        with pytest.raises(ConsoleRefused, match="unknown field"):
            olga.call("POST", "/queries", c.Made, b'{"intake":"x","face":0,"more":1}')
        with pytest.raises(ConsoleRefused) as refused:
            olga.call("POST", "/queries", c.Made, b"not JSON")
        assert refused.value.status == 400


def test_a_look_at_personal_data_needs_a_reason_and_is_written_down(house: House) -> None:
    with client(house, "olga") as olga, client(house, "dora") as dora:
        query = olga.open_query(form(olga.upload(demo_photos().obama2.read_bytes()).id, case="C-77"))
        with pytest.raises(ConsoleRefused, match="reason"):
            olga.call("POST", f"/queries/{query}/case", c.Case, b'{"reason":""}')
        case = olga.call("POST", f"/queries/{query}/case", c.Case, c.Reason("to check the spelling"))
        assert case.case == "C-77"
        assert case.photo is not None
        own, look, *_ = dora.views("monthly check")
        assert (look.person, look.reason) == ("olga", "to check the spelling")
        assert (own.person, own.what, own.reason) == ("dora", "views", "monthly check")  # the look at the log too


def test_a_wrong_key_and_a_console_that_is_not_there(house: House, tmp_path: Path) -> None:
    with ConsoleClient(house.origin) as wrong, pytest.raises(ConsoleRefused, match="Sign-in failed"):
        wrong.sign_in("olga", PASSWORD, key_file(house.keys["anton"]))
    with ConsoleClient("http://127.0.0.1:1") as nobody, pytest.raises(ConsoleUnreachable):
        nobody.sign_in("olga", PASSWORD, key_file(house.keys["olga"]))


def test_signing_out_ends_the_token(house: House) -> None:
    with client(house, "olga") as olga:
        olga.sign_out()
        with pytest.raises(ConsoleRefused, match="SignedOut"):
            olga.me()
