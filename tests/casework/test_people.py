"""Who may decide what: every attack on four eyes, blind review, roles and signatures, with its control."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nodes.casework import cases, review
from nodes.casework.errors import (
    AlreadyLocked,
    BadAssertion,
    CaseRefused,
    DeadlinePassed,
    FourEyes,
    NoReason,
    NotConfirmed,
    NotYetLocked,
    NotYourRole,
    OnwardTransferRefused,
    PurposeRefused,
    UnknownThing,
    Unsuitable,
    WrongSchema,
)
from nodes.console import pages_search
from protocol.approval import Assertion
from protocol.roles import Role
from tests.kit.casework import Offices, draft


def test_whoever_opens_a_query_cannot_approve_it(offices: Offices) -> None:
    both = offices.french.enrol("boris", ("officer", "approver"))
    query = offices.fr.open_query(both, _draft())
    with pytest.raises(FourEyes, match="opened"):
        offices.fr.approve_launch(both, query, offices.french.sign("boris", "launch", query))
    assert offices.fr.query(both, query).state == "draft"


def test_control_a_second_person_approves(offices: Offices) -> None:
    both = offices.french.enrol("boris", ("officer", "approver"))
    query = offices.fr.open_query(both, _draft())
    offices.fr.approve_launch(offices.french.anton, query, offices.french.sign("anton", "launch", query))
    assert offices.fr.query(both, query).state == "approved"


def test_one_key_is_one_person(offices: Offices) -> None:
    """Two accounts with one key would be four eyes of one person."""
    key = offices.french.olga.key
    with pytest.raises(CaseRefused, match="another person's"):
        offices.fr.add_person(None, "olga2", "Olga again", ("approver",), key)


@pytest.mark.parametrize("who", ["olga", "rita", "lena", "dora"])
def test_a_wrong_role_approves_nothing(offices: Offices, who: str) -> None:
    query = offices.fr.open_query(offices.french.enrol("boris", ("officer",)), _draft())
    with pytest.raises(NotYourRole, match="approver"):
        offices.fr.approve_launch(offices.french.people[who], query, offices.french.sign(who, "launch", query))


def test_a_closed_account_decides_nothing_any_more(offices: Offices) -> None:
    query = offices.fr.open_query(offices.french.olga, _draft())
    signed = offices.french.sign("anton", "launch", query)
    offices.fr.close_account(None, offices.french.anton)
    with pytest.raises(NotYourRole, match="closed"):
        offices.fr.approve_launch(offices.french.anton, query, signed)


def test_an_unsigned_launch_is_refused(offices: Offices) -> None:
    query = offices.fr.open_query(offices.french.olga, _draft())
    with pytest.raises(BadAssertion, match="not signed"):
        offices.fr.approve_launch(offices.french.anton, query, None)


def test_an_assertion_for_one_query_does_not_approve_another(offices: Offices) -> None:
    first, second = (offices.fr.open_query(offices.french.olga, _draft()) for _ in range(2))
    replayed = offices.french.sign("anton", "launch", first)
    with pytest.raises(BadAssertion):
        offices.fr.approve_launch(offices.french.anton, second, replayed)
    offices.fr.approve_launch(offices.french.anton, first, replayed)  # the control: for what it was made
    with pytest.raises(AlreadyLocked):
        offices.fr.approve_launch(offices.french.anton, first, replayed)


def test_an_assertion_of_one_person_is_not_anothers(offices: Offices) -> None:
    query = offices.fr.open_query(offices.french.olga, _draft())
    offices.french.enrol("berta", ("approver",))
    with pytest.raises(BadAssertion):
        offices.fr.approve_launch(offices.french.anton, query, offices.french.sign("berta", "launch", query))


def test_a_draft_that_names_no_case_is_not_opened(offices: Offices) -> None:
    with pytest.raises(Exception, match="case"):
        offices.fr.open_query(offices.french.olga, _draft(case=" "))


def test_a_poor_image_is_unsuitable_at_once(offices: Offices) -> None:
    poor = {"sharpness": 3, "face size": 80}
    with pytest.raises(Unsuitable, match="sharpness 3; the limit is 20"):
        offices.fr.open_query(offices.french.olga, _draft(photo=b"jpeg", quality=poor))
    offices.fr.open_query(offices.french.olga, _draft(photo=b"jpeg", quality=poor | {"sharpness": 20}))


# Review by two


def test_a_reviewer_cannot_see_the_others_word_before_the_review_is_over(offices: Offices) -> None:
    candidate = offices.candidate()
    offices.fr.lock_decision(offices.french.rita, candidate, "same person", "ears")
    with pytest.raises(NotYetLocked):
        offices.fr.votes(offices.french.remo, candidate, "to compare")
    with pytest.raises(NotYetLocked):  # nor can a friend look for the second reviewer
        offices.fr.votes(offices.french.olga, candidate, "to tell remo")
    assert offices.fr.outcome(candidate) == "under review"
    offices.fr.lock_decision(offices.french.remo, candidate, "inconclusive", "blurred")
    seen = {handle: vote.verdict for handle, vote in offices.fr.votes(offices.french.remo, candidate, "to compare")}
    assert seen == {"rita": "same person", "remo": "inconclusive"}


def test_the_outcome_tells_nothing_of_who_has_decided(offices: Offices) -> None:
    candidate = offices.candidate()
    before = offices.fr.outcome(candidate)
    offices.fr.lock_decision(offices.french.rita, candidate, "not the same person", "ears")
    assert offices.fr.outcome(candidate) == before == "under review"


def test_a_reviewer_decides_once(offices: Offices) -> None:
    candidate = offices.candidate()
    offices.fr.lock_decision(offices.french.rita, candidate, "inconclusive", "ears")
    with pytest.raises(AlreadyLocked):
        offices.fr.lock_decision(offices.french.rita, candidate, "same person", "on second thought")


def test_the_officer_who_asks_does_not_review(offices: Offices) -> None:
    both = offices.french.enrol("boris", ("officer", "reviewer"))
    candidate = offices.candidate()
    offices.fr.lock_decision(both, candidate, "same person", "ears")  # control: somebody else's query
    query = offices.fr.open_query(both, _draft())
    offices.fr.approve_launch(offices.french.anton, query, offices.french.sign("anton", "launch", query))
    with offices.fr.office.vault.writing() as session:
        from nodes.casework.tables import CandidateRow

        row = session.get(CandidateRow, candidate)
        assert row is not None
        row.query_id = cases.row_of(session, query).id
    with pytest.raises(FourEyes, match="may not review"):
        offices.fr.lock_decision(both, candidate, "same person", "ears")


def _boris_opened(offices: Offices) -> str:
    """A query under review whose opener reviews others'."""
    query = offices.searched(offices.enrol())
    both = offices.french.enrol("boris", ("officer", "reviewer"))
    with offices.fr.office.vault.writing() as session:
        cases.row_of(session, query).opened_by = both.id
    return query


