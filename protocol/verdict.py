"""What follows from the bit that the cap opens: confirm, climb to the next rung, or give up."""

from __future__ import annotations

from protocol.terms import Terms

CONFIRM, CLIMB, EXHAUSTED = "confirm", "climb", "exhausted"


def verdict_on(few: bool, rung: int, terms: Terms) -> str:
    """What follows from the bit that all three opened."""
    return CONFIRM if few else EXHAUSTED if rung == len(terms.rungs) - 1 else CLIMB
