"""Subset sums against a plain matrix product."""

from __future__ import annotations

import numpy as np
import pytest

from pets.subsets import subset_sums
from tests.kit.ring import RING

pytestmark = pytest.mark.ring


@pytest.mark.parametrize(("rows", "columns"), [(8, 1), (64, 1000), (520, 128), (4096, 80)])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_equal_the_matrix_product_modulo_each_column(rows: int, columns: int, threads: int) -> None:
    rng = np.random.default_rng(rows + columns)
    moduli = np.resize(np.array(RING.primes, np.uint32), columns)
    values = (rng.integers(0, 2**62, (rows, columns), np.uint64) % moduli).astype(np.uint32)
    values[:, 0] = moduli[0] - 1
    coins = rng.integers(0, 2, (40, rows)).astype(np.uint8)
    coins[0], coins[1] = 1, 0
    expected = coins.astype(np.uint64) @ values.astype(np.uint64) % moduli
    sums = subset_sums(values, coins, moduli, threads)
    assert sums.dtype == np.uint32
    assert (sums == expected).all()
