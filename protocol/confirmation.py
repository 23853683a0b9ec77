"""Confirmation: a second, authenticated evaluation of just the hits (protocol/DESIGN.md, section 6).

Slot k of the block is coefficients 6k … 6k+5: the hit's row, and that row times five secret factors α in [1, 2^10].
Unused slots are zero. Answers are additive, so a lie adds δ_0 … δ_5 to a slot; it passes only if δ_m = α_m·δ_0 mod t
for all five, which is a guess of all five factors (t is prime): 2^-50.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pets import residues
from pets.errors import ParameterError
from pets.keys import ZeroPool
from pets.params import SHARE_BITS, Parameters
from pets.prf import labelled_hash
from pets.scoring import ScoringProbe, encode_gallery
from protocol.compare import SHARE_MASK
from protocol.compute import HOLDER, REQUESTER, ROUTER, Ring, other
from protocol.decryption import flat_shares, key_coefficients, own_coefficients
from protocol.errors import ConfirmationFailed, Disagreement
from protocol.keyring import QueryKey
from protocol.messages import ConfirmationAnswer, ConfirmationBlock, ConfirmationDigest
from protocol.steps import Send, Step, check_phase, receive, score_block, sign_phase
from protocol.wire import array, residue_array

SLOT = 6  # coefficients of one slot: the score and five MAC values
FACTOR_BITS = 10

Shares = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Hit:
    """A confirmed hit, as the holder knows it. `score`: the integer score s."""

    row: int
    score: int


@dataclass(frozen=True)
class SealedConfirmation:
    """What opens the commitment in an audit on site: kept by the holder, sent to nobody. `seed`: empty without one.

    `answers`: requester's and router's, as received, once they are there. The commitment does not cover them: their
    senders signed them.
    """

    salt: bytes = field(repr=False)
    rows: tuple[int, ...]
    factors: npt.NDArray[np.int32] = field(repr=False)
    block: npt.NDArray[np.int32] = field(repr=False)
    shares: Shares = field(repr=False)
    seed: bytes = field(repr=False)
    answers: tuple[bytes, ...] = field(default=(), repr=False)

    def commitment(self, c1: bytes) -> bytes:
        """Salted hash of c1, own shares, factors, rows and the seed of the re-randomiser, 32 bytes."""
        return labelled_hash(
            "confirmation",
            self.salt,
            labelled_hash("c1", c1),
            labelled_hash("rows", *self.rows),
            self.shares.tobytes(),
            self.factors.tobytes(),
            self.block.tobytes(),
            self.seed,
        )


def build_block(
    templates: npt.NDArray[np.int8], rows: tuple[int, ...], cap: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The block's rows, int32 (6·cap, d), and the factors, int32 (cap, 6), first column 1; zero for unused slots.

    Unused slots are made like used ones, so that the time does not tell the router how many hit.
    """
    if len(rows) > cap:
        raise ParameterError(f"{len(rows)} hits do not fit {cap} slots")
    drawn = [[1] + [1 + secrets.randbelow(2**FACTOR_BITS) for _ in range(SLOT - 1)] for _ in range(cap)]
    factors = np.array(drawn, np.int32)
    factors[len(rows) :] = 0
    confirmed = np.zeros((cap, templates.shape[1]), np.int32)
    confirmed[: len(rows)] = templates[list(rows)]
    return (factors[:, :, None] * confirmed[:, None]).reshape(cap * SLOT, -1), factors


