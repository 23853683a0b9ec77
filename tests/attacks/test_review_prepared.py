"""Findings of a review of prepared queries, each with its control."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

import protocol.form
import protocol.searching
from protocol.compute import Ring, other
from protocol.errors import Disagreement
from protocol.messages import AdmissionBit, Echo, Gates, Joined
from protocol.steps import Send, Step, receive
from tests.attacks.test_prepared import pair, scene, trio
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge

# --- one answer to an announcement, the same to all ---

FIRST, SECOND = f"{HOLDER}-0", f"{HOLDER}-1"


def two_nonces(sender: str, receiver: str) -> Attack:
    """A party that answers `receiver` with another nonce than everybody else: two parties derive two query ids."""

    def attack(d: Delivery) -> Iterable[bytes] | None:
        return [forge(d.frame, nonce=bytes(32))] if d.of(Joined, sender, receiver) else None

    return attack


@pytest.mark.parametrize(
    ("sender", "receiver"), [(ROUTER, HOLDER), (ROUTER, REQUESTER), (HOLDER, ROUTER), (HOLDER, REQUESTER)]
)
def test_a_party_with_two_nonces_stops_the_search_before_anything_is_opened(sender: str, receiver: str) -> None:
    search = trio(attack=two_nonces(sender, receiver)).search(scene()[0])
    search.assert_stopped(Disagreement)
    assert not search.sent(AdmissionBit)


def test_a_holder_with_two_nonces_cannot_spoil_the_ring_of_another() -> None:
    search = pair(attack=two_nonces(FIRST, SECOND)).accept()
    before = len(search.deliveries)
    search.search(scene()[0])
    assert search.searching is not None
    assert isinstance(search.searching.holders[SECOND].sessions[SECOND].failure, Disagreement)
    assert not any(d.of(Gates, SECOND) for d in search.deliveries[before:])
    assert SECOND not in search.searching.requester.answers


def test_control_without_the_query_id_random_bits_are_opened_as_if_they_were_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some 1 search in 60 then ends as `too_many_candidates` with no error at all, though row 17 alone hits."""

    def same(ring: Ring, digest: bytes) -> Step[None]:
        peer = ring.names[other(ring.index)]
        yield Send(peer, Echo(digest))
        assert (yield from receive(peer, Echo)).digest == digest

    monkeypatch.setattr(protocol.searching, "check_same_query", lambda *_: None)
    for module in (protocol.form, protocol.filtering, protocol.searching):
        monkeypatch.setattr(module, "same_from_holder", same)
    for sender, receiver in ((ROUTER, HOLDER), (HOLDER, ROUTER)):
        search = trio(attack=two_nonces(sender, receiver)).search(scene()[0])
        assert search.sent(AdmissionBit)
        assert search.searching is not None
        answer = search.searching.requester.answers.get(HOLDER)
        assert answer is None or answer.status != "released"


# --- the end of seeds ---


def test_the_machines_that_prepared_keep_no_seed_from_which_the_mask_could_be_drawn_again() -> None:
    """Whoever reads u later at the holder has the probe from r: its seed must have one owner, which erases it."""
    search = trio().prepare()
    assert search.made is not None
    assert search.preparing is not None
    assert search.made.requester.seed != bytes(32)
    assert search.made.holders[HOLDER].seed != bytes(32), "control: the preparation itself has them"
    asking, answering = search.preparing.requester, search.preparing.holders[HOLDER]
    assert not any((asking._seed, asking._holder_seed, asking._router_seed, answering._seed, answering._received))
    search.search(scene()[0])
    assert search.outcome().hits
