"""How often a search waits for the network: one-way messages on its critical path."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from protocol.local import LocalPreparing, LocalSearch
from protocol.machine import Machine
from protocol.roles import Parties
from protocol.session import Session
from protocol.steps import Work
from protocol.work import perform
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER
from tests.kit.trio import Trio, hold

DIM = 512
MOST = 30


def rounds(machines: list[Machine], each: Callable[[], None] = lambda: None) -> int:
    """Every message takes one step, however many travel at once. Returns the steps until nothing moves.

    `each`: done before each step.
    """
    named = {machine.name: machine for machine in machines}
    count = 0
    while True:
        each()
        work(machines)
        frames = [(machine.name, *frame) for machine in machines for frame in machine.outgoing]
        if not frames:
            return count
        count += 1
        for machine in machines:
            machine.outgoing.clear()
        for sender, receiver, frame in frames:
            named[receiver].handle(frame, sender)


def work(machines: list[Machine]) -> None:
    wanted: list[tuple[Machine, Session, Work]] = []
    while any(machine.wanted for machine in machines):
        wanted = [(machine, *item) for machine in machines for item in machine.wanted]
        for machine in machines:
            machine.wanted.clear()
        for machine, session, want in wanted:
            machine.supply(session, want, perform([want], 1)[0])


def scene(hits: int) -> tuple[Trio, np.ndarray]:
    rng = np.random.default_rng(3)
    probe = unit_rows(rng, 1, DIM)[0]
    rows = unit_rows(rng, 300, DIM)
    rows[: max(hits, 1)] = near(rng, probe, max(hits, 1), np.full(max(hits, 1), 0.8 if hits else 0.1))
    return Trio(hold(rows), threshold="0.5"), probe


@pytest.mark.parametrize("hits", [0, 3])
def test_a_search_without_a_climb_takes_at_most_thirty_messages_one_after_the_other(hits: int) -> None:
    trio, probe = scene(hits)
    trio.prepare()
    assert trio.made is not None
    search = LocalSearch.start(trio.made, trio.galleries, trio.terms)

    def submit() -> None:  # as soon as everybody has accepted; router and holder are then comparing ids
        if search.requester.ready:
            search.requester.submit(probe)

    assert rounds(search.machines, submit) <= MOST
    assert len(search.requester.answers[HOLDER].references) == hits


def test_preparing_takes_some_rounds_a_chunk() -> None:
    trio, _ = scene(0)
    parties = Parties(REQUESTER, ROUTER, (HOLDER,))
    from protocol.announcing import Plan

    preparing = LocalPreparing.start(parties, trio.galleries, Plan(trio.terms.params, DIM))
    assert rounds(preparing.machines) < 120
