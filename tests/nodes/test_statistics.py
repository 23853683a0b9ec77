"""Statistics by state and database: what is counted, what is not told, which years are refused (R 72(1))."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nodes.config.schema import Role
from nodes.evidence.archive import Archive
from nodes.evidence.export import EvidenceError
from nodes.identity.identity import init_node, load_identity
from nodes.logs.entries import ArticleForty
from nodes.operator.statistics import SMALLEST, Count, statistics
from pets.errors import InputError
from tests.kit.commands import lineup

NOW = datetime.now(timezone.utc)
YEAR = NOW.year - 1


def moment(year: int, month: int = 1, day: int = 1) -> int:
    return int(datetime(year, month, day, tzinfo=timezone.utc).timestamp() * 1000)


def query(requester: str, time: int, asked: tuple[str, ...], replied: tuple[str, ...]) -> ArticleForty:
    return ArticleForty(requester, time, time if replied else None, asked, replied)


@pytest.fixture
def router(tmp_path: Path) -> Path:
    """A router's folder with its log of queries."""
    folder = tmp_path / "eu"
    init_node(
        folder, name="EU", role=Role.ROUTER, address="https://127.0.0.1:9", authority=tmp_path / "ca", states=("FR",)
    )
    first, last = moment(YEAR), moment(YEAR + 1) - 1
    entries = [query("FR", first, ("DE", "ES"), ("ES",))] * 4 + [query("FR-2", last, ("DE", "ES"), ("DE", "ES"))]
    entries += [query("IT", first, ("ES",), ("ES",))] * (SMALLEST - 1)
    entries += [query("IT", first - 1, ("ES",), ("ES",)), query("IT", last + 1, ("ES",), ("ES",))]
    archive = Archive(load_identity(folder), folder)
    archive.article_forty.append(entries, int(NOW.timestamp() * 1000))
    archive.article_forty.checkpoint(int(NOW.timestamp() * 1000))
    archive.close()
    return folder


def test_queries_are_counted_by_state_and_database_and_small_counts_not_told(router: Path) -> None:
    counts = statistics(router, YEAR, NOW)
    assert counts == (Count("FR", "DE", 5, None), Count("FR", "ES", 5, 5), Count("IT", "ES", None, None))


def test_control_one_query_more_is_told(router: Path) -> None:
    archive = Archive(load_identity(router), router)
    archive.article_forty.append([query("IT", moment(YEAR, 6), ("ES",), ())], int(NOW.timestamp() * 1000))
    archive.article_forty.checkpoint(int(NOW.timestamp() * 1000))
    # the node may be running: the log is in use
    assert statistics(router, YEAR, NOW)[2] == Count("IT", "ES", SMALLEST, None)
    archive.close()


def test_a_year_that_grows_or_is_partly_erased_is_refused(router: Path) -> None:
    with pytest.raises(InputError, match=f"year {NOW.year} is not over"):
        statistics(router, NOW.year, NOW)
    with pytest.raises(InputError, match="no such year"):
        statistics(router, 10_000, NOW)
    first_erased = datetime(YEAR + 3, 1, 1, tzinfo=timezone.utc)
    assert statistics(router, YEAR, first_erased - timedelta(milliseconds=1))
    with pytest.raises(InputError, match="may be erased"):
        statistics(router, YEAR, first_erased)


def test_a_node_without_a_log_says_so(tmp_path: Path) -> None:
    init_node(tmp_path / "es", name="ES", role=Role.HOLDER, address="https://127.0.0.1:9", authority=tmp_path / "ca")
    with pytest.raises(EvidenceError, match="no article-40 log"):
        statistics(tmp_path / "es", YEAR, NOW)


def test_the_command_prints_them(
    router: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = lineup(monkeypatch, capsys, "node", "statistics", "--dir", router, "--year", YEAR, "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["year"], told["smallest"], len(told["counts"])) == (YEAR, SMALLEST, 3)
    assert told["counts"][2] == {"state": "IT", "database": "ES", "asked": None, "answered": None}
    status, out, _ = lineup(monkeypatch, capsys, "node", "statistics", "--dir", router, "--year", YEAR)
    assert status == 0
    assert out.count(f"fewer than {SMALLEST}") == 3
    monkeypatch.setattr("nodes.operator.statistics.statistics", lambda *_: ())
    status, out, _ = lineup(monkeypatch, capsys, "node", "statistics", "--dir", router, "--year", YEAR)
    assert (status, out) == (0, f"no queries in {YEAR}\n")
