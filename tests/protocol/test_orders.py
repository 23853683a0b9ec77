"""Preparations and searches with signatures, and with messages of different links arriving in any order."""

from __future__ import annotations

import itertools
import random
import secrets
from collections import defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import protocol.announcing
import protocol.blocks
from pets.errors import CryptoError, LineupError
from pets.templates import Templates
from protocol.announcing import Plan
from protocol.engine import PlainEngine
from protocol.errors import Disagreement
from protocol.gallery import Gallery
from protocol.machine import Machine
from protocol.messages import Difference, MaskedScores, Signature
from protocol.party import Context, Party
from protocol.preparing import PreparingHolder, PreparingRequester, PreparingRouter
from protocol.roles import Parties
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
from protocol.session import WHOLE, Event, Session, State
from protocol.steps import Sign, Verify
from protocol.terms import Terms
from protocol.warrant import sign_announcement
from protocol.wire import decode
from protocol.work import perform
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import REQUESTER, ROUTER
from tests.kit.ring import RING
from tests.kit.signers import Hmacs
from tests.kit.trio import hold

DIM = 64


@dataclass
class Shuffled:
    """Delivers one waiting frame at a time, of a link chosen at random; frames of a link stay in order.

    `lost`: sender and receiver of a link on which no signature arrives.
    """

    machines: list[Party]
    rng: random.Random
    lost: tuple[str, str] | None = None
    failures: list[LineupError] = field(default_factory=list)
    kinds: list[type[Any]] = field(default_factory=list)

    def run(self) -> None:
        named = {machine.name: machine for machine in self.machines}
        links: dict[tuple[str, str], deque[bytes]] = defaultdict(deque)
        while True:
            for machine in self.machines:
                while machine.outgoing:
                    to, frame = machine.outgoing.popleft()
                    links[machine.name, to].append(frame)
            choices: list[Any] = [link for link, frames in links.items() if frames]
            choices += [machine for machine in self.machines if machine.wanted]
            if not choices:
                return
            chosen = self.rng.choice(choices)
            try:
                if isinstance(chosen, Machine):
                    session, work = chosen.wanted.popleft()
                    chosen.supply(session, work, perform([work], 1)[0])
                else:
                    frame = links[chosen].popleft()
                    self.kinds.append(type(decode(frame).message))
                    if chosen == self.lost and self.kinds[-1] is Signature:
                        continue
                    named[chosen[1]].handle(frame, chosen[0])
            except LineupError as error:
                self.failures.append(error)


@dataclass
class Signed:
    """All parties with notaries, their galleries, and what was recorded."""

    galleries: dict[str, Gallery]
    rng: random.Random
    liar: str | None = None
    lies_in: str = "search"
    events: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    failures: list[LineupError] = field(default_factory=list)
    signatures: int = 0
    lost: tuple[str, str] | None = None  # as in `Shuffled`, in searches

    def contexts(self, parties: Parties, lying: bool) -> dict[str, Context]:
        conversation = secrets.token_bytes(16)
        return {
            name: Context(
                name,
                conversation,
                parties,
                keyring=Hmacs(name, lying and name == self.liar),
                recorder=self.events[name].append,
            )
            for name in (parties.requester, parties.router, *parties.holders)
        }

    def prepare(self) -> tuple[Any, Any, dict[str, Any]]:
        parties = Parties(REQUESTER, ROUTER, tuple(self.galleries))
        made = self.contexts(parties, self.lies_in == "preparation")
        requester = PreparingRequester(made[REQUESTER], Plan(RING, DIM))
        router = PreparingRouter(made[ROUTER])
        holders = {name: PreparingHolder(made[name], gallery) for name, gallery in self.galleries.items()}
        self._run([router, *holders.values(), requester])
        return requester.preparation, router.preparation, {name: m.preparation for name, m in holders.items()}

    def search(self, probe: Templates, terms: Terms) -> SearchingRequester:
        lost, self.lost = self.lost, None
        of_requester, of_router, of_holders = self.prepare()
        self.lost = lost
        parties = Parties(REQUESTER, ROUTER, tuple(self.galleries))
        made = self.contexts(parties, self.lies_in == "search")
        requester = SearchingRequester(made[REQUESTER], terms, of_requester)
        if self.liar == REQUESTER:  # what it signs first is the announcement, which only a policy looks at
            requester.announce = sign_announcement(requester.announce, Hmacs(REQUESTER))
        router = SearchingRouter(made[ROUTER], of_router)
        holders = [SearchingHolder(made[name], gallery, of_holders[name]) for name, gallery in self.galleries.items()]
        machines: list[Party] = [router, *holders, requester]
        self._run(machines)
        if requester.ready:
            requester.submit(probe)
            self._run(machines, start=False)
        self.machines = machines
        return requester

    def _run(self, machines: list[Party], *, start: bool = True) -> None:
        if start:
            for machine in machines:
                machine.start()
        network = Shuffled(machines, self.rng, self.lost)
        network.run()
        self.failures += network.failures
        self.signatures += network.kinds.count(Signature)


