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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Planes = npt.NDArray[np.uint64]

PARTIES = 3


@dataclass(frozen=True)
class Bits:
    """Shared bit planes. `parts`: each uint64 (planes, words). `carries_one`: whether that part takes public constants.

    A public constant c is shared as (c, 0, 0): only the holders of x_0 write it down.
    """

    parts: tuple[Planes, ...]
    carries_one: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(planes, words)."""
        planes, words = self.parts[0].shape
        return planes, words

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, planes: slice) -> Bits:
        return self._map([part[planes] for part in self.parts])

    def __xor__(self, other: Bits) -> Bits:
        return self._map([a ^ b for a, b in zip(self.parts, other.parts, strict=True)])

    def __invert__(self) -> Bits:
        return self._map([~part if one else part for part, one in zip(self.parts, self.carries_one, strict=True)])

    def words(self, start: int, stop: int) -> Bits:
        """The lanes of words start…stop."""
        return self._map([part[:, start:stop] for part in self.parts])

    def as_row(self) -> Bits:
        """All planes one after the other in a single one."""
        return self.reshape(1, -1)

    def reshape(self, planes: int, words: int) -> Bits:
        """The same bits in another shape, in the order they lie in memory."""
        return self._map([part.reshape(planes, words) for part in self.parts])

    def pad_words(self, words: int) -> Bits:
        """The same planes with zero words appended up to `words`."""
        return self._map([np.pad(part, ((0, 0), (0, words - part.shape[1]))) for part in self.parts])

    def shift_lanes(self, count: int) -> Bits:
        """Lane i takes the bit of lane i + count of its own word; the top lanes become zero."""
        return self._map([part >> np.uint64(count) for part in self.parts])

    def shift_planes(self, count: int) -> Bits:
        """Multiply by 2^count: `count` zero planes below, the width kept (arithmetic modulo 2^width)."""
        return self._map(
            [np.concatenate([np.zeros_like(part[:count]), part[: len(part) - count]]) for part in self.parts]
        )

    def constant(self, value: int, width: int) -> Bits:
        """`value` modulo 2^width in every lane, with as many words as self."""
        column = np.array([[(value >> k) & 1] for k in range(width)], np.uint64) * np.uint64(2**64 - 1)
        plain = np.broadcast_to(column, (width, self.shape[1]))
        return self._map([plain if one else np.zeros_like(plain) for one in self.carries_one])

    def _map(self, parts: Sequence[Planes]) -> Bits:
        return Bits(tuple(parts), self.carries_one)


def concatenate(items: Sequence[Bits]) -> Bits:
    """Planes of all items, one after the other."""
    parts = [np.concatenate(group) for group in zip(*(item.parts for item in items), strict=True)]
    return Bits(tuple(parts), items[0].carries_one)


def join_words(items: Sequence[Bits]) -> Bits:
    """Lanes of all items side by side; they have equally many planes."""
    parts = [np.concatenate(group, axis=1) for group in zip(*(item.parts for item in items), strict=True)]
    return Bits(tuple(parts), items[0].carries_one)


def plain_bits(planes: Planes) -> Bits:
    """The plaintext twin: one part that is the value itself."""
    return Bits((planes,), (True,))


def party_bits(party: int, first: Planes, second: Planes) -> Bits:
    """(x_i, x_{i+1}) of party i."""
    return Bits((first, second), (party == 0, (party + 1) % PARTIES == 0))
