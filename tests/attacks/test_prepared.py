"""Attacks on preparations and on searches that use them, each with its control: without the defence it works."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.blocks
import protocol.filtering
import protocol.form
import protocol.preparing
import protocol.searching
from pets import ntt, residues
from pets.errors import StreamReused
from pets.keys import sample_key_share
from pets.mask_encryption import draw_mask, expand_public
from pets.params import SHARE_BITS, scale
from pets.planes import from_planes, unpack_bits
from pets.rounding import round_shares
from pets.sampling import common_polynomial
from protocol.compute import HOLDER as HOLDER_SEAT
from protocol.difference import unpack_difference
from protocol.errors import Disagreement, FalseRefusal, MaskRefused, OutOfTurn, PreparationSpent
from protocol.gallery import Gallery
from protocol.local import LocalPreparation, LocalSearch
from protocol.memory import MemoryNetwork
from protocol.messages import (
    CapBit,
    Difference,
    Gates,
    LiveRows,
    MaskedScores,
    PreparedBlocks,
    PublicPart,
    Release,
)
from protocol.preparation import HolderPreparation, RequesterPreparation, RouterPreparation, pack, unpack
from protocol.session import State
from protocol.steps import Step
from tests.kit.galleries import Templates, near, scores, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, forge
from tests.kit.prepared import PreparedTrio, hold, opened
from tests.kit.ring import RING

pytestmark = pytest.mark.ring

DIM = 64
N = RING.n
Residues = npt.NDArray[np.uint32]


@lru_cache(maxsize=1)
def scene() -> tuple[Templates, Templates, Templates]:
    """A probe that row 17 hits at 0.8, another that nobody resembles, 200 rows; all else stays below 0.7."""
    rng = np.random.default_rng(2)
    probe, stranger = unit_rows(rng, 2, DIM)
    templates = unit_rows(rng, 200, DIM)
    templates[17] = near(rng, probe, 1, np.full(1, 0.8))[0]
    return probe, stranger, templates


@lru_cache(maxsize=1)
def gallery() -> Gallery:
    return hold(scene()[2])


def trio(**options: Any) -> PreparedTrio:
    return PreparedTrio(gallery(), threshold="0.7", ladder="0", **options)


def copied(made: LocalPreparation) -> LocalPreparation:
    """As after a restore from a backup."""
    holders = {name: unpack(pack(part), HolderPreparation) for name, part in made.holders.items()}
    return LocalPreparation(
        unpack(pack(made.requester), RequesterPreparation), unpack(pack(made.router), RouterPreparation), holders
    )


def differences(search: PreparedTrio) -> list[npt.NDArray[np.int64]]:
    """Every u that the holders received."""
    return [
        unpack_difference(d.message, DIM, RING).astype(np.int64)  # type: ignore[arg-type]
        for d in search.sent(Difference)
    ]


# --- once ---


@pytest.mark.parametrize("restored", ["requester", "requester and router", "requester and holder"])
def test_a_mask_serves_one_probe_although_some_parties_were_restored_from_a_backup(restored: str) -> None:
    probe, stranger, _ = scene()
    first = trio().prepare()
    assert first.made is not None
    backup = copied(first.made)
    first.search(probe)
    assert first.outcome().hits
    again = trio()
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
    probe, stranger, _ = scene()
    first = trio().prepare()
    assert first.made is not None
    again = trio()
    again.made = copied(first.made)
    (u,), (v,) = differences(first.search(probe)), differences(again.search(stranger))
    gap = (u - v) % RING.t
    assert np.array_equal(np.where(gap > RING.t // 2, gap - RING.t, gap), probe.astype(int) - stranger.astype(int))


def test_a_requester_submits_once_and_its_own_mark_refuses_a_second_search() -> None:
    probe, stranger, _ = scene()
    search = trio().search(probe)
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

    search = trio().prepare()
    assert search.made is not None
    started = LocalSearch.start(search.made, search.galleries, search.terms, 1, spend)
    network = MemoryNetwork(started.machines, tap=search._tap)
    network.run_or_raise()
    with pytest.raises(PreparationSpent):
        started.requester.submit(scene()[0])
    network.run()
    assert not search.sent(Difference)
    assert {s.state for m in started.machines for s in m.sessions.values()} <= {State.ABORTED, State.FINISHED}
    with pytest.raises(OutOfTurn):
        started.requester.submit(scene()[0])


def test_a_preparation_is_not_borrowed_by_another_state() -> None:
    search = trio().prepare()
    assert search.made is not None
    borrowed = copied(search.made)
    borrowed.requester.requester = "THIEF"
    started = LocalSearch.start(borrowed, search.galleries, search.terms)
    network = MemoryNetwork(started.machines)
    network.run()
    assert isinstance(network.failures[0], Disagreement)
    assert not any(part.spent for part in (borrowed.router, borrowed.holders[HOLDER]))
    assert trio_goes_on(search)


def trio_goes_on(search: PreparedTrio) -> bool:
    """The rightful owner's own search still works."""
    return bool(search.search(scene()[0]).outcome().hits)


