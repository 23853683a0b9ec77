"""What a receiver answers to a recall enters the holder's evidence only as what it is: of this recall, in its query."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from nodes.casework import inbox
from nodes.casework.errors import StatementRefused
from nodes.casework.tables import StatementRow
from protocol.follow_up import Acknowledged, Statement, decode_statement
from tests.kit.casework import Offices

YEARS = timedelta(days=10 * 365)


def recalled(offices: Offices) -> Statement:
    """A recall that its receiver has not been told yet."""
    reference = offices.enrol()
    offices.searched(reference)
    offices.es.recall(offices.spanish.dora, reference, "another person's photo")
    with offices.es.office.vault.reading() as session:
        row = session.scalars(select(StatementRow).where(StatementRow.kind == "Recalled")).one()
        return decode_statement(row.content)


def reply_to(offices: Offices, recall: Statement, **changes: Any) -> Statement:
    values = {"query": recall.query, "time": recall.time} | changes
    content = Acknowledged(recall.digest)
    reply = Statement(1, values["query"], "FR", "ES", values["time"], content)
    return reply.signed(offices.fr.office.keyring)


def take(offices: Offices, recall: Statement, reply: Statement) -> None:
    with offices.es.office.vault.writing() as session:
        inbox.take_acknowledgement(offices.es.office, session, recall, reply)


def kept(offices: Offices) -> list[tuple[bytes, int]]:
    with offices.es.office.vault.reading() as session:
        rows = session.scalars(select(StatementRow).where(StatementRow.kind == "Acknowledged"))
        return [(row.attempt, decode_statement(row.content).time) for row in rows]


def due(offices: Offices) -> int | None:
    (view,) = offices.es.recalls(offices.spanish.dora)
    return view.due


def test_an_acknowledgement_enters_no_other_query(offices: Offices) -> None:
    recall = recalled(offices)
    with pytest.raises(StatementRefused, match="another query"):
        take(offices, recall, reply_to(offices, recall, query=secrets.token_bytes(16)))
    assert kept(offices) == []
    assert due(offices) is None
    take(offices, recall, reply_to(offices, recall))
    assert kept(offices) == [(recall.query, recall.time)]
    assert due(offices) is not None


def test_an_acknowledgement_from_the_future_is_refused(offices: Offices) -> None:
    recall = recalled(offices)
    ahead = recall.time + int(YEARS.total_seconds() * 1000)
    with pytest.raises(StatementRefused, match="future") as refused:
        take(offices, recall, reply_to(offices, recall, time=ahead))
    assert refused.value.code == "clock"
    assert kept(offices) == []
    assert due(offices) is None
    take(offices, recall, reply_to(offices, recall, time=recall.time + inbox.SKEW_MS))  # as far as clocks may differ
    assert due(offices) is not None


def test_control_unchecked_both_are_kept(offices: Offices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "_check_acknowledgement", lambda *_: None)
    recall, other = recalled(offices), secrets.token_bytes(16)
    ahead = recall.time + int(YEARS.total_seconds() * 1000)
    take(offices, recall, reply_to(offices, recall, query=other, time=ahead))
    assert kept(offices) == [(other, ahead)]


def test_a_receiver_whose_clock_was_ahead_acknowledges_again_once_it_is_right(offices: Offices) -> None:
    recall = recalled(offices)

    def acknowledge() -> Statement:
        with offices.fr.office.vault.writing() as session:
            return inbox.acknowledge(offices.fr.office, session, recall)

    offices.clock.ahead = YEARS
    wrong = acknowledge()
    offices.clock.ahead = timedelta(0)
    with pytest.raises(StatementRefused, match="future"):
        take(offices, recall, wrong)
    right = acknowledge()
    take(offices, recall, right)
    assert due(offices) is not None
    assert acknowledge().digest == right.digest  # and the same from then on
