"""Pages on the node itself, for its staff and its supervisors; and the staff list."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import get_args

from starlette.responses import Response

from nodes.console import contracts as c
from nodes.console.pages_search import reason_of
from nodes.console.texts import text
from nodes.console.web import Visit, converted, file, words_of
from nodes.operator.client import NodeNotRunning
from pets.errors import InputError, LineupError
from protocol.approval import PersonRole
from protocol.roles import Role


def node(visit: Visit) -> Response:
    """Health, peers, policy; a holder's gallery and quotas; what is under way."""
    oversight, who = visit.oversight, visit.who
    view = oversight.node(who)
    return visit.show(
        "node.html", view=view, policy=oversight.policy(who), quotas=oversight.quotas(who),
        gallery=oversight.gallery(who) if view.role is Role.HOLDER else None,
        under_way=oversight.under_way(who) if view.running else (),
        preparations=oversight.preparations(who) if view.running else None,
    )  # fmt: skip


def incoming(visit: Visit) -> Response:
    """The Article 40 log, for a reason."""
    oversight, who = visit.oversight, visit.who
    visit.needs("data-protection", "supervisor", "admin")
    entries = oversight.article_forty(who, reason_of(visit)) if visit.request.method == "POST" else None
    return visit.show("incoming.html", entries=entries)


def supervision(visit: Visit) -> Response:
    """Read-only: queries by state and day, refusals, quotas, logs, evidence; for a reason, who looked at whom."""
    oversight, who = visit.oversight, visit.who
    views = handled = None
    if visit.request.method == "POST":
        views, handled = oversight.views(who, reason_of(visit)), oversight.handled(who, reason_of(visit))
    try:
        refusals = oversight.refusals(who)
    except NodeNotRunning:
        refusals = None
    return visit.show(
        "supervision.html", days=oversight.days(who), refusals=refusals, quotas=oversight.quotas(who),
        logs=oversight.logs(who), evidence=oversight.evidence(who), views=views,
        outcomes=_outcomes(visit), handled=handled, recalls=visit.operations.recalls(who),
    )  # fmt: skip


def _outcomes(visit: Visit) -> dict[str, int]:
    counts: dict[str, int] = {}
    operations, who = visit.operations, visit.who
    for view in operations.queries(who):
        for one in operations.matches(who, view.id):
            counts[one.outcome] = counts.get(one.outcome, 0) + 1
    return counts


def counts(visit: Visit) -> Response:
    """A year's counts, small ones not told."""
    year = visit.request.query_params.get("year", str(datetime.now(timezone.utc).year - 1))
    try:
        told, problem = visit.oversight.statistics(visit.who, year), None
    except InputError as error:
        told, problem = (), words_of(error)
    return visit.show("counts.html", year=year, counts=told, problem=problem)


def report(visit: Visit) -> Response:
    """The yearly report as a file."""
    year, form = visit.path("year"), visit.path("form")
    content = visit.oversight.report(visit.who, year, form)  # which refuses another year or form
    return file(content, f"{visit.operations.me(visit.who).node}-{year}.{form}", f"text/{form}")


def bundle(visit: Visit) -> Response:
    """One query's evidence, as a file."""
    query = visit.path("query")
    data = visit.oversight.bundle(visit.who, query)
    return file(data, f"{visit.operations.me(visit.who).node}-{bytes.fromhex(query).hex()}.bundle")


def verify(visit: Visit) -> Response:
    """Evidence checked in the page: this node's, with others' that are uploaded."""
    oversight, who = visit.oversight, visit.who
    bundles = [data for data in visit.files.get("bundles", ()) if data]
    problem = report = None
    try:
        if visit.text("query"):
            bundles.append(oversight.bundle(who, visit.text("query")))
        report = oversight.verify(who, c.VerifyForm(tuple(bundles)))
    except InputError as error:
        problem = words_of(error)
    return visit.show("verified.html", report=report, problem=problem)


def staff(visit: Visit) -> Response:
    """The staff list and the door, for a reason; and a new person, or an account that ends."""
    oversight, who = visit.oversight, visit.who
    visit.needs("data-protection", "supervisor", "admin")
    invitation = people = door = None
    if visit.text("close"):
        oversight.close_account(who, visit.text("close"))
    elif visit.text("again"):
        invitation = oversight.invite(who, visit.text("again"))
    elif visit.text("handle"):
        given = {"handle": visit.text("handle"), "name": visit.text("name"), "roles": visit.texts("roles")}
        invitation = oversight.add_person(who, converted(given, c.NewPerson))
    if visit.request.method == "POST" and (visit.text("reason") or not (invitation or visit.text("close"))):
        people, door = oversight.staff(who, reason_of(visit)), oversight.door_log(who, reason_of(visit))
    return visit.show("staff.html", staff=people, door=door, invitation=invitation, roles=get_args(PersonRole),
                      reason=visit.text("reason"))  # fmt: skip


def health(visit: Visit) -> Response:
    """Whether the console works; says nothing of the node."""
    try:
        visit.door.unclaimed()
    except LineupError:
        return Response(text("health.degraded"), 503, media_type="text/plain")
    return Response(text("health.ok"), media_type="text/plain")
