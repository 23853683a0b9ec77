"""What two parties are told differently, or hear from one mouth; each attack with its control."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.announcing
import protocol.blocks
import protocol.filtering
import protocol.form
import protocol.preparing
import protocol.searching
from pets import ntt, residues
from pets.keys import sample_key_share
from pets.params import SHARE_BITS, scale
from pets.planes import from_planes, unpack_bits
from pets.rounding import round_shares
from pets.sampling import common_polynomial
from protocol.announcing import derive_id
from protocol.compute import Ring, other
from protocol.difference import unpack_difference
from protocol.errors import Disagreement, FalseRefusal
from protocol.messages import (
    AdmissionBit,
    CapBit,
    DerivedId,
    Difference,
    Echo,
    Gates,
    Joined,
    LiveRows,
    MaskedScores,
    PreparedBlocks,
    PublicPart,
    Search,
)
from protocol.roles import Seat
from protocol.session import State
from protocol.steps import Send, Step, receive
from tests.kit.galleries import scores
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge
from tests.kit.ring import RING
from tests.kit.scene import DIM, N, faces, pair, small_trio
from tests.kit.trio import Trio, opened

pytestmark = pytest.mark.ring

# --- the public part of the key, from one mouth ---

SHIFT = int(0.9 * scale(DIM) ** 2)  # units of a score


def shifted_part(d: Delivery) -> Iterable[bytes] | None:
    """A requester that names b2 + SHIFT·Q/t: the re-randomiser then adds ±SHIFT to two thirds of all scores."""
    if not d.of(PublicPart, REQUESTER, HOLDER):
        return None
    part = np.frombuffer(d.message.data, "<u4").reshape(2, N)  # type: ignore[union-attr]
    constant = np.array([SHIFT * RING.delta % p for p in RING.primes], np.uint64)[:, None]
    moved = (part + constant) % np.array(RING.primes, np.uint64)[:, None]
    return [forge(d.frame, data=moved.astype("<u4").tobytes())]


def test_a_public_part_that_only_the_requester_names_is_refused() -> None:
    search = small_trio(attack=shifted_part).prepare()
    search.assert_stopped(Disagreement)
    assert not search.sent(PreparedBlocks)


def test_control_with_one_mouth_rows_that_resemble_nobody_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.preparing, "check_same_part", lambda *_: None)
    stranger = faces()[1]
    search = small_trio(attack=shifted_part, cap=99).prepare()
    assert not search.failures, "the mask is well formed, and nothing is seen"
    with watched() as seen:
        search.search(stranger)
    assert scores(faces()[2], stranger).max() < 0.6 * scale(DIM) ** 2
    hits = unpack_bits(opened([seen[seat].parts for seat in range(3)])[0])[:200]
    assert 20 < hits.sum() < 120


class watched(pytest.MonkeyPatch):  # noqa: N801
    """Keeps every party's hit bits of the only chunk at the first rung."""

    def __enter__(self) -> dict[int, Any]:
        seen: dict[int, Any] = {}
        original = protocol.filtering.Filter.hits

        def hits(self: Any, rung: int, index: int) -> Any:
            bits = yield from original(self, rung, index)
            if rung == 0:
                seen[self.ring.seat] = bits
            return bits

        self.setattr(protocol.filtering.Filter, "hits", hits)
        return seen

    def __exit__(self, *_: object) -> None:
        self.undo()


# --- e: to both the same, and masked ---

PLANE = SHARE_BITS - 2
TURNED = range(8)  # rows


