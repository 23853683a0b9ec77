"""The demo waits for its own search: what it prints is how the search ended, whenever its last candidate came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from nodes.casework.desk import CaseDesk
from nodes.casework.persons import Person
from nodes.cli import demo
from nodes.cli.demo import DemoFailed


@dataclass(frozen=True)
class _View:
    state: str
    candidates: int


class _Desk:
    """A desk whose search is under review before its holder has shown the candidate, as at a running node.

    That happens just before somebody asks whether anything still waits.
    """

    def __init__(self) -> None:
        self.seen: list[_View] = []
        self.candidates = 0

    def query(self, officer: Any, query: str) -> _View:
        self.seen.append(_View("review", self.candidates))
        return self.seen[-1]

    def settled(self) -> bool:
        self.candidates = 1
        return True


def test_a_candidate_that_comes_between_the_two_looks_is_counted() -> None:
    desk = _Desk()
    view = demo._when_over(cast(CaseDesk, desk), cast(Person, None), "query")
    assert view.candidates == 1
    assert desk.seen[0].candidates == 0  # the control: what the loop saw


def test_a_search_that_does_not_end_fails_with_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = _Desk()
    monkeypatch.setattr(desk, "settled", lambda: False)
    monkeypatch.setattr(demo, "START_SECONDS", -1.0)
    with pytest.raises(DemoFailed, match="is review after"):
        demo._when_over(cast(CaseDesk, desk), cast(Person, None), "query")
