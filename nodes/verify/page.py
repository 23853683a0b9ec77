"""A report as text, as data for machines, and as one self-contained page. No script, no font, no address outside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from nodes.verify.ledger import Leak, totals
from nodes.verify.report import Report

LABELS = {"pass": "pass", "fail": "FAIL", "not-checkable": "not checkable"}
_COLOURS = {"pass": "green", "fail": "bold red", "not-checkable": "yellow"}
_BOUNDS = (
    "Upper bounds, whatever a party does with what it receives; summed over all queries, as far as the bundles given "
    "show them: where one is missing, more may have been learnt"
)
_SHORT = 3  # details of a check that held, on a terminal


def summary(report: Report) -> str:
    """One line, and the names of what failed."""
    word = "All that could be checked holds" if report.holds else "EVIDENCE DOES NOT HOLD"
    failed = f" ({', '.join(check.id for check in report.failed)})" if report.failed else ""
    return (
        f"{word}: {report.count('pass')} checks passed, {report.count('fail')} failed{failed}, "
        f"{report.count('not-checkable')} could not be made"
    )


def print_report(report: Report, leaks: Sequence[Leak], console: Console) -> None:
    """What happened, a table of checks, the failed ones spelt out, and the ledger."""
    if report.facts:
        facts = Table(title="What the bundles tell", expand=True, show_header=False)
        facts.add_column(no_wrap=True, min_width=13)
        facts.add_column(ratio=1, overflow="fold")
        for subject, told in report.facts:
            facts.add_row(subject, escape_markup(told), end_section=subject == "prepared")
        bundles = ", ".join(f"{owner} ({role})" for _, owner, role, _ in report.subjects)
        facts.add_row("bundles", bundles)
        console.print(facts)
    table = Table(title="Checks", expand=True, padding=(0, 1))
    table.add_column("status", no_wrap=True, min_width=13)
    table.add_column("check, and the rule it stands for", ratio=2, overflow="fold")
    table.add_column("details", ratio=3, overflow="fold")  # a fingerprint is compared to its last digit
    for check in report.checks:
        shown = check.details if check.status == "fail" else check.details[:_SHORT]
        rest = len(check.details) - len(shown)
        details = "\n".join((*shown, *((f"… and {rest} more: --json shows all",) if rest else ())))
        colour = _COLOURS[check.status]
        status = f"[{colour}]{LABELS[check.status]}[/{colour}]"
        name = f"{check.title}\n[dim]{check.id} ({escape_markup(check.rule)})[/dim]"
        table.add_row(status, name, escape_markup(details), end_section=True)
    console.print(table)
    if leaks:
        ledger = Table("who learnt", "about", "bits at most", "references", "more bits by cheating, found in an audit",
                       title=f"Leakage ledger. {_BOUNDS}", expand=True)  # fmt: skip
        for (learner, owner), (bits, cheated, references) in sorted(totals(leaks).items()):
            ledger.add_row(learner, owner, f"{bits:.0f}", str(references or ""), f"{cheated:.0f}" if cheated else "")
        console.print(ledger)
    if report.not_shown:
        console.print(report.not_shown, highlight=False, markup=False)
    console.print(summary(report), highlight=False, soft_wrap=True)


def as_data(report: Report, leaks: Sequence[Leak]) -> dict[str, Any]:
    """The report for machines."""
    return {
        "holds": report.holds,
        "not_shown": report.not_shown,
        "counts": {status: report.count(status) for status in LABELS},  # type: ignore[arg-type]
        "told": [{"subject": subject, "what": told} for subject, told in report.facts],
        "bundles": [
            {"query": query, "party": owner, "role": role, "fingerprint": fingerprint}
            for query, owner, role, fingerprint in report.subjects
        ],
        "checks": [
            {"id": c.id, "title": c.title, "rule": c.rule, "status": c.status, "details": list(c.details)}
            for c in report.checks
        ],
        "ledger": [
            {"query": x.query, "learner": x.learner, "owner": x.owner, "about": x.subject, "what": x.what,
             "bits": round(x.bits, 1), "references": x.references, "only_by_cheating": x.cheating}
            for x in leaks
        ],
        "ledger_totals": [
            {"learner": learner, "owner": owner, "bits": round(bits, 1), "bits_by_cheating": round(cheated, 1),
             "references": references}
            for (learner, owner), (bits, cheated, references) in sorted(totals(leaks).items())
        ],
    }  # fmt: skip


def as_page(report: Report, leaks: Sequence[Leak], title: str = "Blind Lineup: evidence of a query") -> str:
    """The report as HTML, readable on paper too."""
    bundles = "".join(
        f"<tr><td>{escape(owner)}</td><td class='role'>{escape(role)}</td><td><code>{escape(query)}</code></td>"
        f"<td><code>{escape(_grouped(fingerprint))}</code></td></tr>"
        for query, owner, role, fingerprint in report.subjects
    )
    failed = "".join(
        f"<li>Rule <strong>{escape(check.id)}</strong>, “{escape(check.title)}” "
        f"<span class='rule'>({escape(check.rule)})</span>"
        f"{_list(check.details)}</li>"
        for check in report.failed
    )
    checks = "".join(
        f"<tr class='{check.status}'><td>{escape(check.title)}<br><span class='rule'>{escape(check.id)}</span></td>"
        f"<td class='status'>{LABELS[check.status]}</td><td class='rule'>{escape(check.rule)}</td>"
        f"<td>{_list(check.details)}</td></tr>"
        for check in report.checks
    )
    sums = "".join(
        f"<tr><td>{escape(learner)}</td><td>{escape(owner)}</td><td class='number'>{bits:.0f}</td>"
        f"<td class='number'>{references or ''}</td><td class='number'>{f'{cheated:.0f}' if cheated else ''}</td></tr>"
        for (learner, owner), (bits, cheated, references) in sorted(totals(leaks).items())
    )
    entries = "".join(
        f"<tr><td><code>{escape(leak.query[:8])}</code></td><td>{escape(leak.learner)}</td>"
        f"<td>{escape(leak.subject)} of {escape(leak.owner)}</td>"
        f"<td>{escape(leak.what)}</td><td class='number'>{leak.bits:.1f}</td></tr>"
        for leak in leaks
    )
    facts = "".join(f"<tr><td>{escape(subject)}</td><td>{escape(told)}</td></tr>" for subject, told in report.facts)
    verdict = "holds" if report.holds else "broken"
    parts = [
        f"<h1>{escape(title)}</h1><p class='verdict {verdict}'>{escape(summary(report))}.</p>"
        f"<p class='note'>{escape(report.not_shown)}</p>",
        f"<h2>Rules that were broken</h2><ul class='failed'>{failed}</ul>" if failed else "",
        "<h2>What the bundles tell</h2><p class='note'>Whether it is true, the checks say. No bundle shows "
        f"whether a candidate was released.</p><table>{facts}</table>" if facts else "",
        "<h2>Bundles</h2><table><tr><th>Party</th><th>Role</th><th>Query or preparation</th>"
        "<th>Fingerprint of its key</th></tr>"
        f"{bundles}</table>" if bundles else "",
        "<h2>Checks</h2><table><tr><th>Check</th><th>Status</th><th>Rule</th><th>Details</th></tr>"
        f"{checks}</table>"
        "<p class='note'>“design” is protocol/DESIGN.md; R is Regulation (EU) 2024/982. A check that could be made "
        "only in part has two lines. Candidates are candidates, not identified persons.</p>",
        "<h2>Leakage ledger</h2><p class='note'>" + _BOUNDS + ".</p>"
        "<table><tr><th>Who learnt</th><th>about what</th><th>Bits at most</th><th>References</th>"
        "<th>More bits by cheating that an audit finds</th></tr>"
        f"{sums}</table><h3>Entry by entry</h3><table><tr><th>Query</th><th>Who</th><th>About</th><th>What</th>"
        f"<th>Bits</th></tr>{entries}</table>" if leaks else "",
    ]  # fmt: skip
    return f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>" \
           f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"  # fmt: skip


def _list(details: Sequence[str]) -> str:
    if len(details) < 2:
        return escape("".join(details))
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in details) + "</ul>"


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[start : start + 8] for start in range(0, len(fingerprint), 8))


_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem;margin:0 0 .6rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .4rem}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;background:#f2f4f7}
th,td{border:1px solid #d5dae1;padding:.4rem .6rem;vertical-align:top;overflow-wrap:anywhere}
td:first-child{min-width:11rem}th{white-space:nowrap}ul{margin:.1rem 0;padding-left:1.1rem}code{font-size:.85em}
.rule{color:#5a6472;font-size:.88em}.number{text-align:right;font-variant-numeric:tabular-nums}
.status,.role{white-space:nowrap}.status{font-weight:600}
.pass .status{color:#17663a}.fail .status{color:#fff;background:#b3261e}
.not-checkable .status{color:#7a5200}.fail td{background:#fdf1f0}.not-checkable td{background:#fffaf0}
.verdict{padding:.7rem 1rem;border-left:6px solid;font-size:1.1rem;font-weight:600}
.verdict.holds{border-color:#17663a;background:#effaf3}.verdict.broken{border-color:#b3261e;background:#fdf1f0}
.note{color:#5a6472;font-size:.9em}.failed>li{margin-bottom:.5rem}
@media print{body{margin:0;max-width:none}tr{break-inside:avoid}}
"""
