"""XOR-shared bit planes as one party sees them: what is local in a circuit.

Replicated three-party sharing over bits (Araki et al., CCS 2016, section 2): a bit is x = x_0 ^ x_1 ^ x_2 and party i
holds (x_i, x_{i+1}), indices modulo 3.

=======  =========
party    holds
=======  =========
0        x_0, x_1
1        x_1, x_2
2        x_2, x_0
=======  =========

The plaintext twin holds the single part x, so that every circuit runs on plain bits with the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Planes = npt.NDArray[np.uint64]

PARTIES = 3


@dataclass(slots=True)  # frozen would take as long as the arithmetic where planes are short
class Bits:
    """Shared bit planes. `parts`: uint64 (parts, planes, words). `ones`: uint64 (parts, 1, 1), all ones or zero.

    A public constant c is shared as (c, 0, 0): only the holders of x_0 write it down, and `ones` says which part of
    ours that is.
    """

    parts: Planes = field(repr=False)
    ones: Planes

    @property
    def shape(self) -> tuple[int, int]:
        """(planes, words)."""
        _, planes, words = self.parts.shape
        return planes, words

    def __len__(self) -> int:
        return self.parts.shape[1]

    def __getitem__(self, planes: slice) -> Bits:
        return Bits(self.parts[:, planes], self.ones)

    def __xor__(self, other: Bits) -> Bits:
        return Bits(self.parts ^ other.parts, self.ones)

    def __invert__(self) -> Bits:
        return Bits(self.parts ^ self.ones, self.ones)

    def times(self, public: Planes) -> Bits:
        """The product with public planes, uint64 (planes, words): local."""
        return Bits(self.parts & public, self.ones)

    def plus(self, public: Planes) -> Bits:
        """The sum (XOR) with public planes, uint64 (planes, words)."""
        return Bits(self.parts ^ (public & self.ones), self.ones)

    def words(self, start: int, stop: int) -> Bits:
        """The lanes of words start…stop."""
        return Bits(self.parts[:, :, start:stop], self.ones)

    def as_row(self) -> Bits:
        """All planes one after the other in a single one."""
        return self.reshape(1, -1)

    def reshape(self, planes: int, words: int) -> Bits:
        """The same bits in another shape, in the order they lie in memory."""
        return Bits(self.parts.reshape(len(self.parts), planes, words), self.ones)

    def shift_lanes(self, count: int) -> Bits:
        """Lane i takes the bit of lane i + count of its own word; the top lanes become zero."""
        return Bits(self.parts >> np.uint64(count), self.ones)

    def shift_planes(self, count: int) -> Bits:
        """Multiply by 2^count: `count` zero planes below, the width kept (arithmetic modulo 2^width)."""
        zeros = np.zeros_like(self.parts[:, :count])
        return Bits(np.concatenate([zeros, self.parts[:, : len(self) - count]], axis=1), self.ones)

    def constant(self, value: int, width: int) -> Bits:
        """`value` modulo 2^width in every lane, with as many words as self."""
        column = np.array([[(value >> k) & 1] for k in range(width)], np.uint64) * np.uint64(2**64 - 1)
        return Bits(np.repeat(column & self.ones, self.shape[1], axis=2), self.ones)


def concatenate(items: Sequence[Bits]) -> Bits:
    """Planes of all items, one after the other."""
    return Bits(np.concatenate([item.parts for item in items], axis=1), items[0].ones)


def plain_bits(planes: Planes) -> Bits:
    """The plaintext twin: one part that is the value itself."""
    return Bits(planes[None], _ones(True))


def party_bits(party: int, first: Planes, second: Planes) -> Bits:
    """(x_i, x_{i+1}) of party i."""
    return held_bits(party, np.stack([first, second]))


def held_bits(party: int, parts: Planes) -> Bits:
    """The same of both components in one array, uint64 (2, planes, words), which is not copied."""
    return Bits(parts, _PARTY_ONES[party])


def _ones(*carries: bool) -> Planes:
    return np.array(carries, np.uint64).reshape(-1, 1, 1) * np.uint64(2**64 - 1)


_PARTY_ONES = [_ones(party == 0, (party + 1) % PARTIES == 0) for party in range(PARTIES)]
