"""All rules, in the order in which a report shows them, each with the article or design section it stands for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nodes.verify import (
    rules_follow_up,
    rules_identity,
    rules_links,
    rules_log,
    rules_preparation,
    rules_search,
    rules_terms,
    rules_warrants,
)
from nodes.verify.case import Case, Kind, View
from nodes.verify.facts import facts_of
from nodes.verify.format import Bundle, EvidenceRefused, SignedBundle, decode_bundle, preparation_inside
from nodes.verify.report import Check, Finding, Findings, Report, conclude
from nodes.verify.trust import Trust
from pets.errors import printable

CaseRule = Callable[[Case], Findings]
AllRule = Callable[[Sequence[Case]], Findings]


@dataclass(frozen=True)
class Rule:
    """One rule. `source`: section of protocol/DESIGN.md, article of R = Regulation (EU) 2024/982, RFC.

    `of`: the kind of conversation that it is about, None for both.
    """

    id: str
    title: str
    source: str
    each: CaseRule | None = None
    together: AllRule | None = None
    of: Kind | None = None

    def apply(self, cases: Sequence[Case]) -> Iterable[Finding]:
        """What the rule finds in all conversations given."""
        if self.together is not None:
            return self.together(cases)
        assert self.each is not None
        return (finding for case in cases if self.of in (None, case.kind) for finding in self.each(case))


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
    Rule("same-content", "What must be the same for several parties is the same", "design 2.8, 5, 6",
         rules_links.same_content),
    Rule("announcement", "One announcement, signed by the requester, the same for all", "design 5, 6, 6a; R 24(1)",
         rules_terms.announcement),
    Rule("warrant", "The query carries a valid warrant of the requesting state",
         "design 2.8, 6a; R 20(1), 24(1), 33(2)", rules_terms.warrant, of="search"),
    Rule("warrant-once", "Each holder answered a warrant once, and a warrant is one", "design 2.8, 6a; R 24(1)",
         together=rules_warrants.answered_once),
    Rule("parameters", "Parameters are in the verifier's security table", "design 3", rules_terms.parameters),
    Rule("threshold", "Threshold, ladder and cap are within limits; theta recomputed", "design 4, 6a; R 23(2)",
         rules_terms.thresholds, of="search"),
    Rule("query-id", "What identifies a query or preparation comes from its announcement and all answers",
         "design 5, 6", rules_terms.derived_ids),
    Rule("one-key", "Two parties told every holder the key, and told it the same", "design 5",
         rules_preparation.one_key, of="preparation"),
    Rule("one-mask", "Every holder got the same mask, and the router compared its hash", "design 5",
         rules_preparation.one_mask, of="preparation"),
    Rule("form", "The mask was checked by all before any row was scored", "design 2.5, 5", rules_preparation.form,
         of="preparation"),
    Rule("compared", "Requester and router compared what a holder sent to both", "design 5, 6",
         rules_preparation.compared),
    Rule("preparation", "The query used a preparation made for it, which every party shows", "design 5, 6",
         rules_preparation.named, of="search"),
    Rule("preparation-once", "A preparation served one query", "design 6", together=rules_preparation.used_once),
    Rule("preparation-age", "A preparation was used before it was too old", "design 7", rules_preparation.in_time,
         of="search"),
    Rule("version", "Each holder searched the gallery that it had prepared", "design 5, 6", rules_preparation.versions,
         of="search"),
    Rule("one-probe", "Every holder was asked for the same face", "design 6", rules_preparation.one_probe,
         of="search"),
    Rule("admission", "The probe was admitted before anything was opened", "design 2.5, 6", rules_search.admission,
         of="search"),
    Rule("one-opening", "Each party opens once a rung", "design 2.6, 6", rules_search.openings, of="search"),
    Rule("rungs", "No more rungs than agreed, the same verdict to both", "design 2.6, 6a; R 23(2)",
         rules_search.rungs, of="search"),
    Rule("confirmation", "The confirmation block was signed before it was answered, once", "design 2.7, 6",
         rules_search.confirmation, of="search"),
    Rule("release", "Nothing was released without its confirmation", "design 2.7, 6; R 24(2)",
         rules_search.releases, of="search"),
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
    Rule("launch-approval", "A second person approved this search before it began", "R rec. 29, 20(2); AIA 14(5)",
         rules_follow_up.launches, of="search"),
    Rule("follow-up-signature", "Statements of the follow-up are signed, allowed, and shown by both ends",
         "R 20(2), 47, 64", rules_follow_up.statements_signed),
    Rule("follow-up-log", "Every statement is in its party's transcript log", "R 40(2); RFC 9162, 2.1.3",
         rules_follow_up.statements_logged),
    Rule("two-reviewers", "Two persons confirmed each match, each with a key of their own", "R 20(2); AIA 14(5)",
         rules_follow_up.reviews),
    Rule("core-data", "Core data follow a confirmed match and two signed decisions", "R 47(1), (4)-(6)",
         rules_follow_up.core_data_conditions),
    Rule("core-data-clock", "Core data were answered within 48 hours, pauses apart", "R 47(1)-(2)",
         rules_follow_up.core_data_clock),
    Rule("recall", "What was recalled is deleted within 48 hours after the recall arrived", "R 51(3), 64(1)(m)",
         rules_follow_up.recalls_answered),
)  # fmt: skip


NOT_SHOWN = (
    "No pass shows what is in messages that are kept as hashes, hence whether mask, probe, gallery and scores were "
    "honest (`lineup audit` on site does, but for gates changed inside the comparison); nor a message that both its "
    "ends leave out or what was said outside the protocol; nor the offence behind the warrant (R 20(1)), nor how "
    "carefully a person reviewed a candidate (R 20(2)), nor that two keys are two persons', which only their node "
    "vouches for; nor what the logs of Article 40(1) hold."
)


def verify_bundles(bundles: Sequence[bytes | tuple[SignedBundle, Bundle]], trust: Trust | None = None) -> Report:
    """Check all rules on bundles of one query or several, or of preparations. `trust`: from `load_trust`.

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
        if not view.inside
    )
    told = [*(fact for case in cases for fact in facts_of(case)), *rules_warrants.uses(cases)]
    facts = ((printable(subject), printable(text)) for subject, text in told)
    return Report(tuple(checks), subjects, tuple(facts), NOT_SHOWN)


