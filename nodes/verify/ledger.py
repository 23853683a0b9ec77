"""What a query revealed to whom, in bits at most, summed for each pair of nodes (protocol/DESIGN.md, 2.6, 2.9, 6).

Per session, with R agreed rungs of which r were compared, cap c and a gallery of m rows (whole blocks):

    holder      about the probe     r                       the cap bit of each rung, whatever the holder does
    holder      about the probe     32·(c+2)                power sums of the last one, whatever the holder does
    holder      about the probe     20 · c                  exact scores of its hits in the confirmation
    holder      about the probe     24 · 6·c - 20 · c       only if it asks for other numbers there; an audit finds it
    holder      about the probe     1                       the admission bit
    router      about the probe     1                       the admission bit
    requester   about the gallery   log2(R + 1)             on which rung the search ended, or that none was enough
    requester   about the gallery   1                       whether the confirmation held or froze the query
    requester   about the gallery   log2 Σ_{k≤c} C(m, k)    which rows were released, at most c reference numbers
    router      about the gallery   log2(R + 1), and 1      the same verdicts, the same freeze

A preparation reveals nothing: there is no probe yet, and its one bit is about the mask.

An upper bound on information, whatever a party does with it; honest parties learn less (a holder its own hits). Not
counted: what everybody is told of a gallery, its number of blocks and its salted commitment; times; messages that the
bundles given do not show, so a ledger without a bundle of each party bounds less than what was learnt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nodes.verify import table
from nodes.verify.case import Case

SUM_BITS = 32
SCORE_BITS = 20
SLOT = 6


@dataclass(frozen=True)
class Leak:
    """`learner` may have learnt at most `bits` about what `owner` keeps; `cheating`: in a way that an audit finds."""

    query: str
    learner: str
    owner: str
    subject: str
    what: str
    bits: float
    references: int = 0
    cheating: bool = False


def leakage(cases: Sequence[Case]) -> list[Leak]:
    """Every entry of the ledger for the bundles given."""
    return [leak for case in cases for holder in case.holders for leak in _session(case, holder)]


def totals(leaks: Iterable[Leak]) -> dict[tuple[str, str], tuple[float, float, int]]:
    """(learner, owner) -> bits, bits more by cheating, reference numbers; over all queries."""
    sums: dict[tuple[str, str], tuple[float, float, int]] = defaultdict(lambda: (0.0, 0.0, 0))
    for leak in leaks:
        bits, cheated, references = sums[leak.learner, leak.owner]
        sums[leak.learner, leak.owner] = (
            bits + (0 if leak.cheating else leak.bits),
            cheated + (leak.bits if leak.cheating else 0),
            references + leak.references,
        )
    return dict(sums)


def _session(case: Case, holder: str) -> list[Leak]:
    announce, shape, terms = case.search, case.shape(holder), case.terms
    if announce is None or shape is None or terms is None:
        return []
    query, cap = case.query.hex(), announce.cap
    requester, router = announce.requester, announce.router
    leaks: list[Leak] = []

    def add(learner: str, owner: str, what: str, bits: float, references: int = 0, cheating: bool = False) -> None:
        subject = "probe" if owner == requester else "gallery"
        leaks.append(Leak(query, learner, owner, subject, what, bits, references, cheating))

    if _seen(case, holder, "AdmissionBit"):
        for learner in (holder, router):
            add(learner, requester, "admission bit", 1)
    if rungs := _seen(case, holder, "CapBit"):
        add(holder, requester, f"whether more rows hit than the cap, {rungs} rung(s)", rungs)
    if opened := _seen(case, holder, "PowerSums"):
        add(holder, requester, "power sums", opened * SUM_BITS * (cap + 2))
    if _seen(case, holder, "ConfirmationAnswer"):
        scores, words = SCORE_BITS * cap, table.SHARE_BITS * SLOT * cap
        add(holder, requester, f"exact scores of at most {cap} hits", scores)
        add(holder, requester, "confirmation, if it asked for chosen numbers", words - scores, cheating=True)
        for learner in (requester, router):
            add(learner, holder, "whether the confirmation held", 1)
    if _seen(case, holder, "CapBit") or _seen(case, holder, "Rung"):
        endings = math.log2(len(terms.rungs) + 1)
        for learner in (requester, router):
            add(learner, holder, "rung on which it ended", endings)
    if _seen(case, holder, "Release"):
        rows = shape.blocks * shape.n
        ways = sum(math.comb(rows, k) << k for k in range(min(cap, rows) + 1))  # each is contested or not
        add(requester, holder, f"released rows and their marks, at most {cap}", math.log2(ways), references=cap)
    return leaks


def _seen(case: Case, holder: str, kind: str) -> int:
    """The largest number of messages of a kind on one link of a session, in any bundle."""
    counts: dict[tuple[str, str, str], int] = defaultdict(int)
    for view in case.views:
        for item in view.find(kind, holder):
            link = (view.owner, *view.ends(item.record))
            counts[link] += 1
    return max(counts.values(), default=0)
