"""Circuits with public operands equal integer arithmetic, on plain bits."""

from __future__ import annotations

import numpy as np
import pytest

from pets import public_circuits
from pets.bits import plain_bits
from pets.circuits import evaluate_plain
from pets.planes import from_planes, to_planes

WIDTH = 24
RNG = np.random.default_rng(5)
EDGES = np.array([0, 1, 2, 2**22, 2**23 - 1, 2**23, 2**24 - 1, 2**24 - 2], np.uint32)
X = np.concatenate([np.repeat(EDGES, 8), RNG.integers(0, 2**24, 4096 - 64).astype(np.uint32)])
Y = np.concatenate([np.tile(EDGES, 8), RNG.integers(0, 2**24, 4096 - 64).astype(np.uint32)])


def test_sum_with_a_public_number() -> None:
    out = evaluate_plain(public_circuits.add_public(to_planes(X, WIDTH), plain_bits(to_planes(Y, WIDTH))))
    assert np.array_equal(from_planes(out.parts[0]), (X + Y) & np.uint32(2**24 - 1))


@pytest.mark.parametrize("value", [0, 1, 5, 2**23, 2**24 - 1])
def test_public_number_less_a_constant(value: int) -> None:
    out = public_circuits.subtract_constant(to_planes(X, WIDTH), value)
    assert np.array_equal(from_planes(out), (X - np.uint32(value)) & np.uint32(2**24 - 1))
