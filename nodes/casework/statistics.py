"""The yearly report (R 72(1), 80(7)-(8); AIA 26(10)): what became of candidates and requests, without identification.

A count below `SMALLEST` is not told, zero included, and no total from which it could be had: `candidates` and the rates
stand only where every part of them is told. Only calendar years that are over.

::

    false-match rate     both reviewers: not the same person / candidates decided
    disagreement rate    one said the same person, the other not / candidates decided
"""

from __future__ import annotations

import csv
import html
import io
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timezone

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework.contents import Told
from nodes.casework.errors import CaseRefused
from nodes.casework.office import Office
from nodes.casework.tables import CandidateRow, QueryRow, RequestRow

SMALLEST = 5
DECIDED = ("confirmed", "no match", "disagreement", "inconclusive")
BANDS = ((0, 40), (40, 70), (70, 101))


class Matches(msgspec.Struct, frozen=True):
    """Candidates of one database. `quality`: band of the gallery image, *all* or *not measured*. None: not told."""

    database: str
    quality: str
    candidates: int | None
    confirmed: int | None
    no_match: int | None
    disagreement: int | None
    inconclusive: int | None
    undecided: int | None
    false_match_rate: float | None
    disagreement_rate: float | None


class CoreData(msgspec.Struct, frozen=True):
    """Requests for core data, made to or received from a peer, and confirmed matches without one."""

    direction: str
    peer: str
    released: int | None
    released_late: int | None
    refused: int | None
    waiting: int | None
    confirmed_without: int | None


class Searches(msgspec.Struct, frozen=True):
    """Searches of one database: how many were answered so. `answer`: as `lineup query` words it."""

    database: str
    answer: str
    searches: int | None


class YearlyReport(msgspec.Struct, frozen=True):
    """All counts of one node and year. `launched`, `unauthorised`: searches begun, and those stopped (AIA 26(10))."""

    node: str
    year: int
    smallest: int
    launched: int | None
    unauthorised: int | None
    searches: tuple[Searches, ...]
    matches: tuple[Matches, ...]
    core_data: tuple[CoreData, ...]


def yearly_report(office: Office, session: Session, year: int) -> YearlyReport:
    """The counts of a year. Raises `CaseRefused` for one that is not over: its growth would show single cases."""
    try:
        start, end = (int(datetime(one, 1, 1, tzinfo=timezone.utc).timestamp()) for one in (year, year + 1))
    except ValueError:
        raise CaseRefused("no-year", year=year) from None
    if office.now() < end:
        raise CaseRefused("year-open", year=year)
    queries = session.scalars(select(QueryRow).where(QueryRow.opened >= start, QueryRow.opened < end)).all()
    rows = session.scalars(
        select(CandidateRow).where(CandidateRow.received >= start, CandidateRow.received < end)
    ).all()
    requests = session.scalars(select(RequestRow).where(RequestRow.made >= start, RequestRow.made < end)).all()
    asked = {row.candidate_id for row in requests}
    without = Counter(row.holder for row in rows if row.outcome == "confirmed" and row.id not in asked)
    return YearlyReport(
        office.name,
        year,
        SMALLEST,
        _told(sum(bool(row.attempts) for row in queries)),
        _told(sum(row.state == "stopped" for row in queries)),
        _searches(queries),
        tuple(_matches(database, band, part) for database, band, part in _parts(rows)),
        tuple(_core_data(key, [row for row in requests if (row.direction, row.peer) == key], without)
              for key in sorted({(row.direction, row.peer) for row in requests} | {("sent", one) for one in without})),
    )  # fmt: skip


def as_csv(report: YearlyReport) -> str:
    """All three tables, one after the other, each with its head."""
    out = io.StringIO()
    writer = csv.writer(out)
    for kind, rows in _tables(report):
        writer.writerow(("table", *kind.__struct_fields__))
        writer.writerows((kind.__name__, *(_cell(value) for value in msgspec.structs.astuple(row))) for row in rows)
    return out.getvalue()


def as_html(report: YearlyReport) -> str:
    """One self-contained page."""
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(report.node)} {report.year}</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #999;padding:.2rem .6rem;text-align:left}"
        "</style>",
        f"<h1>Face search: report of {html.escape(report.node)} for {report.year}</h1>",
        f"<p>Counts below {report.smallest} are not told, zero included (·). Searches begun: {_cell(report.launched)}; "
        f"stopped for want of authorisation: {_cell(report.unauthorised)}.</p>",
    ]
    for kind, rows in _tables(report):
        title = (kind.__doc__ or "").splitlines()[0]
        head = "".join(f"<th scope='col'>{name.replace('_', ' ')}</th>" for name in kind.__struct_fields__)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in msgspec.structs.astuple(row))
            + "</tr>"
            for row in rows
        )
        parts.append(f"<h2>{html.escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "\n".join((*parts, "</html>\n"))


def _tables(report: YearlyReport) -> tuple[tuple[type[msgspec.Struct], tuple[msgspec.Struct, ...]], ...]:
    return (Searches, report.searches), (Matches, report.matches), (CoreData, report.core_data)


def _cell(value: object) -> str:
    if value is None:
        return "·"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _told(count: int) -> int | None:
    return count if count >= SMALLEST else None


def _searches(queries: Iterable[QueryRow]) -> tuple[Searches, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for row in queries:
        if row.report:
            told = msgspec.msgpack.decode(row.report, type=dict[str, Told])
            counts.update((database, one.status) for database, one in told.items())
    return tuple(Searches(*key, _told(count)) for key, count in sorted(counts.items()))


def _parts(rows: Iterable[CandidateRow]) -> list[tuple[str, str, list[CandidateRow]]]:
    """Candidates by database; and again by band of quality."""
    parts: dict[tuple[str, str], list[CandidateRow]] = {}
    for row in rows:
        parts.setdefault((row.holder, "all"), []).append(row)
        parts.setdefault((row.holder, _band(row.quality)), []).append(row)
    return [(*key, part) for key, part in sorted(parts.items())]


def _band(quality: int | None) -> str:
    if quality is None:
        return "not measured"
    low, high = next(band for band in BANDS if band[0] <= quality < band[1])
    return f"{low} to {high - 1}"


def _matches(database: str, band: str, rows: list[CandidateRow]) -> Matches:
    counts = Counter("confirmed" if row.outcome == "match" else row.outcome or "undecided" for row in rows)
    told = {name: _told(counts[name]) for name in (*DECIDED, "undecided")}
    decided = [told[name] for name in DECIDED]
    whole = None if None in decided else sum(counts[name] for name in DECIDED)
    return Matches(
        database,
        band,
        None if whole is None or told["undecided"] is None else len(rows),
        told["confirmed"],
        told["no match"],
        told["disagreement"],
        told["inconclusive"],
        told["undecided"],
        None if whole is None else counts["no match"] / whole,
        None if whole is None else counts["disagreement"] / whole,
    )


def _core_data(key: tuple[str, str], rows: list[RequestRow], without: Counter[str]) -> CoreData:
    states = Counter("waiting" if row.state == "paused" else row.state for row in rows)
    late = sum(row.late for row in rows)
    released = states["released"] + states["deleted"]
    return CoreData(
        *key,
        _told(released),
        _told(late),
        _told(states["refused"]),
        _told(states["waiting"]),
        _told(without[key[1]]) if key[0] == "sent" else None,
    )
