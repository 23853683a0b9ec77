"""A router that asks the admission bit of a joint query: a coordinate of the probe in each ring, until one refuses."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import protocol.admission
from protocol.compute import HOLDER, ROUTER, Ring
from protocol.errors import FalseRefusal, OutOfTurn
from protocol.messages import AdmissionBit, AdmissionBlock
from protocol.requester import Requester
from protocol.session import State
from protocol.steps import Step
from tests.kit.galleries import Templates, unit_rows
from tests.kit.parties import Delivery, Trio, enrol

RINGS = 3


class CoordinateTester:
    """A router that asks in the ring of holder k whether coordinate k of the probe is at least 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._deciding = protocol.admission._decide
        monkeypatch.setattr(protocol.admission, "_decide", self.decide)

    def decide(self, ring: Ring, params: Any, dim: int, coefficients: Any, seed: bytes) -> Step[bool]:
        if ring.index == ROUTER:
            tested = int(ring.names[HOLDER][-1])
            for index, p in enumerate(params.primes):  # q + 128 is out of range where q >= 0
                moved = int(coefficients[0, index, tested]) + 128 * params.delta
                coefficients[0, index, tested] = moved % p
        return (yield from self._deciding(ring, params, dim, coefficients, seed))


def positive_probe(rng: np.random.Generator) -> Templates:
    """Whose first coordinates are at least 0, so that each question is answered by a refusal."""
    probe = unit_rows(rng, 1, 128)[0]
    probe[:RINGS] = np.abs(probe[:RINGS])
    return probe


def attacked(side_by_side: bool) -> Trio:
    """A joint query in which the second and the third ring come to their admission after the first, or with it."""
    held: list[Delivery] = []

    def later(d: Delivery) -> list[bytes] | None:
        slow = d.sender.startswith("HOLDER") and not d.sender.endswith("0")
        if side_by_side or not slow or not (d.of(AdmissionBlock) or d.sender in {waits.sender for waits in held}):
            return None
        held.append(d)
        return []

    rng = np.random.default_rng(1)
    probe, galleries = positive_probe(rng), [enrol(unit_rows(rng, 30, 128)) for _ in range(RINGS)]
    trio = Trio(*galleries, threshold="0.9", ladder="0", attack=later).search(probe)
    machines = {machine.name: machine for machine in trio.query.machines}
    side_by_side = True  # what was held back arrives now
    for delivery in held:
        with suppress(OutOfTurn):  # of a ring that was stopped
            machines[delivery.receiver].handle(delivery.frame, delivery.sender)
    trio.network.run()
    return trio


def told(trio: Trio) -> int:
    """In how many rings the router learned the bit."""
    return sum(session.state is State.REFUSED for name, session in trio.router.sessions.items() if name)


def test_the_first_refusal_of_a_checked_probe_stops_every_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    CoordinateTester(monkeypatch)
    trio = attacked(side_by_side=False)
    assert told(trio) == 1
    assert {d.envelope.session for d in trio.sent(AdmissionBit)} == {"HOLDER-0"}
    assert isinstance(trio.requester.false_refusal, FalseRefusal)
    assert "HOLDER-0 or ROUTER lied" in str(trio.requester.false_refusal)
    for name in ("HOLDER-1", "HOLDER-2"):
        assert trio.requester.sessions[name].failure is trio.requester.false_refusal
        assert trio.router.sessions[name].state is State.ABORTED


def test_control_without_the_stop_every_ring_tells_a_coordinate(monkeypatch: pytest.MonkeyPatch) -> None:
    CoordinateTester(monkeypatch)
    monkeypatch.setattr(Requester, "_stop_all_after", lambda *_: None)
    assert told(attacked(side_by_side=False)) == RINGS


def test_control_an_honest_router_raises_no_alarm() -> None:
    trio = attacked(side_by_side=True)
    assert told(trio) == 0
    assert trio.requester.false_refusal is None
    assert {answer.status for answer in trio.requester.answers.values()} == {"no_hit"}


def test_known_limit_rings_whose_bits_are_opened_at_once_have_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holders send the router what it lacks of the bit, whatever the requester has heard; the alarm stands."""
    CoordinateTester(monkeypatch)
    trio = attacked(side_by_side=True)
    assert told(trio) == RINGS
    assert trio.requester.false_refusal is not None


def test_a_probe_that_nobody_checked_here_is_no_false_refusal() -> None:
    rng = np.random.default_rng(1)
    trio = Trio(enrol(unit_rows(rng, 30, 128)), threshold="0.9", ladder="0")
    trio.search(2 * unit_rows(rng, 1, 128)[0].astype(np.int64).clip(-63, 63), unchecked=True)
    assert trio.requester.answers["HOLDER"].status == "probe_refused"
    assert trio.requester.false_refusal is None
