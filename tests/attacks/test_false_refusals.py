"""A router that asks the admission bit of a joint query: a coordinate of the probe in each ring, until one refuses."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from pets.templates import Templates
from protocol.errors import FalseRefusal, OutOfTurn
from protocol.memory import MemoryNetwork
from protocol.messages import AdmissionBit, AdmissionScores
from protocol.searching import SearchingRequester
from protocol.session import State
from tests.kit.attacks import asks_signs
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER, ROUTER, Delivery
from tests.kit.trio import Trio, hold

RINGS = 3


def asks_a_coordinate_in_each_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    asks_signs(monkeypatch, lambda holder: int(holder[-1]))


def negative_probe(rng: np.random.Generator) -> Templates:
    """Whose first coordinates are below 0, so that each question is answered by a refusal."""
    probe = unit_rows(rng, 1, 128)[0]
    probe[:RINGS] = -np.abs(probe[:RINGS]).clip(1, 64)
    return probe


def attacked(side_by_side: bool, kept_back: bool = False) -> Trio:
    """A joint query in which the second and the third ring come to their admission after the first, or with it.

    `kept_back`: the router sends nothing more in a ring, from its own component of the bit on.
    """
    held: list[Delivery] = []
    silent: set[str] = set()

    def later(d: Delivery) -> list[bytes] | None:
        if kept_back and d.sender == ROUTER and (d.of(AdmissionBit) or d.envelope.session in silent):
            silent.add(d.envelope.session)
            return []
        slow = d.sender.startswith(HOLDER) and not d.sender.endswith("0")
        if side_by_side or not slow or not (d.of(AdmissionScores) or d.sender in {waits.sender for waits in held}):
            return None
        held.append(d)
        return []

    rng = np.random.default_rng(1)
    probe, galleries = negative_probe(rng), [hold(unit_rows(rng, 30, 128)) for _ in range(RINGS)]
    trio = Trio(*galleries, threshold="0.9", ladder="0").accept()
    trio.attack = later
    trio.search(probe)
    assert trio.searching is not None
    machines = {machine.name: machine for machine in trio.searching.machines}
    side_by_side = True  # what was held back arrives now
    for delivery in held:
        with suppress(OutOfTurn):  # of a ring that was stopped
            machines[delivery.receiver].handle(delivery.frame, delivery.sender)

    def tap(sender: str, receiver: str, frame: bytes) -> list[bytes]:
        instead = later(Delivery(sender, receiver, frame))
        return [frame] if instead is None else instead

    network = MemoryNetwork(trio.searching.machines, tap=tap)
    network.run()
    trio.failures += network.failures
    return trio


def told(trio: Trio) -> int:
    """In how many rings the router learned the bit."""
    return sum(session.state is State.REFUSED for session in trio.router.ring_sessions)


def alarms(trio: Trio) -> list[FalseRefusal]:
    return [failure for failure in trio.failures if isinstance(failure, FalseRefusal)]


def test_the_first_refusal_of_a_checked_probe_stops_every_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    asks_a_coordinate_in_each_ring(monkeypatch)
    trio = attacked(side_by_side=False)
    assert told(trio) == 1
    assert {d.envelope.session for d in trio.sent(AdmissionBit)} == {"HOLDER-0"}
    (alarm,) = alarms(trio)
    assert "HOLDER-0 or ROUTER lied" in str(alarm)
    for name in ("HOLDER-1", "HOLDER-2"):
        assert trio.requester.sessions[name].failure is alarm
        assert trio.router.sessions[name].state is State.ABORTED


def test_control_without_the_stop_every_ring_tells_a_coordinate(monkeypatch: pytest.MonkeyPatch) -> None:
    asks_a_coordinate_in_each_ring(monkeypatch)
    monkeypatch.setattr(SearchingRequester, "stop_all", lambda *_: None)
    assert told(attacked(side_by_side=False)) == RINGS


def test_control_an_honest_router_raises_no_alarm() -> None:
    trio = attacked(side_by_side=True)
    assert told(trio) == 0
    assert not trio.failures
    assert {answer.status for answer in trio.requester.answers.values()} == {"no_hit"}


def test_known_limit_rings_whose_bits_are_opened_at_once_have_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holders send the router what it lacks of the bit, whatever the requester has heard; the alarm stands."""
    asks_a_coordinate_in_each_ring(monkeypatch)
    trio = attacked(side_by_side=True)
    assert told(trio) == RINGS
    assert alarms(trio)


def test_known_limit_a_router_that_keeps_its_component_back_is_told_in_each_ring_and_raises_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has both others' components. The requester lacks one, and cannot tell this silence from a router's death."""
    asks_a_coordinate_in_each_ring(monkeypatch)
    trio = attacked(side_by_side=False, kept_back=True)
    assert told(trio) == RINGS
    assert not alarms(trio)
