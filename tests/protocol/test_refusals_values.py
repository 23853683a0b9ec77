"""Messages of preparations and searches that are wrong in size, order, number or content stop every party."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from pets.errors import ParameterError, ResidueOutOfRange, SketchMismatch
from pets.params import PRESETS
from protocol import wire
from protocol.errors import (
    ConfirmationFailed,
    Disagreement,
    DuplicateMessage,
    MissingMessage,
    ProbeRefused,
    UnexpectedMessage,
    WrongSize,
)
from protocol.local import LocalPreparation
from protocol.messages import (
    ALLOWED,
    Abort,
    AdmissionBit,
    AdmissionCount,
    CapBit,
    ConfirmationAnswer,
    ConfirmationBlock,
    CountShare,
    DerivedId,
    Difference,
    DifferenceDigest,
    Echo,
    FormBit,
    FormBlock,
    Gates,
    InputShare,
    Joined,
    JoinedPreparation,
    KeySeed,
    LiveRows,
    MaskDigest,
    MaskedScores,
    MaskPart,
    Message,
    PowerSums,
    Prepare,
    PreparedBlocks,
    PublicPart,
    Release,
    Search,
    Signature,
)
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge
from tests.kit.ring import RING
from tests.kit.scene import DIM, run, scene, small_trio
from tests.kit.trio import Trio, copied

pytestmark = pytest.mark.ring

Link = tuple[type[Message], str, str]


@lru_cache(maxsize=1)
def honest() -> Trio:
    trio = run(None)
    assert trio.outcome() == trio.expected(scene()[1])
    assert len(trio.outcome().hits) == 1
    return trio


@lru_cache(maxsize=1)
def prepared() -> tuple[LocalPreparation, frozenset[Link]]:
    """A preparation, and the links with their kinds of message that only a search has."""
    trio = small_trio().prepare()
    assert trio.made is not None
    made, before = copied(trio.made), len(trio.deliveries)
    trio.search(scene()[1])
    used = [(type(d.message), d.sender, d.receiver) for d in trio.deliveries]
    return made, frozenset(used[before:]) - frozenset(used[:before])


def run_attacked(link: Link, attack: Attack) -> Trio:
    """What is not attacked before the search is prepared once for all."""
    made, in_searches = prepared()
    return run(attack, made=copied(made) if link in in_searches else None)


def first(link: Link, change: Callable[[Delivery], Iterable[bytes]]) -> tuple[Attack, list[bool]]:
    """An attack on the first frame of a kind on a link, and a list that tells whether it happened."""
    done: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if not done and d.of(*link):
            done.append(True)
            return list(change(d))
        return None

    return attack, done


LINKS = sorted(
    ((kind, *(name.upper() for name in link)) for kind, pairs in ALLOWED.items() for link in pairs),
    key=lambda link: (link[0].__name__, *link[1:]),
)
LAST = (Release, HOLDER, REQUESTER)  # nobody waits for anything after it
USED = [link for link in LINKS if link[0] not in (Abort, Signature) and link[1] != link[2]]


def names(link: Link) -> str:
    return f"{link[0].__name__}-{link[1]}-{link[2]}"


def test_every_row_of_the_table_travels_and_is_tried() -> None:
    assert {(type(d.message), d.sender, d.receiver) for d in honest().deliveries} == set(USED)


@pytest.mark.parametrize("link", USED, ids=names)
def test_a_message_that_comes_twice_is_refused(link: Link) -> None:
    attack, done = first(link, lambda d: [d.frame, d.frame])
    trio = run_attacked(link, attack)
    assert done
    assert any(isinstance(failure, DuplicateMessage) for failure in trio.failures)
    if link not in (LAST, (ConfirmationAnswer, REQUESTER, HOLDER)):  # the last that somebody waited for: all was over
        trio.assert_stopped(DuplicateMessage)


@pytest.mark.parametrize("link", [link for link in USED if link != LAST], ids=names)
def test_a_message_that_is_lost_leaves_nothing_to_release(link: Link) -> None:
    attack, done = first(link, lambda d: [])
    trio = run_attacked(link, attack)
    assert done
    assert not trio.failures or isinstance(trio.failures[0], (MissingMessage, UnexpectedMessage)), trio.failures
    if trio.searching is not None:
        assert not trio.searching.requester.answers
        assert all(machine.result is None for machine in trio.searching.holders.values())


@pytest.mark.parametrize("link", [link for link in USED if "data" in link[0].__struct_fields__], ids=names)
@pytest.mark.parametrize("size", ["short", "long", "empty"])
def test_an_array_of_another_size_is_refused(link: Link, size: str) -> None:
    def change(d: Delivery) -> list[bytes]:
        data = bytes(d.message.data)  # type: ignore[union-attr]
        return [forge(d.frame, data={"short": data[:-8], "long": data + bytes(8), "empty": b""}[size])]

    attack, done = first(link, change)
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(WrongSize, Disagreement)
    assert isinstance(trio.failures[0], WrongSize) or size != "empty" or trio.failures


@pytest.mark.parametrize("link", [link for link in USED if link != LAST], ids=names)
def test_another_kind_of_message_in_its_place_is_refused(link: Link) -> None:
    """A message that this link may carry, but not now."""
    kind, sender, receiver = link
    other = next(
        d
        for d in honest().deliveries
        if (d.sender, d.receiver) == (sender, receiver) and not isinstance(d.message, kind)
    )
    attack, done = first(link, lambda d: [forge(d.frame, message=other.message)])
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(UnexpectedMessage)


def raised(data: bytes) -> bytes:
    values = np.frombuffer(data, "<u4").copy()
    values[0] = RING.primes[0]
    return values.tobytes()


RESIDUES = [link for link in USED if link[0] in (PublicPart, MaskPart, PreparedBlocks, ConfirmationBlock)]


@pytest.mark.parametrize("link", RESIDUES, ids=names)
def test_residue_at_its_prime_is_refused(link: Link) -> None:
    attack, done = first(link, lambda d: [forge(d.frame, data=raised(bytes(d.message.data)))])  # type: ignore[union-attr]
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(ResidueOutOfRange)


def test_every_message_with_residues_was_tried() -> None:
    large = {kind for kind, limit in wire.LIMITS.items() if limit >= 8 * RING.n}
    bits = {AdmissionCount, CountShare, Gates, InputShare, LiveRows, MaskedScores}
    assert large - bits == {link[0] for link in RESIDUES}


def test_a_difference_that_is_not_below_t_is_refused() -> None:
    link = (Difference, REQUESTER, HOLDER)
    attack, done = first(link, lambda d: [forge(d.frame, data=b"\xff" * (DIM * 20 // 8))])
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(ResidueOutOfRange)


# --- values that two parties are told differently ---

ZERO = bytes(32)


def flipped(data: bytes) -> bytes:
    """The lowest bit of the first byte turned: still a residue, still in range."""
    return bytes([data[0] ^ 1]) + data[1:]


DIFFERENT: list[tuple[Link, dict[str, Any]]] = [
    ((Prepare, REQUESTER, ROUTER), {"nonce": ZERO}),
    ((Prepare, REQUESTER, HOLDER), {"nonce": ZERO}),
    ((Prepare, REQUESTER, HOLDER), {"dim": 128}),
    ((Prepare, REQUESTER, HOLDER), {"preset": "n8192_q60_t20" if RING.n == 4096 else "n4096_q60_t20"}),
    ((Prepare, REQUESTER, HOLDER), {"holders": ("OTHER",)}),
    ((JoinedPreparation, ROUTER, REQUESTER), {"announce": ZERO}),
    ((JoinedPreparation, HOLDER, ROUTER), {"announce": ZERO}),
    ((JoinedPreparation, HOLDER, REQUESTER), {"gallery": None}),
    ((JoinedPreparation, ROUTER, HOLDER), {"blocks": 3, "gallery": ZERO}),
    ((JoinedPreparation, HOLDER, ROUTER), {"gallery": ZERO}),
    ((JoinedPreparation, HOLDER, REQUESTER), {"nonce": ZERO}),
    ((DerivedId, ROUTER, HOLDER), {"identity": ZERO}),
    ((DerivedId, HOLDER, ROUTER), {"identity": ZERO}),
    ((KeySeed, REQUESTER, HOLDER), {"seed": ZERO}),
    ((KeySeed, REQUESTER, ROUTER), {"seed": ZERO}),
    ((PublicPart, REQUESTER, HOLDER), {"data": flipped}),
    ((PublicPart, ROUTER, HOLDER), {"data": flipped}),
    ((MaskPart, REQUESTER, HOLDER), {"data": flipped}),
    ((MaskDigest, REQUESTER, ROUTER), {"key": ZERO}),
    ((MaskDigest, HOLDER, ROUTER), {"key": ZERO}),
    ((MaskDigest, HOLDER, ROUTER), {"mask": ZERO}),
    ((FormBlock, HOLDER, REQUESTER), {"seed": ZERO}),
    ((FormBlock, HOLDER, ROUTER), {"data": flipped}),
    ((Echo, REQUESTER, ROUTER), {"digest": ZERO}),
    ((FormBit, HOLDER, REQUESTER), {"component": None}),
    ((PreparedBlocks, HOLDER, REQUESTER), {"data": flipped}),
    ((PreparedBlocks, HOLDER, ROUTER), {"data": flipped}),
    ((Search, REQUESTER, ROUTER), {"preparation": ZERO}),
    ((Search, REQUESTER, HOLDER), {"preparation": ZERO}),
    *(
        ((Search, REQUESTER, victim), change)
        for victim in (ROUTER, HOLDER)
        for change in (
            {"threshold": "0.6"},
            {"cap": 11},
            {"ladder": "0.01"},
            {"dim": 72},
            {"preset": next(name for name in PRESETS if name != RING.preset)},
            {"holders": ("OTHER",)},
            {"requester": "OTHER"},
            {"nonce": ZERO},
        )
    ),
    ((Joined, HOLDER, REQUESTER), {"gallery": ZERO}),
    ((Joined, HOLDER, ROUTER), {"gallery": ZERO}),
    ((Joined, HOLDER, ROUTER), {"blocks": 2}),
    ((Difference, REQUESTER, HOLDER), {"data": flipped}),
    ((DifferenceDigest, REQUESTER, ROUTER), {"digest": ZERO}),
    ((DifferenceDigest, HOLDER, ROUTER), {"digest": ZERO}),
    ((MaskedScores, HOLDER, REQUESTER), {"data": flipped}),
    ((MaskedScores, HOLDER, ROUTER), {"data": flipped}),
    ((ConfirmationBlock, HOLDER, ROUTER), {"data": flipped}),
    ((ConfirmationAnswer, REQUESTER, HOLDER), {"data": flipped}),
    ((ConfirmationAnswer, ROUTER, HOLDER), {"data": flipped}),
]


@pytest.mark.parametrize(
    ("link", "changes"), DIFFERENT, ids=lambda v: names(v) if isinstance(v, tuple) else "+".join(v)
)
def test_values_that_should_agree_and_do_not_stop_everybody(link: Link, changes: dict[str, Any]) -> None:
    def change(d: Delivery) -> list[bytes]:
        values = dict(changes)
        if values.get("data") is flipped:
            values["data"] = flipped(bytes(d.message.data))  # type: ignore[union-attr]
        if "component" in values:
            values["component"] = not d.message.component  # type: ignore[union-attr]
        return [forge(d.frame, **values)]

    attack, done = first(link, change)
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(Disagreement, ConfirmationFailed, ProbeRefused)
    assert isinstance(trio.failures[0], (Disagreement, ConfirmationFailed, ProbeRefused)), trio.failures[0]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Prepare, {"preset": "n1024"}),
        (Prepare, {"dim": 12}),
        (Search, {"preset": "n1024"}),
        (Search, {"dim": 12}),
        (Search, {"threshold": "1.0"}),
    ],
)
@pytest.mark.parametrize("victim", [ROUTER, HOLDER])
def test_announcements_of_what_nobody_may_ask_stop_the_query(
    kind: type[Message], change: dict[str, Any], victim: str
) -> None:
    link = (kind, REQUESTER, victim)
    attack, done = first(link, lambda d: [forge(d.frame, **change)])
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(ParameterError)


@pytest.mark.parametrize("sender", [REQUESTER, ROUTER])
def test_power_sums_that_differ_are_refused(sender: str) -> None:
    def change(d: Delivery) -> list[bytes]:
        sums = np.frombuffer(d.message.data, "<u4").copy()  # type: ignore[union-attr]
        sums[3] ^= 1
        return [forge(d.frame, data=sums.tobytes())]

    link = (PowerSums, sender, HOLDER)
    attack, done = first(link, change)
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(SketchMismatch)


@pytest.mark.parametrize("kind", [FormBit, AdmissionBit, CapBit])
@pytest.mark.parametrize(
    ("sender", "receiver"), [(HOLDER, REQUESTER), (HOLDER, ROUTER), (REQUESTER, HOLDER), (ROUTER, HOLDER)]
)
def test_components_of_an_opened_bit_that_differ_are_refused(kind: type[Message], sender: str, receiver: str) -> None:
    link = (kind, sender, receiver)
    attack, done = first(link, lambda d: [forge(d.frame, component=not d.message.component)])  # type: ignore[union-attr]
    trio = run_attacked(link, attack)
    assert done
    trio.assert_stopped(Disagreement)
