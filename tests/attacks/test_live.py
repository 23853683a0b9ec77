"""Who was forgotten is not found with a preparation that was made before; each attack with its control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

import protocol.filtering
from pets.bits import Bits
from pets.planes import unpack_bits
from pets.replicated import Masks, and_local
from protocol import compute
from protocol.compute import Ring, masked_bits
from protocol.errors import ConfirmationFailed
from protocol.gallery import Gallery
from protocol.live import Live
from protocol.messages import ConfirmationBlock, LiveRows, Release
from protocol.roles import Seat
from protocol.session import State
from protocol.steps import Product, Send, Step
from protocol.wire import as_bytes
from tests.kit.attacks import without_the_bit
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, ROUTER, Attack, Delivery, forge
from tests.kit.ring import RING
from tests.kit.scene import faces
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

HIT = 17  # the only row that the probe of `scene` hits
DIM = 64


def fresh() -> Gallery:
    """The rows of `scene`, to be overwritten."""
    return hold(faces()[2].copy())


def all_but(*rows: int) -> np.ndarray:
    live = np.ones(len(faces()[2]), np.bool_)
    live[list(rows)] = False
    return live


def trio(live: np.ndarray | None, attack: Attack | None = None, cap: int = 10) -> Trio:
    return Trio(fresh(), threshold="0.7", ladder="0", cap=cap, live=live, attack=attack)


def test_a_forgotten_row_is_not_found_with_an_older_preparation() -> None:
    search = trio(all_but(HIT)).search(faces()[0])
    assert search.outcome().status == "no_hit"
    assert search.outcome().hits == ()


def test_control_without_the_bit_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_bit(monkeypatch)
    search = trio(all_but(HIT)).search(faces()[0])
    assert [hit.row for hit in search.outcome().hits] == [HIT]


def test_whoever_is_forgotten_when_the_holder_has_accepted_already_is_not_found() -> None:
    live = all_but()
    search = trio(live).accept()
    live[HIT] = False
    search.search(faces()[0])
    assert search.outcome().hits == ()


def test_control_otherwise_it_is() -> None:
    search = trio(all_but()).accept().search(faces()[0])
    assert [hit.row for hit in search.outcome().hits] == [HIT]


# --- a template that was overwritten scores at random with what was prepared of it ---


def test_overwritten_templates_give_no_false_hit() -> None:
    search = trio(all_but(*range(100))).prepare()
    search.galleries[HOLDER].forget_rows(range(100))
    search.search(faces()[0])
    assert search.outcome().status == "no_hit"


def test_control_without_the_bit_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """About half of them, which are not confirmed: searches would stop, and the session is frozen."""
    without_the_bit(monkeypatch)
    opened: list[tuple[int, ...]] = []
    real = protocol.filtering.open_hits

    def listening(*args: object) -> Step[tuple[int, ...]]:
        opened.append((yield from real(*args)))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(protocol.filtering, "open_hits", listening)
    search = trio(None, cap=99).prepare()
    search.galleries[HOLDER].forget_rows(range(100))
    search.search(faces()[0])
    assert len(opened[0]) > 20
    search.assert_stopped(ConfirmationFailed)


def test_a_row_that_is_forgotten_while_its_product_is_computed_is_neither_found_nor_a_false_hit() -> None:
    live = all_but()
    search = trio(live).accept()
    assert search.searching is not None
    search.searching.requester.submit(faces()[0])
    holder, gallery = search.searching.holders[HOLDER], search.galleries[HOLDER]
    from protocol import memory

    def forgetting(works: list[Product], threads: int) -> np.ndarray:
        result = perform(works, threads)
        if isinstance(works[0], Product):
            live[:100] = False
            gallery.forget_rows(range(100))
        return result

    perform = memory.perform
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "perform", forgetting)
        search._run(search.searching.machines)
    assert not search.failures
    assert holder.result is not None
    assert holder.result.hits == ()


def test_a_row_that_is_forgotten_once_its_hit_was_opened_is_not_released() -> None:
    live = all_but()

    def forget(d: Delivery) -> None:
        if d.of(LiveRows):
            live[HIT] = False  # the search took it as live already
            search.galleries[HOLDER].forget_rows([HIT])

    search = trio(live, forget)
    search.search(faces()[0])
    assert search.outcome().hits == ()
    assert search.outcome().status == "no_hit"


# --- what the others learn, and what they can do ---


def test_the_router_sees_random_bits_and_the_requester_none() -> None:
    live = all_but(*range(0, 200, 2))
    bits = []
    for _ in range(2):
        search = trio(live).search(faces()[0])
        sent = search.sent(LiveRows)
        assert [(d.sender, d.receiver) for d in sent] == [(HOLDER, ROUTER)]
        bits.append(unpack_bits(np.frombuffer(sent[0].message.data, "<u8")))  # type: ignore[union-attr]
    assert all(abs(int(one.sum()) - RING.n // 2) < 5 * RING.n**0.5 for one in bits)
    assert abs(int((bits[0] ^ bits[1]).sum()) - RING.n // 2) < 5 * RING.n**0.5, "fresh in every search"


def test_control_without_its_mask_the_router_sees_who_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(ring: Ring, live: Live, first: int, lanes: int, index: int) -> Step[Bits]:
        bits, zero = live.take(first, lanes), np.zeros((1, lanes // 64), np.uint64)
        yield Send(ring.names[Seat.ROUTER], LiveRows(as_bytes(bits)))
        return masked_bits(ring, bits, zero, zero)

    monkeypatch.setattr(protocol.filtering, "holder_shares_live", unmasked)
    live = all_but(*range(0, 200, 2))
    search = trio(live).accept().search(faces()[0])
    seen = unpack_bits(np.frombuffer(search.sent(LiveRows)[0].message.data, "<u8"))  # type: ignore[union-attr]
    assert np.array_equal(seen[:200].astype(np.bool_), live)


def turning(monkeypatch: pytest.MonkeyPatch, seat: int, *rows: int) -> None:
    """`seat` turns the gate of hit and live for some rows."""
    calls: Counter[int] = Counter()
    watched: list[Masks] = []  # kept, so that no id() is given out twice

    def lying(masks: Masks, x: Bits, y: Bits, threads: int = 1) -> Bits:
        product = and_local(masks, x, y, threads)
        if masks.party == seat and (len(x) == 11 or calls[id(masks)]):  # from the first level of the tree
            watched.append(masks)
            calls[id(masks)] += 1
            if calls[id(masks)] == 5:
                for row in rows:
                    product.parts[0][0, row // 64] ^= np.uint64(1 << row % 64)
        return product

    monkeypatch.setattr(compute, "and_local", lying)


@pytest.mark.parametrize("seat", [Seat.REQUESTER, Seat.ROUTER])
def test_a_gate_turned_for_a_forgotten_row_releases_nothing(seat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its score is above the threshold, so that confirmation alone would let it pass."""
    search = trio(all_but(HIT)).prepare()
    turning(monkeypatch, seat, HIT)
    search.search(faces()[0])
    search.assert_stopped(ConfirmationFailed)
    assert State.FROZEN in search.states.values()


