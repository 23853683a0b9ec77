"""Sums over many random subsets of the same values, for admission's constancy check."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.jit import kernel
from pets.params import Parameters
from pets.threads import parallel_ranges

TILE = 64  # columns worked at a time: sums and accumulators stay in the first-level cache


def subset_sums(
    values: npt.NDArray[np.uint32], coins: npt.NDArray[np.uint8], threads: int = 1
) -> npt.NDArray[np.uint64]:
    """Σ of the rows of each subset. `values`: uint32 (count, m), below 2^30, count a multiple of 8. `coins`: 0/1.

    `coins`: uint8 (subsets, count). Returns uint64 (subsets, m), not reduced. Four rows at a time: their sixteen
    possible sums, below 2^32, are made once and every subset picks one of them.
    """
    subsets = len(coins)
    columns = values.shape[1]
    padded = np.pad(values, ((0, 0), (0, -columns % TILE))) if columns % TILE else values
    # Four coins make one choice: bit i of choices[group, subset] says whether row 4·group + i belongs to the subset.
    choices = np.ascontiguousarray(coins.T[0::4] | coins.T[1::4] << 1 | coins.T[2::4] << 2 | coins.T[3::4] << 3)
    out = np.empty((subsets, padded.shape[1]), np.uint64)
    parallel_ranges(lambda i, j: _subset_sums(padded, choices, i, j, out), padded.shape[1], threads, grain=TILE)
    return out[:, :columns]


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
    left = np.zeros((16, TILE), np.uint32)
    right = np.zeros((16, TILE), np.uint32)
    totals = np.empty((subsets, TILE), np.uint64)
    for first in range(start, stop, TILE):
        totals[:] = 0
        for group in range(0, groups, 2):
            for bit in range(4):
                half = 1 << bit
                row_l = values[4 * group + bit, first : first + TILE]
                row_r = values[4 * group + 4 + bit, first : first + TILE]
                for index in range(half):
                    # Rows are named, because only then the compiler works on several columns at a time.
                    from_l, to_l, from_r, to_r = left[index], left[half + index], right[index], right[half + index]
                    for k in range(TILE):
                        to_l[k] = from_l[k] + row_l[k]
                    for k in range(TILE):
                        to_r[k] = from_r[k] + row_r[k]
            for subset in range(subsets):
                pick_l, pick_r, total = left[choices[group, subset]], right[choices[group + 1, subset]], totals[subset]
                for k in range(TILE):
                    total[k] += np.uint64(pick_l[k]) + np.uint64(pick_r[k])
        for subset in range(subsets):
            out[subset, first : first + TILE] = totals[subset]
