"""A release that is not exactly cap slots of closed text, used ones first, is refused by the requester."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

import protocol.searching
from protocol.errors import BadFrame, Disagreement
from protocol.messages import Release
from protocol.release import pack_release, unpack_release
from tests.kit.parties import HOLDER, REQUESTER, Delivery, forge
from tests.kit.scene import run
from tests.kit.trio import Trio

CAP = 10
EMPTY = bytes(64)
GOOD = pack_release(["ES-1", "ES-2"], CAP)


def with_slots(*slots: bytes) -> tuple[bytes, ...]:
    return (*slots, *[EMPTY] * (CAP - len(slots)))


def slot(text: bytes) -> bytes:
    return text.ljust(64, b"\0")


MALFORMED = {
    "a slot too few": GOOD.slots[:-1],
    "a slot too many": (*GOOD.slots, EMPTY),
    "no slots": (),
    "an empty slot before a used one": with_slots(EMPTY, slot(b"ES-1")),
    "a gap": with_slots(slot(b"ES-1"), EMPTY, slot(b"ES-2")),
    "control characters": with_slots(slot(b"ES-1\x1b[2J")),
    "a line break": with_slots(slot(b"ES-1\n")),
    "a name with a space": with_slots(slot(b"Juan Perez")),
    "text that is not ASCII": with_slots(slot("Pérez".encode())),
    "bytes behind the end": with_slots(b"ES-1\0ES-2".ljust(64, b"\0")),
}


def search(slots: tuple[bytes, ...]) -> Trio:
    """A whole search in which the holder releases this instead."""

    def attack(d: Delivery) -> list[bytes] | None:
        return [forge(d.frame, slots=slots)] if d.of(Release, HOLDER, REQUESTER) else None

    return run(attack)


@pytest.mark.parametrize("slots", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_release_is_refused(slots: tuple[bytes, ...]) -> None:
    trio = search(slots)
    assert any(isinstance(failure, Disagreement) for failure in trio.failures)
    assert HOLDER not in trio.requester.answers


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_slot_of_another_length_is_a_bad_frame(length: int) -> None:
    trio = search(with_slots(bytes(length)))
    assert any(isinstance(failure, BadFrame) for failure in trio.failures)
    assert HOLDER not in trio.requester.answers


def test_control_a_well_formed_release_is_taken() -> None:
    assert unpack_release(GOOD, CAP) == ("ES-1", "ES-2")
    trio = search(GOOD.slots)
    assert trio.requester.answers[HOLDER].references == ("ES-1", "ES-2")


def test_control_without_the_check_control_characters_reach_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(message: Release, _: int) -> tuple[str, ...]:
        return tuple(one.rstrip(b"\0").decode() for one in message.slots if one != EMPTY)

    monkeypatch.setattr(protocol.searching, "unpack_release", careless)
    answer = search(MALFORMED["control characters"]).requester.answers[HOLDER]
    assert answer.references == ("ES-1\x1b[2J",)


def test_two_releases_of_the_same_are_never_the_same_bytes() -> None:
    pack: Callable[[], bytes] = lambda: msgspec.msgpack.encode(pack_release([], CAP))  # noqa: E731
    assert pack() != pack()
    assert len(pack()) == len(msgspec.msgpack.encode(pack_release(["ES-1"] * CAP, CAP)))