def holder_confirms(
    ring: Ring,
    params: Parameters,
    templates: npt.NDArray[np.int8],
    rows: tuple[int, ...],
    theta: int,
    cap: int,
    prepared: ScoringProbe,
    zeros: ZeroPool,
    zeros_seed: bytes | None,
    keep: Callable[[SealedConfirmation], None],
) -> Step[tuple[Hit, ...]]:
    """The holder's part. Returns the hits by falling score. Raises `ConfirmationFailed`: nothing may be released.

    `keep` is told what opens the commitment before the block leaves, and the answers before they are judged: an audit
    needs both above all where it all fails.
    """
    block, factors = build_block(templates, rows, cap)
    scored = yield from score_block(encode_gallery(block, params, ring.threads), prepared)
    blinded = residues.add(scored, zeros.take(1), params)
    c1 = np.ascontiguousarray(blinded[:, 1]).tobytes()
    shares = flat_shares(own_coefficients(blinded[:, 0], params, ring.threads), params, ring.threads)[: SLOT * cap]
    sealed = SealedConfirmation(secrets.token_bytes(32), rows, factors, block, shares, zeros_seed or b"")
    keep(sealed)
    for index in (REQUESTER, ROUTER):
        yield Send(ring.names[index], ConfirmationBlock(sealed.commitment(c1), c1))
    # Signed before any answer arrives, so that an audit can hold the holder to what it committed to.
    key_owners = (ring.names[REQUESTER], ring.names[ROUTER])
    yield from sign_phase("confirmation block", key_owners)
    answers = []
    for name in key_owners:
        answer = yield from receive(name, ConfirmationAnswer)
        answers.append(answer.data)
    keep(replace(sealed, answers=tuple(answers)))
    yield from check_phase("confirmation", key_owners)
    scores = check_answers(add_answers(shares, answers), factors, len(rows), theta, params)
    hits = [Hit(row, score) for row, score in zip(rows, scores, strict=True)]
    return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.row)))


def add_answers(shares: Shares, answers: Sequence[bytes]) -> Shares:
    """The holder's shares and both answers, uint32 (6·cap,) modulo 2^K: what `check_answers` decodes."""
    total = shares.copy()
    for answer in answers:
        total += array(answer, shares.shape, np.uint32, "confirmation answer")
    return total & SHARE_MASK


def check_answers(sums: Shares, factors: npt.NDArray[np.int32], used: int, theta: int, params: Parameters) -> list[int]:
    """Decode round(sum·t/2^K) mod t and check every slot. Returns the scores of the used slots.

    Raises `ConfirmationFailed` for a slot whose values do not fit its factors, an unused slot that is not zero, or a
    score below theta.
    """
    t = params.t
    decoded = ((sums.astype(np.int64) * t + (1 << (SHARE_BITS - 1))) >> SHARE_BITS) % t
    slots = decoded.reshape(len(factors), SLOT)
    scores = []
    for slot, (values, multipliers) in enumerate(zip(slots, factors, strict=True)):
        if slot >= used:
            if values.any():
                raise ConfirmationFailed(f"unused slot {slot} of the confirmation block is not zero")
            continue
        first = int(values[0])
        if any(int(value) != first * int(factor) % t for value, factor in zip(values, multipliers, strict=True)):
            raise ConfirmationFailed(f"slot {slot} of the confirmation block does not fit its factors")
        score = first - t if first > t // 2 else first
        if score < theta:
            raise ConfirmationFailed(f"slot {slot} of the confirmation block is not a hit")
        scores.append(score)
    return scores


def key_owner_confirms(ring: Ring, key: QueryKey, cap: int) -> Step[None]:
    """The part of requester and router: compare the hash of c1 with each other, then answer, once.

    The requester sends y_Q + r, the router y_R - r, with r from their common stream: the holder sees only the sum.
    """
    message = yield from receive(ring.names[HOLDER], ConfirmationBlock)
    c1 = residue_array(message.data, (1,), key.params, "confirmation block")
    yield from check_phase("confirmation block", (ring.names[HOLDER],))
    digest = labelled_hash("confirmation-block", message.commitment, message.data)
    peer = ring.names[other(ring.index)]
    yield Send(peer, ConfirmationDigest(digest))
    theirs = yield from receive(peer, ConfirmationDigest)
    if theirs.digest != digest:
        raise Disagreement("requester and router received different confirmation blocks")
    shares = flat_shares(key_coefficients(c1, key.share, ring.threads), key.params, ring.threads)[: SLOT * cap]
    # Requester and router share k_ROUTER, which is `following` to the requester and `own` to the router.
    masks = ring.masks("confirmation")
    stream = masks.following if ring.index == REQUESTER else masks.own
    mask = stream.words(len(shares)).astype(np.uint32)
    answer = (shares + mask if ring.index == REQUESTER else shares - mask) & SHARE_MASK
    yield Send(ring.names[HOLDER], ConfirmationAnswer(answer.astype("<u4").tobytes()))
    yield from sign_phase("confirmation", (ring.names[HOLDER], peer))
    yield from check_phase("confirmation", (peer,))
