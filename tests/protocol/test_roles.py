"""One party in two roles, sessions that come back, closed lists that are not closed: each once worked."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from protocol.probe import component_digests, probe_parts
from protocol.router import Router

from pets.errors import CryptoError, ParameterError
from pets.keys import sample_key_share
from pets.sampling import common_polynomial
from protocol import wire
from protocol.errors import MalformedFrame, PeerAborted, UnexpectedMessage
from protocol.messages import Abort, Announce, ProbePart, Rung
from protocol.session import State
from protocol.terms import Terms
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Trio, enrol
from tests.kit.ring import RING

QUERY = bytes(16)


def frame(session: str, sender: str, receiver: str, message: object, sequence: int = 0) -> bytes:
    return wire.encode(wire.Envelope(wire.VERSION, QUERY, session, sender, receiver, sequence, message))  # type: ignore[arg-type]


def announcement(requester: str, router: str, holders: tuple[str, ...]) -> Announce:
    return Announce(requester, router, holders, bytes(32), "0.5", 10, "0.02", RING.preset, 128, bytes(32), None)


@pytest.mark.parametrize(
    ("requester", "router", "holders"),
    [("FR", "FR", ("ES",)), ("FR", "ES", ("ES",)), ("FR", "EU", ("FR",)), ("FR", "EU", ("ES", "ES"))],
)
def test_one_party_in_two_roles_is_refused(requester: str, router: str, holders: tuple[str, ...]) -> None:
    with pytest.raises(ParameterError, match="two roles"):
        Terms.announced(announcement(requester, router, holders))
    Terms.announced(announcement("FR", "EU", ("ES", "DE")))  # control


def router_with_two_holders() -> Router:
    machine = Router("EU", "FR", ("AA", "BB"), QUERY)
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
        machine.handle(frame("AA", "FR", "EU", ProbePart(memoryview(bytes(1000)))), "FR")
    assert machine.sessions["AA"].state is State.ABORTED


def test_nobody_but_the_holder_can_undo_what_has_finished() -> None:
    trio = Trio(enrol(np.zeros((3, 64), np.int8))).search(np.ones(64, np.int8) * 20)
    assert trio.requester.sessions[HOLDER].state is State.FINISHED
    late = wire.Envelope(wire.VERSION, trio.requester.query, HOLDER, ROUTER, REQUESTER, 99, Abort("confirmation"))
    trio.requester.handle(wire.encode(late), ROUTER)
    assert trio.requester.sessions[HOLDER].state is State.FINISHED


@pytest.mark.parametrize("message", [Rung("confirm\n"), Abort("peer\n")])
def test_closed_lists_are_closed_to_a_newline(message: object) -> None:
    with pytest.raises(MalformedFrame):
        wire.decode(frame("AA", "FR", "EU", message))


def test_an_erased_key_share_cannot_be_used() -> None:
    share = sample_key_share(RING, common_polynomial(RING, b"q"), bytes(32), b"q")
    share.erase()
    with pytest.raises(CryptoError, match="erased"):
        share.multiply(np.zeros((1, 2, RING.n), np.uint32))


def test_only_the_announcement_that_was_admitted_is_worked_on() -> None:
    machine = router_with_two_holders()
    machine.admitted = bytes(32)
    announce = announcement("FR", "EU", ("AA", "BB"))
    with pytest.raises(Exception, match="another query than the one that was admitted"):
        machine.handle(frame("", "FR", "EU", announce), "FR")
    assert machine.sessions[""].state is State.ABORTED
    assert msgspec.msgpack.encode(announce)


@pytest.mark.ring
def test_the_probe_hash_covers_every_ciphertext_and_both_components() -> None:
    ciphertexts = np.zeros((72, 2, 2, RING.n), np.uint32)  # two parts

    def digest() -> bytes:
        return probe_parts(ciphertexts, component_digests(ciphertexts, 1))[1]

    seen = {digest()}
    for changed in ((0, 0, 0, 0), (63, 1, 1, RING.n - 1), (64, 0, 1, 5), (71, 1, 0, 0), (71, 0, 1, RING.n - 1)):
        ciphertexts[changed] = 1
        seen.add(digest())
        ciphertexts[changed] = 0
    assert len(seen) == 6
    assert digest() in seen


@pytest.mark.parametrize(("named", "told"), [(ROUTER, ROUTER), ("ELSEWHERE", HOLDER), ("", HOLDER)])
def test_an_abort_names_a_party_of_the_query_or_its_sender(named: str, told: str) -> None:
    trio = Trio(enrol(unit_rows(np.random.default_rng(0), 30, 8))).offline()
    frame = wire.Envelope(
        wire.VERSION, trio.requester.query, HOLDER, HOLDER, REQUESTER,
        trio.requester.sessions[HOLDER].received[HOLDER], Abort("timeout", named),
    )  # fmt: skip
    trio.requester.handle(wire.encode(frame), HOLDER)
    failure = trio.requester.sessions[HOLDER].failure
    assert isinstance(failure, PeerAborted)
    assert (failure.peer, failure.code, failure.by) == (HOLDER, "timeout", told)
