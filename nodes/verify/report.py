"""What a verification says: one rule, what held, what broke, what could not be checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pets.errors import printable

CheckStatus = Literal["pass", "fail", "not-checkable"]
SHOWN = 20  # findings of one rule that are spelt out


@dataclass(frozen=True)
class Held:
    """The rule held here. `what` is shown only if it says more than the title."""

    what: str = ""


@dataclass(frozen=True)
class Broken:
    """The rule is broken: `where` names the message or the bundle, `why` what is wrong with it."""

    where: str
    why: str


@dataclass(frozen=True)
class Open:
    """Nothing given here can tell."""

    why: str


Finding: TypeAlias = Held | Broken | Open
Findings: TypeAlias = Iterator[Finding]


@dataclass(frozen=True)
class Check:
    """The outcome of one rule. A rule that held as far as it could be checked gives two: a pass and a not-checkable."""

    id: str
    title: str
    rule: str
    status: CheckStatus
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All checks. `subjects`: (query, owner, role, fingerprint) of the bundles given. `facts`: what they tell.
    `not_shown`: what no pass shows."""

    checks: tuple[Check, ...]
    subjects: tuple[tuple[str, str, str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    not_shown: str = ""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "fail")

    @property
    def holds(self) -> bool:
        """No check failed, and there were some."""
        return bool(self.checks) and not self.failed

    def count(self, status: CheckStatus) -> int:
        """How many checks ended so."""
        return sum(check.status == status for check in self.checks)


def conclude(identifier: str, title: str, rule: str, findings: Iterable[Finding]) -> list[Check]:
    """The checks that a rule's findings amount to: a fail; or a pass, or a not-checkable, or one of each."""
    held, broken, unknown = 0, [], []
    said: list[str] = []
    for finding in findings:
        if isinstance(finding, Held):
            held += 1
            if finding.what:
                said.append(finding.what)
        elif isinstance(finding, Broken):
            broken.append(f"{finding.where}: {finding.why}" if finding.where else finding.why)
        else:
            unknown.append(finding.why)
    checks = []
    if broken:
        checks.append(Check(identifier, title, rule, "fail", shorten(broken)))
    elif held:
        places = "1 place" if held == 1 else f"{held} places"
        checks.append(Check(identifier, title, rule, "pass", (*shorten(said), f"checked in {places}")))
    elif not unknown:
        checks.append(Check(identifier, title, rule, "pass", ("nothing of the kind is in the bundles",)))
    if unknown:
        checks.append(Check(identifier, title, rule, "not-checkable", shorten(unknown)))
    return checks


def shorten(lines: Sequence[str]) -> tuple[str, ...]:
    """Each line once, safe to show; the first of them, and how many more there are."""
    unique = tuple(dict.fromkeys(printable(line) for line in lines))
    return unique if len(unique) <= SHOWN else (*unique[:SHOWN], f"… and {len(unique) - SHOWN} more")
