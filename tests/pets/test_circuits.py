"""Circuits on plain bits against integer arithmetic."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pets import circuits
from pets.bits import plain_bits
from pets.planes import unpack_bits
from tests.kit.planes import planes_of


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 4, 8, 23, 24, 25]), st.sampled_from([64, 192]))
def test_the_sign_of_a_sum_of_three_is_that_of_integer_arithmetic(seed: int, width: int, lanes: int) -> None:
    x, y, z = np.random.default_rng(seed).integers(0, 2**width, (3, lanes))
    expected = (x + y + z) % 2**width
    sign = circuits.evaluate_plain(circuits.sign_of_sum(*(planes_of(v, width) for v in (x, y, z))))
    assert (unpack_bits(sign.parts[0][0]) == expected >> (width - 1)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=7), st.integers(0, 447))
def test_any_finds_a_single_bit(noise: list[int], lane: int) -> None:
    words = np.zeros((5, 7), np.uint64)
    assert from_any(words) == 0
    words[lane % 5, lane // 64] = np.uint64(1) << np.uint64(lane % 64)
    assert from_any(words) == 1
    assert from_any(np.array([noise], np.uint64)) == (max(noise) > 0)


def from_any(words: np.ndarray) -> int:
    plane = circuits.evaluate_plain(circuits.any_plane(plain_bits(words)))
    return int(circuits.evaluate_plain(circuits.any_lane(plane)).parts[0][0, 0]) & 1


def test_sign_of_sum_takes_seven_rounds_at_24_bits() -> None:
    circuit = circuits.sign_of_sum(*(planes_of(np.arange(64), 24) for _ in range(3)))
    rounds, planes = 0, 0
    try:
        pair = next(circuit)
        while True:
            rounds, planes = rounds + 1, planes + len(pair[0])
            pair = circuit.send(plain_bits(pair[0].parts[0] & pair[1].parts[0]))
    except StopIteration:
        pass
    assert rounds == 7
    assert planes + 24 == 106  # 13.25 bytes a row with the input