def scene(holders: int, rows: int = 300) -> tuple[dict[str, Gallery], Templates]:
    rng = np.random.default_rng(4)
    probe = unit_rows(rng, 1, DIM)[0]
    galleries = {}
    for number in range(holders):
        templates = unit_rows(rng, rows, DIM)
        templates[40:44] = near(rng, probe, 4, np.array([0.7, 0.72, 0.74, 0.9]))
        galleries[f"HOLDER-{number}"] = hold(templates)
    return galleries, probe


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("holders", [1, 2])
def test_messages_in_any_order_give_the_same_hits(seed: int, holders: int) -> None:
    galleries, probe = scene(holders)
    terms = Terms(Decimal("0.65"), DIM, RING, 2, Decimal("0.04"))
    signed = Signed(galleries, random.Random(seed))
    requester = signed.search(probe, terms)
    assert not signed.failures
    for name, gallery in galleries.items():
        (expected,) = PlainEngine().search(gallery, probe[None], terms)
        answer = requester.answers[name]
        assert (answer.status, answer.threshold_used) == (expected.status, expected.threshold_used)
        assert answer.references == tuple(gallery.reference(hit.row) for hit in expected.hits)
        assert answer.threshold_used > terms.threshold, "it climbed"
    assert signed.signatures > 20
    recorded = {event.session for events in signed.events.values() for event in events}
    assert recorded == {WHOLE, *galleries}


@pytest.mark.parametrize("seed", range(3))
def test_messages_in_any_order_over_several_chunks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.blocks, "CHUNK_ROWS", RING.n)
    galleries, probe = scene(1, 2 * RING.n + 50)
    terms = Terms(Decimal("0.65"), DIM, RING, 2, Decimal("0.04"))
    signed = Signed(galleries, random.Random(seed))
    requester = signed.search(probe, terms)
    assert not signed.failures
    (expected,) = PlainEngine().search(next(iter(galleries.values())), probe[None], terms)
    assert requester.answers["HOLDER-0"].threshold_used == expected.threshold_used
    assert len(requester.answers["HOLDER-0"].references) == len(expected.hits) > 0


@pytest.mark.parametrize("where", ["preparation", "search"])
@pytest.mark.parametrize("liar", [REQUESTER, ROUTER, "HOLDER-0"])
def test_a_phase_signed_otherwise_stops_everybody(liar: str, where: str) -> None:
    galleries, probe = scene(1)
    signed = Signed(galleries, random.Random(1), liar, where)
    terms = Terms(Decimal("0.65"), DIM, RING)
    if where == "preparation":
        assert None in (*signed.prepare()[:2], *signed.prepare()[2].values())
    else:
        requester = signed.search(probe, terms)
        assert not requester.answers
        assert {machine.sessions["HOLDER-0"].state for machine in signed.machines} <= {State.ABORTED, State.FINISHED}
    assert any(isinstance(failure, CryptoError) for failure in signed.failures)


JOINT = [REQUESTER, ROUTER, "HOLDER-0", "HOLDER-1"]