def test_a_preparation_for_another_gallery_is_refused_and_not_spent() -> None:
    search = trio().prepare()
    assert search.made is not None
    other = hold(scene()[2][::-1].copy())
    started = LocalSearch.start(search.made, {HOLDER: other}, search.terms)
    network = MemoryNetwork(started.machines)
    network.run()
    assert isinstance(network.failures[0], Disagreement)
    assert not search.made.holders[HOLDER].spent
    assert search.made.holders[HOLDER].rings


# --- streams drawn again for another attempt at a block ---


def c1_of_a_changed_block(attempt: int) -> tuple[Residues, Residues, Templates]:
    """c1 of a block, and of the same block prepared again with one row changed; what it changed by."""
    _, _, templates = scene()
    changed = templates.copy()
    changed[5, :8] += 3
    keys: list[Any] = []
    original = protocol.preparing.holder_keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.preparing, "holder_keys", lambda *given: keys.append(original(*given)) or keys[-1])
        search = trio().prepare()
    assert search.made is not None
    made = search.made.holders[HOLDER]
    out = []
    for rows, name in ((templates, "rerandomise 0 1 0"), (changed, f"rerandomise 0 1 {attempt}")):
        zeros = replace(keys[0], _used=set()).zeros(name, 1, 1)
        scored = protocol.work.perform([protocol.steps.ScoreRows(rows, made.scoring_probe(), 0, 1)], 1)[0]
        out.append(residues.add(scored, zeros, RING)[0, 1])
    return *out, changed.astype(int) - templates, made.identity  # type: ignore[return-value]


def solved_row(first: Residues, second: Residues, identity: bytes) -> list[int] | None:
    """δ with Σ_j δ_j·X^5·a_j = c1' - c1, from d of the NTT points modulo the first prime."""
    p = RING.primes[0]
    public = expand_public(identity, DIM, RING)
    unit = np.zeros((1, N), np.int8)
    unit[0, 5] = 1
    columns = residues.multiply(public, ntt.forward(unit, RING), RING)[:, 0, :DIM].astype(object).T
    gap = residues.subtract(second, first, RING)[0, :DIM].astype(object)
    rows = [[int(v) for v in row] + [int(g)] for row, g in zip(columns, gap, strict=True)]
    for k in range(DIM):
        pivot = next(i for i in range(k, DIM) if rows[i][k] % p)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        inverse = pow(rows[k][k], -1, p)
        rows[k] = [v * inverse % p for v in rows[k]]
        for i in range(DIM):
            if i != k and rows[i][k]:
                factor = rows[i][k]
                rows[i] = [(v - factor * w) % p for v, w in zip(rows[i], rows[k], strict=True)]
    return [row[-1] - p if row[-1] > p // 2 else row[-1] for row in rows]


def test_a_block_prepared_again_in_another_attempt_shows_nothing_of_the_row_that_changed() -> None:
    first, second, change, identity = c1_of_a_changed_block(1)  # type: ignore[misc]
    assert solved_row(first, second, identity) != change[5].tolist()


def test_control_with_streams_that_follow_the_block_alone_the_change_of_a_row_falls_out() -> None:
    first, second, change, identity = c1_of_a_changed_block(0)  # type: ignore[misc]
    assert solved_row(first, second, identity) == change[5].tolist()


def test_streams_are_drawn_once_for_an_attempt() -> None:
    search = trio().prepare()
    assert search.preparing is not None
    keys: list[Any] = []
    original = protocol.preparing.holder_keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.preparing, "holder_keys", lambda *given: keys.append(original(*given)) or keys[-1])
        trio().prepare()
    with pytest.raises(StreamReused):
        keys[0].zeros("rerandomise 0 1 0", 1, 1)
    assert keys[0].zeros("rerandomise 0 1 1", 1, 1).any()


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
    search = trio(attack=shifted_part).prepare()
    search.assert_stopped(Disagreement)
    assert not search.sent(PreparedBlocks)


