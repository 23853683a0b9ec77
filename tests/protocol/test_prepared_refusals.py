"""Messages of preparations and prepared searches that are wrong in size, order, number or content stop every party."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from pets.errors import LineupError, ResidueOutOfRange
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
from protocol.gallery import Gallery
from protocol.messages import (
    ALLOWED,
    Abort,
    AdmissionCount,
    ConfirmationAnswer,
    ConfirmationBlock,
    Difference,
    DifferenceDigest,
    Echo,
    FormBit,
    FormBlock,
    Gates,
    Joined,
    JoinedPreparation,
    KeySeed,
    LiveRows,
    MaskDigest,
    MaskedScores,
    MaskPart,
    Message,
    Prepare,
    PreparedBlocks,
    PublicPart,
    Search,
    Signature,
)
from tests.kit.galleries import Templates, near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge, role
from tests.kit.prepared import PreparedTrio, hold
from tests.kit.ring import RING

pytestmark = pytest.mark.ring

DIM = 64
Link = tuple[type[Message], str, str]


@lru_cache(maxsize=1)
def scene() -> tuple[Gallery, Templates]:
    """A gallery in which row 17 hits the probe at 0.8; all others stay below 0.7."""
    rng = np.random.default_rng(2)
    probe = unit_rows(rng, 1, DIM)[0]
    templates = unit_rows(rng, 120, DIM)
    templates[17] = near(rng, probe, 1, np.full(1, 0.8))[0]
    return hold(templates), probe


def run(attack: Attack | None = None) -> PreparedTrio:
    """A preparation and a search with it, under attack."""
    gallery, probe = scene()
    return PreparedTrio(gallery, threshold="0.7", ladder="0", attack=attack).search(probe)


@lru_cache(maxsize=1)
def honest() -> PreparedTrio:
    trio = run()
    assert trio.outcome() == trio.expected(scene()[1])
    assert len(trio.outcome().hits) == 1
    return trio


def first(link: Link, change: Callable[[Delivery], Iterable[bytes]]) -> tuple[Attack, list[bool]]:
    """An attack on the first frame of a kind on a link, and a list that tells whether it happened."""
    done: list[bool] = []

    def attack(d: Delivery) -> Iterable[bytes] | None:
        if not done and d.of(*link):
            done.append(True)
            return list(change(d))
        return None

    return attack, done


def links(trio: PreparedTrio) -> list[Link]:
    found = {(type(d.message), d.sender, d.receiver): None for d in trio.deliveries}
    return list(found)


LINKS = sorted(
    ((kind, *(name.upper() for name in link)) for kind, pairs in ALLOWED.items() for link in pairs),
    key=lambda link: (link[0].__name__, *link[1:]),
)
NEW = [link for link in LINKS if link[0].__struct_config__.tag >= 24 and link[1] != link[2]]
USED = [*NEW, *(link for link in LINKS if link[0] in (Joined, Gates, ConfirmationBlock, ConfirmationAnswer))]
USED = [link for link in USED if link[1] != link[2]]


def names(link: Link) -> str:
    return f"{link[0].__name__}-{link[1]}-{link[2]}"


def test_every_message_that_travels_is_tried_and_every_row_of_the_table_travels() -> None:
    seen = set(links(honest()))
    assert set(NEW) <= seen
    travelled = {(kind, role(sender), role(receiver)) for kind, sender, receiver in seen}
    assert all((sender, receiver) in ALLOWED[kind] for kind, sender, receiver in travelled)
    assert not {kind for kind, _, _ in seen} & {Abort, Signature}


@pytest.mark.parametrize("link", USED, ids=names)
def test_a_message_that_comes_twice_is_refused(link: Link) -> None:
    attack, done = first(link, lambda d: [d.frame, d.frame])
    trio = run(attack)
    assert done
    assert any(isinstance(failure, DuplicateMessage) for failure in trio.failures)
    if link != (ConfirmationAnswer, REQUESTER, HOLDER):  # the last that the holder waited for: all was over by then
        trio.assert_stopped(DuplicateMessage)


@pytest.mark.parametrize("link", USED, ids=names)
def test_a_message_that_is_lost_leaves_nothing_to_release(link: Link) -> None:
    attack, done = first(link, lambda d: [])
    trio = run(attack)
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
    trio = run(attack)
    assert done
    trio.assert_stopped(WrongSize, Disagreement)
    assert isinstance(trio.failures[0], WrongSize) or size != "empty" or trio.failures


@pytest.mark.parametrize("link", NEW, ids=names)
def test_another_kind_of_message_in_its_place_is_refused(link: Link) -> None:
    """A message that this link may carry, but not now."""
    kind, sender, receiver = link
    other = next(
        d
        for d in honest().deliveries
        if (d.sender, d.receiver) == (sender, receiver) and not isinstance(d.message, kind)
    )
    attack, done = first(link, lambda d: [forge(d.frame, message=other.message)])
    trio = run(attack)
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
    trio = run(attack)
    assert done
    trio.assert_stopped(ResidueOutOfRange)


def test_every_message_with_residues_was_tried() -> None:
    large = {kind for kind, limit in wire.LIMITS.items() if limit >= 8 * RING.n and kind.__struct_config__.tag >= 24}
    assert large - {MaskedScores, AdmissionCount, LiveRows} == {link[0] for link in RESIDUES} - {ConfirmationBlock}


def test_a_difference_that_is_not_below_t_is_refused() -> None:
    attack, done = first((Difference, REQUESTER, HOLDER), lambda d: [forge(d.frame, data=b"\xff" * (DIM * 20 // 8))])
    trio = run(attack)
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
    ((Search, REQUESTER, HOLDER), {"threshold": "0.6"}),
    ((Search, REQUESTER, HOLDER), {"cap": 11}),
    ((Search, REQUESTER, HOLDER), {"holders": ("OTHER",)}),
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
    trio = run(attack)
    assert done
    trio.assert_stopped(Disagreement, ConfirmationFailed, LineupError)
    assert isinstance(trio.failures[0], (Disagreement, ConfirmationFailed, ProbeRefused)), trio.failures[0]
