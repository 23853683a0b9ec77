"""Subset sums against a plain matrix product."""

from __future__ import annotations

import numpy as np
import pytest

from pets.subsets import reduce_sums, subset_sums
from tests.ring import RING


@pytest.mark.parametrize(("rows", "columns"), [(8, 1), (64, 1000), (512, 128), (4096, 80)])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_equal_the_matrix_product(rows: int, columns: int, threads: int) -> None:
    rng = np.random.default_rng(rows + columns)
    values = rng.integers(0, 2**30, (rows, columns)).astype(np.uint32)
    values[:, 0] = 2**30 - 1
    coins = rng.integers(0, 2, (40, rows)).astype(np.uint8)
    coins[0], coins[1] = 1, 0
    expected = coins.astype(np.uint64) @ values.astype(np.uint64)
    assert (subset_sums(values, coins, threads) == expected).all()


def test_reduced_sums_are_residues_of_the_sums() -> None:
    sums = np.array([[[2**39, 5], [2**39, RING.primes[1]]]], np.uint64)
    expected = [[[2**39 % RING.primes[0], 5], [2**39 % RING.primes[1], 0]]]
    assert reduce_sums(sums, RING).tolist() == expected
