"""What a policy serves: each reason to refuse, at both sides of its limit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.config.schema import NationalLaw, PolicyConfig, Purpose
from nodes.query.policy import Policy, PolicyRefused, Reason
from nodes.store import Category, Status, StorageKey
from nodes.store.errors import QuotaExceeded
from nodes.store.store import GalleryStore
from pets.params import N4096
from protocol.messages import ABORT_CODES
from protocol.terms import Terms

NOW = 1_800_000_000.0
DAY = 24 * 3600
QUERY: dict[str, Any] = {
    "requester_state": "FR",
    "purpose": "INVESTIGATION",
    "threshold": Decimal("0.55"),
    "cap": 10,
    "ladder": Decimal("0.02"),
    "preset": "n4096_q60_t20",
    "issued": NOW - 60,
    "expires": NOW + 3600,
    "now": NOW,
}


def no_quota(state: str, status: Status, day: date, limit: int) -> int:
    raise AssertionError("a check must count nothing")


def no_releases(state: str, references: Sequence[str], day: date, days: int) -> int:
    raise AssertionError("nothing is released here")


def policy(**change: Any) -> Policy:
    return Policy(PolicyConfig(**{"states": ("FR",), **change}), no_quota, no_releases)


def test_a_query_within_the_policy_is_served() -> None:
    policy().check_query(**QUERY)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"requester_state": "DE"}, Reason.STATE),
        ({"requester_state": ""}, Reason.STATE),
        ({"purpose": "MISSING-PERSON"}, Reason.PURPOSE),
        ({"purpose": "REMAINS"}, Reason.PURPOSE),
        ({"purpose": "investigation"}, Reason.PURPOSE),
        ({"threshold": Decimal("0.2999999")}, Reason.THRESHOLD),
        ({"threshold": Decimal(1)}, Reason.THRESHOLD),
        ({"threshold": Decimal("-0.5")}, Reason.THRESHOLD),
        ({"threshold": Decimal("nan")}, Reason.THRESHOLD),
        ({"threshold": Decimal("inf")}, Reason.THRESHOLD),
        ({"cap": 11}, Reason.CAP),
        ({"cap": 0}, Reason.CAP),
        ({"ladder": Decimal("0.019")}, Reason.PARAMETERS),
        ({"ladder": Decimal(1)}, Reason.PARAMETERS),
        ({"ladder": Decimal("-0.02")}, Reason.PARAMETERS),
        ({"ladder": Decimal("nan")}, Reason.PARAMETERS),
        ({"preset": "n1024"}, Reason.PARAMETERS),
        ({"issued": NOW + 121}, Reason.CLOCK),
        ({"issued": float("nan")}, Reason.CLOCK),
        ({"expires": NOW - 121, "issued": NOW - 600}, Reason.WARRANT_EXPIRED),
        ({"expires": NOW - 60}, Reason.WARRANT_EXPIRED),
        ({"expires": float("nan")}, Reason.WARRANT_EXPIRED),
        ({"issued": NOW - DAY - 121}, Reason.WARRANT_TOO_OLD),
    ],
)
def test_a_query_outside_the_policy_is_refused(change: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(PolicyRefused) as caught:
        policy().check_query(**{**QUERY, **change})
    assert caught.value.reason is reason
    assert caught.value.code in ABORT_CODES


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": Decimal("0.30"), "ladder": Decimal(0)},
        {"threshold": Decimal("0.95")},
        {"cap": 1},
        {"issued": NOW + 120},
        {"issued": NOW - DAY - 120},
        {"issued": NOW - 600, "expires": NOW - 120},
        {"preset": "n8192_q60_t20"},
    ],
)
def test_a_query_at_the_limit_is_served(change: dict[str, Any]) -> None:
    policy().check_query(**{**QUERY, **change})


def test_every_reason_has_a_code_that_a_peer_may_be_told() -> None:
    for reason in Reason:
        assert PolicyRefused(reason, "").code in ABORT_CODES


def test_without_a_word_about_states_nobody_is_served() -> None:
    with pytest.raises(PolicyRefused, match="may not ask here"):
        Policy(PolicyConfig(), no_quota, no_releases).check_query(**QUERY)


def test_missing_persons_are_served_where_national_law_says_so() -> None:
    lawful = policy(purposes=(Purpose.MISSING_PERSON,), national_law=NationalLaw(missing="Act 5/2026"))
    lawful.check_query(**{**QUERY, "purpose": "MISSING-PERSON"})
    with pytest.raises(PolicyRefused, match="MISSING-PERSON"):
        lawful.check_query(**QUERY)


@pytest.mark.parametrize(
    ("change", "reason"), [({"requester_state": "DE"}, Reason.STATE), ({"preset": "n1024"}, Reason.PARAMETERS)]
)
def test_a_preparation_is_for_a_state_that_may_ask_and_a_ring_that_is_accepted(
    change: dict[str, str], reason: Reason
) -> None:
    asked = {"requester_state": "FR", "preset": "n4096_q60_t20"}
    policy().check_preparation(**asked)
    with pytest.raises(PolicyRefused) as caught:
        policy().check_preparation(**asked | change)
    assert caught.value.reason is reason


ALL = frozenset(Category)


@pytest.mark.parametrize(
    ("purpose", "held", "searched"),
    [
        (Purpose.INVESTIGATION, ALL, {Category.SUSPECT, Category.CONVICTED, Category.UNIDENTIFIED, Category.VICTIM}),
        (Purpose.PREVENTION, {Category.SUSPECT, Category.MISSING}, {Category.SUSPECT}),
        (Purpose.DETECTION, {Category.MISSING, Category.REMAINS}, set()),
        (Purpose.MISSING_PERSON, ALL, {Category.MISSING}),
        (Purpose.MISSING_PERSON, {Category.SUSPECT}, set()),
        (Purpose.REMAINS, ALL, {Category.REMAINS, Category.MISSING}),
        (Purpose.REMAINS, {Category.SUSPECT, Category.REMAINS}, {Category.REMAINS}),
    ],
)
def test_the_purpose_chooses_the_categories(purpose: Purpose, held: set[Category], searched: set[Category]) -> None:
    law = NationalLaw(victim="Act 1", missing="Act 5/2026", remains="Act 6/2026")
    assert PolicyConfig(categories=tuple(held), national_law=law).searched(purpose) == searched


def test_a_stricter_policy_refuses_more() -> None:
    strict = policy(minimum_threshold=Decimal("0.6"), max_warrant_age_seconds=60, clock_skew_seconds=0)
    with pytest.raises(PolicyRefused, match=r"threshold 0\.55 must be at least 0\.6"):
        strict.check_query(**QUERY)
    with pytest.raises(PolicyRefused, match="61 s old, limit 60"):
        strict.check_query(**{**QUERY, "threshold": Decimal("0.6"), "issued": NOW - 61})


def test_a_ladder_of_more_rungs_than_allowed_is_refused() -> None:
    short = policy(max_rungs=3)
    short.check_query(**{**QUERY, "threshold": Decimal("0.86")})  # 0.86, 0.88, 0.90
    with pytest.raises(PolicyRefused, match="has 4 rungs, limit 3") as caught:
        short.check_query(**{**QUERY, "threshold": Decimal("0.84")})
    assert caught.value.reason is Reason.PARAMETERS


@given(st.integers(300, 999), st.integers(20, 999))
def test_rungs_are_counted_as_the_protocol_counts_them(threshold: int, step: int) -> None:
    terms = Terms(Decimal(threshold) / 1000, 128, N4096, ladder=Decimal(step) / 1000)
    query = {**QUERY, "threshold": terms.threshold, "ladder": terms.ladder}
    policy(max_rungs=len(terms.rungs)).check_query(**query)
    if len(terms.rungs) > 1:
        with pytest.raises(PolicyRefused, match=f"has {len(terms.rungs)} rungs"):
            policy(max_rungs=len(terms.rungs) - 1).check_query(**query)


def test_a_hostile_purpose_or_state_is_not_repeated_at_length() -> None:
    for field in ("purpose", "requester_state", "preset"):
        with pytest.raises(PolicyRefused) as caught:
            policy().check_query(**{**QUERY, field: "\n" + "A" * 10_000})
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


def test_quotas_are_counted_by_kind_state_and_utc_day() -> None:
    calls = []

    def take(state: str, status: Status, day: date, limit: int) -> int:
        calls.append((state, status, day, limit))
        return 1

    config = PolicyConfig(states=("FR",), quota_identified_per_day=5, quota_unidentified_per_day=2)
    counted = Policy(config, take, no_releases)
    midnight = NOW - NOW % DAY
    assert counted.take_quota("FR", Status.IDENTIFIED, midnight) == 1
    assert counted.take_quota("FR", Status.UNIDENTIFIED, midnight - 1) == 1
    assert calls == [
        ("FR", Status.IDENTIFIED, date(2027, 1, 15), 5),
        ("FR", Status.UNIDENTIFIED, date(2027, 1, 14), 2),
    ]


def test_a_used_up_quota_is_refused_by_the_store(tmp_path: Path) -> None:
    with GalleryStore(f"sqlite:///{tmp_path}/store.db", StorageKey(bytes(32)), state="ES") as store:
        limited = Policy(PolicyConfig(states=("FR",), quota_identified_per_day=2), store.take_quota, no_releases)
        assert [limited.take_quota("FR", Status.IDENTIFIED, NOW) for _ in range(2)] == [1, 2]
        with pytest.raises(PolicyRefused, match="has used its 2 queries") as caught:
            limited.take_quota("FR", Status.IDENTIFIED, NOW)
        assert (caught.value.reason, caught.value.code) == (Reason.QUOTA, "quota")
        assert isinstance(caught.value.__cause__, QuotaExceeded)
        assert limited.take_quota("FR", Status.IDENTIFIED, NOW + DAY) == 1
        assert limited.take_quota("FR", Status.UNIDENTIFIED, NOW) == 1


def test_releases_are_counted_by_state_and_utc_day_up_to_the_limit() -> None:
    calls, count = [], 3

    def take(state: str, references: Sequence[str], day: date, days: int) -> int:
        calls.append((state, references, day, days))
        return count

    counted = Policy(PolicyConfig(releases_per_reference=3, release_window_days=7), no_quota, take)
    midnight = NOW - NOW % DAY
    counted.take_releases("FR", ("ES-1",), midnight - 1)
    count = 4
    with pytest.raises(PolicyRefused, match=r"4 times in 7 days .*, limit 3") as caught:
        counted.take_releases("FR", (), midnight)
    assert (caught.value.reason, caught.value.code) == (Reason.QUOTA, "quota")
    assert calls == [("FR", ("ES-1",), date(2027, 1, 14), 7), ("FR", (), date(2027, 1, 15), 7)]
