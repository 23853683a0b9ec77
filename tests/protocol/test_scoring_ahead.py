"""What is scored ahead: the first chunk beside the admission, each other one beside the comparison before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import protocol.filter
from pets.scoring import score
from protocol.errors import PeerAborted
from protocol.messages import AdmissionBit, FilterBlock, Gates
from protocol.session import Session, State
from protocol.steps import Score
from tests.kit.galleries import Templates, near, unit_rows
from tests.kit.parties import HOLDER, Delivery, Trio, enrol
from tests.kit.ring import RING

CHUNKS = 3
DIM = 64


@pytest.fixture
def probe() -> Templates:
    return unit_rows(np.random.default_rng(1), 1, DIM)[0]


@pytest.fixture
def trio(probe: Templates, monkeypatch: pytest.MonkeyPatch) -> Trio:
    """A gallery of three chunks with one hit in each, and nothing asked yet."""
    monkeypatch.setattr(protocol.filter, "CHUNK_ROWS", RING.n)
    rng = np.random.default_rng(2)
    rows = unit_rows(rng, (CHUNKS - 1) * RING.n + 90, DIM)
    rows[:: RING.n] = near(rng, probe, CHUNKS, np.full(CHUNKS, 0.9))
    return Trio(enrol(rows), threshold="0.7").offline()


def at_once(trio: Trio, scored: Callable[[Score], None]) -> None:
    """Score what the holder wants as soon as it does, whatever it waits for."""

    def before_each_frame(_: Delivery) -> None:
        while trio.holder.wanted:
            session, want = trio.holder.wanted.popleft()
            scored(want)
            trio.holder.supply(session, want, score(want.gallery, want.probe, want.first, want.count))

    trio.attack = before_each_frame


def places(trio: Trio, kind: type) -> list[int]:
    return [place for place, delivery in enumerate(trio.deliveries) if delivery.of(kind)]


def test_scores_that_come_early_change_nothing(trio: Trio, probe: Templates) -> None:
    times: dict[int, int] = {}

    def scored(want: Score) -> None:
        if want.gallery is trio.holder.gallery.encoded:
            times[want.first] = len(trio.deliveries)

    at_once(trio, scored)
    trio.online(probe)
    assert trio.outcome() == trio.expected(probe)
    assert len(trio.outcome().hits) == CHUNKS
    blocks, gates = places(trio, FilterBlock)[::2], places(trio, Gates)
    assert len(blocks) == len(times) == CHUNKS
    # The first beside the rounds of the admission, and each other one beside those of the comparison before it.
    rounds_after = [
        sum(time < gate < block for gate in gates) for time, block in zip(times.values(), blocks, strict=True)
    ]
    assert min(rounds_after) > 10
    # But nothing leaves before its turn.
    assert blocks[0] > max(places(trio, AdmissionBit))


def test_scores_of_a_probe_that_is_refused_go_nowhere(trio: Trio, probe: Templates) -> None:
    wanted: list[Score] = []
    at_once(trio, wanted.append)
    trio.online(np.full_like(probe, 100), unchecked=True)
    assert [want.gallery is trio.holder.gallery.encoded for want in wanted] == [False, True]
    session = trio.holder.sessions[HOLDER]
    assert session.state is State.REFUSED
    assert session.scored is None
    assert not trio.sent(FilterBlock)


def test_scores_that_come_late_are_dropped(trio: Trio, probe: Templates) -> None:
    holder, late = trio.holder, list[tuple[Session, Score]]()

    def stop(delivery: Delivery) -> None:
        if delivery.of(AdmissionBit) and not late:
            late.extend(holder.wanted)
            holder.abort(holder.sessions[HOLDER], PeerAborted("somebody", "peer"))

    trio.attack = stop
    trio.online(probe)
    ((session, want),) = late
    assert want.gallery is holder.gallery.encoded
    holder.supply(session, want, score(want.gallery, want.probe, want.first, want.count))
    assert session.scored is None
    assert not holder.outgoing
    assert not holder.wanted
    assert not trio.sent(FilterBlock)
