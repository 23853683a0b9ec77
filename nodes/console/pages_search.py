"""The requester's pages: a new query, its approval, its progress, review by two, what follows."""

from __future__ import annotations

from starlette.responses import Response

from nodes.casework.errors import CaseworkError
from nodes.casework.review import VERDICTS
from nodes.console import contracts as c
from nodes.console.errors import EntryRefused
from nodes.console.texts import name_of, text
from nodes.console.web import Visit, converted, file
from protocol.follow_up import IDENTIFIED_FIELDS
from protocol.roles import Role

REASON = 500
LOOKERS = {"officer", "approver", "data-protection", "supervisor"}  # who may see a case


def reason_of(visit: Visit) -> c.Reason:
    """Why personal data are looked at. Raises `EntryRefused`."""
    given = visit.text("reason")
    if not 0 < len(given) <= REASON:
        raise EntryRefused(text("problem.reason"))
    return c.Reason(given)


def start(visit: Visit) -> Response:
    """What waits for this person."""
    operations, who = visit.operations, visit.who
    me = operations.me(who)
    waiting: list[tuple[str, str, str]] = []
    if me.node_role is Role.REQUESTER:
        for view in operations.queries(who):
            if view.state == "draft" and "approver" in me.roles and view.opened_by != who:
                waiting.append((f"/queries/{view.id}", "start.approve", view.number))
            mine = view.opened_by == who  # whoever opened a query reviews none of its candidates
            if view.state == "review" and "reviewer" in me.roles and not mine and _mine_to_decide(visit, view.id):
                waiting.append((f"/review/{view.id}", "start.review", view.number))
    for one in operations.requests(who):
        if one.direction == "received" and one.state in ("waiting", "paused") and "releaser" in me.roles:
            waiting.append((f"/core-data/{one.id}", "start.release", one.peer))
        if one.direction == "sent" and one.state == "released" and "officer" in me.roles:
            waiting.append((f"/core-data/{one.id}", "start.received", one.peer))
    return visit.show("start.html", waiting=waiting)


def _mine_to_decide(visit: Visit, query: str) -> bool:
    """Whether this reviewer has a decision to lock or a match to sign."""
    operations, who = visit.operations, visit.who
    for one in operations.candidates(who, query):
        outcome = operations.outcome(who, one.id).outcome
        if (outcome == "under review" and one.mine is None) or outcome == "match":
            return True
    return False


def new_query(visit: Visit) -> Response:
    """The photo."""
    if visit.request.method == "GET":
        return visit.show("new.html")
    photo = next(iter(visit.files.get("photo", ())), b"")
    return visit.go(f"/queries/new/{visit.operations.upload(visit.who, photo).id}")


def describe(visit: Visit) -> Response:
    """The face, and the case."""
    operations, who = visit.operations, visit.who
    intake = operations.intake(who, visit.path("intake"))
    if visit.request.method == "GET":
        return visit.show(
            "describe.html", intake=intake, picture=operations.picture(who, intake.id), holders=operations.holders(who),
            subjects=("suspect", "convicted", "victim", "missing", "remains"), aims=("identify", "verify"),
        )  # fmt: skip
    fields = {
        "intake": intake.id, "face": int(visit.number("face")) if visit.text("face") else 0,
        "holders": visit.texts("holders"), "case": visit.text("case"), "offence": visit.text("offence"),
        "maximum-penalty-years": visit.number("penalty"), "threshold": visit.text("threshold"),
        "purpose": visit.text("purpose"), "subject": visit.text("subject"), "aim": visit.text("aim"),
        "cap": int(visit.number("cap")), "authorisation": visit.text("authorisation"),
    }  # fmt: skip
    made = operations.open_query(who, converted(fields, c.QueryForm))
    return visit.go(f"/queries/{made.id}")


def history(visit: Visit) -> Response:
    """All queries."""
    return visit.show("queries.html", queries=visit.operations.queries(visit.who))


def query(visit: Visit) -> Response:
    """One query; with a reason, its case and probe too."""
    operations, who, name = visit.operations, visit.who, visit.path("query")
    view = operations.query(who, name)
    case = operations.case(who, name, reason_of(visit)) if visit.request.method == "POST" else None
    me = operations.me(who)
    try:
        found = operations.matches(who, name)
    except CaseworkError:  # a reviewer: sees candidates only blindly
        found = []
    may_approve = view.state == "draft" and "approver" in me.roles and view.opened_by != who
    return visit.show(
        "query.html", view=view, case=case, progress=operations.progress(who, name), matches=found,
        may_approve=may_approve, may_look=bool(LOOKERS & set(me.roles)),
    )  # fmt: skip


def progress(visit: Visit) -> Response:
    """The part of a query's page that changes while it runs."""
    name = visit.path("query")
    view = visit.operations.query(visit.who, name)
    return visit.show("progress.html", view=view, progress=visit.operations.progress(visit.who, name))


