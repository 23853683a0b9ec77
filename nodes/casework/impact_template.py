"""Templates of two impact assessments (data protection, fundamental rights), filled with what a node knows of itself.

What only people know is marked TO FILL: the software fills in no judgement.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal

from nodes.config.schema import NodeConfig, Role

Kind = Literal["dpia", "fria"]
FILL = "**TO FILL:**"


def template(config: NodeConfig, kind: Kind, today: date) -> str:
    """Markdown, to be completed by people. `kind`: dpia (LED 27) or fria (AIA 27)."""
    parts = _dpia(config) if kind == "dpia" else _fria(config)
    title = {
        "dpia": "Data-protection impact assessment (LED 27; R 50(4))",
        "fria": "Fundamental-rights impact assessment (AIA 27)",
    }
    head = (
        f"# {title[kind]}\n\nNode {config.name} ({config.role.value}), drafted on {today} from its configuration. The "
        f"facts below are the software's; every judgement is people's. {FILL} who assesses, and when.\n"
    )
    return head + "".join(f"\n## {name}\n\n{text.strip()}\n" for name, text in parts)


def _dpia(config: NodeConfig) -> Iterable[tuple[str, str]]:
    return (
        ("1. The processing", _processing(config)),
        ("2. Persons and data", _persons(config)),
        ("3. Necessity and proportionality", f"""
Searches need a case, an offence with a maximum penalty of at least one year, and one probe (R 20(1)); there is no bulk
query. Limits of this node: {_limits(config)}.

{FILL} why these purposes, this threshold and these limits are necessary and proportionate here; the national law."""),
        ("4. How long data are kept", _retention(config)),
        ("5. Who sees what", """
The router sees no template, score, image or identity. A holder sees the probe only as far as its own hits imply it. A
requester sees candidates that were confirmed a second time, never more than the cap. Assumption: of the three parties
of a search at most one is curious; two together can learn scores, and from some hundreds of queries templates.
`threat_model/README.md` of the software lists every gain with its bound."""),
        ("6. Risks to persons", _risks()),
        ("7. Measures", _measures(config)),
        ("8. Data-protection officer, consultation", f"{FILL} opinion, date; prior consultation (LED 28)."),
    )  # fmt: skip


def _fria(config: NodeConfig) -> Iterable[tuple[str, str]]:
    return (
        ("1. The processes in which it is used (27(1)(a))", _processing(config)),
        ("2. Period and frequency (27(1)(b))", f"{_limits(config)}.\n\n{FILL} from when, how often."),
        ("3. Persons and groups affected (27(1)(c))", _persons(config)),
        ("4. Risks of harm (27(1)(d))", _risks()),
        ("5. Human oversight (27(1)(e))", _oversight(config)),
        ("6. If a risk materialises; complaints (27(1)(f))", f"""
A holder recalls what it gave, and receivers answer with signed receipts within 48 hours; a contested mark travels with
a candidate. A search whose judicial authorisation is refused is stopped, and all linked to it deleted (AIA 26(10)).

{FILL} governance, complaint mechanism, who is told and when."""),
    )  # fmt: skip


def _processing(config: NodeConfig) -> str:
    does = {
        Role.REQUESTER: "asks other states' galleries whether one face is among theirs",
        Role.HOLDER: "lets other states ask whether one face is in its gallery, and shows candidates",
        Role.ROUTER: "carries searches between states, and logs who asked whom",
    }[config.role]
    purposes = ", ".join(purpose.value for purpose in config.policy.purposes)
    states = ", ".join(config.policy.states) or "none"
    return f"""
This node {does}. Purposes it accepts: {purposes}. States whose searches it accepts: {states}.

{FILL} controller, processors, legal basis in national law, systems connected."""


def _persons(config: NodeConfig) -> str:
    categories = ", ".join(category.value for category in config.policy.categories)
    law = "; ".join(f"{category.value}: {text}" for category, text in config.policy.national_law.citations.items())
    return f"""
Categories held and searched: {categories}. National law cited for victims, missing persons or remains: {law or "none"}.
Data: face images and templates (biometric data, LED 10), reference numbers, quality, status and contested marks; of
confirmed matches core data (R 47(4): eleven fields; R 47(5): four); of staff names, roles and public keys.

{FILL} how many persons, since when, which groups are over-represented, children."""


def _limits(config: NodeConfig) -> str:
    policy = config.policy
    return (
        f"threshold at least {policy.minimum_threshold}, at most {policy.max_candidates} candidates a search, "
        f"{policy.quota_identified_per_day} and {policy.quota_unidentified_per_day} searches a state and day for "
        f"identified and unidentified persons, one person shown to one state at most {policy.releases_per_reference} "
        f"times in {policy.release_window_days} days, image quality at least {config.casework.minimum_quality} of 100 "
        "in every component"
    )


def _retention(config: NodeConfig) -> str:
    casework = config.casework
    return f"""
Logs and evidence: three years (R 40(3)), longer only on a supervisor's signed order. Sealed for audits:
{config.retention.sealed_days} days. Candidates received and not confirmed: deleted at once when no reviewer finds the
same person, else after {casework.candidate_days} days. Core data: {casework.core_data_days} days. Probes:
{casework.query_days} days. Gallery: each subject has a date after which it is deleted.

{FILL} why each of these is no longer than necessary."""


def _risks() -> str:
    return f"""
Known, with figures where there are some: a false match (`lineup case report` gives false-match and disagreement
rates); a template rebuilt from many answers (some hundreds of adaptive queries); two parties that collude; error rates
that differ between groups (not measured by this software: no labels); a person found who should not have been searched.

{FILL} likelihood and severity of each here, for which groups; others."""


def _measures(config: NodeConfig) -> str:
    return f"""
Encryption end to end and at rest; signed, tamper-evident logs that a supervisor verifies offline; limits above; every
look at personal data written down with its reason. {_oversight(config)}"""


def _oversight(config: NodeConfig) -> str:
    casework = config.casework
    review = (
        f"one reviewer, under {casework.single_review_law}"
        if casework.single_review_law
        else "two reviewers, independent and blind: no rank, no score, no other's word before one's own is locked"
    )
    approval = (
        "always" if casework.require_approval else "as soon as staff is enrolled (`casework.require_approval` is off)"
    )
    authorisation = "required within 48 hours" if casework.require_authorisation else "noted, not required here"
    return f"""
A second person signs each search before it begins: {approval}. Review: {review}. Both sign a confirmed match.
Core data are asked for and released by persons, signed. Judicial authorisation: {authorisation} (AIA 26(10)).

{FILL} training of reviewers, their number, their independence."""
