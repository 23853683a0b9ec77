"""While a country or the node itself does not answer, officers are shown what the states agreed to do then (R 41)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import msgspec
import pytest

from nodes.casework import candidates, cases
from nodes.casework.contents import Told
from nodes.config.casework import CaseworkConfig
from nodes.config.schema import ConfigError
from tests.kit.casework import Offices
from tests.kit.console import House
from tests.kit.two_consoles import staff_of

AGREED = "SIENA, marked <Prüm>; duty officer +34 91 000"


@pytest.fixture
def told(house: House) -> Iterator[House]:
    """The operator has written down what was agreed."""
    operations = house.site.operations
    usual = operations.config
    operations.config = msgspec.structs.replace(usual, casework=CaseworkConfig(alternative=AGREED))
    yield house
    operations.config = usual


def searched(house: House, status: str) -> str:
    """A search that ended so in Spain."""
    desk = house.site.operations.desk
    staff = staff_of(house)
    offices = Offices(desk, desk, staff, staff, desk.office.clock, [])  # type: ignore[arg-type]
    query = offices.query()
    with desk.office.vault.writing() as session:
        launch = cases.take_approved(desk.office, session)
        assert launch is not None
        cases.note_attempt(desk.office, session, query, secrets.token_bytes(16), launch.approved)
        candidates.note_found(desk.office, session, query, {"ES": Told(status, 0, None, None)}, {})
    return query


def test_a_country_that_does_not_answer_shows_what_was_agreed(told: House) -> None:
    olga = told.signed_in("olga")
    page = olga.get(f"/queries/{searched(told, 'unreachable')}").text
    assert "SIENA, marked &lt;Prüm&gt;; duty officer +34 91 000" in page
    assert "SIENA" not in olga.get(f"/queries/{searched(told, 'no hit')}").text  # control: it answered


def test_a_node_that_does_not_run_shows_it_too(told: House) -> None:
    assert "SIENA" in told.signed_in("olga").get("/node").text


def test_without_an_agreement_nothing_is_shown(house: House) -> None:
    olga = house.signed_in("olga")
    assert "Agreed for this case" not in olga.get(f"/queries/{searched(house, 'unreachable')}").text


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 500"):
        CaseworkConfig(alternative="x" * 501)
