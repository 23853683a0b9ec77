"""The casework on PostgreSQL, where several nodes' processes decide at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nodes.casework.errors import CaseworkError
from tests.kit.casework import Offices
from tests.kit.postgres import PostgresServer


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
