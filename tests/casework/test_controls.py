"""Controls of what a second review found: each attack works once the defence is taken away."""

from __future__ import annotations

import pytest
from sqlalchemy import delete

from nodes.casework import desk as desk_module
from nodes.casework import persons
from nodes.casework.errors import NotConfirmed, StatementRefused, WrongSchema
from nodes.casework.persons import Person
from nodes.casework.tables import SignatureRow
from tests.kit.casework import Offices


@pytest.fixture
def roles_are_not_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Person, "needs", lambda self, *roles: None)


def test_control_without_the_role_first_a_reviewer_learns_how_the_review_ended(
    offices: Offices, roles_are_not_asked_first: None
) -> None:
    with pytest.raises(NotConfirmed):  # still under review: it is no match yet
        offices.fr.request_core_data(offices.french.rita, offices.candidate(), ("gender",), "seen", "robbery", None)


def test_control_without_the_role_first_anybody_learns_whether_the_gallery_knows_a_person(
    offices: Offices, roles_are_not_asked_first: None
) -> None:
    request = offices.request(offices.confirmed())
    ada = offices.spanish.enrol("ada", ("admin",))
    with pytest.raises(WrongSchema, match="as identified"):
        offices.es.release_core_data(ada, request, {"case-number": "1"}, None, "unidentified")
    with pytest.raises(WrongSchema, match="as identified"):
        offices.es.to_sign(ada, "release-core-data", request, record={"case-number": "1"}, kind="unidentified")


def test_control_a_look_at_the_facts_would_show_the_core_data(
    offices: Offices, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = offices.request(offices.confirmed())
    offices.release(request, {"first-names": "Planted"})
    roles, _ = desk_module._VIEWS["facts"]
    monkeypatch.setitem(desk_module._VIEWS, "facts", (roles, desk_module._request_of))
    assert offices.fr.view(offices.french.lena, f"facts:{request}", "curious").record == {"first-names": "Planted"}


def test_control_a_signature_of_an_earlier_key_makes_a_confirmation_that_every_holder_refuses(
    offices: Offices, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = offices.candidate()
    for who in ("rita", "remo"):
        offices.fr.lock_decision(offices.french.people[who], candidate, "same person", "ears")
    offices.fr.confirm(offices.french.rita, candidate, offices.french.sign("rita", "confirm", candidate))
    monkeypatch.setattr(persons, "delete", lambda table: delete(table).where(SignatureRow.candidate_id == ""))
    offices.french.enrol("rita", ("reviewer",))
    signed = offices.french.sign("remo", "confirm", candidate)
    assert offices.fr.confirm(offices.french.remo, candidate, signed) == "confirmed"
    with pytest.raises(StatementRefused, match="Confirmed"):
        offices.carry()
