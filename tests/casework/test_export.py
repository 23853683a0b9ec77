"""A candidate leaves as a file: by whom, when, for whom; and the receiver stands in the log."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nodes.casework import deletion
from nodes.casework.errors import CaseRefused, NoReason, NotYourRole, OnwardTransferRefused
from nodes.casework.exchange.type10 import ExchangeError
from tests.kit.casework import Offices

pytest.importorskip("nistitl")
WHY = "for the laboratory"
LETTER = "ES letter 2026-11-03/44"


def reviewed(offices: Offices, over: bool = True, image: bool = True) -> str:
    """A candidate with an image; `over`: both reviewers found the same person."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 80, 3), np.uint8)).save(out, "JPEG")
    query = offices.searched(offices.enrol(out.getvalue() if image else None))
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    for who in ("rita", "remo") if over else ():
        offices.fr.lock_decision(offices.french.people[who], one.id, "same person", "ears")
    return one.id


def noted(offices: Offices) -> list[tuple[str, str, str]]:
    return [(view.what, view.recipient, view.reason) for view in offices.fr.views(offices.french.dora)]


@pytest.mark.parametrize("receiver", ["", "FR", "FR-LAB", "FR2"])
def test_within_the_own_state_the_receiver_is_written_down(offices: Offices, receiver: str) -> None:
    candidate = reviewed(offices)
    assert offices.references[0].encode() in offices.fr.export(offices.french.olga, candidate, WHY, receiver)
    assert noted(offices) == [(f"type-10:{candidate}", receiver or "FR", WHY)]


@pytest.mark.parametrize("receiver", ["FBI", "ES", "FRONTEX", "EUROPOL"])
def test_to_anybody_else_it_needs_the_authorisation_of_an_onward_transfer(
    offices: Offices, receiver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = reviewed(offices)
    with pytest.raises(OnwardTransferRefused, match="R 60"):
        offices.fr.export(offices.french.olga, candidate, WHY, receiver)
    assert noted(offices) == []
    assert offices.fr.export(offices.french.olga, candidate, WHY, receiver, LETTER)  # control: with one it goes
    both = [(f"type-10:{candidate}", receiver, WHY), (f"onward:{candidate}", receiver, LETTER)]
    assert noted(offices) == both
    monkeypatch.setattr(deletion, "within_state", lambda office, receiver: True)  # control: unasked, it goes
    assert offices.fr.export(offices.french.olga, candidate, WHY, receiver)


def test_while_it_is_under_review_it_does_not_leave(offices: Offices) -> None:
    candidate = reviewed(offices, over=False)
    for who in (offices.french.olga, offices.french.dora):
        with pytest.raises(CaseRefused, match="under review"):
            offices.fr.export(who, candidate, WHY)
    assert noted(offices) == []
    for reviewer in (offices.french.rita, offices.french.remo):
        offices.fr.lock_decision(reviewer, candidate, "same person", "ears")
    assert offices.fr.export(offices.french.olga, candidate, WHY)  # control: it is over


@pytest.mark.parametrize("who", ["rita", "remo", "anton"])
def test_who_does_not_go_on_with_a_match_gets_no_file_with_its_reference(offices: Offices, who: str) -> None:
    candidate = reviewed(offices)
    with pytest.raises(NotYourRole):
        offices.fr.export(offices.french.people[who], candidate, WHY)
    assert offices.fr.export(offices.french.dora, candidate, WHY)  # control


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((" ",), NoReason),
        ((WHY, "FR-lab"), ExchangeError),
        ((WHY, "FR-\x1d10.003:X"), ExchangeError),
        ((WHY, "fr lab", LETTER), ExchangeError),
    ],
)
def test_what_was_refused_is_not_noted_as_having_left(offices: Offices, given: Any, error: type[Exception]) -> None:
    candidate = reviewed(offices)
    with pytest.raises(error):
        offices.fr.export(offices.french.olga, candidate, *given)
    with pytest.raises(ExchangeError, match="without an image"):
        offices.fr.export(offices.french.olga, reviewed(offices, image=False), WHY)
    assert noted(offices) == []
