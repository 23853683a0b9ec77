"""The count of hits, shared out, and the one bit that is opened of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol.filtering
from pets.counting import masked, sum_where
from pets.planes import pack_bits
from protocol.errors import Disagreement
from protocol.messages import CapBit, CountShare, PowerSums, Release
from protocol.roles import Seat
from tests.kit.attacks import crowd
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, forge
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_masked_bits_and_sums_are_what_numpy_says(words: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits, values = rng.integers(0, 2, 64 * words, np.uint8), rng.integers(0, 2**32, 64 * words, np.uint32)
    assert np.array_equal(masked(pack_bits(bits), values), bits.astype(np.uint32) - values)
    assert sum_where(pack_bits(bits), None) == bits.sum()
    assert sum_where(pack_bits(bits), values) == int(values[bits == 1].astype(np.uint64).sum()) % 2**32


def counted(monkeypatch: pytest.MonkeyPatch, hits: int, cap: int, rows: int = 300) -> tuple[Trio, dict[int, int]]:
    """A search in which `hits` rows hit, and the share of the count that each seat had."""
    shares: dict[int, int] = {}
    original = protocol.filtering.cap_bit

    def watched(ring: Any, share: int, *rest: Any) -> Any:
        shares[ring.seat] = share % 2**32
        return (yield from original(ring, share, *rest))

    rng = np.random.default_rng(hits)
    probe, templates = unit_rows(rng, 1, 128)[0], unit_rows(rng, rows, 128)
    templates[:hits] = near(rng, probe, hits, np.full(hits, 0.8))
    with monkeypatch.context() as patch:
        patch.setattr(protocol.filtering, "cap_bit", watched)
        return Trio(hold(templates), threshold="0.7", ladder="0", cap=cap).search(probe), shares


@pytest.mark.slow
@pytest.mark.ring
@pytest.mark.parametrize(
    ("hits", "cap"), [(0, 1), (1, 1), (2, 1), (9, 10), (10, 10), (11, 10), (99, 99), (100, 99), (300, 10)]
)
def test_the_bit_says_whether_more_hit_than_the_cap(hits: int, cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trio, shares = counted(monkeypatch, hits, cap)
    assert sum(shares.values()) % 2**32 == hits
    few = hits <= cap
    assert trio.outcome().status == ("too_many_candidates" if not few else "released" if hits else "no_hit")
    assert len(trio.sent(PowerSums)) == 2 * few
    assert len(trio.sent(Release)) == few


def test_shares_of_the_count_add_up_and_say_nothing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same search twice: the count is the same, every party's share another."""
    (_, first), (_, second) = counted(monkeypatch, 5, 10), counted(monkeypatch, 5, 10)
    assert sum(first.values()) % 2**32 == sum(second.values()) % 2**32 == 5
    assert all(first[seat] != second[seat] for seat in first if seat != Seat.HOLDER)


def test_what_the_router_gets_of_the_count_is_uniform() -> None:
    probe, templates = crowd()
    trio = Trio(hold(templates), threshold="0.7").search(probe)
    (sent,) = trio.sent(CountShare, HOLDER, ROUTER)
    words = np.frombuffer(sent.message.data, "<u4")  # type: ignore[union-attr]
    assert len(words) == RING.n
    assert len(set(words.tolist())) > RING.n - 10
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("sender", [HOLDER, REQUESTER, ROUTER])
def test_components_of_the_cap_bit_that_differ_are_refused(sender: str) -> None:
    victim = {HOLDER: REQUESTER, REQUESTER: HOLDER, ROUTER: HOLDER}[sender]

    def flip(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, component=not d.message.component)] if d.of(CapBit, sender, victim) else None  # type: ignore[union-attr]

    probe, templates = crowd()
    Trio(hold(templates), threshold="0.7", attack=flip).search(probe).assert_stopped(Disagreement)
