"""What is computed ahead: the first chunk beside the admission, each other one beside the comparison before it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import protocol.filter
from pets.templates import Templates
from protocol.errors import PeerAborted
from protocol.messages import AdmissionBit, AdmissionGates, Gates, MaskedScores
from protocol.session import Session, State
from protocol.steps import Product, Work
from protocol.work import perform
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, Delivery
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

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
    return Trio(hold(rows), threshold="0.7").accept()


def at_once(trio: Trio, done: Callable[[Work], None]) -> None:
    """Do what the holder wants as soon as it wants it, whatever it waits for."""

    def before_each_frame(_: Delivery) -> None:
        while trio.holder.wanted:
            session, want = trio.holder.wanted.popleft()
            done(want)
            trio.holder.supply(session, want, perform([want], 1)[0])

    trio.attack = before_each_frame


def places(trio: Trio, kind: type) -> list[int]:
    return [place for place, delivery in enumerate(trio.deliveries) if delivery.of(kind)]


def test_products_that_come_early_change_nothing(trio: Trio, probe: Templates) -> None:
    times: dict[int, int] = {}

    def done(want: Work) -> None:
        if isinstance(want, Product):
            times[want.first] = len(trio.deliveries)

    at_once(trio, done)
    start = len(trio.deliveries)
    trio.search(probe)
    assert trio.outcome() == trio.expected(probe)
    assert len(trio.outcome().hits) == CHUNKS
    published = [
        place for place, d in enumerate(trio.deliveries) if d.of(MaskedScores, HOLDER, REQUESTER) and place >= start
    ]
    gates = [place for place in places(trio, Gates) if place >= start]
    assert len(published) == len(times) == CHUNKS
    # Each but the first beside the comparison of the one before it, the second beside the admission too.
    admission = places(trio, AdmissionGates)
    assert times[1] < min(admission)
    for chunk in range(1, CHUNKS):
        assert times[chunk] < published[chunk]
        assert sum(times[chunk] < gate < published[chunk] for gate in gates) > 10
    # But nothing of the second leaves before the admission is over.
    assert published[1] > max(places(trio, AdmissionBit))


def test_products_of_a_probe_that_is_refused_go_nowhere(trio: Trio, probe: Templates) -> None:
    wanted: list[Work] = []
    at_once(trio, wanted.append)
    trio.search(np.full_like(probe, 100), unchecked=True)
    session = trio.holder.sessions[HOLDER]
    assert [want.first for want in wanted] == [0, 1]
    assert session.state is State.REFUSED
    assert session.scored is None
    assert len(trio.sent(MaskedScores)) == 2, "of the first chunk, which is uniform to whoever reads it"


def test_products_that_come_late_are_dropped(trio: Trio, probe: Templates) -> None:
    holder, late = trio.holder, list[tuple[Session, Work]]()

    def stop(delivery: Delivery) -> None:
        if delivery.of(AdmissionBit) and not late:
            late.extend(holder.wanted)
            holder.abort(holder.sessions[HOLDER], PeerAborted("somebody", "peer"))

    trio.attack = stop
    trio.search(probe)
    ((session, want),) = late
    assert isinstance(want, Product)
    holder.supply(session, want, perform([want], 1)[0])
    assert session.scored is None
    assert not holder.outgoing
    assert not holder.wanted
    assert len(trio.sent(MaskedScores)) == 2
