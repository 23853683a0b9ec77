"""All rules, in the order in which a report shows them, each with the article or design section it stands for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nodes.verify import rules_identity, rules_links, rules_log, rules_search, rules_terms, rules_warrants
from nodes.verify.case import Case, View
from nodes.verify.facts import facts_of
from nodes.verify.format import Bundle, EvidenceRefused, SignedBundle, decode_bundle
from nodes.verify.report import Check, Finding, Findings, Report, conclude
from nodes.verify.trust import Trust
from pets.errors import printable

CaseRule = Callable[[Case], Findings]
AllRule = Callable[[Sequence[Case]], Findings]


@dataclass(frozen=True)
class Rule:
    """One rule. `source`: section of protocol/DESIGN.md, article of R = Regulation (EU) 2024/982, RFC."""

    id: str
    title: str
    source: str
    each: CaseRule | None = None
    together: AllRule | None = None

    def apply(self, cases: Sequence[Case]) -> Iterable[Finding]:
        """What the rule finds in all queries given."""
        if self.together is not None:
            return self.together(cases)
        assert self.each is not None
        return (finding for case in cases for finding in self.each(case))


RULES = (
    Rule("bundle-signature", "Each bundle is signed by its owner", "design 2.8; R 55",
         rules_identity.bundle_signatures),
    Rule("identity", "Each party is known and took part in its role", "design 1, 2.8", rules_identity.identities),
    Rule("schema", "Messages follow the closed schemas and have the recorded hash", "design 6a; R 24(1)-(2)",
         rules_links.closed_schema),
    Rule("order", "Each link carries only what is allowed, in order", "design 6a", rules_links.allowed_order),
    Rule("phase-signature", "Every phase is signed over all that was said", "design 2.8, 6a",
         rules_identity.phase_signatures),
    Rule("both-ends", "What one party sent is what the other received", "design 2.8, 6a", rules_links.both_ends),
    Rule("same-content", "What must be the same for several parties is the same", "design 2.8, 5",
         rules_links.same_content),
    Rule("announcement", "One announcement, signed by the requester, the same for all", "design 6a; R 24(1)",
         rules_terms.announcement),
    Rule("warrant", "The query carries a valid warrant of the requesting state",
         "design 2.8, 6a; R 20(1), 24(1), 33(2)", rules_terms.warrant),
    Rule("warrant-once", "Each holder answered a warrant once, and a warrant is one", "design 2.8, 6a; R 24(1)",
         together=rules_warrants.answered_once),
    Rule("parameters", "Parameters are in the verifier's security table", "design 3", rules_terms.parameters),
    Rule("threshold", "Threshold, ladder and cap are within limits; theta recomputed", "design 4, 6a; R 23(2)",
         rules_terms.thresholds),
    Rule("query-id", "The query id comes from this announcement and all nonces", "design 5",
         rules_terms.query_identity),
    Rule("key-commitment", "The key's commitment was opened; all were told the same key", "design 5",
         rules_terms.key_commitment),
    Rule("admission", "The probe was admitted before anything was opened", "design 2.5, 5", rules_search.admission),
    Rule("one-opening", "Each party opens once a rung", "design 2.6, 5", rules_search.openings),
    Rule("rungs", "No more rungs than agreed, the same verdict to both", "design 2.6, 6a; R 23(2)", rules_search.rungs),
    Rule("confirmation", "The confirmation block was signed before it was answered, once", "design 2.7, 6",
         rules_search.confirmation),
    Rule("release", "Nothing was released without its confirmation", "design 2.7, 6; R 24(2)",
         rules_search.releases),
    Rule("cap", "No message is longer than cap, d and rows dictate", "design 2.6, 6a; R 23(2)", rules_links.sizes),
    Rule("answered-once", "Nobody answered twice differently; nothing fresh was used twice", "design 2.8, 8",
         together=rules_links.answered_once),
    Rule("log-inclusion", "Every message is in its party's transcript log", "design 2.8; RFC 9162, 2.1.3; R 40(2)",
         rules_log.inclusion),
    Rule("log-checkpoint", "Checkpoints are signed by the log's owner", "design 2.8; RFC 9162",
         rules_log.checkpoints_signed),
    Rule("log-consistency", "No log showed two histories", "design 2.8; RFC 9162, 2.1.4; R 40(2)",
         together=rules_log.logs_consistent),
    Rule("clock", "Clocks run forwards and agree", "design 2.8; R 40(1)", rules_log.clocks),
)  # fmt: skip


NOT_SHOWN = (
    "No pass shows what is in messages that are kept as hashes, hence whether probe, gallery and scores were honest "
    "(`lineup audit` on site does, but for gates changed inside the comparison); nor a message that both its ends "
    "leave out or what was said outside the protocol; nor the offence behind the warrant (R 20(1)), nor that a person "
    "reviewed a candidate (R 20(2)); nor what the logs of Article 40(1) hold."
)


def verify_bundles(bundles: Sequence[bytes | tuple[SignedBundle, Bundle]], trust: Trust | None = None) -> Report:
    """Check all rules on bundles of one query or several. `trust`: from `load_trust`.

    Without a trust list signatures are checked with the keys that the bundles state, which shows only that they fit
    each other; the report says so. Raises `EvidenceRefused` for bytes that are no bundle, and for none at all.
    """
    cases = make_cases(bundles, trust)
    checks: list[Check] = []
    for rule in RULES:
        checks += conclude(rule.id, rule.title, rule.source, rule.apply(cases))
    subjects = tuple(
        (case.query.hex(), view.owner, view.bundle.owner.role, view.key.fingerprint.hex())
        for case in cases
        for view in case.views
    )
    told = [*(fact for case in cases for fact in facts_of(case)), *rules_warrants.uses(cases)]
    facts = ((printable(subject), printable(text)) for subject, text in told)
    return Report(tuple(checks), subjects, tuple(facts), NOT_SHOWN)


def make_cases(bundles: Sequence[bytes | tuple[SignedBundle, Bundle]], trust: Trust | None = None) -> list[Case]:
    """The bundles, decoded and gathered by query. Raises `EvidenceRefused`."""
    if not bundles:
        raise EvidenceRefused("no evidence bundle was given")
    by_query: dict[bytes, list[tuple[SignedBundle, Bundle]]] = defaultdict(list)
    for item in bundles:
        signed, bundle = decode_bundle(item) if isinstance(item, bytes) else item
        by_query[bundle.query].append((signed, bundle))
    return [
        Case(query, [View(*pair, "" if len(by_query) == 1 else f"query {query.hex()[:8]}, ") for pair in given], trust)
        for query, given in by_query.items()
    ]
