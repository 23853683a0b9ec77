"""A gate turned in the comparison of a prepared search: what confirmation catches, and what it cannot."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pets.bits import Bits
from pets.replicated import Masks, and_local
from protocol import compute, confirming
from protocol.compute import REQUESTER, ROUTER
from protocol.errors import ConfirmationFailed
from protocol.messages import Release
from protocol.session import State
from tests.attacks.test_prepared import scene, trio
from tests.kit.trio import Trio

pytestmark = pytest.mark.ring

FIRST, LEVELS = 11, 4  # ANDs of the first level of the tree, and how many levels it has
HIT, OTHER = 17, 3  # a row that the probe hits, and one that it does not


def turning(monkeypatch: pytest.MonkeyPatch, seat: int, row: int) -> None:
    """`seat` turns the last gate of the comparison for one row. Its peers get what fits: nobody sees a difference."""
    calls: Counter[int] = Counter()
    watched: list[Masks] = []  # kept, so that no identity is given out twice

    def lying(masks: Masks, x: Bits, y: Bits, threads: int = 1) -> Bits:
        product = and_local(masks, x, y, threads)
        if masks.party == seat and (len(x) == FIRST or calls[id(masks)]):
            watched.append(masks)
            calls[id(masks)] += 1
            if calls[id(masks)] == LEVELS:
                product.parts[0][0, row // 64] ^= np.uint64(1 << row % 64)
        return product

    monkeypatch.setattr(compute, "and_local", lying)


def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence is taken away: whatever the answers say, the rows that were opened are confirmed."""
    monkeypatch.setattr(confirming, "check_answers", lambda sums, factors, used, theta, params: [theta] * used)


@pytest.fixture
def prepared() -> Trio:
    """Honestly, so that only the search is lied in."""
    return trio().prepare()


@pytest.mark.parametrize("seat", [REQUESTER, ROUTER])
def test_a_row_turned_into_a_hit_is_not_released(seat: int, prepared: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    turning(monkeypatch, seat, OTHER)
    search = prepared.search(scene()[1])
    search.assert_stopped(ConfirmationFailed)
    assert State.FROZEN in search.states.values()


@pytest.mark.parametrize("seat", [REQUESTER, ROUTER])
def test_control_without_the_confirmation_it_is_released(
    seat: int, prepared: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    turning(monkeypatch, seat, OTHER)
    believed(monkeypatch)
    search = prepared.search(scene()[1])
    assert search.sent(Release)
    assert [hit.row for hit in search.outcome().hits] == [OTHER]


@pytest.mark.parametrize("seat", [REQUESTER, ROUTER])
def test_limit_a_hit_turned_into_none_is_a_clean_no_hit(
    seat: int, prepared: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = scene()[0]
    assert [hit.row for hit in prepared.expected(probe).hits] == [HIT]
    turning(monkeypatch, seat, HIT)
    search = prepared.search(probe)
    assert not search.outcome().hits
    assert not search.failures
