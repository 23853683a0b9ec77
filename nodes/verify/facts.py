"""What happened, as the bundles tell it: for a reader to start from. Whether it is true, the checks say."""

from __future__ import annotations

from datetime import datetime, timezone

from nodes.verify.case import Case
from nodes.verify.format import WHOLE
from nodes.verify.rules_opening import opened
from nodes.verify.rules_search import admitted
from protocol.messages import Abort, FormBit, Prepare, Rung, Search, Signature

Fact = tuple[str, str]


def facts_of(case: Case) -> list[Fact]:
    """(subject, what is told of it): a query, its terms, its preparation, and how each holder's part ended.

    Of a preparation only where it was given for itself: that of a query is told with the query.
    """
    announce = case.announce
    if announce is None:
        return [(_name(case), f"{case.query.hex()}: no bundle shows an announcement")]
    if isinstance(announce, Search):
        return _search(case, announce)
    return _preparation(case, announce) if any(not view.inside for view in case.views) else []


def _name(case: Case) -> str:
    return "query" if case.kind == "search" else "preparation"


def _search(case: Case, announce: Search) -> list[Fact]:
    warrant = announce.warrant
    return [
        ("query", case.query.hex()),
        ("asked", f"by {announce.requester} through {announce.router} of {', '.join(announce.holders)}, {_at(case)}"),
        ("warrant", f"{warrant.request_number} of {warrant.state}, purpose {warrant.purpose}" if warrant else "none"),
        (
            "terms",
            f"threshold {announce.threshold}, step {announce.ladder}, at most {announce.cap} candidates a holder, "
            f"d {announce.dim}, {announce.preset}",
        ),
        ("prepared", "no bundle shows it" if case.prepared is None else _made(case.prepared)),
        *((holder, _ending(case, holder)) for holder in announce.holders),
    ]


def _preparation(case: Case, announce: Prepare) -> list[Fact]:
    return [
        ("preparation", case.query.hex()),
        ("parameters", f"d {announce.dim}, {announce.preset}"),
        ("prepared", f"by {announce.requester} through {announce.router}, {_made(case)}"),
        *((holder, _readiness(case, holder)) for holder in announce.holders),
    ]


def _made(case: Case) -> str:
    assert case.announce is not None
    return f"with {', '.join(case.announce.holders)}, {_at(case)}"


def _at(case: Case) -> str:
    """When it was announced."""
    times = [item.record.time for view in case.views for item, _ in view.announcements()]
    return datetime.fromtimestamp(min(times) / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _readiness(case: Case, holder: str) -> str:
    """How a holder's part of a preparation ended."""
    signed = {message.phase for view in case.views for _, message in view.messages(Signature, holder)}
    if "prepared" in signed:
        return "ready"
    refused = ["the form check refused the mask"] if opened(case, FormBit, holder) is False else []
    return "; ".join([*refused, *_stops(case, holder)]) or "no end is shown"


def _stops(case: Case, holder: str) -> list[str]:
    stops = {
        f"{view.ends(item.record)[0]} stopped it ({message.code})"
        for view in case.views
        for session in (holder, WHOLE)
        for item, message in view.messages(Abort, session)
    }
    return sorted(stops)


def _ending(case: Case, holder: str) -> str:
    """How a holder's part ended. Nothing kept in evidence says whether anybody was found."""
    assert case.search is not None
    if case.terms is None:
        return "the terms cannot be read"
    verdicts: list[str] = []
    for view in case.views:
        for peer in case.roles:
            told = [message.verdict for _, message in view.messages(Rung, holder, peer=peer)]
            verdicts = max(verdicts, told, key=len)
    rungs = [f"{threshold:f}" for threshold in case.terms.rungs]
    climbs = [f"more than {case.search.cap} hits at {rung}" for rung, _ in zip(rungs, verdicts[:-1], strict=False)]
    if any(view.find("Release", holder) for view in case.views):
        used = rungs[min(len(verdicts), len(rungs)) - 1]
        return "; ".join([*climbs, f"answered at {used}, with {case.search.cap} candidates or fewer, or none"])
    stops = _stops(case, holder)
    if not verdicts and admitted(case, holder) is False:
        return "; ".join(["ended with admission: the probe was refused", *stops])
    if stops:
        return "; ".join([*climbs, *stops])
    if verdicts[-1:] == ["exhausted"]:
        return f"more than {case.search.cap} hits on every rung: nothing was released"
    return "; ".join([*climbs, "no end is shown"])
