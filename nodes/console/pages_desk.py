"""Core data and recalls: pages of the holder's desk, and of the officer who asked."""

from __future__ import annotations

from typing import get_args

from starlette.responses import Response

from nodes.console import contracts as c
from nodes.console.pages_search import reason_of
from nodes.console.texts import name_of, text
from nodes.console.web import Visit, converted
from protocol.follow_up import IDENTIFIED_FIELDS, UNIDENTIFIED_FIELDS, RecallKind, RefusalReason


def requests(visit: Visit) -> Response:
    """Requests with their clocks."""
    return visit.show("requests.html", requests=visit.operations.requests(visit.who))


def request(visit: Visit) -> Response:
    """One request; with a reason, its facts or the core data."""
    operations, who, name = visit.operations, visit.who, visit.path("request")
    view = next((one for one in operations.requests(who) if one.id == name), None)
    content = operations.request_content(who, name, reason_of(visit)) if visit.request.method == "POST" else None
    return visit.show("request.html", 200 if view else 404, view=view, name=name, content=content,
                      identified=IDENTIFIED_FIELDS, unidentified=UNIDENTIFIED_FIELDS,
                      refusals=get_args(RefusalReason))  # fmt: skip


def release(visit: Visit) -> Response:
    """A releasing person fills in core data, and signs."""
    operations, who, name = visit.operations, visit.who, visit.path("request")
    record = {field: visit.text(f"record-{field}") for field in IDENTIFIED_FIELDS if visit.text(f"record-{field}")}
    given = {"kind": visit.text("kind"), "record": record, "late": visit.text("late"),
             "assertion": visit.text("assertion")}  # fmt: skip
    wanted = converted(given, c.Release)
    if wanted.assertion:
        operations.release(who, name, wanted)
        return visit.go(f"/core-data/{name}")
    summary = [(name_of(field), value) for field, value in record.items()]
    hidden = {f"record-{field}": value for field, value in record.items()}
    return visit.sign("release-core-data", f"/core-data/{name}/release", summary,
                      operations.release_to_sign(who, name, wanted), kind=wanted.kind, late=wanted.late,
                      **hidden)  # fmt: skip


def refuse(visit: Visit) -> Response:
    """A releasing person refuses, and signs."""
    operations, who, name = visit.operations, visit.who, visit.path("request")
    given = {"reason": visit.text("why"), "assertion": visit.text("assertion")}
    refusal = converted(given, c.Refusal)
    if refusal.assertion:
        operations.refuse(who, name, refusal)
        return visit.go(f"/core-data/{name}")
    summary = [(text("field.why"), name_of(refusal.reason))]
    return visit.sign("refuse-core-data", f"/core-data/{name}/refuse", summary,
                      operations.refusal_to_sign(who, name, refusal), why=refusal.reason)  # fmt: skip


def clock(visit: Visit) -> Response:
    """Stop the clock, for a reason, or let it run on."""
    operations, who, name = visit.operations, visit.who, visit.path("request")
    if visit.text("resume"):
        operations.resume(who, name)
    else:
        operations.pause(who, name, reason_of(visit))
    return visit.go(f"/core-data/{name}")


def recalls(visit: Visit) -> Response:
    """Recalls, and a new one."""
    operations, who = visit.operations, visit.who
    told = None
    if visit.request.method == "POST":
        given = {"reference": visit.text("reference"), "why": visit.text("reason"), "kind": visit.text("kind")}
        told = operations.recall(who, converted(given, c.RecallForm)).outcome
    return visit.show("recalls.html", recalls=operations.recalls(who), given=operations.disclosures(who), told=told,
                      kinds=get_args(RecallKind))  # fmt: skip
