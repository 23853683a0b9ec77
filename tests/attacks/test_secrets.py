"""What is left of a preparation after its search, how masked words look, and how many factors are drawn."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pets.keys import KeyShare
from pets.prf import Keystream
from protocol import preparing
from protocol.blocks import HolderKeys
from protocol.confirmation import SLOT, build_block
from protocol.messages import AdmissionGates, FormBlock, Gates, InputShare, MaskedScores, Message
from protocol.preparation import Preparation
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER
from tests.kit.scene import scene, small_trio
from tests.kit.trio import Trio

# --- after the search ---


def finished() -> tuple[Trio, list[npt.NDArray[Any]]]:
    """A search that released its hit, and the arrays that the parties kept for it (the control shows what is there)."""
    trio = small_trio().prepare()
    assert trio.made is not None
    kept = [
        array
        for part in (trio.made.requester, trio.made.router, trio.made.holders[HOLDER])
        for ring in part.rings.values()
        for array in (ring.admission, ring.known, *(a for c in ring.chunks for a in (c.z, c.pairs, c.masked)))
        if array is not None
    ]
    trio.search(scene()[1])
    assert trio.outcome().status == "released"
    return trio, kept


def seeds(trio: Trio) -> list[bytes]:
    """From which mask, key and streams could be drawn again."""
    assert trio.made is not None
    requester, holder = trio.made.requester, trio.made.holders[HOLDER]
    return [requester.seed, requester.holder_seed, requester.router_seed, trio.made.router.router_seed, holder.seed,
            holder.holder_seed]  # fmt: skip


def test_after_the_search_nothing_is_left_of_a_preparation() -> None:
    trio, kept = finished()
    assert not any(array.any() for array in kept)
    assert set(seeds(trio)) == {bytes(32)}
    for machine in (trio.requester, trio.router):
        assert machine._secret is not None
        assert not machine._secret.any()
    assert trio.holder._keys is None
    assert trio.holder._probe is None
    assert trio.requester._difference is None


def test_control_without_erasure_it_lies_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preparation, "erase", lambda _: None)
    trio, kept = finished()
    assert all(array.any() for array in kept)
    assert trio.made is not None
    assert trio.made.requester.rings


def test_after_the_preparation_the_machines_hold_no_key_and_no_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads u later at the holder has the probe from r: its seed must have one owner, which erases it."""
    erased: list[KeyShare] = []
    original = KeyShare.erase
    monkeypatch.setattr(KeyShare, "erase", lambda share: erased.append(share) or original(share))
    made: list[HolderKeys] = []
    keys_of = preparing.holder_keys
    monkeypatch.setattr(preparing, "holder_keys", lambda *given: made.append(keys_of(*given)) or made[-1])
    trio = small_trio().prepare()
    assert trio.made is not None
    assert trio.preparing is not None
    assert len(made) == 1
    assert not made[0].secret.any()
    assert bytes(32) not in seeds(trio), "control: the preparation itself has them"
    asking, answering = trio.preparing.requester, trio.preparing.holders[HOLDER]
    assert not any((asking._seed, asking._holder_seed, asking._router_seed, answering._seed, answering._received))
    assert {id(share) for share in erased} == {id(asking._router_part), id(trio.preparing.router._part)}
    assert not any(share.secret.any() for share in erased)


# --- masked words ---


def ones(trio: Trio, receiver: str, *kinds: type[Message]) -> tuple[float, int]:
    """Share of ones among all bits that a party received in messages of these kinds, and how many bits."""
    words = [
        np.frombuffer(d.message.data, np.uint8)  # type: ignore[union-attr]
        for kind in kinds
        for d in trio.sent(kind, receiver=receiver)
    ]
    bits = np.unpackbits(np.concatenate(words))
    return float(bits.mean()), len(bits)


def kinds_of(receiver: str) -> tuple[type[Message], ...]:
    shared = (InputShare, Gates, AdmissionGates)
    return shared if receiver == HOLDER else (*shared, FormBlock, MaskedScores)


@pytest.mark.parametrize("receiver", [REQUESTER, ROUTER, HOLDER])
def test_masked_words_have_as_many_ones_as_zeros(receiver: str) -> None:
    trio, _ = finished()
    for kind in kinds_of(receiver):
        share, count = ones(trio, receiver, kind)
        assert abs(share - 0.5) < 5 / np.sqrt(4 * count), kind.__name__


@pytest.mark.parametrize("receiver", [REQUESTER, ROUTER, HOLDER])
def test_control_without_masks_they_do_not(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(_: Keystream, *shape: int) -> npt.NDArray[np.uint64]:
        return np.zeros(shape, np.uint64)

    monkeypatch.setattr(Keystream, "words", unmasked)
    trio, _ = finished()
    share, count = ones(trio, receiver, *kinds_of(receiver))
    assert abs(share - 0.5) > 50 / np.sqrt(4 * count)


@pytest.mark.parametrize("hits", [0, 1, 10])
def test_as_many_factors_are_drawn_whatever_hit(hits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router sees when the confirmation block comes; drawing takes some microseconds a slot."""
    drawn: list[int] = []
    original = secrets.randbelow

    def counted(below: int) -> int:
        drawn.append(below)
        return original(below)

    monkeypatch.setattr(secrets, "randbelow", counted)
    templates = unit_rows(np.random.default_rng(0), 20, 64)
    rows = tuple(range(hits))
    block, factors = build_block(templates, rows, 10)
    assert drawn == [2**10] * 5 * 10
    slots = block.reshape(10, SLOT, 64)
    assert (slots[:hits] == factors[:hits, :, None] * templates[:hits, None].astype(int)).all()
    assert (factors[:hits, 0] == 1).all()
    assert not slots[hits:].any()
    assert not factors[hits:].any()