def test_the_officer_who_asks_lists_no_candidates_before_the_review_is_over(offices: Offices) -> None:
    query = _boris_opened(offices)
    with pytest.raises(FourEyes, match="once their review is over"):
        offices.fr.candidates_for(offices.french.boris, query)
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    for reviewer in (offices.french.rita, offices.french.remo):
        offices.fr.lock_decision(reviewer, one.id, "same person", "ears")
    assert [seen.id for seen in offices.fr.candidates_for(offices.french.boris, query)] == [one.id]


def test_the_first_page_of_who_opened_a_query_names_it_not_as_theirs_to_decide(offices: Offices) -> None:
    """And does not end in the refusal either."""
    query = _boris_opened(offices)

    def waits_for(who: str) -> list[str]:
        person = offices.fr.person(who)
        operations = SimpleNamespace(
            me=lambda who: SimpleNamespace(node_role=Role.REQUESTER, roles=person.roles),
            queries=lambda who: offices.fr.queries(person),
            candidates=lambda who, query: offices.fr.candidates_for(person, query),
            outcome=lambda who, candidate: SimpleNamespace(outcome=offices.fr.outcome(candidate)),
            requests=lambda who: [],
        )
        visit: Any = SimpleNamespace(operations=operations, who=who, show=lambda page, waiting: waiting)
        listed: Any = pages_search.start(visit)
        return [link for link, _, _ in listed]

    assert waits_for("rita") == [f"/review/{query}"]
    assert waits_for("boris") == []


