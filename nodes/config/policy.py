"""What a node serves: `[policy]` of node.toml. It may be stricter than the defaults, and never below the floors."""

from __future__ import annotations

import re
from decimal import Decimal

import msgspec

from nodes.config.names import Purpose
from nodes.config.values import ConfigError, Section, once, within
from nodes.store.errors import CategoryNotAllowed
from nodes.store.subjects import DEFAULT_CATEGORIES, Category, check_categories
from pets.params import PRESETS

# The floors: no configuration may be looser. 0.30 is this project's figure and stands where law will set one: it is the
# loosest threshold that any node accepts. 99 is the largest cap the protocol has.
LAW_MINIMUM_THRESHOLD = Decimal("0.30")
MAX_CANDIDATES = 99
MAX_RUNGS = 9
MAX_WARRANT_SECONDS = 24 * 3600
MAX_SKEW_SECONDS = 600
MAX_RELEASES = 1000
MAX_WINDOW_DAYS = 366

_MAX_QUOTA = 1_000_000


NATIONAL_LAW_PURPOSES = {Purpose.MISSING_PERSON: Category.MISSING, Purpose.REMAINS: Category.REMAINS}
# What these purposes look at, and no other does (Article 29). Who has remains to name looks among the missing too.
_SEARCHED = {
    Purpose.MISSING_PERSON: frozenset({Category.MISSING}),
    Purpose.REMAINS: frozenset({Category.REMAINS, Category.MISSING}),
}
_ORDINARY = frozenset(Category) - frozenset().union(*_SEARCHED.values())


class NationalLaw(Section, frozen=True):
    """Citations of the national law that permits to hold and search these (Article 19(1), Article 29)."""

    victim: str | None = None
    missing: str | None = None
    remains: str | None = None

    @property
    def citations(self) -> dict[Category, str]:
        """Those that are given, for `nodes.store.GalleryStore`."""
        given = {Category.VICTIM: self.victim, Category.MISSING: self.missing, Category.REMAINS: self.remains}
        return {category: text for category, text in given.items() if text}


class PolicyConfig(Section, frozen=True):
    """What a node serves; without a word about `states` it serves nobody. `nodes.query.policy` applies it.

    `max_rungs`: thresholds a query may visit, the first included. Quotas are per state and UTC day (Article 23(1)).
    `releases_per_reference`: how often one reference is released to one state in `release_window_days` UTC days; what
    comes on top closes the node to it.

    The defaults follow from how fast answers give a template away (threat_model/README.md, "What answers give away").
    """

    states: tuple[str, ...] = ()
    purposes: tuple[Purpose, ...] = (Purpose.PREVENTION, Purpose.DETECTION, Purpose.INVESTIGATION)
    minimum_threshold: Decimal = LAW_MINIMUM_THRESHOLD
    max_candidates: int = 10
    minimum_ladder_step: Decimal = Decimal("0.02")
    max_rungs: int = MAX_RUNGS
    presets: tuple[str, ...] = tuple(PRESETS)
    quota_identified_per_day: int = 25
    quota_unidentified_per_day: int = 25
    releases_per_reference: int = 10
    release_window_days: int = 90
    max_warrant_age_seconds: int = MAX_WARRANT_SECONDS
    clock_skew_seconds: int = 120
    categories: tuple[Category, ...] = tuple(sorted(DEFAULT_CATEGORIES))
    national_law: NationalLaw = msgspec.field(default_factory=NationalLaw)

    def __post_init__(self) -> None:
        for state in self.states:
            if not re.fullmatch("[A-Z]{2}", state):
                raise ConfigError("policy.states", state, "each must be a state's code of two capital letters")
        for preset in self.presets:
            if preset not in PRESETS:
                raise ConfigError("policy.presets", preset, f"each must be one of {', '.join(PRESETS)}")
        for field in ("states", "purposes", "presets", "categories"):
            once(f"policy.{field}", getattr(self, field))
        self._check_numbers()
        self._check_national_law()

    def searched(self, purpose: Purpose) -> frozenset[Category]:
        """The categories held here that a query of this purpose looks at (Article 29)."""
        return frozenset(self.categories) & _SEARCHED.get(purpose, _ORDINARY)

    @property
    def findable(self) -> frozenset[Category]:
        """The categories held here that a query of any purpose served here looks at."""
        return frozenset().union(*(self.searched(purpose) for purpose in self.purposes))

    def _check_numbers(self) -> None:
        floor = LAW_MINIMUM_THRESHOLD
        if not self.minimum_threshold.is_finite() or not floor <= self.minimum_threshold < 1:
            raise ConfigError(
                "policy.minimum_threshold", self.minimum_threshold, f"must be at least {floor} (the floor) and below 1"
            )
        if not self.minimum_ladder_step.is_finite() or not Decimal("0.001") <= self.minimum_ladder_step < 1:
            raise ConfigError("policy.minimum_ladder_step", self.minimum_ladder_step, "must be from 0.001 to below 1")
        within("policy.max_candidates", self.max_candidates, 1, MAX_CANDIDATES)
        within("policy.max_rungs", self.max_rungs, 1, MAX_RUNGS)
        within("policy.quota_identified_per_day", self.quota_identified_per_day, 0, _MAX_QUOTA)
        within("policy.quota_unidentified_per_day", self.quota_unidentified_per_day, 0, _MAX_QUOTA)
        within("policy.releases_per_reference", self.releases_per_reference, 1, MAX_RELEASES)
        within("policy.release_window_days", self.release_window_days, 1, MAX_WINDOW_DAYS)
        within("policy.max_warrant_age_seconds", self.max_warrant_age_seconds, 60, MAX_WARRANT_SECONDS)
        within("policy.clock_skew_seconds", self.clock_skew_seconds, 0, MAX_SKEW_SECONDS)

    def _check_national_law(self) -> None:
        citations = self.national_law.citations
        try:
            check_categories(self.categories, citations)
        except CategoryNotAllowed as error:
            raise ConfigError("policy.categories", self.categories, f"{error}, in [policy.national_law]") from None
        for purpose, category in NATIONAL_LAW_PURPOSES.items():
            if purpose in self.purposes and category not in citations:
                limit = f"{purpose.value} needs a citation of national law: policy.national_law.{category.value}"
                raise ConfigError("policy.purposes", self.purposes, limit)
