"""What each warrant was used for, over all queries given: one probe, and each holder answers it once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nodes.verify.case import Case, View
from nodes.verify.report import Broken, Findings, Held
from protocol.messages import Warrant

Fact = tuple[str, str]
Number = tuple[str, str]  # state and request number


def answered_once(cases: Sequence[Case]) -> Findings:
    """One request number is one warrant, hence one probe; no holder began to answer two queries of it.

    A query that failed before a holder answered may be asked again: it carries the same warrant.
    """
    for (_, number), served in _by_number(cases).items():
        if len({warrant for warrant, _ in served}) > 1:
            yield Broken("", f"warrant {number}: its queries carry different warrants of this number")
        queries: dict[str, list[str]] = defaultdict(list)
        for _, case in served:
            for holder in answering(case):
                queries[holder].append(case.query.hex())
        for holder, answered in queries.items():
            if len(answered) > 1:
                yield Broken("", f"warrant {number}: {holder} answered {len(answered)} queries, {', '.join(answered)}")
            else:
                yield Held()


def uses(cases: Sequence[Case]) -> list[Fact]:
    """(what, text): how many of the queries given each warrant served, and which holders began to answer."""
    facts = []
    for (state, number), served in _by_number(cases).items():
        each = [f"{case.query.hex()[:8]}…: {', '.join(answering(case)) or 'nobody'}" for _, case in served]
        queries = "1 query" if len(each) == 1 else f"{len(each)} queries"
        facts.append((f"warrant {number}", f"of {state}, used for {queries}; began to answer: {'; '.join(each)}"))
    return facts


def answering(case: Case) -> list[str]:
    """The holders that sent anything that depends on the probe."""
    return [name for name in case.holders if any(_answers(view, name) for view in case.views)]


def _answers(view: View, holder: str) -> bool:
    """Whether a bundle shows that a holder sent the hash of u, or what comes of it."""
    said = (*view.find("DifferenceDigest", holder), *view.find("AdmissionScores", holder))
    return any(view.ends(item.record)[0] == holder for item in said)


def _by_number(cases: Sequence[Case]) -> dict[Number, list[tuple[Warrant, Case]]]:
    served: dict[Number, list[tuple[Warrant, Case]]] = defaultdict(list)
    for case in cases:
        if case.search is not None and (warrant := case.search.warrant) is not None:
            served[warrant.state, warrant.request_number].append((warrant, case))
    return served