def test_control_with_one_mouth_rows_that_resemble_nobody_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.preparing, "check_same_part", lambda *_: None)
    stranger = scene()[1]
    search = trio(attack=shifted_part, cap=99).prepare()
    assert not search.failures, "the mask is well formed, and nothing is seen"
    with watched() as seen:
        search.search(stranger)
    assert scores(scene()[2], stranger).max() < 0.6 * scale(DIM) ** 2
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
                seen[self.ring.index] = bits
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
    search = trio(attack=two_e).accept()
    before = len(search.deliveries)
    search.search(scene()[0])
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
    search = trio(attack=two_e).accept()
    assert search.made is not None
    z = search.made.requester.rings[HOLDER].chunks[0].z[:, PLANE]
    second, third = (unpack_bits(part.copy()) for part in z)  # x_1, which the holder has too, and x_2, which it lacks
    search.search(scene()[1])
    # Where its own part of the row's live bit is 0, the row is opened if x_1 ^ x_2 of the plane is 1.
    own = unpack_bits(np.frombuffer(search.sent(LiveRows)[0].message.data, "<u8"))  # type: ignore[union-attr]
    assert opened == [tuple(row for row in TURNED if not own[row] and second[row] ^ third[row])]


def routers_view(search: PreparedTrio) -> npt.NDArray[np.int64]:
    """e + z' of every row, all of which the router has, centred, in units of a score."""
    assert search.router_seed is not None  # type: ignore[attr-defined]
    identity, seed = search.router_seed  # type: ignore[attr-defined]
    secret = sample_key_share(RING, common_polynomial(RING, identity), seed, identity).secret
    c1 = np.frombuffer(search.sent(PreparedBlocks, HOLDER, ROUTER)[0].message.data, "<u4").reshape(1, 2, N)  # type: ignore[union-attr]
    z = round_shares(ntt.inverse(residues.multiply(c1.astype(np.uint32), secret, RING), RING), RING)[0]
    planes = np.frombuffer(search.sent(MaskedScores, HOLDER, ROUTER)[0].message.data, "<u8").reshape(SHARE_BITS, -1)  # type: ignore[union-attr]
    total = (from_planes(planes.astype(np.uint64)).astype(np.int64) + z) % 2**SHARE_BITS
    total[total >= 2 ** (SHARE_BITS - 1)] -= 2**SHARE_BITS
    return total[:200] / 16 + search.terms.theta(0)


def seen_by_router() -> npt.NDArray[np.int64]:
    search = trio().prepare()
    assert search.made is not None
    search.router_seed = search.made.router.identity, search.made.router.router_seed  # type: ignore[attr-defined]
    return routers_view(search.search(scene()[0]))


def test_the_e_that_the_router_sees_tells_it_no_score() -> None:
    exact = scores(scene()[2], scene()[0])
    assert abs(np.corrcoef(seen_by_router(), exact)[0, 1]) < 0.3


def test_control_without_m_the_router_reads_every_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.blocks, "from_planes", lambda planes, _: np.zeros(64 * planes.shape[1], np.uint32))
    exact = scores(scene()[2], scene()[0])
    assert np.abs(seen_by_router() - exact).max() < 1


# --- the form of the mask ---