def two_e(d: Delivery) -> Iterable[bytes] | None:
    """A holder that turns plane 22 of eight rows in the e that the requester gets."""
    words = -(-200 // N) * N // 64
    if not d.of(MaskedScores, HOLDER, REQUESTER) or len(d.message.data) != SHARE_BITS * words * 8:  # type: ignore[union-attr]
        return None
    planes = np.frombuffer(d.message.data, "<u8").reshape(SHARE_BITS, -1).copy()  # type: ignore[union-attr]
    planes[PLANE, 0] ^= np.uint64(sum(1 << row for row in TURNED))
    return [forge(d.frame, data=planes.tobytes())]


def test_an_e_that_is_not_the_same_for_both_stops_the_search_before_the_first_gate() -> None:
    search = small_trio(attack=two_e).accept()
    before = len(search.deliveries)
    search.search(faces()[0])
    search.assert_stopped(Disagreement)
    assert not any(d.of(Gates) and d.sender != HOLDER for d in search.deliveries[before:])
    assert not search.sent(CapBit)


def test_control_without_the_comparison_the_holder_reads_planes_of_z(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(*_: object) -> Step[None]:
        return
        yield

    monkeypatch.setattr(protocol.filtering, "same_from_holder", same)
    opened: list[tuple[int, ...]] = []
    honest = protocol.filtering.open_hits

    def listening(*args: Any) -> Step[tuple[int, ...]]:
        opened.append((yield from honest(*args)))
        return opened[-1]

    monkeypatch.setattr(protocol.filtering, "open_hits", listening)
    search = small_trio(attack=two_e).accept()
    assert search.made is not None
    z = search.made.requester.rings[HOLDER].chunks[0].z[:, PLANE]
    second, third = (unpack_bits(part.copy()) for part in z)  # x_1, which the holder has too, and x_2, which it lacks
    search.search(faces()[1])
    # Where its own part of the row's live bit is 0, the row is opened if x_1 ^ x_2 of the plane is 1.
    own = unpack_bits(np.frombuffer(search.sent(LiveRows)[0].message.data, "<u8"))  # type: ignore[union-attr]
    assert opened == [tuple(row for row in TURNED if not own[row] and second[row] ^ third[row])]


def routers_view(search: Trio) -> npt.NDArray[np.int64]:
    """e + z' of every row, all of which the router has, centred, in units of a score."""
    assert search.router_seed is not None  # type: ignore[attr-defined]
    preparation_id, seed = search.router_seed  # type: ignore[attr-defined]
    secret = sample_key_share(RING, common_polynomial(RING, preparation_id), seed, preparation_id).secret
    c1 = np.frombuffer(search.sent(PreparedBlocks, HOLDER, ROUTER)[0].message.data, "<u4").reshape(1, 2, N)  # type: ignore[union-attr]
    z = round_shares(ntt.inverse(residues.multiply(c1.astype(np.uint32), secret, RING), RING), RING)[0]
    planes = np.frombuffer(search.sent(MaskedScores, HOLDER, ROUTER)[0].message.data, "<u8").reshape(SHARE_BITS, -1)  # type: ignore[union-attr]
    total = (from_planes(planes.astype(np.uint64)).astype(np.int64) + z) % 2**SHARE_BITS
    total[total >= 2 ** (SHARE_BITS - 1)] -= 2**SHARE_BITS
    return total[:200] / 16 + search.terms.theta(0)


def seen_by_router() -> npt.NDArray[np.int64]:
    search = small_trio().prepare()
    assert search.made is not None
    search.router_seed = search.made.router.preparation_id, search.made.router.router_seed  # type: ignore[attr-defined]
    return routers_view(search.search(faces()[0]))


def test_the_e_that_the_router_sees_tells_it_no_score() -> None:
    exact = scores(faces()[2], faces()[0])
    assert abs(np.corrcoef(seen_by_router(), exact)[0, 1]) < 0.3


def test_control_without_m_the_router_reads_every_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.blocks, "from_planes", lambda planes, _: np.zeros(64 * planes.shape[1], np.uint32))
    exact = scores(faces()[2], faces()[0])
    assert np.abs(seen_by_router() - exact).max() < 1


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
    search = small_trio(attack=two_nonces(sender, receiver)).search(faces()[0])
    search.assert_stopped(Disagreement)
    assert not search.sent(AdmissionBit)


def test_a_holder_with_two_nonces_cannot_spoil_the_ring_of_another() -> None:
    """The other holder tells the requester the id that it derived: nothing of the probe leaves, each is asked anew."""
    search = pair(attack=two_nonces(FIRST, SECOND)).search(faces()[0])
    assert search.searching is not None
    assert isinstance(search.searching.requester.whole.failure, Disagreement)
    assert not search.sent(Difference)


def test_control_were_the_requester_told_the_id_it_expects_the_other_holders_answer_would_be_lost() -> None:
    nonces = two_nonces(FIRST, SECOND)
    announced: list[Any] = []
    joined: dict[str, Any] = {}

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(Search, REQUESTER):
            announced.append(d.message)
        elif d.of(Joined, receiver=REQUESTER):
            joined[d.sender] = d.message
        elif announced and d.of(DerivedId, SECOND, REQUESTER):
            return [forge(d.frame, identity=derive_id(announced[0], joined))]
        return nonces(d)

    search = pair(attack=attack).accept()
    search.failures.clear()
    search.search(faces()[0])
    assert search.searching is not None
    assert search.sent(Difference)
    assert isinstance(search.searching.holders[SECOND].sessions[SECOND].failure, Disagreement)
    assert set(search.searching.requester.answers) == {FIRST}


def test_control_without_the_query_id_random_bits_are_opened_as_if_they_were_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some 1 search in 60 then ends as `too_many_candidates` with no error at all, though row 17 alone hits."""

    def same(ring: Ring, digest: bytes) -> Step[None]:
        peer = ring.names[other(ring.seat)]
        yield Send(peer, Echo(digest))
        assert (yield from receive(peer, Echo)).digest == digest

    monkeypatch.setattr(protocol.searching, "check_same_query", lambda *_: None)
    monkeypatch.setattr(protocol.announcing, "check_same_id", lambda *_: None)
    for module in (protocol.form, protocol.filtering, protocol.searching):
        monkeypatch.setattr(module, "same_from_holder", same)
    for sender, receiver in ((ROUTER, HOLDER), (HOLDER, ROUTER)):
        search = small_trio(attack=two_nonces(sender, receiver)).search(faces()[0])
        assert search.sent(AdmissionBit)
        assert search.searching is not None
        answer = search.searching.requester.answers.get(HOLDER)
        assert answer is None or answer.status != "released"


# --- several holders ---


def other_u(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester that sends the second holder the u of another face, with the right hash of what it sent."""
    probe, stranger, _ = faces()
    original = protocol.searching.SearchingRequester._search

    def lying(self: Any, holder: str) -> Any:
        if holder.endswith("1"):
            self = copy.copy(self)
            params = self.terms.params
            u = unpack_difference(self._difference, DIM, params).astype(np.int64) - probe + stranger
            self._difference = protocol.searching.pack_difference(
                (u % params.t).astype(np.int32), params, self._query_id
            )
            self._probe = stranger
        return (yield from original(self, holder))

    monkeypatch.setattr(protocol.searching.SearchingRequester, "_search", lying)


def test_every_holder_of_a_preparation_searches_the_same_face(monkeypatch: pytest.MonkeyPatch) -> None:
    other_u(monkeypatch)
    search = pair().search(faces()[0])
    assert any("differs from that of the search" in str(failure) for failure in search.failures)
    assert search.searching is not None
    assert f"{HOLDER}-1" not in search.searching.requester.answers


def test_control_without_the_comparison_two_faces_are_searched_with_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    other_u(monkeypatch)
    monkeypatch.setattr(protocol.searching.SearchingRouter, "_same", lambda *_: None)
    search = pair().search(faces()[0])
    assert not search.failures
    assert search.searching is not None
    answers = search.searching.requester.answers
    assert [answers[f"{HOLDER}-{k}"].status for k in range(2)] == ["released", "no_hit"]


def test_a_refusal_of_a_good_probe_stops_every_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that turns the last gate of the admission in its own ring; nothing more is told in the other ring."""
    original = protocol.admitting.evaluate
    calls: list[int] = []

    def lying(ring: Any, masks: Any, circuit: Any, kind: Any) -> Any:
        """The comparison with the bound, 7 rounds, with the last product's lane 0 turned."""
        done = 0
        try:
            x, y = next(circuit)
            while True:
                z = protocol.compute.and_local(masks, x, y)
                done += 1
                z.parts[0] ^= np.uint64(done == 7)
                yield protocol.steps.Send(ring.previous, kind(z.parts[0].tobytes()))
                message = yield from protocol.steps.receive(ring.following, kind)
                z.parts[1] = np.frombuffer(message.data, "<u8").reshape(z.shape)
                x, y = circuit.send(z)
        except StopIteration as end:
            assert done == 7
            return end.value

    def evaluate(ring: Any, masks: Any, circuit: Any, kind: Any) -> Any:
        if ring.seat == Seat.HOLDER and ring.names[0].endswith("0"):
            calls.append(1)
            if len(calls) == 3:
                return lying(ring, masks, circuit, kind)
        return original(ring, masks, circuit, kind)

    monkeypatch.setattr(protocol.admitting, "evaluate", evaluate)
    search = pair().search(faces()[0])
    assert len(calls) == 3
    assert any(isinstance(failure, FalseRefusal) for failure in search.failures)
    assert search.searching is not None
    assert not search.searching.requester.answers
    assert all(session.state is State.ABORTED for session in search.searching.requester.ring_sessions)
