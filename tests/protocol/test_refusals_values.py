"""Residues out of range, and values that two parties are told differently, stop the query and every party."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from pets.errors import CommitmentMismatch, LineupError, ResidueOutOfRange
from pets.params import PRESETS
from protocol import wire
from protocol.errors import Disagreement
from protocol.messages import (
    AdmissionBlock,
    Announce,
    ConfirmationBlock,
    ConfirmationDigest,
    CountShare,
    FilterBlock,
    Gates,
    InputShare,
    Joined,
    KeyCommitment,
    KeyPair,
    Message,
    ProbePart,
    PublicShare,
    Release,
)
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery, forge
from tests.kit.ring import RING
from tests.kit.scene import replace_first, run

# --- residues ---


def raise_first_residue(data: bytes) -> bytes:
    values = np.frombuffer(data, "<u4").copy()
    values[0] = RING.primes[0]
    return values.tobytes()


@pytest.mark.ring
@pytest.mark.parametrize(
    ("kind", "sender", "receiver"),
    [
        (PublicShare, REQUESTER, ROUTER),
        (PublicShare, ROUTER, REQUESTER),
        (ProbePart, REQUESTER, HOLDER),
        (AdmissionBlock, HOLDER, REQUESTER),
        (AdmissionBlock, HOLDER, ROUTER),
        (FilterBlock, HOLDER, REQUESTER),
        (FilterBlock, HOLDER, ROUTER),
        (ConfirmationBlock, HOLDER, REQUESTER),
        (ConfirmationBlock, HOLDER, ROUTER),
    ],
)
def test_residue_at_its_prime_is_refused(kind: type[Message], sender: str, receiver: str) -> None:
    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(kind, sender, receiver):
            return [forge(d.frame, data=raise_first_residue(d.message.data))]  # type: ignore[union-attr]
        return None

    run(attack).assert_stopped(ResidueOutOfRange)


@pytest.mark.ring
@pytest.mark.parametrize("which", ["requester", "router"])
def test_residue_at_its_prime_is_refused_in_a_reported_pair(which: str) -> None:
    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(KeyPair):
            return [forge(d.frame, **{which: raise_first_residue(getattr(d.message, which))})]
        return None

    run(attack).assert_stopped(ResidueOutOfRange)


@pytest.mark.ring
def test_every_message_with_residues_was_tried() -> None:
    # those that carry arrays of residues have a limit that grows with the ring
    large = {kind for kind, limit in wire.LIMITS.items() if limit >= 8 * RING.n} - {InputShare, Gates, CountShare}
    large = {kind for kind in large if kind.__struct_config__.tag < 24}  # the others: tests/test_prepared_refusals.py
    assert large == {PublicShare, KeyPair, ProbePart, AdmissionBlock, FilterBlock, ConfirmationBlock}


# --- parties that are told different things ---


def flip_digest(field: str) -> Callable[[bytes], list[bytes]]:
    return lambda frame: [forge(frame, **{field: bytes(32)})]


@pytest.mark.parametrize(
    ("kind", "sender", "receiver", "field", "error"),
    [
        (Joined, ROUTER, REQUESTER, "announce", Disagreement),
        (Joined, HOLDER, ROUTER, "nonce", Disagreement),
        (KeyCommitment, ROUTER, REQUESTER, "query_id", Disagreement),
        (KeyCommitment, ROUTER, REQUESTER, "digest", CommitmentMismatch),
        (KeyPair, ROUTER, HOLDER, "query_id", Disagreement),
        (ConfirmationBlock, HOLDER, ROUTER, "commitment", Disagreement),
        (ConfirmationDigest, REQUESTER, ROUTER, "digest", Disagreement),
    ],
)
def test_values_that_should_agree_and_do_not_stop_the_query(
    kind: type[Message], sender: str, receiver: str, field: str, error: type[LineupError]
) -> None:
    attack, done = replace_first(kind, sender, receiver, flip_digest(field))
    trio = run(attack)
    assert done
    trio.assert_stopped(error)


def test_key_pairs_that_differ_stop_the_query() -> None:
    attack, _ = replace_first(KeyPair, ROUTER, HOLDER, lambda f: [forge(f, router=wire.decode(f).message.requester)])  # type: ignore[union-attr]
    run(attack).assert_stopped(Disagreement)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "0.6"},
        {"cap": 11},
        {"ladder": "0.01"},
        {"dim": 72},
        {"preset": next(name for name in PRESETS if name != RING.preset)},
        {"preset": "n1024"},
        {"holders": ("OTHER",)},
        {"requester": "OTHER"},
        {"threshold": "1.0"},
        {"nonce": bytes(32)},
    ],
    ids=str,
)
@pytest.mark.parametrize("victim", [ROUTER, HOLDER])
def test_announcements_that_differ_stop_the_query(change: dict[str, Any], victim: str) -> None:
    attack, _ = replace_first(Announce, REQUESTER, victim, lambda f: [forge(f, **change)])
    trio = run(attack)
    assert trio.failures
    trio.assert_stopped(LineupError)


def test_a_filter_block_that_differs_is_noticed_before_release() -> None:
    # the holder itself would have to lie; its own hits come out wrong and cannot be confirmed
    def attack(d: Delivery) -> Iterable[bytes] | None:
        if d.of(FilterBlock, HOLDER, ROUTER):
            data = np.frombuffer(d.message.data, "<u4").copy()  # type: ignore[union-attr]
            return [forge(d.frame, data=np.roll(data, 1).clip(0, RING.primes[1] - 1).tobytes())]
        return None

    trio = run(attack)
    assert not trio.sent(Release)
    assert trio.holder.result is not None
    assert trio.holder.result.status == "too_many_candidates"  # half of all rows seem to hit
