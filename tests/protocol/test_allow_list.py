"""A party never receives anything that section 6a of protocol/DESIGN.md does not list, and sizes tell nothing."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import get_args

import numpy as np
import pytest

from pets.params import N8192, Parameters
from protocol.errors import ConfirmationFailed, UnexpectedMessage, WrongSize
from protocol.gallery import Gallery
from protocol.messages import (
    ALLOWED,
    Abort,
    AdmissionBit,
    AdmissionBlock,
    Announce,
    AnyMessage,
    CapBit,
    ConfirmationAnswer,
    ConfirmationBlock,
    ConfirmationDigest,
    CountShare,
    FilterBlock,
    Gates,
    InputShare,
    Joined,
    KeyCommitment,
    KeyPair,
    Message,
    PairSecret,
    PowerSums,
    ProbeDigest,
    ProbePart,
    PublicShare,
    Release,
    Rung,
    Signature,
)
from protocol.session import State
from tests.kit.galleries import near, quantised, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, Trio, enrol, forge, role
from tests.kit.ring import RING

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
    gallery = enrol(gallery_with_hits(rng, probe, rows, hits), params)
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
    trio = Trio(enrol(rows), threshold="0.7", ladder="0.1").search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert trio.outcome().threshold_used == trio.terms.rungs[1]
    return trio


def refused() -> Trio:
    rng = np.random.default_rng(0)
    probe = 2 * unit_rows(rng, 1, DIM)[0].clip(-60, 60)
    trio = Trio(enrol(unit_rows(rng, 500, DIM))).search(probe, unchecked=True)
    assert set(trio.states.values()) == {State.REFUSED}
    return trio


def two_holders() -> Trio:
    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, DIM)[0]
    galleries = [enrol(gallery_with_hits(rng, probe, rows, hits)) for rows, hits in ((300, 2), (5000, 0))]
    trio = Trio(*galleries, threshold="0.7").search(probe)
    for name, status in (("HOLDER-0", "released"), ("HOLDER-1", "no_hit")):
        assert trio.outcome(name) == trio.expected(probe, name)
        assert trio.outcome(name).status == status
    return trio


def failed_confirmation() -> Trio:
    def shift(d: Delivery) -> list[bytes] | None:
        if d.of(ConfirmationAnswer, REQUESTER):
            data = np.frombuffer(d.message.data, "<u4") + np.uint32(16)  # type: ignore[union-attr]
            return [forge(d.frame, data=data.tobytes())]
        return None

    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, DIM)[0]
    trio = Trio(enrol(unit_rows(rng, 500, DIM)), attack=shift).search(probe)
    assert isinstance(trio.failures[0], ConfirmationFailed)
    return trio


RUNS = {
    "released": lambda: searched(5),
    "no hit": lambda: searched(0),
    "ring 8192": lambda: searched(3, params=N8192),
    "climbing": lambda: climbing(3),
    "exhausted": lambda: searched(20),
    "probe refused": refused,
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
    assert not {(kind, "router") for kind in (ProbePart, Release, PowerSums, KeyPair, ConfirmationAnswer)} & received
    assert not {(kind, "requester") for kind in (ProbePart, PowerSums, KeyPair, ConfirmationAnswer)} & received
    assert not {(kind, "holder") for kind in (FilterBlock, AdmissionBlock, Release, PublicShare)} & received
    for kind in (InputShare, Gates, PairSecret):  # to the previous party only
        assert {(s, r) for k, s, r in links(trio) if k is kind} == {
            ("holder", "router"),
            ("requester", "holder"),
            ("router", "requester"),
        }


def test_a_released_search_uses_every_row_of_the_table_but_abort_and_holder_to_holder() -> None:
    # signatures are for parties with identities, which these are not
    used = links(searched(5))
    listed = {(kind, *link) for kind, pairs in ALLOWED.items() for link in pairs}
    # the messages of preparations have a test of their own (tests/test_prepared_allow_list.py)
    assert {kind for kind, _, _ in listed - used if kind.__struct_config__.tag < 24} == {Abort, Joined, Signature}
    assert {(k, s, r) for k, s, r in listed - used if k is Joined} == {(Joined, "holder", "holder")}
    assert (Joined, "holder", "holder") in links(two_holders())


def test_the_table_lists_every_type_of_message() -> None:
    assert set(ALLOWED) == set(get_args(AnyMessage))


def test_control_a_message_outside_the_table_is_noticed() -> None:
    trio = searched(0)
    part = trio.sent(ProbePart)[0]
    stray = Trio(enrol(np.empty((0, DIM), np.int8)))
    stray.deliveries = [Delivery(REQUESTER, ROUTER, forge(part.frame, receiver=ROUTER))]
    with pytest.raises(AssertionError, match="ProbePart: requester → router"):
        assert_allowed(stray)


def test_aborting_during_set_up_of_a_joint_query_stays_within_the_table() -> None:
    def spoil(d: Delivery) -> list[bytes] | None:
        if d.of(KeyPair, ROUTER, "HOLDER-0"):
            return [forge(d.frame, requester=b"short")]
        return None

    rng = np.random.default_rng(0)
    trio = Trio(*[enrol(unit_rows(rng, 50, DIM)) for _ in range(2)], attack=spoil).offline()
    assert trio.failures
    assert trio.sent(Abort)
    assert_allowed(trio)


def test_a_probe_sent_to_the_router_is_refused_there() -> None:
    parts: list[bytes] = []

    def redirect(d: Delivery) -> list[bytes] | None:
        if d.of(ProbePart):
            parts.append(d.frame)
        if d.of(ProbeDigest):
            return [forge(d.frame, message=Delivery(REQUESTER, HOLDER, parts[0]).message)]
        return None

    rng = np.random.default_rng(0)
    trio = Trio(enrol(unit_rows(rng, 50, DIM)), attack=redirect).search(unit_rows(rng, 1, DIM)[0])
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
    trio = Trio(Gallery.enrol(rows, RING, references), threshold="0.7", ladder="0").search(probe)
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
    totals: Counter[tuple[str, str, str]] = Counter()
    for d in trio.deliveries:
        assert len(d.frame) < 4096 or type(d.message) not in (Announce, Joined, PairSecret, Rung, AdmissionBit, CapBit)
        totals[type(d.message).__name__, d.sender, d.receiver] += len(d.frame)

    def at_most(kind: type[Message], payload: float, frames: int = 1) -> None:
        for sender, receiver in ALLOWED[kind]:
            size = totals.pop((kind.__name__, sender.upper(), receiver.upper()), None)
            if size is not None:
                assert size <= payload + ENVELOPE * frames, f"{kind.__name__} {sender} → {receiver}: {size} bytes"

    # compare: 14 bytes a row, rows rounded up to whole blocks; admission: below 1 MB
    first = dict.fromkeys(ALLOWED[Gates], 0)
    later = dict(first)
    filtering = False
    for d in trio.deliveries:
        filtering |= d.of(FilterBlock)
        if d.of(Gates) or d.of(InputShare):
            (later if filtering else first)[role(d.sender), role(d.receiver)] += len(d.frame)
    for link in ALLOWED[Gates]:
        assert 13 * n * blocks < later[link] <= 14 * n * blocks
        assert first[link] < 1_000_000
    for kind in (Gates, InputShare):
        for sender, receiver in ALLOWED[kind]:
            del totals[kind.__name__, sender.upper(), receiver.upper()]

    at_most(Announce, 4096)
    at_most(Joined, 1024)
    at_most(KeyCommitment, 64)
    at_most(PublicShare, 8 * n)
    at_most(KeyPair, 2 * 8 * n + 32)
    at_most(PairSecret, 2048)
    at_most(ProbePart, DIM * 16 * n)
    at_most(ProbeDigest, 32)
    at_most(AdmissionBlock, 41 * 8 * n + 32)
    at_most(AdmissionBit, 8)
    at_most(FilterBlock, 8 * n * blocks)
    at_most(CountShare, 4 * n * blocks)
    at_most(CapBit, 8)
    at_most(PowerSums, 4 * (cap + 2))
    at_most(Rung, 16)
    at_most(ConfirmationBlock, 8 * n + 32)
    at_most(ConfirmationDigest, 32)
    at_most(ConfirmationAnswer, 24 * cap)
    at_most(Release, (64 + 4) * cap + 34)
    assert not totals, totals


def test_a_probe_takes_sixteen_bytes_a_dimension_and_ring_coefficient() -> None:
    trio = Trio(enrol(np.zeros((1, 512), np.int8))).search(unit_rows(np.random.default_rng(0), 1, 512)[0])
    parts = trio.sent(ProbePart)
    assert trio.outcome().status == "no_hit"
    stated = 33_554_432 * RING.n // 4096
    assert stated <= sum(len(part.frame) for part in parts) < stated + 6000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sender"),
    [
        (ProbePart, REQUESTER),
        (AdmissionBlock, HOLDER),
        (InputShare, REQUESTER),
        (Gates, ROUTER),
        (FilterBlock, HOLDER),
        (CountShare, HOLDER),
        (PowerSums, ROUTER),
        (ConfirmationBlock, HOLDER),
        (ConfirmationAnswer, REQUESTER),
    ],
)
@pytest.mark.parametrize("change", [-4, 4], ids=["short", "long"])
def test_an_array_of_another_length_is_refused(kind: type[Message], sender: str, change: int) -> None:
    def resize(d: Delivery) -> list[bytes] | None:
        if d.of(kind, sender):
            data = bytes(d.message.data)  # type: ignore[union-attr]
            return [forge(d.frame, data=data[:change] if change < 0 else data + bytes(change))]
        return None

    rng = np.random.default_rng(0)
    trio = Trio(enrol(unit_rows(rng, 50, DIM)), attack=resize).search(unit_rows(rng, 1, DIM)[0])
    trio.assert_stopped(WrongSize)
