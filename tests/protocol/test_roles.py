"""One party in two roles, sessions that come back, closed lists that are not closed: each once worked."""

from __future__ import annotations

import numpy as np
import pytest

from pets.errors import CryptoError, ParameterError
from protocol import wire
from protocol.announcing import Plan, announce_digest
from protocol.errors import Disagreement, MalformedFrame, OutOfTurn, PeerAborted, UnexpectedMessage
from protocol.machine import INBOX_LIMIT
from protocol.messages import Abort, MaskDigest, MaskPart, Rung, Search
from protocol.party import Context
from protocol.preparing import PreparingRouter
from protocol.roles import Parties
from protocol.searching import SearchingRequester, SearchingRouter
from protocol.session import WHOLE, State
from protocol.terms import Terms
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

QUERY = bytes(16)


PARTIES = Parties("FR", "EU", ("AA", "BB"))


def frame(session: str, sender: str, receiver: str, message: object, sequence: int = 0) -> bytes:
    return wire.encode(wire.Envelope(wire.VERSION, QUERY, session, sender, receiver, sequence, message))  # type: ignore[arg-type]


def announcement(requester: str, router: str, holders: tuple[str, ...]) -> Search:
    return Search(requester, router, holders, bytes(32), "0.5", 10, "0.02", RING.preset, 128, bytes(32), bytes(32))


@pytest.mark.parametrize(
    ("requester", "router", "holders"),
    [("FR", "FR", ("ES",)), ("FR", "ES", ("ES",)), ("FR", "EU", ("FR",)), ("FR", "EU", ("ES", "ES"))],
)
def test_one_party_in_two_roles_is_refused(requester: str, router: str, holders: tuple[str, ...]) -> None:
    with pytest.raises(ParameterError, match="two roles"):
        Terms.announced(announcement(requester, router, holders))
    with pytest.raises(ParameterError, match="two roles"):
        Parties(requester, router, holders)
    Terms.announced(announcement("FR", "EU", ("ES", "DE")))  # control


def router_with_two_holders(admitted: bytes | None = None) -> PreparingRouter:
    machine = PreparingRouter(Context("EU", QUERY, PARTIES, admitted=admitted))
    machine.start()
    return machine


def test_a_session_that_was_aborted_before_it_began_stays_over() -> None:
    machine = router_with_two_holders()
    machine.handle(frame("AA", "FR", "EU", Abort("peer")), "FR")
    assert machine.sessions["AA"].state is State.ABORTED
    machine.begin(machine.sessions["AA"], iter(()), lambda _: None)  # type: ignore[arg-type]
    assert machine.sessions["AA"].state is State.ABORTED
    assert machine.sessions["BB"].state is State.IDLE


def test_an_error_in_one_session_does_not_keep_the_others_from_beginning() -> None:
    machine = router_with_two_holders()
    ran = []

    def fails():
        raise CryptoError("bad")
        yield

    def works():
        ran.append(True)
        return
        yield

    sessions = machine.sessions
    with pytest.raises(CryptoError):
        machine.begin_all([(sessions["AA"], fails(), print), (sessions["BB"], works(), lambda _: None)])
    assert sessions["AA"].state is State.ABORTED
    assert ran == [True]


def test_a_message_that_a_role_may_never_send_is_not_even_kept() -> None:
    machine = router_with_two_holders()
    with pytest.raises(UnexpectedMessage, match="may not send"):
        machine.handle(frame("AA", "FR", "EU", MaskPart(memoryview(bytes(1000)))), "FR")
    assert machine.sessions["AA"].state is State.ABORTED


def test_nobody_but_the_holder_can_undo_what_has_finished() -> None:
    trio = Trio(hold(np.zeros((3, 64), np.int8))).search(np.ones(64, np.int8) * 20)
    assert trio.requester.sessions[HOLDER].state is State.FINISHED
    late = wire.Envelope(wire.VERSION, trio.requester.query, HOLDER, ROUTER, REQUESTER, 99, Abort("confirmation"))
    trio.requester.handle(wire.encode(late), ROUTER)
    assert trio.requester.sessions[HOLDER].state is State.FINISHED


@pytest.mark.parametrize("message", [Rung("confirm\n"), Abort("peer\n")])
def test_closed_lists_are_closed_to_a_newline(message: object) -> None:
    with pytest.raises(MalformedFrame):
        wire.decode(frame("AA", "FR", "EU", message))


def test_only_the_announcement_that_was_admitted_is_worked_on() -> None:
    announce = Plan(RING, 128).announce(PARTIES, bytes(32), None)
    machine = router_with_two_holders(admitted=bytes(32))
    with pytest.raises(Disagreement, match="something else than what was admitted"):
        machine.handle(frame(WHOLE, "FR", "EU", announce), "FR")
    assert machine.whole.state is State.ABORTED
    machine = router_with_two_holders(admitted=announce_digest(announce))
    machine.handle(frame(WHOLE, "FR", "EU", announce), "FR")  # control
    assert machine.whole.state is State.RUNNING


def test_only_the_search_that_was_admitted_is_worked_on() -> None:
    trio = Trio(hold(unit_rows(np.random.default_rng(0), 30, 8))).prepare()
    assert trio.made is not None
    for admitted in (bytes(32), None):
        made = trio.made.router
        machine = SearchingRouter(Context(ROUTER, QUERY, made.parties, admitted=admitted), made)
        announce = SearchingRequester(Context(REQUESTER, QUERY, made.parties), trio.terms, trio.made.requester).announce
        machine.start()
        sent = frame(WHOLE, REQUESTER, ROUTER, announce)
        if admitted is None:
            machine.handle(sent, REQUESTER)  # control
            assert made.spent
        else:
            with pytest.raises(Disagreement, match="something else than what was admitted"):
                machine.handle(sent, REQUESTER)
            assert not made.spent


@pytest.mark.parametrize(("named", "told"), [(ROUTER, ROUTER), ("ELSEWHERE", HOLDER), ("", HOLDER)])
def test_an_abort_names_a_party_of_the_query_or_its_sender(named: str, told: str) -> None:
    trio = Trio(hold(unit_rows(np.random.default_rng(0), 30, 8))).accept()
    frame = wire.Envelope(
        wire.VERSION, trio.requester.query, HOLDER, HOLDER, REQUESTER,
        trio.requester.sessions[HOLDER].received[HOLDER], Abort("timeout", named),
    )  # fmt: skip
    trio.requester.handle(wire.encode(frame), HOLDER)
    failure = trio.requester.sessions[HOLDER].failure
    assert isinstance(failure, PeerAborted)
    assert (failure.peer, failure.code, failure.by) == (HOLDER, "timeout", told)


def test_messages_ahead_are_kept_for_each_ring_up_to_a_limit() -> None:
    machine = router_with_two_holders()
    ahead = MaskDigest(bytes(32), bytes(32))
    for session in PARTIES.holders:
        for number in range(INBOX_LIMIT):
            machine.handle(frame(session, "FR", "EU", ahead, number), "FR")
        assert len(machine.sessions[session].inbox["FR"]) == INBOX_LIMIT
    with pytest.raises(OutOfTurn, match="64 messages ahead"):
        machine.handle(frame("AA", "FR", "EU", ahead, INBOX_LIMIT), "FR")
    assert not machine.sessions["AA"].inbox
    assert machine.sessions["AA"].state is State.ABORTED
