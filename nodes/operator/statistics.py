"""Queries by requesting state and database, without identification (R 72(1)): from the Article 40 log.

The router's log has all of them, a state's log its own and those it was asked. A count below `SMALLEST` is not told,
and neither are totals, from which it could be had. Only whole calendar years that are over: two counts of a year that
still grows, or of two periods that overlap, would show single queries by their difference.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from nodes.evidence.export import open_for_reading
from nodes.identity.identity import load_identity
from nodes.logs.entries import ArticleForty, retention_end
from nodes.logs.errors import EntryErased
from pets.errors import InputError

SMALLEST = 5


class Count(msgspec.Struct, frozen=True):
    """How often a state asked a database in the year, and was answered. None: fewer than `SMALLEST` times."""

    state: str
    database: str
    asked: int | None
    answered: int | None


def statistics(folder: Path, year: int, now: datetime) -> tuple[Count, ...]:
    """The counts of a node's log, running or not, sorted by state and database.

    Raises `InputError` for a year that is not over, or of which entries may be erased; and as a damaged log does.
    """
    try:
        start, end = (datetime(y, 1, 1, tzinfo=timezone.utc) for y in (year, year + 1))
    except ValueError:
        raise InputError(f"year {year}: there is no such year") from None
    if now < end:
        raise InputError(f"year {year} is not over: counts that still grow would show single queries")
    first, after, moment = (int(time.timestamp() * 1000) for time in (start, end, now))
    if retention_end(first) <= moment:
        raise InputError(f"year {year}: its log entries may be erased, three years after they were made")
    asked: Counter[tuple[str, str]] = Counter()
    answered: Counter[tuple[str, str]] = Counter()
    with open_for_reading(load_identity(folder), folder, "article-40") as log:
        for index in range(log.size):
            try:
                entry = log.read(index)
            except EntryErased:
                continue
            assert isinstance(entry, ArticleForty)
            if first <= entry.request_time < after:
                state = entry.requester[:2]
                asked.update((state, database) for database in entry.asked)
                answered.update((state, database) for database in entry.replied)
    return tuple(Count(*cell, _told(asked[cell]), _told(answered[cell])) for cell in sorted(asked))


def _told(count: int) -> int | None:
    return count if count >= SMALLEST else None
