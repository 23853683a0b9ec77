"""One set of bodies over three transports: memory, ASGI in process, TLS sockets. All agree with the plaintext twin."""

from __future__ import annotations

import pytest

from tests.kit.federation import DE, ES, Federation, request
from tests.kit.transports import TRANSPORTS, System

pytestmark = pytest.mark.slow


@pytest.fixture(params=list(TRANSPORTS))
def search(request: pytest.FixtureRequest, federation: Federation) -> System:
    return TRANSPORTS[request.param](federation)


@pytest.mark.ring
def test_two_holders_answer_as_the_plaintext_twin_does(federation: Federation, search: System) -> None:
    wanted = request(federation.people.hit)
    answers = search(wanted)
    assert answers == federation.expected(wanted)
    assert [len(answers[name].references) for name in (ES, DE)] == [1, 2]


def test_a_stranger_is_no_hit_at_both(federation: Federation, search: System) -> None:
    wanted = request(federation.people.nobody)
    answers = search(wanted)
    assert answers == federation.expected(wanted)
    assert {answer.status for answer in answers.values()} == {"no hit"}


def test_too_many_candidates_climb_the_ladder_to_a_higher_threshold(federation: Federation, search: System) -> None:
    wanted = request(federation.people.crowd, (ES,), cap=3, ladder="0.1")
    answers = search(wanted)
    assert answers == federation.expected(wanted)
    assert answers[ES].threshold_used not in (None, "0.55")
    assert 0 < len(answers[ES].references) <= 3


def test_too_many_candidates_without_a_ladder_release_nothing(federation: Federation, search: System) -> None:
    wanted = request(federation.people.crowd, (ES,), cap=3, ladder="0")
    answers = search(wanted)
    assert answers == federation.expected(wanted)
    assert answers[ES].status == "too many candidates"
