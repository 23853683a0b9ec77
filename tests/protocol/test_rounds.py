"""How often a search waits for the network: one-way messages on its critical path."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
import pytest

from protocol.announcing import Plan
from protocol.local import LocalPreparing, LocalSearch
from protocol.machine import Machine
from protocol.party import Context
from protocol.roles import Parties
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
from protocol.session import Session
from protocol.steps import Work
from protocol.work import perform
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER
from tests.kit.signers import Hmacs
from tests.kit.trio import Trio, hold

DIM = 512


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


def scene(hits: int, holders: int = 1) -> tuple[Trio, np.ndarray]:
    rng = np.random.default_rng(3)
    probe = unit_rows(rng, 1, DIM)[0]
    rows = unit_rows(rng, 300, DIM)
    rows[: max(hits, 1)] = near(rng, probe, max(hits, 1), np.full(max(hits, 1), 0.8 if hits else 0.1))
    return Trio(*[hold(rows)] * holders, threshold="0.5"), probe


def parties(trio: Trio, signed: bool) -> LocalSearch:
    """The machines of a search, as they are between nodes where it is signed."""
    assert trio.made is not None
    made, preparation = Parties(REQUESTER, ROUTER, tuple(trio.galleries)), trio.made
    conversation = secrets.token_bytes(16)

    def context(name: str) -> Context:
        return Context(name, conversation, made, keyring=Hmacs(name) if signed else None)

    search = LocalSearch(
        SearchingRequester(context(REQUESTER), trio.terms, preparation.requester),
        SearchingRouter(context(ROUTER), preparation.router),
        {
            name: SearchingHolder(context(name), gallery, preparation.holders[name])
            for name, gallery in trio.galleries.items()
        },
    )
    for machine in search.machines:
        machine.start()
    return search


@pytest.mark.parametrize(("signed", "holders", "messages"), [(False, 1, 30), (True, 1, 30), (True, 2, 30)])
@pytest.mark.parametrize("hits", [0, 3])
def test_a_search_without_a_climb_waits_for_so_many_messages_one_after_the_other(
    hits: int, signed: bool, holders: int, messages: int
) -> None:
    """Nodes sign: who ends a phase waits for the others' signatures."""
    trio, probe = scene(hits, holders)
    trio.prepare()
    search = parties(trio, signed)
    answered: list[bool] = []

    def submit() -> None:  # as soon as everybody has accepted; router and holder may be comparing ids then
        if search.requester.ready:
            search.requester.submit(probe)
        answered.append(len(search.requester.answers) == holders)

    rounds(search.machines, submit)
    assert answered.index(True) == messages
    assert all(len(answer.references) == hits for answer in search.requester.answers.values())


def test_preparing_takes_some_rounds_a_chunk() -> None:
    trio, _ = scene(0)
    everybody = Parties(REQUESTER, ROUTER, (HOLDER,))
    preparing = LocalPreparing.start(everybody, trio.galleries, Plan(trio.terms.params, DIM))
    assert rounds(preparing.machines) < 120
