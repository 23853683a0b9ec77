"""The sign of a sum of a public and a shared number, and what is prepared for it, against plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pets import circuits
from pets.planes import from_planes, to_planes, unpack_bits
from tests.planes import planes_of


def sign_of_difference(e: np.ndarray, z: np.ndarray, m: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """z - m and the top bit of e + z - m, from the circuits."""
    shared = circuits.evaluate_plain(circuits.subtract(planes_of(z, width), planes_of(m, width)))
    products = circuits.evaluate_plain(circuits.adjacent_products(shared))
    public = to_planes(e.astype(np.uint32), width)
    sign = circuits.evaluate_plain(circuits.sign_of_public_sum(public, shared, products))
    return from_planes(shared.parts[0]), unpack_bits(sign.parts[0][0])


@pytest.mark.parametrize("width", [3, 4, 5])
def test_all_small_numbers(width: int) -> None:
    e, z, m = (v.reshape(-1) for v in np.meshgrid(*[np.arange(2**width)] * 3))
    shared, sign = sign_of_difference(e, z, m, width)
    assert np.array_equal(shared, (z - m) % 2**width)
    assert np.array_equal(sign, ((e + z - m) % 2**width) >> (width - 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([6, 7, 23, 24, 25, 32]), st.sampled_from([64, 192]))
def test_random_numbers(seed: int, width: int, lanes: int) -> None:
    e, z, m = np.random.default_rng(seed).integers(0, 2**width, (3, lanes))
    # A third of the lanes lies within 3 of where the sign changes.
    edge = np.random.default_rng(seed + 1).integers(-3, 4, lanes)
    e = np.where(np.arange(lanes) % 3 == 0, (m - z + edge) % 2**width, e)
    e = np.where(np.arange(lanes) % 3 == 1, (m - z + 2 ** (width - 1) + edge) % 2**width, e)
    shared, sign = sign_of_difference(e, z, m, width)
    assert np.array_equal(shared, (z - m) % 2**width)
    assert np.array_equal(sign, ((e + z - m) % 2**width) >> (width - 1))


def gates(circuit: circuits.Circuit[circuits.T]) -> tuple[int, int]:
    """Rounds and planes of ANDs."""
    rounds, planes = 0, 0
    try:
        pair = next(circuit)
        while True:
            rounds, planes = rounds + 1, planes + len(pair[0])
            pair = circuit.send(circuits.plain_bits(pair[0].parts[0] & pair[1].parts[0]))
    except StopIteration:
        return rounds, planes


def test_rounds_and_gates_at_24_bits() -> None:
    z, e = planes_of(np.arange(64), 24), to_planes(np.arange(64, dtype=np.uint32), 24)
    products = circuits.evaluate_plain(circuits.adjacent_products(z))
    assert gates(circuits.subtract(z, z)) == (23, 23)
    assert gates(circuits.adjacent_products(z)) == (1, 11)
    assert gates(circuits.sign_of_public_sum(e, z, products)) == (4, 18)
