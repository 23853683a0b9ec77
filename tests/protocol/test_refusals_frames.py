"""A bad frame, or one out of turn, is a typed error and stops every party of its session, and no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pets.errors import LineupError
from protocol import wire
from protocol.errors import (
    BadFrame,
    DuplicateMessage,
    FrameTooLarge,
    MalformedFrame,
    MissingMessage,
    OutOfTurn,
    UnexpectedMessage,
    UnknownVersion,
    WrongAddress,
)
from protocol.messages import (
    Abort,
    AdmissionBit,
    ConfirmationBlock,
    DerivedId,
    DifferenceDigest,
    Gates,
    InputShare,
    JoinedPreparation,
    MaskedScores,
    MaskPart,
    Message,
    PairSecret,
    PowerSums,
    Prepare,
    PublicPart,
    Release,
    Rung,
    Search,
)
from protocol.session import WHOLE, State
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, forge
from tests.kit.scene import HIT_ROW, replace_first, run, scene
from tests.kit.trio import Trio


def reencoded(frame: bytes, change: Callable[[list[Any]], None]) -> bytes:
    """The frame with its raw MessagePack structure changed."""
    raw = msgspec.msgpack.decode(frame)
    change(raw)
    return msgspec.msgpack.encode(raw)


def with_message(frame: bytes, message: list[Any]) -> bytes:
    return reencoded(frame, lambda raw: raw.__setitem__(-1, message))


FAULTS: dict[str, tuple[type[LineupError], Callable[[bytes], list[bytes]]]] = {
    "duplicate": (DuplicateMessage, lambda f: [f, f]),
    "skipped number": (MissingMessage, lambda f: [forge(f, sequence=wire.decode(f).sequence + 1)]),
    "truncated by one byte": (MalformedFrame, lambda f: [f[:-1]]),
    "truncated to half": (MalformedFrame, lambda f: [f[: len(f) // 2]]),
    "empty": (MalformedFrame, lambda f: [b""]),
    "trailing byte": (MalformedFrame, lambda f: [f + b"\0"]),
    "later version": (UnknownVersion, lambda f: [forge(f, version=wire.VERSION + 1)]),
    "earlier version": (UnknownVersion, lambda f: [forge(f, version=wire.VERSION - 1)]),
    "extra field in the message": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw[-1].append(1))]),
    "extra field in the envelope": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw.append(1))]),
    "missing field": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw[-1].pop())]),
    "unknown type": (MalformedFrame, lambda f: [with_message(f, [99, b""])]),
    "field of a wrong type": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw[-1].__setitem__(1, 1.5))]),
    "negative number": (MalformedFrame, lambda f: [reencoded(f, lambda raw: raw.__setitem__(5, -1))]),
    "oversized": (FrameTooLarge, lambda f: [with_message(f, [27, bytes(70_000)])]),
    "larger than any message": (FrameTooLarge, lambda f: [with_message(f, [28, bytes(10_000_000)])]),
    "another type of message": (UnexpectedMessage, lambda f: [forge(f, message=DifferenceDigest(bytes(32)))]),
    "unknown session": (WrongAddress, lambda f: [forge(f, session="NOBODY")]),
    "another query": (WrongAddress, lambda f: [forge(f, query=bytes(16))]),
    "another receiver": (WrongAddress, lambda f: [forge(f, receiver="NOBODY")]),
    "another sender": (WrongAddress, lambda f: [forge(f, sender="NOBODY")]),
}
POINTS: list[tuple[type[Message], str, str]] = [
    (Prepare, REQUESTER, HOLDER),
    (JoinedPreparation, HOLDER, ROUTER),
    (PublicPart, ROUTER, HOLDER),
    (DerivedId, ROUTER, HOLDER),
    (PairSecret, HOLDER, ROUTER),
    (MaskPart, REQUESTER, HOLDER),
    (Gates, ROUTER, REQUESTER),
    (Search, REQUESTER, ROUTER),
    (MaskedScores, HOLDER, REQUESTER),
    (AdmissionBit, HOLDER, ROUTER),
    (PowerSums, ROUTER, HOLDER),
    (Rung, HOLDER, ROUTER),
    (ConfirmationBlock, HOLDER, REQUESTER),
]


@lru_cache(maxsize=1)
def valid_frames() -> list[bytes]:
    """One frame of each type that a search sends, large ones left out."""
    frames: dict[type[Message], bytes] = {}
    for d in run(None).deliveries:
        if len(d.frame) < 5000:
            frames.setdefault(type(d.message), d.frame)
    return list(frames.values())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_bad_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        wire.decode(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_frame_is_an_envelope_or_a_bad_frame_and_nothing_else(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(valid_frames())))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadFrame):
        assert isinstance(wire.decode(bytes(frame)), wire.Envelope)


# every fault at two points in the middle, and the commonest ones everywhere
EVERYWHERE = ("duplicate", "skipped number", "truncated to half", "later version", "another type of message")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "fault"),
    [
        pytest.param(point, fault, id=f"{fault} {point[0].__name__} to {point[2].lower()}")
        for point in POINTS
        for fault in FAULTS
        if fault in EVERYWHERE or point[0] in (PairSecret, Gates)
    ],
)
def test_bad_frame_is_a_typed_error_and_stops_every_party(point: tuple[type[Message], str, str], fault: str) -> None:
    error, change = FAULTS[fault]
    attack, done = replace_first(*point, change)
    trio = run(attack)
    assert done
    trio.assert_stopped(error)


def test_an_abort_whose_address_is_encoded_otherwise_stops_its_receiver_as_a_bad_frame() -> None:
    """Whoever keeps records must say what of a frame it hashes, also of the last one."""
    trio = Trio(scene()[0]).accept()
    requester = trio.requester
    requester._recorder = lambda event: None
    frame = wire.encode(wire.Envelope(wire.VERSION, requester.query, HOLDER, ROUTER, REQUESTER, 3, Abort("peer")))
    place = frame.index(REQUESTER.encode()) + len(REQUESTER)
    with pytest.raises(MalformedFrame):
        requester.handle(frame[:place] + b"\xcc\x03" + frame[place + 1 :], ROUTER)
    assert requester.sessions[HOLDER].state is State.ABORTED
    assert requester.outgoing


@pytest.mark.parametrize(
    ("kind", "sender", "receiver"),
    [
        (JoinedPreparation, ROUTER, HOLDER),
        (Gates, ROUTER, REQUESTER),
        (AdmissionBit, HOLDER, ROUTER),
        (InputShare, HOLDER, ROUTER),
    ],
)
def test_frames_in_another_order_stop_every_party(kind: type[Message], sender: str, receiver: str) -> None:
    held: list[bytes] = []
    swapped: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if swapped or (d.sender, d.receiver) != (sender, receiver):
            return None
        if held:
            swapped.append(True)
            return [d.frame, held[0]]
        if d.of(kind):
            held.append(d.frame)
            return []
        return None

    trio = run(attack)
    if not swapped:  # the next frame never came, because this one was waited for
        assert not trio.failures
        assert not trio.sent(Release)
        return
    trio.assert_stopped(MissingMessage)


@pytest.mark.parametrize("kind", [Prepare, PublicPart, PairSecret, MaskPart])
def test_late_copy_from_the_set_up_stops_every_party(kind: type[Message]) -> None:
    # the set-up is long finished when its frame comes again while blocks are prepared
    kept: list[bytes] = []
    done: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(kind, REQUESTER, HOLDER):
            kept.append(d.frame)
        if d.of(Gates, REQUESTER, HOLDER) and not done:
            done.append(True)
            return [kept[0], d.frame]
        return None

    trio = run(attack)
    assert done
    trio.assert_stopped(DuplicateMessage)


@pytest.mark.parametrize("kind", [Prepare, PairSecret, MaskPart, Gates])
def test_a_frame_of_the_preparation_in_the_search_stops_every_party(kind: type[Message]) -> None:
    """Its address names another conversation."""
    kept: list[bytes] = []
    done: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(kind, REQUESTER, HOLDER):
            kept.append(d.frame)
        if d.of(InputShare, REQUESTER, HOLDER) and not done:
            done.append(True)
            return [kept[0], d.frame]
        return None

    trio = run(attack)
    assert done
    trio.assert_stopped(WrongAddress)


def test_message_of_the_search_in_the_session_of_the_set_up_stops_every_party() -> None:
    attack, done = replace_first(Gates, ROUTER, REQUESTER, lambda f: [forge(f, session=WHOLE, sequence=3)])
    trio = run(attack)
    assert done
    trio.assert_stopped(OutOfTurn)


def test_a_flood_of_messages_ahead_of_their_turn_is_refused() -> None:
    attack, _ = replace_first(
        MaskPart,
        REQUESTER,
        HOLDER,
        lambda f: [forge(f, sequence=wire.decode(f).sequence + ahead) for ahead in range(80)],
    )
    run(attack).assert_stopped(OutOfTurn)


@pytest.mark.parametrize("name", [REQUESTER, ROUTER, HOLDER])
def test_one_party_that_stops_stops_all(name: str) -> None:
    gallery, _ = scene()
    trio = Trio(gallery, threshold="0.7").accept()
    assert trio.searching is not None
    machine = next(machine for machine in trio.searching.machines if machine.name == name)
    machine.abort(machine.sessions[HOLDER], OutOfTurn("somebody pulled the plug"))
    trio._run(trio.searching.machines)
    assert set(trio.states.values()) == {State.ABORTED}
    assert all(machine.done for machine in trio.searching.parties)


def test_two_holders_one_fails_and_the_other_still_answers() -> None:
    gallery, probe = scene()
    trio = Trio(gallery, gallery, threshold="0.7", ladder="0").accept()
    trio.attack, done = replace_first(Gates, REQUESTER, "HOLDER-0", lambda f: [f[:-1]])
    trio.search(probe)
    assert done
    assert "HOLDER-0" not in trio.requester.answers
    assert trio.requester.answers["HOLDER-1"].references == (f"row-{HIT_ROW}",)
    assert {state for (_, session), state in trio.states.items() if session == "HOLDER-0"} == {State.ABORTED}
    assert trio.made is not None
    for part in (trio.made.requester, trio.made.router, *trio.made.holders.values()):
        assert part.spent
        assert not part.rings
