"""The casework on PostgreSQL, where several nodes' processes decide at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.orm import Session

from nodes.casework import cases, core_data
from nodes.casework.desk import CaseDesk
from nodes.casework.errors import CaseworkError
from nodes.casework.office import Office
from nodes.store import QueryReplayed, StoreError, answers
from tests.kit.casework import Offices, draft
from tests.kit.postgres import PostgresServer
from tests.kit.stores import NOW, open_store


@pytest.fixture
def shared(tmp_path: Path, postgres: PostgresServer) -> Offices:
    offices = Offices.found(tmp_path)
    offices.close()
    for name in ("FR", "ES"):
        path = tmp_path / name / "node.toml"
        url = postgres.new_database()
        path.write_text(path.read_text().replace("[casework]\n", f'[casework]\nurl = "{url}"\n'))
    return Offices.reopened(tmp_path)


def test_a_case_runs_on_postgresql(shared: Offices) -> None:
    request = shared.request(shared.confirmed())
    shared.release(request, {"first-names": "Ana"})
    assert (
        shared.fr.view(shared.french.olga, f"core-data:{request}", "file", "core-data").record["first-names"] == "Ana"
    )
    shared.close()


def test_two_reviewers_who_lock_at_once_come_to_an_outcome(shared: Offices) -> None:
    """Without a lock on the candidate, each would see one decision only, and none would be the last."""
    for _ in range(5):
        candidate, failed = shared.candidate(), []

        def lock(who: str, candidate: str = candidate, failed: list[CaseworkError] = failed) -> None:
            try:
                shared.fr.lock_decision(shared.french.people[who], candidate, "same person", "ears")
            except CaseworkError as error:
                failed.append(error)

        threads = [threading.Thread(target=lock, args=(who,)) for who in ("rita", "remo")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert shared.fr.outcome(candidate) == "match"
    shared.close()


def race(desk: CaseDesk, act: Callable[[Office, Session], object]) -> list[object]:
    """What comes of doing the same in two transactions, the second begun before the first one is committed."""
    results: list[object] = []

    def second() -> None:
        try:
            with desk.office.vault.writing() as session:
                results.append(act(desk.office, session))
        except (CaseworkError, StoreError) as error:
            results.append(error)

    thread = threading.Thread(target=second)
    with desk.office.vault.writing() as session:
        results.append(act(desk.office, session))
        thread.start()
        thread.join(1)  # the second waits for a lock, or has gone ahead
    thread.join(30)
    assert len(results) == 2
    return results


def refused(results: list[object]) -> bool:
    return sum(isinstance(result, Exception) for result in results) == 1


def test_two_processes_do_not_launch_one_query_twice(shared: Offices) -> None:
    shared.query()
    launches = race(shared.fr, cases.take_approved)
    assert sum(launch is not None for launch in launches) == 1
    shared.query()  # control: two queries are two launches
    shared.query()
    assert sum(launch is not None for launch in race(shared.fr, cases.take_approved)) == 2
    shared.close()


def test_two_persons_do_not_approve_one_launch(shared: Offices) -> None:
    query = shared.fr.open_query(shared.french.olga, draft(np.ones(128, np.int8), "ES"))
    anton, signed = shared.french.anton, shared.french.sign("anton", "launch", query)
    assert refused(race(shared.fr, lambda office, session: cases.approve_launch(office, session, anton, query, signed)))
    shared.close()


def test_core_data_are_asked_for_and_released_once(shared: Offices) -> None:
    match, fields, facts = shared.confirmed(), ("first-names",), "seen"
    olga, lena = shared.french.olga, shared.spanish.lena
    signed = shared.french.sign("olga", "request-core-data", match, fields=fields, facts=facts, offence="robbery")
    asked = race(shared.fr, lambda office, session: core_data.request_core_data(
        office, session, olga, match, fields, facts, "robbery", signed))  # type: ignore[arg-type]  # fmt: skip
    assert refused(asked)
    shared.carry()
    request = next(str(result) for result in asked if not isinstance(result, Exception))
    record = {"first-names": "Ana"}
    released = shared.spanish.sign("lena", "release-core-data", request, record=record)
    assert refused(race(shared.es, lambda office, session: core_data.release_core_data(
        office, session, lena, request, "identified", record, released, "")))  # fmt: skip
    shared.close()


def test_one_query_is_claimed_once_even_while_the_first_claim_is_not_committed(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    with open_store(url) as one, open_store(url) as two:
        won: list[bool] = []

        def second() -> None:
            try:
                two.claim_query(b"q" * 32, b"e" * 32, NOW)
                won.append(True)
            except QueryReplayed:
                won.append(False)

        thread = threading.Thread(target=second)
        with one._database.writing() as session:
            answers.claim_query(session, b"q" * 32, b"d" * 32, NOW, "query")
            thread.start()
            thread.join(1)
            assert thread.is_alive()  # it waits to learn what becomes of the first
        thread.join(30)
        assert won == [False]
        # control: had the first been given up, the second would have it
        with suppress(ZeroDivisionError), one._database.writing() as session:
            answers.claim_query(session, b"r" * 32, b"d" * 32, NOW, "query")
            raise ZeroDivisionError
        two.claim_query(b"r" * 32, b"e" * 32, NOW)
