"""Sums over many random subsets of the same values, for admission's constancy check."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.jit import kernel
from pets.params import Parameters
from pets.threads import parallel_ranges

TILE = 256  # columns worked at a time: the sixteen partial sums of a group stay in the first-level cache


def subset_sums(
    values: npt.NDArray[np.uint32], coins: npt.NDArray[np.uint8], threads: int = 1
) -> npt.NDArray[np.uint64]:
    """Σ of the rows of each subset. `values`: uint32 (count, m), count a multiple of 4. `coins`: 0/1, (subsets, count).

    Returns uint64 (subsets, m), not reduced: at most 2^32 rows. Four rows at a time: their sixteen possible sums are
    made once and every subset picks one of them.
    """
    subsets, count = coins.shape
    weights = np.array([1, 2, 4, 8], np.uint8)
    choices = np.ascontiguousarray((coins.reshape(subsets, count // 4, 4) * weights).sum(axis=2, dtype=np.uint8).T)
    out = np.zeros((subsets, values.shape[1]), np.uint64)
    parallel_ranges(lambda i, j: _subset_sums(values, choices, i, j, out), values.shape[1], threads, grain=TILE)
    return out


def reduce_sums(sums: npt.NDArray[np.uint64], params: Parameters) -> npt.NDArray[np.uint32]:
    """Reduce uint64 (…, 2, m), prime second to last, modulo each prime."""
    return (sums % np.array(params.primes, np.uint64)[:, None]).astype(np.uint32)


@kernel
def _subset_sums(
    values: npt.NDArray[np.uint32],
    choices: npt.NDArray[np.uint8],
    start: int,
    stop: int,
    out: npt.NDArray[np.uint64],
) -> None:
    groups, subsets = choices.shape
    partial = np.zeros((16, TILE), np.uint64)
    for first in range(start, stop, TILE):
        width = min(TILE, stop - first)
        for group in range(groups):
            for bit in range(4):
                half = 1 << bit
                row = values[4 * group + bit, first : first + width]
                for index in range(half):
                    for k in range(width):
                        partial[half + index, k] = partial[index, k] + np.uint64(row[k])
            for subset in range(subsets):
                picked = partial[choices[group, subset]]
                for k in range(width):
                    out[subset, first + k] += picked[k]
