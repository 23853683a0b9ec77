"""The yearly report: counted rightly, small counts suppressed, and not to be had by subtraction."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from nodes.casework.errors import CaseRefused
from nodes.casework.statistics import SMALLEST, as_csv, as_html
from tests.kit.casework import Offices


def _decide(offices: Offices, candidate: str, first: str, second: str) -> None:
    for who, verdict in (("rita", first), ("remo", second)):
        offices.fr.lock_decision(offices.french.people[who], candidate, verdict, "ears")  # type: ignore[arg-type]


def _year(offices: Offices) -> int:
    """Turn the clock beyond the year in which everything happened."""
    year = offices.clock().year
    offices.clock.ahead += timedelta(days=370)
    return year


def test_outcomes_are_counted_by_database_and_quality(offices: Offices) -> None:
    query = offices.searched(*(offices.enrol() for _ in range(20)), cap=20)
    found = [one.id for one in offices.fr.candidates_for(offices.french.rita, query)]
    same, other = "same person", "not the same person"
    pairs = [(same, same)] * 5 + [(other, other)] * 6 + [(same, other)] * 5 + [(same, "inconclusive")] * 4
    for candidate, (first, second) in zip(found, pairs, strict=True):
        _decide(offices, candidate, first, second)
    report = offices.fr.statistics(_year(offices))
    whole = next(one for one in report.matches if one.quality == "all")
    assert (whole.database, whole.confirmed, whole.no_match, whole.disagreement) == ("ES", 5, 6, 5)
    # four are inconclusive: not told, nor to be had from a total or a rate
    assert (whole.inconclusive, whole.candidates, whole.false_match_rate) == (None, None, None)
    assert [one.quality for one in report.matches] == ["40 to 69", "all"]


def test_rates_stand_where_every_part_is_told(offices: Offices) -> None:
    query = offices.searched(*(offices.enrol() for _ in range(25)), cap=25)
    found = [one.id for one in offices.fr.candidates_for(offices.french.rita, query)]
    same, other = "same person", "not the same person"
    pairs = [(same, same)] * 5 + [(other, other)] * 5 + [(same, other)] * 10 + [(other, "inconclusive")] * 5
    for candidate, (first, second) in zip(found, pairs, strict=True):
        _decide(offices, candidate, first, second)
    whole = next(one for one in offices.fr.statistics(_year(offices)).matches if one.quality == "all")
    assert (whole.false_match_rate, whole.disagreement_rate) == (0.2, 0.4)
    assert whole.candidates is None  # nobody is undecided, and that is not told


def test_a_year_that_is_not_over_is_refused(offices: Offices) -> None:
    with pytest.raises(CaseRefused, match="not over"):
        offices.fr.statistics(datetime.now(timezone.utc).year)
    with pytest.raises(CaseRefused, match="no such year"):
        offices.fr.statistics(0)


def test_page_and_table_show_no_small_count(offices: Offices) -> None:
    request = offices.request(offices.confirmed())
    offices.release(request, {"first-names": "Ana"})
    report = offices.es.statistics(_year(offices))
    assert [(one.direction, one.peer, one.released) for one in report.core_data] == [("received", "FR", None)]
    for text in (as_csv(report), as_html(report)):
        assert "·" in text
        assert "Ana" not in text
    assert f"below {SMALLEST}" in as_html(report)