def test_control_without_the_rule_the_officer_lists_quality_and_marks(
    offices: Offices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "_opened", lambda *_: False)
    query = _boris_opened(offices)
    (one,) = offices.fr.candidates_for(offices.french.boris, query)
    assert (one.quality, one.status) == (61, "identified")


def test_each_reviewer_sees_an_order_of_their_own_and_no_rank(offices: Offices) -> None:
    references = [offices.enrol() for _ in range(8)]
    query = offices.searched(*references)
    orders = [
        [one.id for one in offices.fr.candidates_for(who, query)] for who in (offices.french.rita, offices.french.remo)
    ]
    assert sorted(orders[0]) == sorted(orders[1])
    assert len(orders[0]) == 8
    assert orders[0] != orders[1]  # by chance once in 40,320
    fields = set(offices.fr.candidates_for(offices.french.rita, query)[0].__dataclass_fields__)
    assert not fields & {"rank", "score", "reference"}


@pytest.mark.parametrize(
    ("second", "outcome"),
    [("not the same person", "disagreement"), ("inconclusive", "inconclusive")],
)
def test_disagreement_is_no_match_and_is_kept(offices: Offices, second: str, outcome: str) -> None:
    candidate = offices.candidate()
    offices.fr.lock_decision(offices.french.rita, candidate, "same person", "ears")
    assert offices.fr.lock_decision(offices.french.remo, candidate, second, "nose") == outcome  # type: ignore[arg-type]
    with pytest.raises(NotConfirmed):
        offices.french.sign("rita", "confirm", candidate)


def test_both_not_the_same_deletes_the_candidate_at_once_with_a_receipt(offices: Offices) -> None:
    candidate = offices.candidate()
    for who in (offices.french.rita, offices.french.remo):
        offices.fr.lock_decision(who, candidate, "not the same person", "ears")
    with pytest.raises(UnknownThing):
        offices.fr.view(offices.french.rita, f"candidate:{candidate}", "once more")
    offices.carry()
    assert _deleted_at_holder(offices) == 1


def test_a_search_is_done_once_nothing_of_it_waits_for_a_reviewer(offices: Offices) -> None:
    def state(query: str) -> str:
        return offices.fr.query(offices.french.olga, query).state

    assert state(offices.searched()) == "done"  # a no-hit
    query = offices.searched(offices.enrol())
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    for who in ("rita", "remo"):
        assert state(query) == "review"
        offices.fr.lock_decision(offices.french.people[who], one.id, "same person", "ears")
    for who in ("rita", "remo"):
        assert state(query) == "review"  # a match waits for its signatures
        offices.fr.confirm(offices.french.people[who], one.id, offices.french.sign(who, "confirm", one.id))
    assert state(query) == "done"


def test_one_reviewers_signature_confirms_nothing(offices: Offices) -> None:
    candidate = offices.candidate()
    for who in ("rita", "remo"):
        offices.fr.lock_decision(offices.french.people[who], candidate, "same person", "ears")
    signed = offices.french.sign("rita", "confirm", candidate)
    assert offices.fr.confirm(offices.french.rita, candidate, signed) == "match"
    with pytest.raises(AlreadyLocked):  # the same person again is no second person
        offices.fr.confirm(offices.french.rita, candidate, signed)
    third = offices.french.enrol("rosa", ("reviewer",))
    with pytest.raises(NotYourRole, match="reviewer of this candidate"):
        offices.fr.confirm(third, candidate, offices.french.sign("rosa", "confirm", candidate))
    with pytest.raises(NotConfirmed):
        offices.request(candidate)
    signed = offices.french.sign("remo", "confirm", candidate)
    assert offices.fr.confirm(offices.french.remo, candidate, signed) == "confirmed"