def approve(visit: Visit) -> Response:
    """The second person: looks, with a reason, then signs."""
    operations, who, name = visit.operations, visit.who, visit.path("query")
    if visit.text("assertion"):
        operations.launch(who, name, c.Signed(visit.text("assertion")))
        return visit.go(f"/queries/{name}")
    view, to_sign = operations.query(who, name), operations.launch_to_sign(who, name)
    case = operations.case(who, name, reason_of(visit))
    summary = [
        (text("field.number"), view.number), (text("field.opened-by"), view.opened_by), (text("field.case"), case.case),
        (text("field.offence"), case.offence), (text("field.penalty"), f"{case.maximum_penalty_years:g}"),
        (text("field.holders"), ", ".join(view.holders)), (text("field.threshold"), case.threshold),
        (text("field.purpose"), name_of(case.purpose)), (text("field.subject"), name_of(case.subject)),
    ]  # fmt: skip
    return visit.sign("launch", f"/queries/{name}/approve", summary, to_sign)


def lodge(visit: Visit) -> Response:
    """The judicial authorisation, or its refusal."""
    name = visit.path("query")
    if visit.text("refused"):
        visit.operations.stop(visit.who, name)
    else:
        visit.operations.authorise(visit.who, name, c.Made(visit.text("authorisation")))
    return visit.go(f"/queries/{name}")


def reviews(visit: Visit) -> Response:
    """Queries with candidates."""
    found = [view for view in visit.operations.queries(visit.who) if view.candidates]
    return visit.show("reviews.html", queries=found)


def review(visit: Visit) -> Response:
    """The candidates of one query, in this reviewer's own order."""
    operations, who, name = visit.operations, visit.who, visit.path("query")
    blind = operations.candidates(who, name)
    outcomes = {one.id: operations.outcome(who, one.id).outcome for one in blind}
    return visit.show("review.html", view=operations.query(who, name), candidates=blind, outcomes=outcomes)


def candidate(visit: Visit) -> Response:
    """A candidate beside the probe, and what reviewers noted, for a reason; then one's decision."""
    operations, who = visit.operations, visit.who
    name, query_name = visit.path("candidate"), visit.path("query")
    pictures, votes = None, None
    if visit.text("verdict"):
        fields = {"verdict": visit.text("verdict"), "note": visit.text("note")}
        operations.decide(who, name, converted(fields, c.Decided))
        return visit.go(f"/review/{query_name}")
    mine = next((one for one in operations.candidates(who, query_name) if one.id == name), None)
    outcome = operations.outcome(who, name).outcome
    if visit.request.method == "POST":
        if mine is not None:  # else it is deleted: the notes alone are left
            pictures = operations.pictures(who, query_name, name, reason_of(visit))
        votes = operations.votes(who, name, reason_of(visit)) if outcome != "under review" else ()
    return visit.show("candidate.html", query=query_name, candidate=name, pictures=pictures, outcome=outcome,
                      votes=votes, alive=mine is not None, mine=None if mine is None else mine.mine,
                      verdicts=VERDICTS)  # fmt: skip


def confirm(visit: Visit) -> Response:
    """A reviewer signs a match."""
    operations, who = visit.operations, visit.who
    name, query_name = visit.path("candidate"), visit.path("query")
    if visit.text("assertion"):
        operations.confirm(who, name, c.Signed(visit.text("assertion")))
        return visit.go(f"/review/{query_name}")
    summary = [(text("field.number"), operations.query(who, query_name).number), (text("field.candidate"), name[:8])]
    action = f"/review/{query_name}/{name}/confirm"
    return visit.sign("confirm", action, summary, operations.confirmation_to_sign(who, name))


def export(visit: Visit) -> Response:
    """A candidate as an ANSI/NIST-ITL file, for a reason."""
    name = visit.path("candidate")
    given = {name: visit.text(name) for name in ("receiver", "authorisation")} | {"reason": reason_of(visit).reason}
    data = visit.operations.export(visit.who, name, converted(given, c.Export))
    return file(data, f"candidate-{bytes.fromhex(name).hex()[:8]}.an2")


def ask(visit: Visit) -> Response:
    """The officer asks for core data of a confirmed match."""
    operations, who, name = visit.operations, visit.who, visit.path("candidate")
    if visit.request.method == "GET":
        return visit.show("ask.html", candidate=name, fields=IDENTIFIED_FIELDS)
    given = {"fields": visit.texts("fields"), "facts": visit.text("facts"), "offence": visit.text("category"),
             "assertion": visit.text("assertion")}  # fmt: skip
    wanted = converted(given, c.Wanted)
    if wanted.assertion:
        return visit.go(f"/core-data/{operations.request(who, name, wanted).id}")
    summary = [(text("field.fields"), ", ".join(map(name_of, wanted.fields))), (text("field.category"), wanted.offence),
               (text("field.facts"), wanted.facts)]  # fmt: skip
    to_sign = operations.request_to_sign(who, name, wanted)
    return visit.sign("request-core-data", f"/candidates/{name}/ask", summary, to_sign,
                      fields=wanted.fields, facts=wanted.facts, category=wanted.offence)  # fmt: skip


def end(visit: Visit) -> Response:
    """A candidate is not needed any more, or is to go on to somebody else."""
    operations, who, name = visit.operations, visit.who, visit.path("candidate")
    if visit.text("recipient"):
        operations.transfer(who, name, c.Transfer(visit.text("recipient"), visit.text("authorisation")))
        return visit.show("done.html", message=text("done.transfer"))
    if not visit.text("delete"):  # a recipient of blanks deletes nothing
        raise EntryRefused(text("problem.recipient"))
    receipt = operations.delete(who, name).outcome
    return visit.show("done.html", message=f"{text('done.deleted')} {receipt}")