def spoiled(monkeypatch: pytest.MonkeyPatch, ciphertexts: Iterable[int], polynomial: dict[int, int]) -> None:
    """A requester that adds a polynomial (coefficient -> value, modulo Q) to some ciphertexts, and keeps quiet."""
    original = protocol.preparing.encrypt_mask

    def spoil(*given: Any) -> Residues:
        mask = original(*given)
        for exponent, value in polynomial.items():
            unit = np.zeros((1, N), np.int32)
            unit[0, exponent] = 1
            factors = np.array([value % p for p in RING.primes], np.uint64)[:, None]
            form = (ntt.forward(unit, RING)[0] * factors % np.array(RING.primes, np.uint64)[:, None]).astype(np.uint32)
            for j in ciphertexts:
                mask[j] = residues.add(mask[j], form, RING)
        return mask

    monkeypatch.setattr(protocol.preparing, "encrypt_mask", spoil)
    monkeypatch.setattr(protocol.form, "check_lanes", lambda *_: None)


DELTA = RING.delta
NOISE = 2**38  # a quarter of Δ: four units of a rounded share
MALFORMED = {
    "X^5 in one": ([9], {5: DELTA}),
    "-X^(n-1) in one": ([0], {N - 1: -DELTA}),
    "X in all": (range(DIM), {1: DELTA}),
    "100·X^2048 in two": ([3, 4], {2048: 100 * DELTA}),
    "noise in X^500 of one": ([9], {500: NOISE}),
    "noise in many coefficients": (range(DIM), dict.fromkeys(range(200, 260), NOISE // 8)),
    "noise far below the unit of a share": ([9], {500: 2**23}),
    "noise beside a number": ([9], {0: NOISE}),
    "noise beside a number, far below the unit": ([9], {0: 2**23}),
    "what vanishes when amplified": ([9], {500: RING.q // protocol.form.AMPLIFIED}),
    "what vanishes times t": ([9], {0: RING.q // RING.t + 2**36}),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_mask_is_refused_before_a_row_is_scored(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ciphertexts, polynomial = MALFORMED[kind]
    spoiled(monkeypatch, ciphertexts, polynomial)
    search = trio().prepare()
    assert search.made is None
    assert search.preparing is not None
    assert any(isinstance(failure, FalseRefusal) for failure in search.failures)
    for machine in (search.preparing.router, search.preparing.holders[HOLDER]):
        assert isinstance(machine.sessions[HOLDER].failure, MaskRefused)
        assert machine.sessions[HOLDER].state is State.REFUSED
    assert not search.sent(PreparedBlocks)


def test_control_a_constant_more_is_another_mask_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more unit of r_j, exactly as it would be encrypted: nothing is wrong with it."""
    spoiled(monkeypatch, [9], {0: (RING.q + RING.t // 2) // RING.t})
    assert trio().prepare().made is not None


def test_control_without_the_check_a_row_scores_with_another_rows_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(*_: object) -> Step[None]:
        return
        yield

    monkeypatch.setattr(protocol.form, "_decide", accept)
    spoiled(monkeypatch, [9], {5: 100 * DELTA})
    search = trio().prepare()
    assert search.made is not None
    requester = search.made.requester
    chunks = [p.rings[HOLDER].chunks[0] for p in (search.made.holders[HOLDER], requester, search.made.router)]
    total = from_planes(opened([chunk.z for chunk in chunks])).astype(np.int64) + chunks[0].masked
    rows = scene()[2].astype(np.int64)
    due = rows @ draw_mask(requester.seed, requester.identity, DIM, RING).astype(np.int64)
    due[5:] += 100 * rows[:-5, 9]
    gap = (total[:200] - np.rint(due % RING.t * 2**SHARE_BITS / RING.t).astype(np.int64)) % 2**SHARE_BITS
    assert (np.minimum(gap, 2**SHARE_BITS - gap)[5:] <= 2).all()


@pytest.mark.parametrize("where", ["form", "admission"])
def test_a_holder_whose_numbers_do_not_belong_to_the_mask_is_found_before_the_first_gate(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input to a check, moved by a little in one lane, would turn the bit into an oracle for that lane."""
    module = protocol.form if where == "form" else protocol.admitting
    name = "form_values" if where == "form" else "public_sums"
    original = getattr(module, name)

    def lying(*given: Any) -> Any:
        values = original(*given)
        first = values[0] if where == "form" else values
        if where == "admission" or given[0].any():
            first[3] = (first[3] + 16 * 60) % 2**SHARE_BITS
        return values

    search = trio()
    if where == "admission":
        search.accept()
    calls: list[int] = []

    def holders_only(*given: Any) -> Any:
        calls.append(1)
        return lying(*given) if where == "admission" or len(calls) == 1 else original(*given)

    monkeypatch.setattr(module, name, holders_only)
    search.search(scene()[0])
    assert any(isinstance(f, Disagreement) and "published what does not belong" in str(f) for f in search.failures)
    assert not search.sent(Release)


# --- several holders ---


def pair(**options: Any) -> PreparedTrio:
    templates = scene()[2]
    return PreparedTrio(hold(templates), hold(templates.copy()), threshold="0.7", ladder="0", **options)


def other_u(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester that sends the second holder the u of another face, with the right hash of what it sent."""
    probe, stranger, _ = scene()
    original = protocol.searching.SearchingRequester._search

    def lying(self: Any, holder: str) -> Any:
        if holder.endswith("1"):
            self = copy.copy(self)
            params = self.terms.params
            u = unpack_difference(self._difference, DIM, params).astype(np.int64) - probe + stranger
            self._difference = protocol.searching.pack_difference(
                (u % params.t).astype(np.int32), params, self._identity
            )
            self._probe = stranger
        return (yield from original(self, holder))

    monkeypatch.setattr(protocol.searching.SearchingRequester, "_search", lying)


def test_every_holder_of_a_preparation_searches_the_same_face(monkeypatch: pytest.MonkeyPatch) -> None:
    other_u(monkeypatch)
    search = pair().search(scene()[0])
    assert any("is another than that of the search" in str(failure) for failure in search.failures)
    assert search.searching is not None
    assert f"{HOLDER}-1" not in search.searching.requester.answers


def test_control_without_the_comparison_two_faces_are_searched_with_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    other_u(monkeypatch)
    monkeypatch.setattr(protocol.searching.SearchingRouter, "_same", lambda *_: None)
    search = pair().search(scene()[0])
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
        if ring.index == HOLDER_SEAT and ring.names[0].endswith("0"):
            calls.append(1)
            if len(calls) == 3:
                return lying(ring, masks, circuit, kind)
        return original(ring, masks, circuit, kind)

    monkeypatch.setattr(protocol.admitting, "evaluate", evaluate)
    search = pair().search(scene()[0])
    assert len(calls) == 3
    assert any(isinstance(failure, FalseRefusal) for failure in search.failures)
    assert search.searching is not None
    assert not search.searching.requester.answers
    assert all(session.state is State.ABORTED for session in search.searching.requester.ring_sessions)


# --- kept secrets ---


def test_after_the_search_nothing_is_left_of_a_preparation() -> None:
    search = trio().prepare()
    assert search.made is not None
    kept = [
        array
        for part in (search.made.requester, search.made.router, search.made.holders[HOLDER])
        for ring in part.rings.values()
        for array in (ring.admission, ring.known, *(a for c in ring.chunks for a in (c.z, c.pairs, c.masked)))
        if array is not None
    ]
    assert all(array.any() for array in kept)
    search.search(scene()[0])
    assert search.outcome().hits
    assert not any(array.any() for array in kept)
    assert search.made.router.router_seed == search.made.holders[HOLDER].holder_seed == bytes(32)


def test_a_packed_preparation_is_the_same_after_unpacking_and_hides_nothing_of_its_use() -> None:
    search = trio().prepare()
    assert search.made is not None
    made = copied(search.made)
    other = trio()
    other.made = made
    assert trio_goes_on(other)
    made.requester.spent = True
    again = unpack(pack(made.requester), RequesterPreparation)
    with pytest.raises(PreparationSpent):
        again.claim()