def test_one_reviewer_does_where_a_law_is_cited_and_the_holder_accepts_it(tmp_path: Path) -> None:
    offices = Offices.found(tmp_path, single_review_law="Code of Procedure, section 81b", accept_single_review=True)
    candidate = offices.candidate()
    assert offices.fr.lock_decision(offices.french.rita, candidate, "same person", "ears") == "match"
    signed = offices.french.sign("rita", "confirm", candidate)
    assert offices.fr.confirm(offices.french.rita, candidate, signed) == "confirmed"
    offices.carry()
    offices.close()


# Looking


def test_personal_data_are_looked_at_for_a_reason_and_that_is_written_down(offices: Offices) -> None:
    candidate = offices.candidate()
    with pytest.raises(NoReason):
        offices.fr.view(offices.french.rita, f"candidate:{candidate}", " ")
    with pytest.raises(PurposeRefused, match="R 50"):
        offices.fr.view(offices.french.rita, f"candidate:{candidate}", "to train a model", "training")
    with pytest.raises(NotYourRole):
        offices.fr.view(offices.french.lena, f"candidate:{candidate}", "curious")
    offices.fr.view(offices.french.rita, f"candidate:{candidate}", "to compare")
    (seen,) = offices.fr.views(offices.french.dora)
    assert (seen.person, seen.what, seen.reason) == ("rita", f"candidate:{candidate}", "to compare")
    with pytest.raises(NotYourRole):
        offices.fr.views(offices.french.rita)


def test_a_reviewer_sees_the_probe_without_the_case(offices: Offices) -> None:
    query = offices.searched(offices.enrol(), photo=b"probe-bytes", quality={"sharpness": 50})
    probe = offices.fr.view(offices.french.rita, f"probe:{query}", "to compare")
    assert probe.photo == b"probe-bytes"
    assert not hasattr(probe, "case")
    with pytest.raises(NotYourRole):
        offices.fr.view(offices.french.rita, f"case:{query}", "to compare")


def test_onward_transfer_is_refused_without_prior_authorisation(offices: Offices) -> None:
    candidate = offices.confirmed()
    with pytest.raises(OnwardTransferRefused, match="R 60"):
        offices.fr.onward_transfer(offices.french.olga, candidate, "Interpol")
    offices.fr.onward_transfer(offices.french.olga, candidate, "Interpol", "ES letter 2026-11-03/44")
    noted = offices.fr.views(offices.french.dora)[0]
    assert (noted.recipient, noted.reason) == ("Interpol", "ES letter 2026-11-03/44")


# Authorisation of the search (AIA 26(10))


def test_a_search_without_authorisation_is_purged_after_48_hours(tmp_path: Path) -> None:
    offices = Offices.found(tmp_path, require_authorisation=True)
    kept, gone = offices.candidate(authorisation="court order 12/26"), offices.candidate()
    offices.clock.ahead = timedelta(hours=49)
    receipts = offices.fr.delete_expired_case_data()
    assert [receipt.candidate for receipt in receipts] == [gone]
    assert receipts[0].reason == "no-authorisation"
    assert offices.fr.outcome(kept) == "under review"
    offices.close()


def test_an_authorisation_that_comes_in_time_keeps_the_search(tmp_path: Path) -> None:
    offices = Offices.found(tmp_path, require_authorisation=True)
    query = offices.searched(offices.enrol())
    offices.clock.ahead = timedelta(hours=47)
    offices.fr.authorise(offices.french.olga, query, "court order 12/26")
    offices.clock.ahead = timedelta(hours=49)
    assert not offices.fr.delete_expired_case_data()
    late = offices.searched(offices.enrol())
    offices.clock.ahead = timedelta(hours=99)
    with pytest.raises(DeadlinePassed):
        offices.fr.authorise(offices.french.olga, late, "court order 13/26")
    offices.close()


