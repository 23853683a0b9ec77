"""A party never receives anything that section 6a of protocol/DESIGN.md does not list, and sizes tell nothing."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import get_args

import numpy as np
import pytest

from pets.params import N8192, Parameters
from protocol.errors import ConfirmationFailed, MaskRefused, UnexpectedMessage
from protocol.gallery import Gallery
from protocol.messages import (
    ALLOWED,
    Abort,
    AdmissionBit,
    AdmissionCount,
    AdmissionGates,
    AdmissionInput,
    AdmissionScores,
    AnyMessage,
    CapBit,
    ConfirmationAnswer,
    ConfirmationBlock,
    CountShare,
    DerivedId,
    Difference,
    DifferenceDigest,
    Echo,
    FormBit,
    FormBlock,
    Gates,
    InputShare,
    Joined,
    JoinedPreparation,
    KeySeed,
    LiveRows,
    MaskDigest,
    MaskedScores,
    MaskPart,
    Message,
    PairSecret,
    PowerSums,
    Prepare,
    PreparedBlocks,
    PublicPart,
    Release,
    Rung,
    Search,
    Signature,
)
from protocol.session import State
from tests.kit.galleries import near, quantised, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, forge, role
from tests.kit.ring import RING
from tests.kit.scene import MALFORMED, small_trio, spoiled
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

DIM = 64
ENVELOPE = 200  # bytes that an envelope adds at most
Link = tuple[type[Message], str, str]


def links(trio: Trio) -> set[Link]:
    return {(type(d.message), role(d.sender), role(d.receiver)) for d in trio.deliveries}


def assert_allowed(trio: Trio) -> None:
    refused = [
        f"{kind.__name__}: {sender} → {receiver}"
        for kind, sender, receiver in links(trio)
        if (sender, receiver) not in ALLOWED[kind]
    ]
    assert not refused, refused


def gallery_with_hits(rng: np.random.Generator, probe: np.ndarray, rows: int, hits: int) -> np.ndarray:
    """Random rows and `hits` at cosine 0.8; nothing else reaches 0.7."""
    templates = unit_rows(rng, rows, DIM)
    templates[rng.choice(rows, hits, replace=False)] = near(rng, probe, hits, np.full(hits, 0.8))
    return templates


@lru_cache(maxsize=32)
def searched(hits: int, rows: int = 500, cap: int = 10, ladder: str = "0", params: Parameters = RING) -> Trio:
    rng = np.random.default_rng(hits)
    probe = unit_rows(rng, 1, DIM)[0]
    gallery = hold(gallery_with_hits(rng, probe, rows, hits), params)
    trio = Trio(gallery, threshold="0.7", cap=cap, ladder=ladder).search(probe)
    assert trio.outcome() == trio.expected(probe)
    return trio


def climbing(final: int) -> Trio:
    """20 rows at 0.72, gone at the second rung, where `final` remain."""
    rng = np.random.default_rng(final)
    probe = unit_rows(rng, 1, DIM)[0]
    rows = unit_rows(rng, 500, DIM)
    rows[100:120] = near(rng, probe, 20, np.full(20, 0.73))
    rows[200 : 200 + final] = near(rng, probe, final, np.full(final, 0.9))
    trio = Trio(hold(rows), threshold="0.7", ladder="0.1").search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert trio.outcome().threshold_used == trio.terms.rungs[1]
    return trio


def refused() -> Trio:
    rng = np.random.default_rng(0)
    probe = 2 * unit_rows(rng, 1, DIM)[0].clip(-60, 60)
    trio = Trio(hold(unit_rows(rng, 500, DIM))).search(probe, unchecked=True)
    assert trio.holder.sessions[HOLDER].state is State.REFUSED
    return trio


def refused_mask() -> Trio:
    with pytest.MonkeyPatch.context() as patch:
        spoiled(patch, *MALFORMED["X^5 in one"])
        trio = small_trio().prepare()
    assert trio.preparing is not None
    assert isinstance(trio.preparing.router.sessions[HOLDER].failure, MaskRefused)
    return trio


def two_holders() -> Trio:
    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, DIM)[0]
    galleries = [hold(gallery_with_hits(rng, probe, rows, hits)) for rows, hits in ((300, 2), (5000, 0))]
    trio = Trio(*galleries, threshold="0.7").search(probe)
    for name, status in (("HOLDER-0", "released"), ("HOLDER-1", "no_hit")):
        assert trio.outcome(name) == trio.expected(probe, name)
        assert trio.outcome(name).status == status
    return trio


def failed_confirmation() -> Trio:
    def shift(d: Delivery) -> list[bytes] | None:
        if d.of(ConfirmationAnswer, REQUESTER):
            data = np.frombuffer(d.message.data, "<u4") ^ np.uint32(16)  # type: ignore[union-attr]
            return [forge(d.frame, data=data.tobytes())]
        return None

    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, DIM)[0]
    trio = Trio(hold(unit_rows(rng, 500, DIM)), attack=shift).search(probe)
    assert isinstance(trio.failures[0], ConfirmationFailed)
    return trio


RUNS = {
    "released": lambda: searched(5),
    "no hit": lambda: searched(0),
    "ring 8192": lambda: searched(3, params=N8192),
    "climbing": lambda: climbing(3),
    "exhausted": lambda: searched(20),
    "probe refused": refused,
    "mask refused": refused_mask,
    "two holders": two_holders,
    "failed confirmation": failed_confirmation,
}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_every_message_stands_in_the_table(run: object) -> None:
    trio = run()  # type: ignore[operator]
    assert_allowed(trio)
    # what the table is there for, said again without the table
    received = {(kind, receiver) for kind, _, receiver in links(trio)}
    to_holder = (MaskPart, PublicPart, Difference, PowerSums, ConfirmationAnswer)
    assert not {(kind, "router") for kind in (*to_holder, Release)} & received
    assert not {(kind, "requester") for kind in (*to_holder, KeySeed, CountShare, LiveRows)} & received
    from_holder = (FormBlock, PreparedBlocks, MaskedScores, AdmissionScores, AdmissionCount, CountShare, LiveRows)
    assert not {(kind, "holder") for kind in (*from_holder, Release, Echo)} & received
    shared = {("holder", "router"), ("requester", "holder"), ("router", "requester")}
    for kind in (InputShare, Gates, AdmissionGates, AdmissionInput, PairSecret):  # to the previous party only
        assert {(s, r) for k, s, r in links(trio) if k is kind} <= shared


def test_a_released_search_uses_every_row_of_the_table_but_abort_and_holder_to_holder() -> None:
    # signatures are for parties with identities, which these are not
    used = links(searched(5))
    listed = {(kind, *link) for kind, pairs in ALLOWED.items() for link in pairs}
    assert {kind for kind, _, _ in listed - used} == {Abort, Joined, JoinedPreparation, Signature}
    for kind in (Joined, JoinedPreparation):
        assert {(k, s, r) for k, s, r in listed - used if k is kind} == {(kind, "holder", "holder")}
        assert (kind, "holder", "holder") in links(two_holders())


def test_the_table_lists_every_type_of_message() -> None:
    assert set(ALLOWED) == set(get_args(AnyMessage))


def test_control_a_message_outside_the_table_is_noticed() -> None:
    sent = searched(0).sent(Difference)[0]
    stray = Trio(hold(np.empty((0, DIM), np.int8)))
    stray.deliveries = [Delivery(REQUESTER, ROUTER, forge(sent.frame, receiver=ROUTER))]
    with pytest.raises(AssertionError, match="Difference: requester → router"):
        assert_allowed(stray)


@pytest.mark.parametrize("kind", [JoinedPreparation, Joined])
def test_aborting_during_set_up_of_a_joint_query_stays_within_the_table(kind: type[Message]) -> None:
    def spoil(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, announce=bytes(32))] if d.of(kind, ROUTER, "HOLDER-0") else None

    rng = np.random.default_rng(0)
    trio = Trio(*[hold(unit_rows(rng, 50, DIM)) for _ in range(2)], attack=spoil).accept()
    assert trio.failures
    assert trio.sent(Abort)
    assert_allowed(trio)


@pytest.mark.parametrize(("secret", "instead"), [(Difference, DifferenceDigest), (MaskPart, KeySeed)])
def test_what_is_for_the_holder_is_refused_at_the_router(secret: type[Message], instead: type[Message]) -> None:
    """The router has s2 and sees c1: with u, or with the mask, it would have more than is its share."""
    message = searched(0).sent(secret)[0].message

    def redirect(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, message=message)] if d.of(instead, REQUESTER, ROUTER) else None

    rng = np.random.default_rng(0)
    trio = Trio(hold(unit_rows(rng, 50, DIM)), attack=redirect).search(unit_rows(rng, 1, DIM)[0])
    trio.assert_stopped(UnexpectedMessage)


# --- sizes ---


def sizes(trio: Trio) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """For each link, type and bytes of all frames in order."""
    out: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for d in trio.deliveries:
        out.setdefault((d.sender, d.receiver), []).append((type(d.message).__name__, len(d.frame)))
    return out


def test_sizes_are_equal_whatever_was_found() -> None:
    assert sizes(searched(0)) == sizes(searched(1)) == sizes(searched(5)) == sizes(searched(10))


def test_sizes_are_equal_for_a_probe_and_gallery_of_other_kind() -> None:
    probe = quantised(np.eye(DIM) + 0.2)[0]
    rows = np.repeat(-probe[None], 500, axis=0)
    rows[:4] = probe
    references = tuple("x" * (1 + row % 64) for row in range(500))
    trio = Trio(Gallery.of(rows, RING, references), threshold="0.7", ladder="0").search(probe)
    assert len(trio.outcome().hits) == 4
    assert sizes(trio) == sizes(searched(0))


def test_sizes_are_equal_after_a_climb_whatever_remains() -> None:
    assert sizes(climbing(0)) == sizes(climbing(3))


def test_control_sizes_do_depend_on_rows_cap_and_rungs() -> None:
    base = sizes(searched(5))
    for other in (searched(5, rows=RING.n + 1), searched(5, cap=11), climbing(3), searched(20)):
        assert sizes(other) != base


def test_sizes_are_those_of_section_6a() -> None:
    rows, cap = 4097, 10
    trio = searched(5, rows=rows, cap=cap)
    n = RING.n
    blocks = -(-rows // n)
    bits = (FormBit, AdmissionBit, CapBit)
    small = (Prepare, JoinedPreparation, Search, Joined, DerivedId, PairSecret, Rung, *bits, Echo, KeySeed)
    totals: Counter[tuple[str, str, str]] = Counter()
    gates: Counter[tuple[str, tuple[str, str]]] = Counter()
    phase = "form"
    for d in trio.deliveries:
        assert len(d.frame) < 4096 or type(d.message) not in small
        phase = "search" if d.of(Search) else "prepare" if d.of(PreparedBlocks) else phase
        if d.of(Gates) or d.of(InputShare) or d.of(AdmissionGates) or d.of(AdmissionInput):
            gates[phase, (role(d.sender), role(d.receiver))] += len(d.frame)
        else:
            totals[type(d.message).__name__, d.sender, d.receiver] += len(d.frame)

    def at_most(kind: type[Message], payload: float, frames: int = 1) -> None:
        for sender, receiver in ALLOWED[kind]:
            size = totals.pop((kind.__name__, sender.upper(), receiver.upper()), None)
            if size is not None:
                assert size <= payload + ENVELOPE * frames, f"{kind.__name__} {sender} → {receiver}: {size} bytes"

    # rows rounded up to whole blocks; the admission adds what does not grow with them
    for link in ALLOWED[Gates]:
        assert gates["form", link] < 100_000
        assert 4.25 * n * blocks < gates["prepare", link] < 4.25 * n * blocks + 24 * ENVELOPE
        assert 2.25 * n * blocks < gates["search", link] < 2.375 * n * blocks + 20_000
    lanes = -(-DIM // 64)
    for kind in small:
        at_most(kind, 4096 if kind in (Prepare, Search) else 160, 8)
    at_most(PublicPart, 8 * n)
    at_most(MaskPart, DIM * 8 * n)
    at_most(MaskDigest, 64)
    at_most(FormBlock, 3 * 64 * (51 + lanes) + 32)
    at_most(PreparedBlocks, 8 * n * blocks)
    at_most(Difference, 2.5 * DIM + 32)
    at_most(DifferenceDigest, 32)
    at_most(AdmissionScores, 3 * 64 * lanes + 32)
    at_most(AdmissionCount, 4 * 64 * (36 * lanes + 1))
    at_most(MaskedScores, 3 * n * blocks)
    at_most(LiveRows, n * blocks / 8)
    at_most(CountShare, 4 * n * blocks)
    at_most(PowerSums, 4 * (cap + 2))
    at_most(ConfirmationBlock, 8 * n + 32)
    at_most(ConfirmationAnswer, 24 * cap)
    at_most(Release, (65 + 2) * cap + 38)
    assert not totals, totals


def test_what_a_search_sends_of_a_probe_is_twenty_bits_a_dimension() -> None:
    trio = Trio(hold(np.zeros((1, 512), np.int8))).search(unit_rows(np.random.default_rng(0), 1, 512)[0])
    assert trio.outcome().status == "no_hit"
    (sent,) = trio.sent(Difference)
    assert 1280 <= len(sent.frame) < 1280 + ENVELOPE
    parts = trio.sent(MaskPart)
    stated = 16_777_216 * RING.n // 4096
    assert stated <= sum(len(part.frame) for part in parts) < stated + 3000