@pytest.mark.parametrize("link", list(itertools.permutations(JOINT, 2)), ids=" to ".join)
def test_in_a_joint_search_each_checks_what_each_other_signed(
    link: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One link carries a signature of the set-up that is none, all others are right: its receiver says so."""
    forge_signature(link, "set-up", monkeypatch)
    signed, requester = joint_search()
    (misled,) = [machine for machine in signed.machines if machine.name == link[1]]
    assert isinstance(misled.whole.failure, CryptoError)
    assert misled.whole.state is State.ABORTED
    assert link[1] not in requester.answers


def forge_signature(link: tuple[str, str], phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In searches, one link carries a signature of a phase that is none."""
    sign = Machine._sign

    def signs(machine: Machine, session: Session, effect: Sign) -> None:
        searches = isinstance(machine, (SearchingRequester, SearchingRouter, SearchingHolder))
        if searches and (machine.name, effect.to, effect.phase) == (*link, phase):
            head = session.chains["sent", effect.to]
            machine._send(session, effect.to, Signature(phase, head, bytes(32)))
        else:
            sign(machine, session, effect)

    monkeypatch.setattr(Machine, "_sign", signs)


def joint_search() -> tuple[Signed, SearchingRequester]:
    galleries, probe = scene(2, rows=60)
    signed = Signed(galleries, random.Random(1))
    return signed, signed.search(probe, Terms(Decimal("0.65"), DIM, RING))


def published(signed: Signed, holder: str) -> bool:
    """Whether a holder sent masked scores."""
    return any(isinstance(e.message, MaskedScores) and e.direction == "sent" for e in signed.events[holder])


@pytest.mark.parametrize("link", [(ROUTER, "HOLDER-0"), ("HOLDER-0", ROUTER)], ids=" to ".join)
def test_a_ring_begins_only_once_router_and_holder_signed_its_id(
    link: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told by a forged signature stops that ring, a holder before it publishes anything; no other ring stops."""
    forge_signature(link, "id", monkeypatch)
    signed, requester = joint_search()
    (misled,) = [machine for machine in signed.machines if machine.name == link[1]]
    assert isinstance(misled.sessions["HOLDER-0"].failure, CryptoError)
    assert set(requester.answers) == {"HOLDER-1"}
    assert published(signed, "HOLDER-1")
    assert not (published(signed, "HOLDER-0") and link[1] == "HOLDER-0")


@pytest.mark.parametrize("link", [(ROUTER, "HOLDER-0"), ("HOLDER-0", ROUTER)], ids=" to ".join)
def test_control_with_an_unsigned_id_the_ring_would_begin(
    link: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = Machine._verify

    def verifies(machine: Machine, session: Session, effect: Verify) -> None:
        if effect.phase != "id":
            verify(machine, session, effect)
            return
        assert session.unchecked is not None
        machine._record(session, "received", session.unchecked)

    monkeypatch.setattr(Machine, "_verify", verifies)
    forge_signature(link, "id", monkeypatch)
    signed, requester = joint_search()
    assert set(requester.answers) == {"HOLDER-0", "HOLDER-1"}
    assert published(signed, "HOLDER-0")


LINKS = [
    *[("HOLDER-0", ROUTER), ("HOLDER-0", "HOLDER-1"), ("HOLDER-1", ROUTER), ("HOLDER-1", "HOLDER-0")],
    *[("HOLDER-2", ROUTER), ("HOLDER-2", "HOLDER-0"), ("HOLDER-0", "HOLDER-2")],
]


@pytest.mark.parametrize("link", LINKS, ids=" to ".join)
def test_nothing_of_the_probe_leaves_before_all_have_every_holders_signature(link: tuple[str, str]) -> None:
    assert not asked_without(link)


@pytest.mark.parametrize("link", LINKS, ids=" to ".join)
def test_control_had_the_requester_not_waited_it_would_leave(
    link: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.announcing, "_signatures_before", lambda *_: ())
    assert asked_without(link)


def asked_without(link: tuple[str, str]) -> bool:
    """Whether the requester sends its difference to three holders although a link loses its signatures."""
    galleries, probe = scene(3, rows=60)
    signed = Signed(galleries, random.Random(1), lost=link)
    signed.search(probe, Terms(Decimal("0.65"), DIM, RING))
    assert not signed.failures
    return any(isinstance(event.message, Difference) for event in signed.events[REQUESTER])


def test_control_without_the_check_of_signatures_the_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "_verify", lambda *_: None)
    galleries, probe = scene(1)
    signed = Signed(galleries, random.Random(1), REQUESTER, "search")
    requester = signed.search(probe, Terms(Decimal("0.65"), DIM, RING))
    assert not signed.failures
    assert requester.answers["HOLDER-0"].references


def test_a_head_of_another_conversation_stops_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Machine._sign

    def about_nothing(machine: Machine, session: Any, effect: Any) -> None:
        if machine.role == "requester" and not session.whole:
            session.chains["sent", effect.to] = bytes(32)
        original(machine, session, effect)

    monkeypatch.setattr(Machine, "_sign", about_nothing)
    galleries, _ = scene(1)
    signed = Signed(galleries, random.Random(1))
    assert None in (*signed.prepare()[:2], *signed.prepare()[2].values())
    assert any(isinstance(failure, Disagreement) for failure in signed.failures)


@pytest.mark.parametrize("seed", range(6))
def test_what_form_checks_need_stays_until_the_last_of_them_whoever_is_lost(seed: int) -> None:
    """In any order, one of three holders lost at any moment: the rings of the others are finished as they would be."""
    galleries, _ = scene(3, rows=60)
    rng = random.Random(seed)
    signed = Signed(galleries, rng)
    made = signed.contexts(Parties(REQUESTER, ROUTER, tuple(galleries)), lying=False)
    requester, router = PreparingRequester(made[REQUESTER], Plan(RING, DIM)), PreparingRouter(made[ROUTER])
    holders = [PreparingHolder(made[name], gallery) for name, gallery in galleries.items()]
    lost, taken, moment = holders[rng.randrange(3)], iter(range(10**6)), rng.randrange(10, 90)
    handle = lost.handle

    def dies(frame: bytes, link: str) -> None:
        if next(taken) == moment:
            for session in lost.sessions.values():
                lost.abort(session, Disagreement("it was killed"))
        handle(frame, link)

    lost.handle = dies  # type: ignore[method-assign]
    signed._run([router, *holders, requester])
    assert requester.done
    assert router.done
    if requester.whole.state is State.FINISHED:
        whole = {holder.name for holder in holders if holder.preparation is not None}
        assert {holder.name for holder in holders} - {lost.name} <= whole
        assert requester.preparation is not None
        assert router.preparation is not None
        assert set(requester.preparation.rings) == set(router.preparation.rings) == whole
    assert (requester._public, requester._parts, router._public) == (None, [], None)
