"""What a holder may still answer: daily capacities, releases, each query once. Holds across restarts, processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, delete, func, select
from sqlalchemy.orm import Session

from nodes.store.database import insert_into
from nodes.store.errors import QueryReplayed, QuotaExceeded, StoreRefusal
from nodes.store.subjects import check_state, utc_seconds
from nodes.store.tables import ClaimRow, QuotaRow, ReleasedRow, StoreRow

MAX_STEP = 32
_EVERY_QUERY, _LOST = bytes(16), "lost"  # stands for every query: the identifiers of queries are hashes, never zero


def take_quota(session: Session, peer_state: str, kind: str, day: date, limit: int) -> int:
    """Count a query, or a preparation, against a state's capacity of the day; gives the number used, with this one.

    `kind`: the value of a `Status` (Article 23(1)), or `PREPARATION`.
    A single statement, so that concurrent callers never get more than `limit` through. Raises `QuotaExceeded`.
    """
    check_state(peer_state)
    if limit > 0:
        statement = (
            insert_into(session, QuotaRow)
            .values(state=peer_state, kind=kind, day=day, used=1)
            .on_conflict_do_update(
                index_elements=["state", "kind", "day"],
                set_={"used": QuotaRow.used + 1},
                where=QuotaRow.used < limit,
            )
            .returning(QuotaRow.used)
        )
        used: int | None = session.execute(statement).scalar_one_or_none()
        if used is not None:
            return used
    raise QuotaExceeded(peer_state, kind, day.isoformat(), limit)


def quota_used(session: Session, peer_state: str, kind: str, day: date) -> int:
    """Queries, or preparations, that a state was granted on a day."""
    row = (QuotaRow.state == peer_state, QuotaRow.kind == kind, QuotaRow.day == day)
    return session.scalar(select(QuotaRow.used).where(*row)) or 0


def take_releases(session: Session, peer_state: str, references: Iterable[str], day: date, days: int) -> int:
    """Count a release of each reference to a state; gives the count of the state's most released reference.

    Over `days` UTC days up to `day`; 0 if nothing was released. What its caller then withholds stays counted.
    """
    check_state(peer_state)
    # One at a time: of two that count the same reference, on two sides of midnight even, the later one sees both.
    session.execute(select(StoreRow.id).with_for_update())
    for reference in references:
        row = insert_into(session, ReleasedRow).values(state=peer_state, reference=reference, day=day, times=1)
        session.execute(
            row.on_conflict_do_update(
                index_elements=["state", "reference", "day"], set_={"times": ReleasedRow.times + 1}
            )
        )
    totals = (
        select(func.sum(ReleasedRow.times).label("total"))
        .where(ReleasedRow.state == peer_state, ReleasedRow.day > day - timedelta(days))
        .group_by(ReleasedRow.reference)
        .subquery()
    )
    return int(session.scalar(select(func.max(totals.c.total))) or 0)


def shut_out(session: Session, limit: int, day: date, days: int) -> dict[str, date]:
    """States that were given a reference more than `limit` times over `days` UTC days up to `day`, and until when.

    The date is the first day on which enough of the releases are older than the window.
    """
    counted: dict[tuple[str, str], list[tuple[date, int]]] = defaultdict(list)
    rows = select(ReleasedRow).where(ReleasedRow.day > day - timedelta(days)).order_by(ReleasedRow.day)
    for row in session.scalars(rows):
        counted[row.state, row.reference].append((row.day, row.times))
    until: dict[str, date] = {}
    for (state, _), releases in counted.items():
        left = sum(times for _, times in releases)
        for released, times in releases:
            if left <= limit:
                break
            left -= times
            until[state] = max(until.get(state, day), released + timedelta(days))
    return until


def purge_releases(session: Session, before: date) -> int:
    """Delete counts of days before `before`, which no window reaches any more."""
    result: CursorResult[Any] = session.connection().execute(delete(ReleasedRow).where(ReleasedRow.day < before))
    return result.rowcount


def claim_query(session: Session, query_id: bytes, digest: bytes, now: datetime, step: str) -> None:
    """Note that a step of a query is being answered. Raises `QueryReplayed` if it ever was before."""
    for value, what in ((query_id, "a query identifier"), (digest, "a message digest")):
        if not 16 <= len(value) <= 64:
            raise StoreRefusal(f"{what} has 16 to 64 bytes, got {len(value)}")
    if not 0 < len(step) <= MAX_STEP:
        raise StoreRefusal(f"the name of a step has 1 to {MAX_STEP} characters, got {len(step)}")
    statement = (
        insert_into(session, ClaimRow)
        .values(query_id=query_id, step=step, digest=digest, time=utc_seconds(now))
        .on_conflict_do_nothing(index_elements=["query_id", "step"])
        .returning(ClaimRow.step)
    )
    if session.execute(statement).scalar_one_or_none() is None:
        before = session.scalar(select(ClaimRow.digest).where(ClaimRow.query_id == query_id, ClaimRow.step == step))
        raise QueryReplayed(query_id, step, before == digest)


def has_claimed(session: Session, query_id: bytes, step: str) -> bool:
    """Whether a step of a query was claimed."""
    found = select(ClaimRow.time).where(ClaimRow.query_id == query_id, ClaimRow.step == step)
    return session.scalar(found) is not None


def note_loss(session: Session, now: datetime) -> None:
    """Note that claims made before `now` may be lost: no query that could be one of them is answered any more.

    Of several losses the latest counts, whatever the clock shows since.
    """
    time = utc_seconds(now)
    row = {"query_id": _EVERY_QUERY, "step": _LOST, "digest": _EVERY_QUERY, "time": time}
    statement = insert_into(session, ClaimRow).values(**row)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["query_id", "step"], set_={"time": time}, where=ClaimRow.time < time
        )
    )


def lost_until(session: Session) -> int | None:
    """Until when claims may be lost, seconds since 1970; None if none ever were."""
    return session.scalar(select(ClaimRow.time).where(ClaimRow.query_id == _EVERY_QUERY, ClaimRow.step == _LOST))


def purge_claims(session: Session, before: datetime) -> int:
    """Delete claims older than a moment, from which on the queries are refused for their age anyway."""
    result: CursorResult[Any] = session.connection().execute(
        delete(ClaimRow).where(ClaimRow.time < utc_seconds(before))
    )
    return result.rowcount
