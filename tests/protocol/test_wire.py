"""What is hashed of a frame: its message, and its place with that hash."""

from __future__ import annotations

import msgspec
import pytest

from protocol import wire
from protocol.errors import MalformedFrame
from protocol.messages import MaskedScores
from tests.kit.parties import HOLDER, REQUESTER, ROUTER


def test_one_message_has_one_content_hash_and_every_place_its_own_frame_hash() -> None:
    message = MaskedScores(memoryview(bytes(64)))
    places = [(HOLDER, REQUESTER, 3), (HOLDER, ROUTER, 3), (HOLDER, ROUTER, 4)]
    envelopes = [wire.Envelope(wire.VERSION, bytes(16), HOLDER, *place, message) for place in places]
    contents = [wire.content_digest(wire.encode(envelope), envelope) for envelope in envelopes]
    assert len(set(contents)) == 1
    assert len({wire.frame_digest(envelope, contents[0]) for envelope in envelopes}) == 3
    other = msgspec.structs.replace(envelopes[0], message=MaskedScores(memoryview(bytes(63) + b"\1")))
    assert wire.content_digest(wire.encode(other), other) != contents[0]


def test_an_address_in_another_encoding_is_refused() -> None:
    """Otherwise two parties could cut the message out of a frame at two places."""
    envelope = wire.Envelope(wire.VERSION, bytes(16), HOLDER, HOLDER, ROUTER, 3, MaskedScores(memoryview(bytes(64))))
    frame = wire.encode(envelope)
    place = frame.index(ROUTER.encode()) + len(ROUTER)
    assert frame[place] == 3
    longer = frame[:place] + b"\xcc\x03" + frame[place + 1 :]
    assert wire.decode(longer) == envelope, "msgspec takes it"
    with pytest.raises(MalformedFrame, match="shortest form"):
        wire.content_digest(longer, envelope)
    assert wire.content_digest(frame, envelope)
