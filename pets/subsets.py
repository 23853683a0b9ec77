"""Sums over many random subsets of the same residues, for admission's constancy check."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.jit import kernel
from pets.threads import parallel_ranges

TILE = 128  # columns worked at a time: sums and accumulators stay in the first-level cache


def subset_sums(
    values: npt.NDArray[np.uint32], coins: npt.NDArray[np.uint8], moduli: npt.NDArray[np.uint32], threads: int = 1
) -> npt.NDArray[np.uint32]:
    """Σ of the rows of each subset, modulo each column's modulus.

    `values`: uint32 (count, m), count a multiple of 8, each below its modulus. `coins`: uint8 (subsets, count), 0 or 1.
    `moduli`: uint32 (m,), below 2^30. Returns uint32 (subsets, m), fully reduced. Four rows at a time: their sixteen
    possible sums are made once and every subset picks one of them.
    """
    subsets = len(coins)
    columns = values.shape[1]
    spare = -columns % TILE
    padded = np.pad(values, ((0, 0), (0, spare))) if spare else values
    limits = np.pad(moduli, (0, spare), constant_values=1)
    # Four coins make one choice: bit i of choices[group, subset] says whether row 4·group + i belongs to the subset.
    choices = np.ascontiguousarray(coins.T[0::4] | coins.T[1::4] << 1 | coins.T[2::4] << 2 | coins.T[3::4] << 3)
    out = np.empty((subsets, padded.shape[1]), np.uint32)
    parallel_ranges(lambda i, j: _subset_sums(padded, choices, limits, i, j, out), padded.shape[1], threads, grain=TILE)
    return out[:, :columns]


@kernel
def _subset_sums(
    values: npt.NDArray[np.uint32],
    choices: npt.NDArray[np.uint8],
    moduli: npt.NDArray[np.uint32],
    start: int,
    stop: int,
    out: npt.NDArray[np.uint32],
) -> None:
    # Sums of picks are below p, totals below 2p, a total and two picks below 4p < 2^32. With x < 2m, the smaller of x
    # and x - m (modulo 2^32) is x modulo m, without a branch.
    groups, subsets = choices.shape
    left = np.zeros((16, TILE), np.uint32)
    right = np.zeros((16, TILE), np.uint32)
    totals = np.empty((subsets, TILE), np.uint32)
    for first in range(start, stop, TILE):
        p = moduli[first : first + TILE]
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
                        total = np.uint32(from_l[k] + row_l[k])
                        to_l[k] = min(total, np.uint32(total - p[k]))
                    for k in range(TILE):
                        total = np.uint32(from_r[k] + row_r[k])
                        to_r[k] = min(total, np.uint32(total - p[k]))
            for subset in range(subsets):
                pick_l, pick_r, sums = left[choices[group, subset]], right[choices[group + 1, subset]], totals[subset]
                for k in range(TILE):
                    total = np.uint32(np.uint32(sums[k] + pick_l[k]) + pick_r[k])
                    sums[k] = min(total, np.uint32(total - np.uint32(p[k] + p[k])))
        for subset in range(subsets):
            sums, result = totals[subset], out[subset, first : first + TILE]
            for k in range(TILE):
                result[k] = min(sums[k], np.uint32(sums[k] - p[k]))
