"""A template rebuilt from hits and no-hits, and the limit of releases that cuts it off (threat_model/README.md)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from benchmarks.inversion import SCENARIOS, Limit, Population, Scenario, attack, synthetic
from nodes.config.schema import PolicyConfig
from nodes.query.policy import Policy, PolicyRefused
from nodes.store import StorageKey
from nodes.store.store import GalleryStore
from pets.synthetic import IMPOSTOR_MEAN, IMPOSTOR_SD

ROW = "ES-" + "a" * 32
NOW = datetime(2027, 1, 15, tzinfo=timezone.utc).timestamp()
QUERIES = 100
HITS = Scenario(0.55, True, QUERIES)

Holder = Callable[[bool], "bool | None"]


@functools.cache
def population() -> Population:
    return synthetic("as SFace", 128, 2, IMPOSTOR_MEAN, IMPOSTOR_SD, (0.6645, 0.1087))


def cosines(answer: Holder | None = None) -> dict[int, float]:
    return attack(population(), 0, HITS, 0, answer)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GalleryStore]:
    with GalleryStore(f"sqlite:///{tmp_path}/store.db", StorageKey(bytes(32)), state="ES") as made:
        yield made


def node(store: GalleryStore, limit: int) -> Holder:
    """What a node tells of one row: it looks at admission, and counts before a release (`nodes.service.node`)."""
    policy = Policy(PolicyConfig(releases_per_reference=limit), store.take_quota, store.take_releases)

    def answer(hit: bool) -> bool | None:
        try:
            policy.take_releases("FR", (), NOW)
        except PolicyRefused:
            return None  # whatever the query would have found
        try:
            policy.take_releases("FR", (ROW,) if hit else (), NOW)
        except PolicyRefused:
            return True  # only a hit is refused here
        return hit

    return answer


def test_the_reconstruction_ends_at_the_limit_of_releases(store: GalleryStore) -> None:
    reached = cosines(node(store, 10))
    assert reached == cosines(Limit(10))
    assert reached[30] == reached[50] == reached[QUERIES] < 0.75


def test_control_without_the_limit_it_goes_on(store: GalleryStore) -> None:
    reached = cosines(node(store, 1000))
    assert reached == cosines()
    assert reached[30] + 0.02 < reached[50]
    assert reached[50] + 0.05 < reached[QUERIES]


def test_control_where_only_queries_that_hit_are_refused_it_goes_on(store: GalleryStore) -> None:
    """A refusal that depends on what a query finds is an answer: so a state at its limit is refused everything."""
    told = []

    def answer(hit: bool) -> bool:
        refused = hit and store.take_releases("FR", (ROW,), datetime.fromtimestamp(NOW, timezone.utc).date(), 90) > 10
        told.append(refused)
        return refused or hit

    assert cosines(answer) == cosines()
    assert sum(told) > 10


def test_known_limit_low_odds_make_the_releases_last() -> None:
    rare = next(scenario for name, scenario in SCENARIOS.items() if name.endswith("odds of 1 in 20"))
    even = attack(population(), 0, SCENARIOS["the same, 10 releases"], 0)
    assert even[300] + 0.05 < attack(population(), 0, rare, 0)[300] < 0.9
