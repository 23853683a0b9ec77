"""Values to bit planes and back."""

from __future__ import annotations

import numpy as np
import pytest

from pets.planes import from_planes, to_planes, unpack_bits


@pytest.mark.parametrize("width", [1, 2, 17, 24, 32])
@pytest.mark.parametrize("words", [0, 1, 3, 40])
def test_planes_hold_the_bits_of_values_and_give_them_back(width: int, words: int) -> None:
    values = np.random.default_rng(width + words).integers(0, 2**32, 64 * words, np.uint32)
    planes = to_planes(values, width, threads=2)
    assert planes.shape == (width, words)
    for k, plane in enumerate(planes):
        assert np.array_equal(unpack_bits(plane), values >> np.uint32(k) & np.uint32(1))
    kept = values & np.uint32(2**width - 1)
    for threads in (1, 2, 3):
        assert np.array_equal(from_planes(planes, threads), kept)
        assert np.array_equal(from_planes(planes[::-1].copy()[::-1], threads), kept)