@pytest.mark.parametrize("seat", [Seat.REQUESTER, Seat.ROUTER])
def test_control_unless_the_holder_looks_it_is_released(seat: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Live, "standing", lambda self, rows: rows)
    monkeypatch.setattr(Live, "check_opened", lambda self, rows: None)
    search = trio(all_but(HIT)).prepare()
    turning(monkeypatch, seat, HIT)
    search.search(faces()[0])
    assert search.sent(Release)
    assert [hit.row for hit in search.outcome().hits] == [HIT]


def messages_after_turning(monkeypatch: pytest.MonkeyPatch, row: int, live: np.ndarray) -> list[tuple[str, ...]]:
    with monkeypatch.context() as patch:
        search = trio(live).accept()
        before = len(search.deliveries)
        turning(patch, Seat.ROUTER, row)
        search.search(faces()[1])
    assert isinstance(search.failures[0], ConfirmationFailed)
    assert search.sent(ConfirmationBlock)
    kinds = [(type(d.message).__name__, d.sender, d.receiver, str(len(d.frame))) for d in search.deliveries[before:]]
    codes = [("code", d.message.code) for d in search.deliveries if hasattr(d.message, "code")]
    return kinds + codes


def test_a_turned_gate_does_not_tell_whether_a_row_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    live = all_but(3)
    assert messages_after_turning(monkeypatch, 3, live) == messages_after_turning(monkeypatch, 4, live)


def test_bits_told_to_the_router_that_the_holder_does_not_compute_with_are_not_confirmed() -> None:
    """A false bit at the router turns the row's result into a random one: 40 rows, of which about half are opened."""

    def lie(d: Delivery) -> Iterable[bytes] | None:
        if d.of(LiveRows):
            data = bytes(d.message.data)  # type: ignore[union-attr]
            return [forge(d.frame, data=bytes(b ^ 255 for b in data[:5]) + data[5:])]
        return None

    search = trio(None, lie, cap=99).search(faces()[1])
    search.assert_stopped(ConfirmationFailed)


def test_control_with_the_true_bits_nothing_is_found() -> None:
    assert trio(None, cap=99).search(faces()[1]).outcome().status == "no_hit"


def test_rows_that_fill_up_the_last_block_are_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[np.ndarray] = []
    take = Live.take

    def listening(self: Live, first: int, lanes: int) -> np.ndarray:
        shared.append(take(self, first, lanes))
        return shared[-1]

    monkeypatch.setattr(Live, "take", listening)
    rng = np.random.default_rng(5)
    rows = unit_rows(rng, RING.n + 70, DIM)
    probe = unit_rows(rng, 1, DIM)[0]
    rows[-1] = near(rng, probe, 1, np.full(1, 0.9))[0]
    search = Trio(hold(rows), threshold="0.8").search(probe)
    assert [hit.row for hit in search.outcome().hits] == [len(rows) - 1]
    bits = unpack_bits(shared[0][0])
    assert bits[: len(rows)].all()
    assert not bits[len(rows) :].any()
