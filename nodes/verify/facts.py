"""What happened in a query, as its bundles tell it: for a reader to start from. Whether it is true, the checks say."""

from __future__ import annotations

from datetime import datetime, timezone

from nodes.verify.case import Case
from nodes.verify.rules_search import admitted
from protocol.messages import Abort, Announce, Rung

Fact = tuple[str, str]


def facts_of(case: Case) -> list[Fact]:
    """(subject, what is told of it): the query, its terms, and how each holder's part ended."""
    announce, warrant = case.announce, case.announce and case.announce.warrant
    if announce is None:
        return [("query", f"{case.query.hex()}: no bundle shows an announcement")]
    times = [item.record.time for view in case.views for item, _ in view.messages(Announce)]
    at = datetime.fromtimestamp(min(times) / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    facts = [
        ("query", case.query.hex()),
        ("asked", f"by {announce.requester} through {announce.router} of {', '.join(announce.holders)}, {at}"),
        ("warrant", f"{warrant.request_number} of {warrant.state}, purpose {warrant.purpose}" if warrant else "none"),
        (
            "terms",
            f"threshold {announce.threshold}, step {announce.ladder}, at most {announce.cap} candidates a holder, "
            f"d {announce.dim}, {announce.preset}",
        ),
    ]
    return [*facts, *((holder, _ending(case, holder)) for holder in announce.holders)]


def _ending(case: Case, holder: str) -> str:
    """How a holder's part ended. Nothing kept in evidence says whether anybody was found."""
    assert case.announce is not None
    if case.terms is None:
        return "the terms cannot be read"
    verdicts: list[str] = []
    for view in case.views:
        for peer in case.roles:
            told = [message.verdict for _, message in view.messages(Rung, holder, peer=peer)]
            verdicts = max(verdicts, told, key=len)
    rungs = [f"{threshold:f}" for threshold in case.terms.rungs]
    climbs = [f"more than {case.announce.cap} hits at {rung}" for rung, _ in zip(rungs, verdicts[:-1], strict=False)]
    if any(view.find("Release", holder) for view in case.views):
        used = rungs[min(len(verdicts), len(rungs)) - 1]
        return "; ".join([*climbs, f"answered at {used}, with {case.announce.cap} candidates or fewer, or none"])
    stops = [
        f"{view.ends(item.record)[0]} stopped it ({message.code})"
        for view in case.views
        for session in (holder, "")
        for item, message in view.messages(Abort, session)
    ]
    if stops:
        return "; ".join([*climbs, *sorted(set(stops))])
    if verdicts[-1:] == ["exhausted"]:
        return f"more than {case.announce.cap} hits on every rung: nothing was released"
    if not verdicts and admitted(case, holder) is False:
        return "ended with admission: the probe was refused"
    return "; ".join([*climbs, "no end is shown"])
