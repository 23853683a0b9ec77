"""Core data, clocks, receipts and recalls: every attack with its control, and what a holder refuses from a liar."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from nodes.casework import candidates, cases, deletion, inbox
from nodes.casework.contents import FactsPayload, Found, NamedPayload, ShownPayload, Told
from nodes.casework.errors import (
    AlreadyLocked,
    BadAssertion,
    CaseRefused,
    DeadlinePassed,
    NoReason,
    NotConfirmed,
    NotYourRole,
    StatementRefused,
    UnknownThing,
    WrongSchema,
)
from nodes.casework.office import encode_payload
from nodes.casework.persons import certify
from nodes.casework.tables import DisclosedRow, StatementRow
from nodes.config.casework import CaseworkConfig
from nodes.store import Status
from protocol.approval import Approval, Assertion
from protocol.follow_up import (
    IDENTIFIED_FIELDS,
    UNIDENTIFIED_FIELDS,
    Confirmed,
    CoreDataRequested,
    Deleted,
    FollowUpError,
    Recalled,
    Statement,
    candidate_digest,
    decode_statement,
    digest_to_sign,
    payload_digest,
)
from tests.kit.casework import Offices
from tests.kit.commands import run as run

RECORD = {"first-names": "Ana", "case-number": "M-17"}


def test_the_schemas_have_eleven_and_four_fields() -> None:
    assert (len(IDENTIFIED_FIELDS), len(UNIDENTIFIED_FIELDS)) == (11, 4)
    assert set(UNIDENTIFIED_FIELDS) < set(IDENTIFIED_FIELDS)


def test_core_data_without_a_confirmed_match_are_not_asked_for(offices: Offices) -> None:
    candidate = offices.candidate()
    with pytest.raises(NotConfirmed, match="R 47"):
        offices.request(candidate)


def test_core_data_without_facts_or_an_offence_are_not_asked_for(offices: Offices) -> None:
    candidate = offices.confirmed()
    for facts, offence in ((" ", "robbery"), ("seen", "Räuberei!")):
        with pytest.raises(CaseRefused):
            offices.french.sign(
                "olga", "request-core-data", candidate, fields=("gender",), facts=facts, offence=offence
            )


def test_control_after_all_three_conditions_the_clock_starts(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    (waiting,) = offices.es.deadlines()
    assert (waiting.id, waiting.left, waiting.alarm) == (request, 48 * 3600, False)


def test_only_the_fields_of_the_schema_and_only_those_asked_for(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    with pytest.raises(WrongSchema, match="hair"):
        offices.release(request, RECORD | {"hair": "red"})
    with pytest.raises(WrongSchema, match="nobody asked for gender"):
        offices.release(request, RECORD | {"gender": "F"})
    offices.release(request, RECORD)
    held = offices.fr.view(offices.french.olga, f"core-data:{request}", "for the file", "core-data")
    assert held.record == RECORD


def test_an_unidentified_person_has_four_fields(offices: Offices) -> None:
    candidate = _confirmed_of(offices, offices.enrol(status=Status.UNIDENTIFIED))
    request = offices.request(candidate)
    with pytest.raises(WrongSchema, match=r"R 47\(5\)"):
        offices.release(request, RECORD, kind="unidentified")
    with pytest.raises(WrongSchema, match="holds this person as unidentified"):
        offices.release(request, RECORD)
    offices.release(request, {"case-number": "M-17"}, kind="unidentified")


def test_a_release_needs_the_right_role_and_a_signature_over_this_record(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    with pytest.raises(NotYourRole):
        offices.es.release_core_data(
            offices.spanish.olga,
            request,
            RECORD,
            offices.spanish.sign("olga", "release-core-data", request, record=RECORD),
        )
    signed = offices.spanish.sign("lena", "release-core-data", request, record=RECORD)
    with pytest.raises(BadAssertion):
        offices.es.release_core_data(offices.spanish.lena, request, RECORD | {"first-names": "Eva"}, signed)
    offices.es.release_core_data(offices.spanish.lena, request, RECORD, signed)
    with pytest.raises(AlreadyLocked):
        offices.es.release_core_data(offices.spanish.lena, request, RECORD, signed)


def test_late_core_data_are_refused_without_a_reason(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    offices.clock.ahead = timedelta(hours=37)
    assert offices.es.deadlines()[0].alarm
    offices.clock.ahead = timedelta(hours=48, seconds=5)
    assert offices.es.deadlines()[0].overdue
    with pytest.raises(DeadlinePassed):
        offices.release(request, RECORD)
    offices.release(request, RECORD, late="the archive was flooded")
    assert offices.es.requests(offices.spanish.lena)[0].late


def test_control_just_in_time_is_not_late(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    offices.clock.ahead = timedelta(hours=47, minutes=59)
    offices.release(request, RECORD)
    assert not offices.es.requests(offices.spanish.lena)[0].late


def test_the_clock_stands_only_for_a_reason_and_moves_the_deadline(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    with pytest.raises(NoReason):
        offices.es.pause_clock(offices.spanish.lena, request, "")
    with pytest.raises(NotYourRole):
        offices.es.pause_clock(offices.spanish.dora, request, "a judge is asked")
    offices.clock.ahead = timedelta(hours=10)
    offices.es.pause_clock(offices.spanish.lena, request, "a judge is asked")
    offices.clock.ahead = timedelta(hours=90)
    assert offices.es.deadlines()[0].left == 38 * 3600
    offices.es.resume_clock(offices.spanish.lena, request)
    offices.carry()
    assert offices.fr.requests(offices.french.olga)[0].left == 38 * 3600  # the requester's clock follows
    offices.clock.ahead = timedelta(hours=127)
    offices.release(request, RECORD)


def test_a_clock_that_has_run_out_cannot_be_stopped(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    offices.clock.ahead = timedelta(hours=49)
    with pytest.raises(DeadlinePassed):
        offices.es.pause_clock(offices.spanish.lena, request, "a judge is asked, belatedly")


def test_a_refusal_ends_the_request(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    signed = offices.spanish.sign("lena", "refuse-core-data", request, reason="no-authorisation")
    offices.es.refuse_core_data(offices.spanish.lena, request, "no-authorisation", signed)
    offices.carry()
    assert offices.fr.requests(offices.french.olga)[0].state == "refused"


# Deletion and recall


def test_what_nobody_confirmed_goes_in_time_and_the_holder_gets_a_receipt(offices: Offices) -> None:
    candidate = offices.candidate()
    offices.clock.ahead = timedelta(days=29)
    assert not offices.fr.delete_expired_case_data()
    offices.clock.ahead = timedelta(days=31)
    (receipt,) = offices.fr.delete_expired_case_data()
    assert (receipt.candidate, receipt.holder, receipt.reason) == (candidate, "ES", "time-over")
    assert offices.fr.outcome(candidate) == "deleted"


def test_core_data_go_in_time(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    offices.release(request, RECORD)
    offices.clock.ahead = timedelta(days=366)
    assert len(offices.fr.delete_expired_case_data()) == 1
    with pytest.raises(UnknownThing):
        offices.fr.view(offices.french.olga, f"core-data:{request}", "once more", "core-data")


def test_a_recall_deletes_at_whoever_received_it_and_comes_back_as_a_receipt(offices: Offices) -> None:
    candidate = offices.confirmed()
    (reference,) = offices.references
    with pytest.raises(NotYourRole):
        offices.es.recall(offices.spanish.olga, reference, "wrong")
    with pytest.raises(UnknownThing):
        offices.es.recall(offices.spanish.dora, "ES-" + "0" * 32, "wrong")
    assert offices.es.recall(offices.spanish.dora, reference, "another person's photo") == ["FR"]
    (waiting,) = offices.es.recalls(offices.spanish.dora)
    assert not waiting.answered
    offices.carry()
    with pytest.raises(UnknownThing):
        offices.fr.view(offices.french.rita, f"candidate:{candidate}", "once more")
    (done,) = offices.es.recalls(offices.spanish.dora)
    assert done.answered


def test_of_a_recalled_candidate_nothing_more_is_given(offices: Offices) -> None:
    """Core data that were asked for before, and core data that are asked for before the recall has arrived."""
    asked, late = offices.confirmed(), offices.confirmed()
    request = offices.request(asked)
    early, other = offices.references
    assert offices.es.recall(offices.spanish.dora, early, "another person's photo") == ["FR"]
    with pytest.raises(CaseRefused, match="recalled"):
        offices.spanish.sign("lena", "release-core-data", request, record=RECORD)
    offices.es.recall(offices.spanish.dora, other, "another person's photo")
    with pytest.raises(StatementRefused, match="recalled"):
        offices.request(late)


def test_control_before_the_recall_core_data_are_given(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    offices.release(request, RECORD)
    assert offices.es.requests(offices.spanish.lena)[0].state == "released"


def test_a_receipt_sent_beforehand_evades_no_recall(offices: Offices) -> None:
    """FR says at once that it has deleted what it keeps; when ES recalls it, FR asks for image and core data again."""
    from nodes.cli.demo_photos import demo_photos

    query = offices.searched(offices.enrol(demo_photos().obama.read_bytes()))
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    (reference,) = offices.references
    confirmation, named = _confirmation(offices, one.id)
    offices.hand_over(offices.es, confirmation, named)
    asked = {"fields": ("gender",), "facts": "seen at the bank", "offence": "robbery"}
    signed = offices.french.sign("olga", "request-core-data", one.id, **asked)
    offices.fr.request_core_data(offices.french.olga, one.id, ("gender",), "seen at the bank", "robbery", signed)
    request, facts = _sent(offices, "CoreDataRequested")
    wanted, _ = _sent(offices, "CandidatesWanted")

    def shown() -> tuple[bool, bool]:
        with offices.es.office.vault.writing() as session:
            again = _node_signed(offices, msgspec.structs.replace(wanted, time=wanted.time + secrets.randbelow(10**6)))
            _, payload, _ = candidates.show(offices.es.office, session, again)
        (candidate,) = msgspec.msgpack.decode(payload, type=ShownPayload).candidates
        return candidate.image is not None, candidate.contested

    assert shown() == (True, False)  # the control
    offices.hand_over(offices.es, _restate_as(offices, wanted, Deleted(confirmation.content.candidate, "not-needed")))
    assert shown() == (False, True)
    assert offices.es.recall(offices.spanish.dora, reference, "another person's photo") == []
    assert [view.answered for view in offices.es.recalls(offices.spanish.dora)] == [True]
    assert shown() == (False, True)
    with pytest.raises(StatementRefused, match="recalled, or that its receiver has deleted"):
        offices.hand_over(offices.es, request, facts)


def test_after_its_own_receipt_a_state_is_given_nothing_more(offices: Offices) -> None:
    """Nobody recalled anything: who says that it has deleted a candidate has no use for its core data."""
    request = offices.request(offices.confirmed())
    wanted, _ = _sent(offices, "CandidatesWanted")
    confirmation, _ = _sent(offices, "Confirmed")
    offices.spanish.sign("lena", "release-core-data", request, record=RECORD)  # the control
    offices.hand_over(offices.es, _restate_as(offices, wanted, Deleted(confirmation.content.candidate, "not-needed")))
    with pytest.raises(CaseRefused, match="deleted by its receiver"):
        offices.spanish.sign("lena", "release-core-data", request, record=RECORD)


def test_a_state_that_owes_a_receipt_gets_no_core_data_of_other_candidates(offices: Offices) -> None:
    asked, later = offices.confirmed(), offices.confirmed()
    request = offices.request(asked)
    owed = offices.enrol()
    offices.searched(owed)
    offices.es.recall(offices.spanish.dora, owed, "another person's photo")
    with offices.es.office.vault.writing() as session:  # FR takes the recall in, and sends no receipt
        row = session.scalars(select(StatementRow).where(StatementRow.kind == "Recalled")).one()
        deletion.note_acknowledged(offices.es.office, session, decode_statement(row.content))
        row.state = "done"
    offices.clock.ahead = timedelta(hours=47)
    offices.spanish.sign("lena", "release-core-data", request, record=RECORD)  # the control
    offices.clock.ahead = timedelta(hours=49)
    with pytest.raises(CaseRefused, match="lineup case recall"):
        offices.spanish.sign("lena", "release-core-data", request, record=RECORD, late="the prosecutor was away")
    with pytest.raises(StatementRefused, match="has not answered a recall") as refused:
        offices.request(later)
    assert refused.value.code == "capacity"  # asked again once the receipt is here
    offices.es.office = replace(offices.es.office, settings=CaseworkConfig(refuse_without_receipts=False))
    offices.spanish.sign("lena", "release-core-data", request, record=RECORD, late="the prosecutor was away")


def test_the_time_of_a_recall_runs_from_when_it_was_taken_in(offices: Offices) -> None:
    _, reference, _ = recalled_before_the_answer(offices)
    offices.clock.ahead = timedelta(days=20)
    assert not offices.es.owes_receipts("FR")  # nobody owes an answer to what did not arrive
    assert [one.due for one in offices.es.recalls(offices.spanish.dora)] == [None]
    with offices.es.office.vault.writing() as session:
        row = session.scalars(select(StatementRow).where(StatementRow.kind == "Recalled")).one()
        deletion.note_acknowledged(offices.es.office, session, decode_statement(row.content))
    offices.clock.ahead = timedelta(days=20, hours=49)
    assert offices.es.owes_receipts("FR")  # the control
    offices.es.recall(offices.spanish.dora, reference, "another person's photo")
    assert not offices.es.owes_receipts("FR")  # so a person lifts it


def test_a_candidate_that_is_recalled_before_it_is_shown_comes_without_its_image(
    offices: Offices, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nodes.cli.demo_photos import demo_photos

    photo = demo_photos().obama.read_bytes()
    show = candidates.show

    def after_recall(office: Any, session: Any, wanted: Any) -> Any:
        with monkeypatch.context() as once:  # as if the recall had been made just before
            once.setattr(candidates, "show", show)
            for row in session.scalars(select(DisclosedRow)):
                row.recalled = office.now()
            return show(office, session, wanted)

    seen = [offices.fr.candidates_for(offices.french.rita, offices.searched(offices.enrol(photo)))[0]]
    monkeypatch.setattr(candidates, "show", after_recall)
    seen.append(offices.fr.candidates_for(offices.french.rita, offices.searched(offices.enrol(photo + b"2")))[0])
    assert [(one.has_image, one.contested) for one in seen] == [(True, False), (False, True)]  # the control first


def test_whoever_forgets_a_subject_is_told_who_else_has_it(offices: Offices, tmp_path: Path, run: Any) -> None:
    offices.candidate()
    given, kept = offices.references[0], offices.enrol()
    key = offices.spanish.key_file("dora", tmp_path)
    _, _, told = run("forget", "--dir", tmp_path / "ES", given, kept, "--key", key, "--reason", "court order")
    assert f"{given} was given to FR" in told
    assert "`lineup case recall --kind delete`" in told
    assert f"{kept} was given" not in told


def test_who_is_contested_when_found_carries_the_mark_and_the_others_do_not(offices: Offices) -> None:
    contested, other = offices.enrol(), offices.enrol()
    assert offices.es.office.gallery is not None
    offices.es.office.gallery.flag_contested(contested, datetime.now(timezone.utc))
    query = offices.searched(contested, other)
    marks = [one.contested for one in offices.fr.candidates_for(offices.french.rita, query)]
    assert sorted(marks) == [False, True]


def test_a_contested_mark_travels_and_comes_off(offices: Offices) -> None:
    query = offices.searched(offices.enrol())
    (reference,) = offices.references
    for kind, marked in (("contested", True), ("uncontested", False)):
        offices.es.recall(offices.spanish.dora, reference, "the person objects", kind)  # type: ignore[arg-type]
        offices.carry()
        assert offices.fr.candidates_for(offices.french.rita, query)[0].contested is marked


# What a holder refuses from a node that lies


def test_a_requester_cannot_invent_a_confirmation(offices: Offices) -> None:
    """The node signs, but one of the two reviewers did not."""
    candidate = offices.candidate()
    statement, payload = _confirmation(offices, candidate)
    forged = _restate(offices, statement, approvals=(statement.content.approvals[0],) * 2)
    with pytest.raises(StatementRefused, match="signed twice"):
        offices.hand_over(offices.es, forged, payload)
    unsigned = Assertion(secrets.token_bytes(64))
    other = Approval(certify(offices.fr.office, offices.french.remo), unsigned)
    forged = _restate(offices, statement, approvals=(statement.content.approvals[0], other))
    with pytest.raises(StatementRefused, match="does not hold"):
        offices.hand_over(offices.es, forged, payload)
    alone = _restate(offices, statement, approvals=statement.content.approvals[:1])
    with pytest.raises(StatementRefused, match="one person"):
        offices.hand_over(offices.es, alone, payload)
    offices.hand_over(offices.es, statement, payload)  # the control


def test_a_person_whom_no_node_vouches_for_confirms_nothing(offices: Offices) -> None:
    candidate = offices.candidate()
    statement, payload = _confirmation(offices, candidate)
    first, second = statement.content.approvals
    self_made = msgspec.structs.replace(second.certificate, signature=first.certificate.signature)
    forged = _restate(offices, statement, approvals=(first, msgspec.structs.replace(second, certificate=self_made)))
    with pytest.raises(StatementRefused, match="did not vouch"):
        offices.hand_over(offices.es, forged, payload)


def test_a_candidate_that_was_not_released_is_not_confirmed(offices: Offices) -> None:
    """The requester names a reference that it learnt elsewhere."""
    candidate = offices.candidate()
    statement, _ = _confirmation(offices, candidate)
    reference, salt = offices.enrol(), secrets.token_bytes(32)
    payload, digest = encode_payload(NamedPayload(salt, reference))
    content = msgspec.structs.replace(
        statement.content, candidate=candidate_digest(salt, reference), payload=digest, approvals=()
    )
    forged = _signed_by(offices, msgspec.structs.replace(statement, content=content), "rita", "remo")
    with pytest.raises(StatementRefused, match="not released to this state"):
        offices.hand_over(offices.es, forged, payload)


def test_a_request_before_the_confirmation_arrived_is_refused(offices: Offices) -> None:
    candidate = offices.candidate()
    confirmation, named = _confirmation(offices, candidate)
    salt = secrets.token_bytes(32)
    opened = msgspec.msgpack.decode(named, type=NamedPayload)
    facts = FactsPayload(opened.salt, opened.reference, salt, "seen at the bank")
    payload, digest = encode_payload(facts)
    from nodes.casework.core_data import facts_digest

    content = CoreDataRequested(
        confirmation.content.candidate, confirmation.digest, ("gender",), "robbery",
        facts_digest(salt, facts.facts), (), digest,
    )  # fmt: skip
    early = _signed_by(offices, msgspec.structs.replace(confirmation, content=content), "olga")
    with pytest.raises(StatementRefused, match="without a confirmed match"):
        offices.hand_over(offices.es, early, payload)
    offices.hand_over(offices.es, confirmation, named)
    offices.hand_over(offices.es, early, payload)  # the control
    again = _signed_by(offices, msgspec.structs.replace(early, time=early.time + 1), "olga")
    with pytest.raises(StatementRefused, match="under way"):
        offices.hand_over(offices.es, again, payload)


def test_a_statement_that_comes_again_changes_nothing(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    statement, _ = _sent(offices, "CoreDataRequested")
    due = offices.es.deadlines()[0].due
    offices.clock.ahead = timedelta(hours=5)
    with pytest.raises(FollowUpError):
        offices.hand_over(offices.es, statement, b"not what the statement names")
    with offices.es.office.vault.writing() as session:
        inbox.receive(offices.es.office, session, statement, b"")
    assert [(view.id, view.due) for view in offices.es.deadlines()] == [(request, due)]


def test_a_receipt_for_what_was_not_given_is_refused(offices: Offices) -> None:
    offices.candidate()
    known, _ = _sent(offices, "CandidatesWanted")
    forged = _node_signed(offices, msgspec.structs.replace(known, content=Deleted(bytes(32), "not-needed")))
    with pytest.raises(StatementRefused, match="not given"):
        offices.hand_over(offices.es, forged)


def test_a_requester_cannot_recall_at_a_holder(offices: Offices) -> None:
    offices.candidate()
    known, _ = _sent(offices, "CandidatesWanted")
    content = Recalled("delete", bytes(32), payload_digest(b"x"))
    forged = _node_signed(offices, msgspec.structs.replace(known, content=content))
    with pytest.raises(StatementRefused, match="may not come from"):
        offices.hand_over(offices.es, forged, b"x")


def _confirmed_of(offices: Offices, reference: str) -> str:
    query = offices.searched(reference)
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    for who in ("rita", "remo"):
        offices.fr.lock_decision(offices.french.people[who], one.id, "same person", "ears")
    for who in ("rita", "remo"):
        offices.fr.confirm(offices.french.people[who], one.id, offices.french.sign(who, "confirm", one.id))
    offices.carry()
    return one.id


def _confirmation(offices: Offices, candidate: str) -> tuple[Any, bytes]:
    """The confirmation of a candidate, not yet delivered, and its payload."""
    for who in ("rita", "remo"):
        offices.fr.lock_decision(offices.french.people[who], candidate, "same person", "ears")
    for who in ("rita", "remo"):
        offices.fr.confirm(offices.french.people[who], candidate, offices.french.sign(who, "confirm", candidate))
    return _sent(offices, Confirmed.__name__)


def _sent(offices: Offices, kind: str) -> tuple[Any, bytes]:
    from sqlalchemy import select

    from nodes.casework.office import Payload

    with offices.fr.office.vault.reading() as session:
        row = session.scalars(select(StatementRow).where(StatementRow.kind == kind)).one()
        payload = offices.fr.office.vault.unseal(row, Payload).data if row.sealed else b""
        return decode_statement(row.content), payload


def _restate(offices: Offices, statement: Statement, **changes: Any) -> Statement:
    content = msgspec.structs.replace(statement.content, **changes)
    return _node_signed(offices, msgspec.structs.replace(statement, content=content))


def _restate_as(offices: Offices, statement: Statement, content: Any) -> Statement:
    return _node_signed(offices, msgspec.structs.replace(statement, content=content))


def _node_signed(offices: Offices, statement: Statement) -> Statement:
    return statement.signed(offices.fr.office.keyring)


def _signed_by(offices: Offices, statement: Statement, *handles: str) -> Statement:
    """Signed by persons who exist, and by the node."""
    digest = digest_to_sign(statement.content, "FR", statement.query)
    approvals = tuple(
        Approval(
            certify(offices.fr.office, offices.french.people[one]), Assertion(offices.french.keys[one].sign(digest))
        )
        for one in handles
    )
    return _restate(offices, statement, approvals=approvals)


def recalled_before_the_answer(offices: Offices) -> tuple[str, str, bytes]:
    """A search under way whose holder has released a reference and recalls it: query, reference, attempt."""
    query, reference, attempt = offices.query(), offices.enrol(), secrets.token_bytes(16)
    with offices.fr.office.vault.writing() as session:
        launch = cases.take_approved(offices.fr.office, session)
        assert launch is not None
        cases.note_attempt(offices.fr.office, session, query, attempt, launch.approved)
    with offices.es.office.vault.writing() as session:
        candidates.note_disclosed(offices.es.office, session, attempt, "FR", (reference,))
    offices.es.recall(offices.spanish.dora, reference, "another person's photo")
    return query, reference, attempt


def test_a_recall_of_what_never_arrived_is_answered(offices: Offices) -> None:
    """A holder notes what it gives before it leaves. If the answer is lost, nobody is blamed for a missing receipt."""
    query, reference, _ = recalled_before_the_answer(offices)
    with pytest.raises(StatementRefused, match="not shown yet"):  # the answer may still come
        offices.carry()
    with offices.fr.office.vault.writing() as session:
        candidates.note_found(offices.fr.office, session, query, {"ES": Told("refused", 0, None, "timeout")}, {})
    offices.es.recall(offices.spanish.dora, reference, "another person's photo, asked again")
    offices.carry()
    assert [one.answered for one in offices.es.recalls(offices.spanish.dora)] == [True]
    assert offices.es.receivers(reference) == []


def test_control_a_receipt_given_too_early_stands_for_what_arrives_after_it(
    offices: Offices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same recall answered while the search runs: its holder is told "deleted", and then the face is here."""
    monkeypatch.setattr(inbox, "_waits_for", lambda *_: False)
    query, reference, attempt = recalled_before_the_answer(offices)
    offices.carry()
    assert [one.answered for one in offices.es.recalls(offices.spanish.dora)] == [True]
    with offices.fr.office.vault.writing() as session:
        found = {"ES": Found(attempt, frozenset({reference}), 10)}
        candidates.note_found(offices.fr.office, session, query, {"ES": Told("candidates", 1, "0.55", None)}, found)
    offices.carry()
    assert len(offices.fr.candidates_for(offices.french.rita, query)) == 1


def test_a_recall_of_what_this_node_knows_nothing_of_is_answered(offices: Offices) -> None:
    """A requester that has lost its database has nothing, and says so: its holder would shut it out."""
    reference = offices.enrol()
    with offices.es.office.vault.writing() as session:
        candidates.note_disclosed(offices.es.office, session, secrets.token_bytes(16), "FR", (reference,))
    offices.es.recall(offices.spanish.dora, reference, "another person's photo")
    offices.carry()
    assert [one.answered for one in offices.es.recalls(offices.spanish.dora)] == [True]
    offices.clock.ahead = timedelta(hours=49)
    assert not offices.es.owes_receipts("FR")
