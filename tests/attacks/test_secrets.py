"""What is left of a key after a query, how masked words look, and a phase signature that says something else."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pets.errors import CryptoError
from pets.keys import KeyShare
from pets.prf import Keystream
from pets.signatures import SignatureError
from protocol.confirmation import SLOT, build_block
from protocol.errors import Disagreement
from protocol.holder import Holder
from protocol.machine import Machine
from protocol.messages import Gates, InputShare
from protocol.requester import Requester
from protocol.session import State
from protocol.steps import Notary
from tests.kit.evidence import ES, World, shared_world
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Trio, key_erased
from tests.kit.scene import scene

# --- the key after the query ---


def finished() -> Trio:
    gallery, probe = scene()
    trio = Trio(gallery, threshold="0.7", ladder="0").search(probe)
    assert trio.outcome().status == "released"
    return trio


def shares(trio: Trio) -> list[KeyShare]:
    keys = [trio.requester._key, trio.router._key]
    return [key.share for key in keys if key is not None]


def test_after_the_query_a_stolen_share_is_zeros_and_refuses_to_decrypt() -> None:
    for share in shares(finished()):
        assert not share.secret.any()
        with pytest.raises(CryptoError):
            share.multiply(np.ones((1, 2, share.params.n), np.uint32))


def test_control_without_erasure_the_shares_lie_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyShare, "erase", lambda _: None)
    trio = finished()
    assert all(share.secret.any() for share in shares(trio))
    assert not key_erased(trio.requester)
    assert not key_erased(trio.router)


# --- masked words ---


def ones(trio: Trio, receiver: str) -> tuple[float, int]:
    """Share of ones among all bits of comparison that a party received, and how many bits."""
    words = [
        np.frombuffer(d.message.data, np.uint8)
        for kind in (InputShare, Gates)
        for d in trio.sent(kind, receiver=receiver)
    ]  # type: ignore[union-attr]
    bits = np.unpackbits(np.concatenate(words))
    return float(bits.mean()), len(bits)


@pytest.mark.parametrize("receiver", [REQUESTER, ROUTER, HOLDER])
def test_masked_words_have_as_many_ones_as_zeros(receiver: str) -> None:
    share, count = ones(finished(), receiver)
    assert abs(share - 0.5) < 5 / np.sqrt(4 * count)


@pytest.mark.parametrize("receiver", [REQUESTER, ROUTER, HOLDER])
def test_control_without_masks_they_do_not(receiver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmasked(_: Keystream, *shape: int) -> npt.NDArray[np.uint64]:
        return np.zeros(shape, np.uint64)

    monkeypatch.setattr(Keystream, "words", unmasked)
    share, count = ones(finished(), receiver)
    assert abs(share - 0.5) > 50 / np.sqrt(4 * count)


# --- phase signatures in a running query ---


@dataclass
class Lying:
    """Signs something else than what was said, or what was said in another phase."""

    real: Notary
    old: bytes | None = None

    def sign(self, message: bytes) -> bytes:
        return self.real.sign(self.old or message + b"!")

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        self.real.check(peer, message, signature)


def signed_query(world: World, lie: Any) -> tuple[Requester, Holder]:
    """A query in which the requester's notary is exchanged before it goes online."""
    seen: list[Any] = []

    def attack(requester: Requester, holders: dict[str, Holder]) -> None:
        seen.extend((requester, holders[ES]))
        assert requester.notary is not None
        requester.notary = lie(requester.notary)

    world.query((ES,), attack=attack)
    return seen[0], seen[1]


@pytest.mark.parametrize("old", [None, b"a statement of another phase"])
def test_a_phase_signed_otherwise_stops_the_holder(old: bytes | None) -> None:
    requester, holder = signed_query(shared_world(), lambda real: Lying(real, old))
    session = holder.sessions[ES]
    assert session.state is State.ABORTED
    assert isinstance(session.failure, SignatureError)
    assert holder.result is None
    assert not requester.answers


def test_control_without_the_check_of_signatures_the_query_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "_verify", lambda *_: None)
    requester, holder = signed_query(shared_world(), lambda real: Lying(real, None))
    assert holder.sessions[ES].state is State.FINISHED
    assert requester.answers[ES].references


def test_a_head_of_another_conversation_stops_the_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Machine._sign

    def about_nothing(machine: Machine, session: Any, effect: Any) -> None:
        if machine.role == "requester" and session.name:
            session.chains["sent", effect.to] = bytes(32)
        original(machine, session, effect)

    monkeypatch.setattr(Machine, "_sign", about_nothing)
    _, holder = signed_query(shared_world(), lambda real: real)
    assert isinstance(holder.sessions[ES].failure, Disagreement)
    assert holder.result is None


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
