"""A channel alone under attack: another query's, pair's or direction's hello, and frames that do not come in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest

import protocol.channel
from pets.errors import LineupError
from pets.sealing import SealingError, SealingKey
from pets.signatures import SignatureError, SigningKey
from protocol.channel import HELLO_BYTES, TAG_BYTES, ReceivingChannel, SendingChannel
from protocol.errors import MalformedFrame

QUERY, OTHER_QUERY = bytes(16), bytes(range(16))
SIGNING = {name: SigningKey.generate() for name in ("FR", "EU", "ES")}
SEALING = {name: SealingKey.generate() for name in SIGNING}
FRAMES = [b"first", b"second", b"third"]


@dataclass
class Own:
    """The keyring of one party."""

    name: str

    def sign(self, message: bytes) -> bytes:
        return SIGNING[self.name].sign(message, "test")

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        SIGNING[peer].verify_key.verify(signature, message, "test")


def sending(sender: str = "FR", receiver: str = "ES", query: bytes = QUERY) -> SendingChannel:
    return SendingChannel(query, sender, receiver, SEALING[receiver].public, Own(sender))


def receiving(hello: bytes, sender: str = "FR", receiver: str = "ES", query: bytes = QUERY) -> ReceivingChannel:
    return ReceivingChannel(query, sender, receiver, hello, SEALING[receiver], Own(receiver))


def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence removed: a context that names neither query nor pair nor direction."""
    monkeypatch.setattr(protocol.channel, "_context", lambda *_: b"")


def test_control_frames_arrive_as_they_were_sent() -> None:
    channel = sending()
    receiver = receiving(channel.hello)
    sealed = [channel.seal(frame) for frame in FRAMES]
    assert [receiver.open(data) for data in sealed] == FRAMES
    assert [len(data) - TAG_BYTES for data in sealed] == [len(frame) for frame in FRAMES]
    assert not any(frame in data for frame, data in zip(FRAMES, sealed, strict=True))


def test_a_hello_of_another_query_is_refused() -> None:
    with pytest.raises(SignatureError):
        receiving(sending(query=OTHER_QUERY).hello)


def test_control_without_the_binding_a_hello_and_its_frames_are_replayed_in_another_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbound(monkeypatch)
    old = sending(query=OTHER_QUERY)
    recorded = old.seal(b"an answer to another query")
    assert receiving(old.hello).open(recorded) == b"an answer to another query"


def test_a_hello_for_somebody_else_or_from_somebody_else_is_refused() -> None:
    with pytest.raises(SignatureError):
        receiving(sending(receiver="EU").hello)
    with pytest.raises(SignatureError):
        receiving(sending(sender="EU").hello)


def test_a_hello_forwarded_to_another_receiver_under_the_same_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes that (wrongly) share a sealing key: the names inside still tell them apart. Control: without names."""
    monkeypatch.setitem(SEALING, "EU", SEALING["ES"])
    with pytest.raises(SignatureError):
        receiving(sending(receiver="EU").hello)
    unbound(monkeypatch)
    receiving(sending(receiver="EU").hello)


def test_what_one_sent_does_not_come_back_as_the_others() -> None:
    there, back = sending("FR", "ES"), sending("ES", "FR")
    with pytest.raises(SignatureError):
        receiving(there.hello, "ES", "FR")
    with pytest.raises(MalformedFrame):
        receiving(back.hello, "ES", "FR").open(there.seal(b"frame"))


def test_control_with_one_key_for_both_directions_a_frame_is_reflected(monkeypatch: pytest.MonkeyPatch) -> None:
    unbound(monkeypatch)
    monkeypatch.setattr(protocol.channel.secrets, "token_bytes", bytes)
    there, back = sending("FR", "ES"), sending("ES", "FR")
    assert receiving(back.hello, "ES", "FR").open(there.seal(b"frame")) == b"frame"


def test_a_hello_signed_by_another_is_refused() -> None:
    forged = SendingChannel(QUERY, "FR", "ES", SEALING["ES"].public, Own("EU"))
    with pytest.raises(SignatureError):
        receiving(forged.hello)


def test_a_hello_sealed_to_another_key_is_refused() -> None:
    wrong = SendingChannel(QUERY, "FR", "ES", SEALING["EU"].public, Own("FR"))
    with pytest.raises(SealingError):
        receiving(wrong.hello)


ORDERS = {"duplicate": [0, 0], "reordered": [1], "skipped": [0, 2], "late": [0, 1, 0]}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_frames_that_do_not_come_in_order_are_refused(order: list[int]) -> None:
    channel = sending()
    receiver = receiving(channel.hello)
    sealed = [channel.seal(frame) for frame in FRAMES]
    for place in order[:-1]:
        receiver.open(sealed[place])
    with pytest.raises(MalformedFrame):
        receiver.open(sealed[order[-1]])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_control_without_the_count_in_the_nonce_they_are_taken(
    order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = sending()
    receiver = receiving(channel.hello)
    sealed = []
    for frame in FRAMES:
        channel._count = 0
        sealed.append(channel.seal(frame))
    for place in order:
        receiver._count = 0
        assert receiver.open(sealed[place]) == FRAMES[place]


@pytest.mark.parametrize("cut", [0, 1, TAG_BYTES - 1, TAG_BYTES, len(FRAMES[0]) + TAG_BYTES - 1])
def test_a_truncated_frame_is_refused(cut: int) -> None:
    channel = sending()
    receiver = receiving(channel.hello)
    sealed = channel.seal(FRAMES[0])
    with pytest.raises(MalformedFrame):
        receiver.open(sealed[:cut])
    assert receiver.open(sealed) == FRAMES[0], "a refused frame uses nothing up"


@pytest.mark.parametrize("length", [0, 1, HELLO_BYTES - 1, HELLO_BYTES + 1])
def test_a_hello_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedFrame):
        receiving(sending().hello.ljust(length, b"\0")[:length])


def test_a_flipped_bit_of_a_hello_or_a_frame_is_refused() -> None:
    channel = sending()
    receiver = receiving(channel.hello)
    sealed = channel.seal(FRAMES[0])
    for place in range(0, HELLO_BYTES, 97):
        changed = bytearray(channel.hello)
        changed[place] ^= 1
        with pytest.raises(LineupError):
            receiving(bytes(changed))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(MalformedFrame):
            receiver.open(bytes(changed))


def test_two_channels_of_one_pair_share_nothing() -> None:
    one, two = sending(), sending()
    assert hashlib.sha256(one.seal(FRAMES[0])).digest() != hashlib.sha256(two.seal(FRAMES[0])).digest()
    with pytest.raises(MalformedFrame):
        receiving(one.hello).open(two.seal(FRAMES[0]))
