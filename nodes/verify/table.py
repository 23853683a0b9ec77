"""The verifier's own copy of what a query may be: security table, thresholds, sizes (protocol/DESIGN.md, 3, 6a).

Written down a second time on purpose: a node whose copy was weakened must not weaken its judge.
`tests/verify/test_copies.py` and `tests/project/test_requirements.py` compare both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

# Largest log2 Q for 128 bits, ternary secret: ring dimension -> (classical, quantum), ePrint 2024/463. Both must hold.
SECURITY_TABLE = {1024: (26, 20), 2048: (53, 40), 4096: (106, 80), 8192: (214, 161)}

HIGHEST_RUNG = Decimal("0.9")
MAX_CLIMBS = 8
LOWEST_THRESHOLD = Decimal("0.30")  # the loosest threshold that any node may be configured to accept
MAX_CAP = 99
MAX_DECIMALS = 12
WARRANT_SECONDS = 24 * 3600
PURPOSES = ("PREVENTION", "DETECTION", "INVESTIGATION", "MISSING-PERSON", "REMAINS")  # R 20(1), 29
PREPARATION_SECONDS = 7 * 24 * 3600  # the longest that any node may be configured to keep a preparation
NO_MODEL = bytes(32)  # the model of templates that no model made, which fits any
SKEW_SECONDS = 600  # the largest difference of clocks that any node may be configured to accept
CHUNK_ROWS = 262144
MASK_PART = 64  # first components in one message
FORM_VALUES = 3200  # 40 subsets of 40 sums, as they are and amplified
SHARE_BITS = 24
COUNT_BITS = 32
DIFFERENCE_BITS = 20
PROBE_BITS = 8
SLOT_BYTES = 65  # a reference number, and whether it is contested

_HEAD = 2  # of a message in MessagePack: an array of few entries, and a small tag


@dataclass(frozen=True)
class Preset:
    """Ring dimension, primes and plaintext modulus that stand behind a preset's name."""

    n: int
    primes: tuple[int, int]
    t: int

    @property
    def log2_q(self) -> int:
        """Bits of Q."""
        return (self.primes[0] * self.primes[1]).bit_length()


PRESETS = {
    "n4096_q60_t20": Preset(4096, (1073692673, 1073668097), 1048573),
    "n8192_q60_t20": Preset(8192, (1073692673, 1073643521), 1048573),
}


def weakness(preset: Preset) -> str | None:
    """Why a preset does not have 128 bits of security, None if it does."""
    if preset.n not in SECURITY_TABLE:
        return f"ring dimension {preset.n} is not in the security table"
    limit = min(SECURITY_TABLE[preset.n])
    if preset.log2_q > limit:
        return f"log2 Q = {preset.log2_q} at ring dimension {preset.n}, the limit for 128 bits is {limit}"
    return None


def scale(dim: int) -> int:
    """S = min(500, floor(22·sqrt(d)))."""
    return min(500, math.isqrt(484 * dim))


def norm_bound(dim: int) -> int:
    """The smaller of floor((S + sqrt(d)/2)²) and floor(S² + d/12 + 8·0.577·S), over exact integers."""
    s = scale(dim)
    longest = (4 * s * s + dim + math.isqrt(16 * s * s * dim)) // 4
    return min(longest, (3000 * s * s + 250 * dim + 13848 * s) // 3000)


def theta(threshold: Decimal, dim: int) -> int:
    """ceil(threshold·S²), in exact decimals."""
    return math.ceil(threshold * scale(dim) ** 2)


def rungs(threshold: Decimal, step: Decimal) -> tuple[Decimal, ...]:
    """threshold + k·step for k = 0 … 8, as long as it is at most 0.9; a threshold above stands alone."""
    if not step:
        return (threshold,)
    higher = (threshold + k * step for k in range(1, MAX_CLIMBS + 1))
    return (threshold, *(rung for rung in higher if rung <= HIGHEST_RUNG))


@dataclass(frozen=True)
class Shape:
    """What sizes depend on, and nothing else does: ring dimension, d, cap, and the holder's blocks.

    `cap`: 0 in a preparation, `blocks`: 0 of the whole, where no message depends on them.
    """

    n: int
    dim: int
    cap: int
    blocks: int

    @property
    def chunks(self) -> tuple[int, ...]:
        """Blocks of each chunk that is compared at a time."""
        size = CHUNK_ROWS // self.n
        return tuple(min(size, self.blocks - first) for first in range(0, self.blocks, size))

    @property
    def mask_parts(self) -> tuple[int, ...]:
        """First components in each part of the mask."""
        return tuple(min(MASK_PART, self.dim - first) for first in range(0, self.dim, MASK_PART))

    def message_bytes(self, kind: str, index: int) -> int | None:
        """Bytes of the `index`-th message of its kind on a link, None where sizes are not laid down."""
        fields = self._fields(kind, index)
        return None if fields is None else _HEAD + sum(fields)

    def _fields(self, kind: str, index: int) -> tuple[int, ...] | None:
        return self._prepared(kind, index) or self._searched(kind, index)

    def _prepared(self, kind: str, index: int) -> tuple[int, ...] | None:
        if kind in ("PairSecret", "KeySeed", "DerivedId"):
            return (_binary(32),)
        if kind == "PublicPart":
            return (_binary(8 * self.n),)
        if kind == "MaskPart":
            return (_binary(8 * self.n * _at(self.mask_parts, index)),)
        if kind == "FormBlock":
            return _binary(32), _binary(8 * SHARE_BITS * _words(FORM_VALUES + self.dim))
        if kind == "PreparedBlocks":
            return (_binary(8 * self.n * _at(self.chunks, index)),)
        return None

    def _searched(self, kind: str, index: int) -> tuple[int, ...] | None:
        rows = self.n * _at(self.chunks, index)
        if kind == "Difference":
            return _binary(32), _binary(DIFFERENCE_BITS * self.dim // 8)
        if kind == "AdmissionScores":
            return _binary(32), _binary(8 * SHARE_BITS * _words(self.dim))
        if kind == "MaskedScores":
            return (_binary(SHARE_BITS * rows // 8),)
        if kind == "LiveRows":
            return (_binary(rows // 8),)
        if kind == "AdmissionCount":  # bits, products of two of them, and a word of parities
            lines = PROBE_BITS + PROBE_BITS * (PROBE_BITS - 1) // 2
            return (_binary(4 * 64 * (lines * _words(self.dim) + 1)),)
        if kind in ("AdmissionInput", "InputShare"):
            return (_binary(8 * COUNT_BITS),)
        if kind == "CountShare":
            return (_binary(4 * self.n * _at(self.chunks, index % max(1, len(self.chunks)))),)
        if kind == "PowerSums":
            return (_binary(4 * (self.cap + 2)),)
        if kind == "ConfirmationAnswer":
            return (_binary(24 * self.cap),)
        if kind == "Release":
            return (1 if self.cap < 16 else 3), self.cap * _binary(SLOT_BYTES), _binary(32)
        return None


def _at(counts: tuple[int, ...], index: int) -> int:
    return counts[index] if index < len(counts) else 0


def _words(lanes: int) -> int:
    return -(-lanes // 64)


def _binary(length: int) -> int:
    """Bytes of a byte string in MessagePack."""
    return length + (2 if length < 2**8 else 3 if length < 2**16 else 5)
