"""What the store counts of others: quotas, queries claimed once, releases of a reference."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from nodes.store import QueryReplayed, QuotaExceeded, Status, StoreRefusal
from nodes.store.store import GalleryStore
from tests.kit.stores import NOW, TODAY, open_store


@pytest.mark.slow
def test_two_hundred_callers_share_a_quota_of_fifty(url: str) -> None:
    with open_store(url) as one, open_store(url) as two:

        def ask(number: int) -> int:
            try:
                return (one, two)[number % 2].take_quota("FR", Status.IDENTIFIED, TODAY, 50)
            except QuotaExceeded as error:
                return -error.limit

        start = threading.Barrier(200)
        results: list[int] = []

        def caller(number: int) -> None:
            start.wait()
            results.append(ask(number))

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [-50] * 150 + list(range(1, 51))
        assert one.quota_used("FR", Status.IDENTIFIED, TODAY) == 50


def test_quotas_are_apart_by_state_kind_and_day(store: GalleryStore) -> None:
    assert store.take_quota("FR", Status.IDENTIFIED, TODAY, 1) == 1
    with pytest.raises(QuotaExceeded, match=r"FR.*1 queries.*2026-05-04.*identified"):
        store.take_quota("FR", Status.IDENTIFIED, TODAY, 1)
    assert store.take_quota("FR", Status.UNIDENTIFIED, TODAY, 1) == 1
    assert store.take_quota("DE", Status.IDENTIFIED, TODAY, 1) == 1
    assert store.take_quota("FR", Status.IDENTIFIED, TODAY + timedelta(days=1), 1) == 1
    assert store.take_quota("FR", Status.IDENTIFIED, TODAY, 2) == 2
    with pytest.raises(QuotaExceeded):
        store.take_quota("AT", Status.IDENTIFIED, TODAY, 0)
    assert store.quota_used("AT", Status.IDENTIFIED, TODAY) == 0
    with pytest.raises(StoreRefusal, match="two capital letters"):
        store.take_quota("fr", Status.IDENTIFIED, TODAY, 1)


def test_query_is_claimed_once_across_restarts(url: str) -> None:
    query, digest = b"q" * 32, b"d" * 32
    with open_store(url) as store:
        store.claim_query(query, digest, NOW)
        store.claim_query(query, digest, NOW, step="open")
    with open_store(url) as store:
        with pytest.raises(QueryReplayed, match="same message") as caught:
            store.claim_query(query, digest, NOW)
        assert caught.value.same_message
        with pytest.raises(QueryReplayed, match="another message") as caught:
            store.claim_query(query, b"e" * 32, NOW)
        assert not caught.value.same_message
        store.claim_query(b"r" * 32, digest, NOW + timedelta(days=2))
        assert store.purge_claims(NOW + timedelta(days=1)) == 2
        with pytest.raises(QueryReplayed):
            store.claim_query(b"r" * 32, digest, NOW)
        with pytest.raises(StoreRefusal, match="16 to 64"):
            store.claim_query(b"short", digest, NOW)


REFERENCE, OTHER, THIRD = ("ES-" + letter * 32 for letter in "abc")


def test_releases_at_once_are_all_counted_even_around_midnight(url: str) -> None:
    with open_store(url) as one, open_store(url) as two:

        def release(number: int) -> int:
            day = TODAY + timedelta(days=number % 4 // 2)
            return (one, two)[number % 2].take_releases("FR", [REFERENCE], day, 30)

        with ThreadPoolExecutor(20) as pool:
            assert sorted(pool.map(release, range(40))) == list(range(1, 41))
    with open_store(url) as again:
        assert again.take_releases("FR", [REFERENCE], TODAY + timedelta(days=1), 30) == 41


def test_releases_are_apart_by_state_and_reference_and_leave_the_window(store: GalleryStore) -> None:
    def take(state: str, references: list[str], later: int = 0, days: int = 3) -> int:
        return store.take_releases(state, references, TODAY + timedelta(days=later), days)

    assert take("FR", []) == 0
    assert [take("FR", [REFERENCE]), take("FR", [OTHER]), take("FR", [OTHER, REFERENCE])] == [1, 1, 2]
    assert take("DE", [OTHER]) == 1
    assert take("FR", [REFERENCE], 1) == 3
    assert take("FR", [THIRD], 1) == 3  # the most of any, not of what is released now
    assert [take("FR", [], later) for later in (2, 3, 4)] == [3, 1, 0]
    assert take("FR", [], 3, days=4) == 3
    assert store.purge_releases(TODAY + timedelta(days=1)) == 3
    assert take("FR", [], 1) == 1
    with pytest.raises(StoreRefusal, match="state"):
        take("fr", [])


def test_admission_takes_claim_and_quota_both_or_neither(store: GalleryStore) -> None:
    peer = ("FR", Status.IDENTIFIED, 1, NOW)
    assert store.admit_query(b"q" * 32, b"d" * 32, *peer) == 1
    with pytest.raises(QueryReplayed):
        store.admit_query(b"q" * 32, b"d" * 32, "FR", Status.IDENTIFIED, 9, NOW)
    assert store.quota_used("FR", Status.IDENTIFIED, TODAY) == 1
    with pytest.raises(QuotaExceeded):
        store.admit_query(b"r" * 32, b"d" * 32, *peer)
    store.claim_query(b"r" * 32, b"d" * 32, NOW)


def test_a_preparation_takes_claim_and_count_both_or_neither(store: GalleryStore) -> None:
    def admit(name: bytes, limit: int) -> int:
        return store.admit_preparation(name * 32, b"d" * 32, "FR", limit, NOW, step="reference")

    assert admit(b"q", 1) == 1
    with pytest.raises(QueryReplayed):
        admit(b"q", 9)
    assert store.preparations_taken("FR", TODAY) == 1
    with pytest.raises(QuotaExceeded):
        admit(b"r", 1)
    assert not store.has_claimed(b"r" * 32, "reference")
    assert admit(b"r", 2) == 2
    assert store.has_claimed(b"r" * 32, "reference")


def test_one_of_many_concurrent_claims_wins(url: str) -> None:
    with open_store(url) as one, open_store(url) as two:

        def claim(number: int) -> bool:
            try:
                (one, two)[number % 2].claim_query(b"q" * 32, secrets.token_bytes(32), NOW)
            except QueryReplayed:
                return False
            return True

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(claim, range(40))) == 1
