"""Pages on the node itself, for its staff and its supervisors; and the staff list."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import get_args

from starlette.responses import Response

from nodes.console import contracts as c
from nodes.console.pages_search import converted, reason_of
from nodes.console.web import Visit
from nodes.operator.client import NodeNotRunning
from pets.errors import InputError, LineupError
from protocol.approval import PersonRole
from protocol.roles import Role


def node(visit: Visit) -> Response:
    """Health, peers, policy; a holder's gallery and quotas; what is under way."""
    oversight, who = visit.site.oversight, visit.who
    view = oversight.node(who)
    return visit.show(
        "node.html", view=view, policy=oversight.policy(who), quotas=oversight.quotas(who),
        gallery=oversight.gallery(who) if view.role is Role.HOLDER else None,
        under_way=oversight.under_way(who) if view.running else (),
        preparations=oversight.preparations(who) if view.running else None,
    )  # fmt: skip


def incoming(visit: Visit) -> Response:
    """The Article 40 log, for a reason."""
    oversight, who = visit.site.oversight, visit.who
    oversight.may_see_log(who)
    entries = oversight.article_forty(who, reason_of(visit)) if visit.request.method == "POST" else None
    return visit.show("incoming.html", entries=entries)


def supervision(visit: Visit) -> Response:
    """Read-only: queries by state and day, refusals, quotas, views, logs, evidence."""
    oversight, who = visit.site.oversight, visit.who
    try:
        refusals = oversight.refusals(who)
    except NodeNotRunning:
        refusals = None
    return visit.show(
        "supervision.html", days=oversight.days(who), refusals=refusals, quotas=oversight.quotas(who),
        logs=oversight.logs(who), evidence=oversight.evidence(who), views=oversight.views(who),
        outcomes=_outcomes(visit), handled=oversight.handled(who), recalls=visit.site.operations.recalls(who),
    )  # fmt: skip


def _outcomes(visit: Visit) -> dict[str, int]:
    counts: dict[str, int] = {}
    operations, who = visit.site.operations, visit.who
    for view in operations.queries(who):
        for one in operations.matches(who, view.id):
            counts[one.outcome] = counts.get(one.outcome, 0) + 1
    return counts


def counts(visit: Visit) -> Response:
    """A year's counts, small ones not told."""
    year = visit.request.query_params.get("year", str(datetime.now(timezone.utc).year - 1))
    if not year.isdecimal() or len(year) != 4:
        raise InputError(f"year {year[:20]!r}: four digits")
    try:
        told, problem = visit.site.oversight.statistics(visit.who, int(year)), None
    except InputError as error:
        told, problem = (), str(error)
    return visit.show("counts.html", year=year, counts=told, problem=problem)


def report(visit: Visit) -> Response:
    """The yearly report as a file."""
    year, form = visit.path("year"), visit.path("form")
    if not year.isdecimal() or len(year) != 4 or form not in ("html", "csv"):
        raise InputError(f"report {year[:20]!r}.{form[:20]!r}: a year, and html or csv")
    name, content = visit.site.oversight.report(visit.who, int(year), form)
    disposition = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=f"text/{form}", headers=disposition)


def bundle(visit: Visit) -> Response:
    """One query's evidence, as a file."""
    query = visit.path("query")
    data = visit.site.oversight.bundle(visit.who, query)
    name = f"{visit.site.operations.config.name}-{bytes.fromhex(query).hex()}.bundle"
    return Response(
        data, media_type="application/octet-stream", headers={"content-disposition": f'attachment; filename="{name}"'}
    )


def verify(visit: Visit) -> Response:
    """Evidence checked in the page: this node's, with others' that are uploaded."""
    oversight, who = visit.site.oversight, visit.who
    bundles = [data for data in visit.files.get("bundles", ()) if data]
    problem = report = None
    try:
        if visit.text("query"):
            bundles.append(oversight.bundle(who, visit.text("query")))
        report = oversight.verify(who, bundles)
    except InputError as error:
        problem = str(error)
    return visit.show("verified.html", report=report, problem=problem)


def staff(visit: Visit) -> Response:
    """The staff list, and a new person."""
    oversight, who = visit.site.oversight, visit.who
    invitation = None
    if visit.request.method == "POST":
        if visit.text("close"):
            oversight.close_account(who, visit.text("close"))
        elif visit.text("again"):
            invitation = oversight.invite(who, visit.text("again"))
        else:
            given = {"handle": visit.text("handle"), "name": visit.text("name"), "roles": visit.texts("roles")}
            invitation = oversight.add_person(who, converted(given, c.NewPerson))
    return visit.show("staff.html", staff=oversight.staff(who), invitation=invitation, roles=get_args(PersonRole),
                      door=oversight.door(who))  # fmt: skip


def health(visit: Visit) -> Response:
    """Whether the console works; says nothing of the node."""
    try:
        _ = visit.site.accounts.empty
    except LineupError:
        return Response("degraded", 503, media_type="text/plain")
    return Response("ok", media_type="text/plain")
