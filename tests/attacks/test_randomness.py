"""One-time randomness used again: encryptions of zero, masks, keystreams; each attack with its control."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt
import pytest

from pets import residues
from pets.errors import StreamReused
from pets.keys import JointKey, ZeroPool, reduced_key, sample_key_share
from pets.mask_encryption import draw_mask
from pets.planes import unpack_bits
from pets.prf import Keystream
from pets.replicated import Masks, share_input
from pets.residues import Residues
from pets.sampling import common_polynomial
from pets.scoring import prepare_probe, score_rows
from protocol.blocks import HolderKeys
from protocol.compute import Ring
from protocol.roles import Seat
from tests.kit.attacks import SMALL, N
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

MASKED = {"FormBlock", "Gates", "AdmissionScores", "AdmissionGates", "AdmissionInput", "MaskedScores", "InputShare"}


def key() -> JointKey:
    """What a holder re-randomises with."""
    preparation_id = secrets.token_bytes(32)
    common = common_polynomial(RING, preparation_id)
    own, share = (sample_key_share(RING, common, secrets.token_bytes(32), preparation_id) for _ in range(2))
    return reduced_key(RING, preparation_id, share.public, own.secret)


def test_encryption_of_zero_is_given_out_once() -> None:
    pool = ZeroPool.make(key(), bytes(32), "rerandomise", 3)
    first, rest = pool.take(1), pool.take(2)
    assert not any(np.array_equal(first[0], other) for other in rest)
    assert pool.left == 0
    with pytest.raises(StreamReused):
        pool.take(1)


def test_control_a_reused_rerandomiser_shows_the_difference_of_two_blocks() -> None:
    rng = np.random.default_rng(0)
    templates = unit_rows(rng, 2 * N, SMALL)
    joint = key()
    masks = ZeroPool.make(joint, bytes(32), "anything to score with", SMALL).take(SMALL)
    scored = score_rows(templates, [prepare_probe(masks, RING)], RING)[0]

    def c1_of_difference(blinded: Residues) -> Residues:
        return residues.subtract(blinded[0], blinded[1], RING)[1]

    keys = HolderKeys(np.zeros((2, N), np.uint32), joint, bytes(32))
    fresh = residues.add(scored, keys.zeros("rerandomise 0 2 0", 2, 1), RING)
    again = residues.add(scored, keys.zeros("rerandomise 2 1 0", 1, 1), RING)
    assert np.array_equal(c1_of_difference(again), c1_of_difference(scored)), "the mask is gone: linear in the gallery"
    assert (c1_of_difference(fresh) == c1_of_difference(scored)).mean() < 0.01


def test_a_new_preparation_uses_a_new_mask_and_new_encryptions() -> None:
    gallery, drawn = hold(unit_rows(np.random.default_rng(0), 50, SMALL)), []
    for _ in range(2):
        made = Trio(gallery).prepare().made
        assert made is not None
        requester = made.requester
        drawn.append((made.holders[HOLDER].mask, draw_mask(requester.seed, requester.preparation_id, SMALL, RING)))
    assert (drawn[0][0] == drawn[1][0]).mean() < 0.01
    assert not (drawn[0][1] == drawn[1][1]).any()


def ring(*, index: int = Seat.HOLDER, query: bytes = bytes(32), holder: str = "ES") -> Ring:
    return Ring(index, (holder, "REQUESTER", "ROUTER"), query, b"o" * 32, b"f" * 32)


def first_words(masks: Masks) -> tuple[bytes, bytes]:
    return masks.own.read(64), masks.following.read(64)


def test_masks_are_drawn_once_for_a_purpose() -> None:
    seat = ring()
    seat.masks("compare", 0, 0)
    seat.masks("compare", 0, 1)
    seat.masks("compare", 1, 0)
    with pytest.raises(StreamReused):
        seat.masks("compare", 0, 0)


def test_masks_differ_between_purposes_rungs_chunks_holders_and_queries() -> None:
    drawn = [
        first_words(ring().masks("compare", 0, 0)),
        first_words(ring().masks("compare", 1, 0)),
        first_words(ring().masks("compare", 0, 1)),
        first_words(ring().masks("admission")),
        first_words(ring(holder="DE").masks("compare", 0, 0)),
        first_words(ring(query=b"q" * 32).masks("compare", 0, 0)),
    ]
    streams = [stream for pair in drawn for stream in pair]
    assert len(set(streams)) == len(streams)
    assert first_words(ring().masks("compare", 0, 0)) == drawn[0]


def test_a_keystream_never_gives_the_same_bytes_again() -> None:
    stream = Keystream(bytes(32))
    blocks = [stream.read(16) for _ in range(100)]
    assert len(set(blocks)) == 100
    assert b"".join(blocks) == Keystream(bytes(32)).read(1600)


def test_control_a_rewound_counter_shows_the_xor_of_two_inputs() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 2**64, (2, 24, 10), np.uint64)

    def sent(masks: Masks, value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        message: npt.NDArray[np.uint64] = share_input(masks, value).parts[0]
        return message

    rewound = sent(ring().masks("compare", 0, 0), one) ^ sent(ring().masks("compare", 0, 0), two)
    assert np.array_equal(rewound, one ^ two)
    seat = ring()
    proper = sent(seat.masks("compare", 0, 0), one) ^ sent(seat.masks("compare", 0, 1), two)
    assert (unpack_bits(proper[0]) == unpack_bits((one ^ two)[0])).mean() < 0.75


def test_no_two_messages_of_one_search_carry_the_same_words() -> None:
    # every rung draws new masks: the same shares compared again must look new
    rng = np.random.default_rng(0)
    probe = unit_rows(rng, 1, 64)[0]
    rows = np.concatenate([near(rng, probe, 20, np.full(20, 0.73)), unit_rows(rng, 300, 64)])
    trio = Trio(hold(rows), threshold="0.7", ladder="0.1").search(probe)
    assert trio.outcome().threshold_used == trio.terms.rungs[1]
    for receiver in (REQUESTER, ROUTER, HOLDER):
        words = []
        for d in trio.deliveries:
            if d.receiver == receiver and type(d.message).__name__ in MASKED:
                words.append(np.frombuffer(d.message.data, "<u8"))  # type: ignore[union-attr]
        everything = np.concatenate(words)
        assert len(np.unique(everything)) == len(everything)