def test_a_refused_authorisation_stops_and_deletes(offices: Offices) -> None:
    query = offices.searched(offices.enrol())
    (receipt,) = offices.fr.authorisation_refused(offices.french.olga, query)
    assert receipt.reason == "no-authorisation"
    assert offices.fr.query(offices.french.olga, query).state == "stopped"
    with pytest.raises(UnknownThing):
        offices.fr.view(offices.french.olga, f"probe:{query}", "once more")


def test_an_assertion_that_is_garbage_is_refused(offices: Offices) -> None:
    query = offices.fr.open_query(offices.french.olga, _draft())
    with pytest.raises(BadAssertion):
        offices.fr.approve_launch(offices.french.anton, query, Assertion(b"\0" * 64))


def _draft(**changes: object) -> object:
    import numpy as np

    return draft(np.ones(128, np.int8), "ES", **changes)


def _deleted_at_holder(offices: Offices) -> int:
    from sqlalchemy import func, select

    from nodes.casework.tables import DisclosedRow

    with offices.es.office.vault.reading() as session:
        return session.scalar(select(func.count()).where(DisclosedRow.deleted.is_not(None))) or 0


def test_a_look_at_the_facts_shows_no_core_data(offices: Offices) -> None:
    """A releaser may look at facts; what came back is for the officer who asked."""
    request = offices.request(offices.confirmed())
    offices.release(request, {"first-names": "Planted"})
    offices.carry()
    assert offices.fr.view(offices.french.lena, f"facts:{request}", "curious").record is None
    with pytest.raises(NotYourRole):
        offices.fr.view(offices.french.lena, f"core-data:{request}", "curious")
    seen = offices.fr.view(offices.french.olga, f"core-data:{request}", "to go on", "core-data")  # the control
    assert seen.record == {"first-names": "Planted"}


def test_what_is_to_be_signed_is_told_only_to_who_may_sign_it(offices: Offices) -> None:
    """Its refusals tell whether a candidate is a match, and whether a gallery knows a person's name."""
    request = offices.request(offices.confirmed())
    offices.spanish.enrol("ada", ("admin",))
    details = {"kind": "unidentified", "record": {"case-number": "1"}}
    with pytest.raises(NotYourRole, match="releaser"):
        offices.spanish.sign("ada", "release-core-data", request, **details)
    with pytest.raises(NotYourRole, match="releaser"):
        offices.es.release_core_data(offices.spanish.ada, request, {"case-number": "1"}, None, "unidentified")
    under_review = offices.candidate()
    with pytest.raises(NotYourRole, match="officer"):
        offices.fr.request_core_data(offices.french.rita, under_review, ("gender",), "seen", "robbery", None)
    with pytest.raises(WrongSchema, match="as identified"):  # the control: what ada would have learnt
        offices.spanish.sign("lena", "release-core-data", request, **details)


def test_a_reviewer_with_a_new_key_signs_again(offices: Offices) -> None:
    """A signature of the old key under a certificate of the new one would be refused by the holder, for ever."""
    candidate = offices.candidate()
    for who in ("rita", "remo"):
        offices.fr.lock_decision(offices.french.people[who], candidate, "same person", "ears")
    signed = offices.french.sign("rita", "confirm", candidate)
    offices.fr.confirm(offices.french.rita, candidate, signed)
    offices.french.enrol("rita", ("reviewer",))
    second = offices.french.sign("remo", "confirm", candidate)
    assert offices.fr.confirm(offices.french.remo, candidate, second) == "match"
    with pytest.raises(BadAssertion):
        offices.fr.confirm(offices.french.rita, candidate, signed)
    again = offices.french.sign("rita", "confirm", candidate)
    assert offices.fr.confirm(offices.french.rita, candidate, again) == "confirmed"
    offices.carry()
    offices.request(candidate)