def make_cases(bundles: Sequence[bytes | tuple[SignedBundle, Bundle]], trust: Trust | None = None) -> list[Case]:
    """The bundles, decoded and gathered: first searches, each with its preparation as `prepared`, then preparations.

    Raises `EvidenceRefused`.
    """
    if not bundles:
        raise EvidenceRefused("no evidence bundle was given")
    given = [decode_bundle(item) if isinstance(item, bytes) else item for item in bundles]
    gathered: dict[bytes, list[Given]] = defaultdict(list)
    for signed, bundle in given:
        gathered[bundle.query].append((signed, bundle, False))
    for _, bundle in given:
        if (inside := preparation_inside(bundle)) is not None:
            gathered[inside[1].query].append((*inside, True))
    several = len({bundle.query for _, bundle in given}) > 1
    cases = [_case(query, views, trust, several) for query, views in gathered.items()]
    made = {case.derived_id: case for case in cases if case.kind == "preparation" and case.derived_id is not None}
    for case in cases:
        if case.search is not None:
            case.prepared = made.get(case.search.preparation)
    return sorted(cases, key=lambda case: case.kind == "preparation")


Given = tuple[SignedBundle, Bundle, bool]


def _case(query: bytes, given: Sequence[Given], trust: Trust | None, several: bool) -> Case:
    """`several`: whether findings must say which conversation they are about."""
    once = list({signed: (signed, bundle, inside) for signed, bundle, inside in reversed(given)}.values())[::-1]
    unnamed = Case(query, [View(signed, bundle, "", inside) for signed, bundle, inside in once], trust)
    label = f"{unnamed.name}, " if several else "preparation, " if unnamed.kind == "preparation" else ""
    return Case(query, [View(signed, bundle, label, inside) for signed, bundle, inside in once], trust)
