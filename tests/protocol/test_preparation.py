"""What a party keeps of a preparation: packed, unpacked, and refused where its parts do not fit each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from protocol.local import LocalPreparation
from protocol.preparation import (
    Chunk,
    HolderPreparation,
    Preparation,
    PreparationError,
    PreparedRing,
    RequesterPreparation,
    RouterPreparation,
    pack,
    unpack,
)
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER
from tests.kit.trio import Trio, hold

KINDS = (RequesterPreparation, RouterPreparation, HolderPreparation)


@lru_cache(maxsize=1)
def packed() -> dict[type[Preparation], bytes]:
    trio = Trio(hold(unit_rows(np.random.default_rng(1), 70, 8))).prepare()
    made: LocalPreparation | None = trio.made
    assert made is not None
    return {type(part): pack(part) for part in (made.requester, made.router, made.holders[HOLDER])}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_what_was_packed_is_the_same_after_unpacking(kind: type[Preparation]) -> None:
    again = unpack(packed()[kind], kind)  # type: ignore[type-var]
    assert pack(again) == packed()[kind]
    assert not again.spent


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_bytes_of_another_role_or_of_nothing_are_refused(kind: type[Preparation]) -> None:
    others = [data for other, data in packed().items() if other is not kind]
    whole = packed()[kind]
    for data in (*others, b"", b"\x00", whole[:-1], whole + b"\x00", whole[: len(whole) // 2]):
        with pytest.raises(PreparationError):
            unpack(data, kind)  # type: ignore[type-var]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_any_byte_changed_is_refused_or_read_as_something_whole(kind: type[Preparation]) -> None:
    rng = np.random.default_rng(3)
    whole = packed()[kind]
    for place in [*range(200), *rng.integers(0, len(whole), 100)]:
        data = bytearray(whole)
        data[place] ^= int(rng.integers(1, 256))
        try:
            unpack(bytes(data), kind)  # type: ignore[type-var]
        except PreparationError:
            continue


def ring(p: Preparation) -> PreparedRing:
    return p.rings[HOLDER]


def chunk(p: Preparation) -> Chunk:
    return ring(p).chunks[0]


BREAKS: dict[str, Callable[[Preparation], object]] = {
    "an array too short": lambda p: setattr(chunk(p), "z", chunk(p).z[:, :, 1:].copy()),
    "another dtype": lambda p: setattr(chunk(p), "z", chunk(p).z.astype(np.uint32)),
    "a plane less": lambda p: setattr(chunk(p), "pairs", chunk(p).pairs[:, 1:].copy()),
    "blocks left out": lambda p: ring(p).chunks.clear(),
    "blocks twice": lambda p: ring(p).chunks.append(chunk(p)),
    "another number of blocks": lambda p: setattr(ring(p), "blocks", 2),
    "another seat": lambda p: setattr(ring(p), "seat", (ring(p).seat + 1) % 3),
    "a seat that is not there": lambda p: setattr(ring(p), "seat", 3),
    "a ring of nobody": lambda p: setattr(ring(p), "holder", "OTHER"),
    "one party twice": lambda p: setattr(p, "router", p.requester),
    "no such ring": lambda p: setattr(p, "preset", "n1024"),
    "another dimension": lambda p: setattr(p, "dim", 128),
    "no dimension": lambda p: setattr(p, "dim", 9),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("broken", BREAKS)
def test_parts_that_do_not_fit_each_other_are_refused(kind: type[Preparation], broken: str) -> None:
    preparation = unpack(packed()[kind], kind)  # type: ignore[type-var]
    BREAKS[broken](preparation)
    with pytest.raises(PreparationError):
        unpack(pack(preparation), kind)  # type: ignore[type-var]
