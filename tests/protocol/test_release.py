"""A release that is not exactly cap slots of closed text and a mark, used ones first, is refused by the requester."""

from __future__ import annotations

import msgspec
import pytest

import protocol.searching
from protocol.errors import BadFrame, Disagreement
from protocol.messages import Release
from protocol.release import Released, pack_release, unpack_release
from tests.kit.parties import HOLDER, REQUESTER, Delivery, forge
from tests.kit.scene import run
from tests.kit.trio import Trio

CAP = 10
EMPTY = bytes(65)
GOOD = pack_release([Released("ES-1"), Released("ES-2", contested=True)], CAP)


def with_slots(*slots: bytes) -> tuple[bytes, ...]:
    return (*slots, *[EMPTY] * (CAP - len(slots)))


def slot(text: bytes, mark: int = 0) -> bytes:
    return text.ljust(64, b"\0") + bytes([mark])


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
    "bytes behind the end": with_slots(slot(b"ES-1\0ES-2")),
    "a mark that there is not": with_slots(slot(b"ES-1", 2)),
    "a mark without a reference": with_slots(slot(b"", 1)),
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


@pytest.mark.parametrize("length", [0, 64, 66])
def test_a_slot_of_another_length_is_a_bad_frame(length: int) -> None:
    trio = search(with_slots(bytes(length)))
    assert any(isinstance(failure, BadFrame) for failure in trio.failures)
    assert HOLDER not in trio.requester.answers


def test_control_a_well_formed_release_is_taken() -> None:
    released = (Released("ES-1"), Released("ES-2", contested=True))
    assert unpack_release(GOOD, CAP) == released
    trio = search(GOOD.slots)
    assert trio.requester.answers[HOLDER].hits == released
    assert trio.requester.answers[HOLDER].references == ("ES-1", "ES-2")


def test_control_without_the_check_control_characters_reach_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(message: Release, _: int) -> tuple[Released, ...]:
        return tuple(Released(one.rstrip(b"\0").decode()) for one in message.slots if one != EMPTY)

    monkeypatch.setattr(protocol.searching, "unpack_release", careless)
    answer = search(MALFORMED["control characters"]).requester.answers[HOLDER]
    assert answer.references == ("ES-1\x1b[2J",)


def test_two_releases_of_the_same_are_never_the_same_bytes() -> None:
    def packed(*released: Released) -> bytes:
        return msgspec.msgpack.encode(pack_release(released, CAP))

    assert packed() != packed()
    sizes = [len(packed(*[Released("ES-1", contested)] * hits)) for hits in (1, CAP) for contested in (False, True)]
    assert {len(packed())} == set(sizes)
