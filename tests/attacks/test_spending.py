"""A preparation used twice, borrowed, restored from a backup, or for another gallery; each attack with its control."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pets.params import SHARE_BITS
from pets.planes import from_planes
from protocol.difference import unpack_difference
from protocol.errors import Disagreement, OutOfTurn, PreparationSpent
from protocol.local import LocalSearch
from protocol.memory import MemoryNetwork
from protocol.messages import (
    Difference,
    MaskedScores,
)
from protocol.preparation import RequesterPreparation, pack, unpack
from protocol.session import State
from tests.kit.parties import HOLDER, REQUESTER
from tests.kit.ring import RING
from tests.kit.scene import DIM, faces, small_trio
from tests.kit.trio import Trio, copied, hold

pytestmark = pytest.mark.ring


def differences(search: Trio) -> list[npt.NDArray[np.int64]]:
    """Every u that the holders received."""
    return [
        unpack_difference(d.message, DIM, RING).astype(np.int64)  # type: ignore[arg-type]
        for d in search.sent(Difference)
    ]


@pytest.mark.parametrize("restored", ["requester", "requester and router", "requester and holder"])
def test_a_mask_serves_one_probe_although_some_parties_were_restored_from_a_backup(restored: str) -> None:
    probe, stranger, _ = faces()
    first = small_trio().prepare()
    assert first.made is not None
    backup = copied(first.made)
    first.search(probe)
    assert first.outcome().hits
    again = small_trio()
    again.made = first.made
    again.made.requester = backup.requester
    if "router" in restored:
        again.made.router = backup.router
    if "holder" in restored:
        again.made.holders = backup.holders
    again.search(stranger)
    assert any(isinstance(failure, PreparationSpent) for failure in again.failures)
    assert not again.sent(Difference)


def test_control_with_everybody_restored_the_holder_gets_the_difference_of_two_probes() -> None:
    probe, stranger, _ = faces()
    first = small_trio().prepare()
    assert first.made is not None
    again = small_trio()
    again.made = copied(first.made)
    (u,), (v,) = differences(first.search(probe)), differences(again.search(stranger))
    gap = (u - v) % RING.t
    assert np.array_equal(np.where(gap > RING.t // 2, gap - RING.t, gap), probe.astype(int) - stranger.astype(int))


def test_a_requester_submits_once_and_its_own_mark_refuses_a_second_search() -> None:
    probe, stranger, _ = faces()
    search = small_trio().search(probe)
    assert search.searching is not None
    with pytest.raises(OutOfTurn):
        search.searching.requester.submit(stranger)
    assert search.made is not None
    assert search.made.requester.seed == bytes(32), "r cannot be drawn again"
    with pytest.raises(PreparationSpent):
        search.made.requester.claim()


def test_a_hook_that_refuses_stops_the_search_before_anything_of_the_probe_leaves() -> None:
    """A disk that is full: what cannot be marked as spent is not used."""

    def spend(_: bytes) -> None:
        raise PreparationSpent("the mark could not be written")

    search = small_trio().prepare()
    assert search.made is not None
    started = LocalSearch.start(search.made, search.galleries, search.terms, 1, spend)
    network = MemoryNetwork(started.machines, tap=search._tap)
    network.run_or_raise()
    with pytest.raises(PreparationSpent):
        started.requester.submit(faces()[0])
    network.run()
    assert not search.sent(Difference)
    assert {s.state for m in started.machines for s in m.sessions.values()} <= {State.ABORTED, State.FINISHED}
    with pytest.raises(OutOfTurn):
        started.requester.submit(faces()[0])


def test_a_preparation_is_not_borrowed_by_another_state() -> None:
    search = small_trio().prepare()
    assert search.made is not None
    borrowed = copied(search.made)
    borrowed.requester.requester = "THIEF"
    started = LocalSearch.start(borrowed, search.galleries, search.terms)
    network = MemoryNetwork(started.machines)
    network.run()
    assert isinstance(network.failures[0], Disagreement)
    assert not any(part.spent for part in (borrowed.router, borrowed.holders[HOLDER]))
    assert trio_goes_on(search)


def trio_goes_on(search: Trio) -> bool:
    """The rightful owner's own search still works."""
    return bool(search.search(faces()[0]).outcome().hits)


def test_a_preparation_for_another_gallery_is_refused_and_not_spent() -> None:
    search = small_trio().prepare()
    assert search.made is not None
    other = hold(faces()[2][::-1].copy())
    started = LocalSearch.start(search.made, {HOLDER: other}, search.terms)
    network = MemoryNetwork(started.machines)
    network.run()
    assert isinstance(network.failures[0], Disagreement)
    assert not search.made.holders[HOLDER].spent
    assert search.made.holders[HOLDER].rings


def test_a_packed_preparation_is_the_same_after_unpacking_and_hides_nothing_of_its_use() -> None:
    search = small_trio().prepare()
    assert search.made is not None
    made = copied(search.made)
    other = small_trio()
    other.made = made
    assert trio_goes_on(other)
    made.requester.spent = True
    again = unpack(pack(made.requester), RequesterPreparation)
    with pytest.raises(PreparationSpent):
        again.claim()


def published(search: Trio) -> npt.NDArray[np.int64]:
    """e of the rows, as the requester got it."""
    data = search.sent(MaskedScores, HOLDER, REQUESTER)[0].message.data  # type: ignore[union-attr]
    planes = np.frombuffer(data, "<u8").astype(np.uint64).reshape(SHARE_BITS, -1)
    return from_planes(planes).astype(np.int64)[:200]


def test_limit_with_holder_and_router_restored_a_requester_reads_score_differences_of_every_row() -> None:
    """m is used twice then: e - e' is D·(q - q'), with no lie in any message. A router reads the same."""
    probe, stranger, rows = faces()
    first = small_trio().prepare()
    assert first.made is not None
    again = small_trio()
    again.made = copied(first.made)
    gap = (published(first.search(probe)) - published(again.search(stranger))) % 2**SHARE_BITS
    gap[gap >= 2 ** (SHARE_BITS - 1)] -= 2**SHARE_BITS
    due = rows.astype(np.int64) @ (probe.astype(np.int64) - stranger)
    assert np.abs(gap / 16 - due).max() < 0.5
