"""What is hashed, chained and signed belongs to one query; what a requester gives to several holders is one probe."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nodes.verify.format import frame_digest
from pets.signatures import SignatureError, SigningKey
from protocol import wire
from protocol.difference import difference_digest
from protocol.errors import Disagreement
from protocol.machine import phase_statement
from protocol.messages import Difference, DifferenceDigest
from protocol.searching import SearchingRouter
from protocol.session import Event
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import REQUESTER, ROUTER, Delivery, forge
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

DIM = 64


class Recorded(Trio):
    """Keeps what each party would write into its log."""

    events: list[tuple[str, Event]]

    def _run(self, machines):  # type: ignore[no-untyped-def]
        self.events = []
        for machine in machines:
            machine._recorder = lambda event, name=machine.name: self.events.append((name, event))
        super()._run(machines)


def galleries(count: int = 1):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    probe = unit_rows(rng, 1, DIM)[0]
    return probe, [hold(near(rng, probe, 3, np.array([0.9, 0.7, 0.1]))) for _ in range(count)]


def test_what_a_log_holds_of_a_frame_is_of_its_query_alone() -> None:
    """Taken for a frame of another query, no hash fits, and no chain of hashes."""
    probe, held = galleries()
    trio = Recorded(*held).accept().search(probe)
    assert not trio.failures
    frames = {}
    for delivery in trio.deliveries:
        envelope = wire.decode(delivery.frame)
        place = envelope.query, envelope.session, envelope.sender, envelope.receiver, envelope.sequence
        frames[place] = wire.content_digest(delivery.frame, envelope)
    query = trio.searching.requester.query  # type: ignore[union-attr]
    other = bytes(16)
    assert len(trio.events) > 20
    for owner, event in trio.events:
        ends = (owner, event.peer) if event.direction == "sent" else (event.peer, owner)
        place = event.session, *ends, event.sequence
        content = frames[(query, *place)]
        assert event.content == content
        assert event.digest == frame_digest(query, *place, content)  # control: of this query it does fit
        assert event.digest != frame_digest(other, *place, content)


def test_a_phase_signature_of_another_query_does_not_verify() -> None:
    key, head = SigningKey.generate(), hashlib.sha256(b"the same frames").digest()
    one, other = (phase_statement(query, "ES", "filter", "FR", "EU", head) for query in (bytes(16), bytes(15) + b"\1"))
    signature = key.sign(one, "protocol")
    key.verify_key.verify(signature, one, "protocol")  # control
    with pytest.raises(SignatureError):
        key.verify_key.verify(signature, other, "protocol")


@pytest.mark.parametrize("defended", [True, False], ids=["defended", "control"])
def test_a_requester_cannot_give_two_holders_two_probes(defended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router compares the digest of u over all rings. Without that, the control, both holders answer on."""
    probe, held = galleries(2)
    second: list[bytes] = []

    def attack(delivery: Delivery) -> list[bytes] | None:
        message = delivery.message
        if wire.decode(delivery.frame).session != "HOLDER-1":
            return None
        if isinstance(message, Difference):
            second.append(bytes([message.data[0] ^ 1]) + bytes(message.data[1:]))
            return [forge(delivery.frame, data=second[0])]
        if isinstance(message, DifferenceDigest) and (delivery.sender, delivery.receiver) == (REQUESTER, ROUTER):
            return [forge(delivery.frame, digest=difference_digest(Difference(bytes(32), second[0])).digest)]
        return None

    if not defended:
        monkeypatch.setattr(SearchingRouter, "_same", lambda *_: None)
    trio = Trio(*held, attack=attack).accept().search(probe)
    told = [failure for failure in trio.failures if isinstance(failure, Disagreement) and "the u of" in str(failure)]
    assert bool(told) is defended, trio.failures
