"""Confirmation: a second, authenticated evaluation of just the hits (protocol/DESIGN.md, section 6).

Slot k of the block is coefficients 6k … 6k+5: the hit's row, and that row times five secret factors α in [1, 2^10].
Unused slots are zero. Answers are additive, so a lie adds δ_0 … δ_5 to a slot; it passes only if δ_m = α_m·δ_0 mod t
for all five, which is a guess of all five factors (t is prime): 2^-50.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pets.errors import ParameterError
from pets.params import SHARE_BITS, Parameters
from pets.prf import labelled_hash
from protocol.errors import ConfirmationFailed

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
