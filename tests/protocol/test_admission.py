"""Admission's circuit and inputs at every edge, on plain bits. Attacks on it are in test_attacks_admission.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pets.circuits import evaluate_plain
from pets.params import MAX_DIM, SHARE_BITS, norm_bound
from protocol.admission import AMPLIFIED, SLACK, admission_circuit, times
from tests.kit.planes import planes_of
from tests.kit.ring import RING

pytestmark = pytest.mark.ring

Lanes = npt.NDArray[np.int64]
RIGHT = np.zeros(64, np.int64)  # lanes of zeros as they must be


def admitted(probe: Lanes, zeros: Lanes, bound: int) -> bool:
    """Whether lanes that add up to these, each split into three random addends, are admitted."""
    words = -(-len(probe) // 64)
    total = np.full(64 * words + len(zeros), SLACK)
    total[: len(probe)] += probe
    total[64 * words :] += zeros
    x, y = np.random.default_rng(0).integers(0, 2**SHARE_BITS, (2, len(total)))
    addends = (planes_of(values, SHARE_BITS) for values in (x, y, total - x - y))
    bit = evaluate_plain(admission_circuit(*addends, words, bound))
    return bool(bit.parts[0][0, 0] & np.uint64(1))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [8, 128, MAX_DIM])
def test_a_coordinate_is_admitted_within_its_range_and_the_slack_and_nowhere_else(dim: int) -> None:
    bound = 127**2
    for coordinate in (-(2**19), -2049, -129, -128, -127, -1, 0, 1, 127, 128, 129, 255, 2**19 - 1):
        for error in range(-8, 8):
            probe = np.zeros(dim, np.int64)
            probe[-1] = 16 * coordinate + error
            assert admitted(probe, RIGHT, bound) == (abs(coordinate) <= 127 and abs(error) <= SLACK)


@pytest.mark.parametrize("lane", [0, 63, 4223])
def test_a_lane_of_zeros_is_admitted_within_the_slack_and_nowhere_else(lane: int) -> None:
    for value in (*range(-20, 21), 2**10, -(2**10), 2**23 - 4, -(2**23)):
        zeros = np.zeros(4224, np.int64)
        zeros[lane] = value
        assert admitted(np.zeros(128, np.int64), zeros, 0) == (abs(value) <= SLACK)


@pytest.mark.parametrize("dim", [8, 64, 72, 512, MAX_DIM])
@pytest.mark.parametrize("value", [-127, 127])
def test_the_longest_probes_are_measured_exactly(dim: int, value: int) -> None:
    probe, squared = np.full(dim, 16 * value), dim * 127**2
    assert squared < 2**24
    assert admitted(probe, RIGHT, squared)
    assert not admitted(probe, RIGHT, squared - 1)
    assert admitted(probe, RIGHT, norm_bound(dim)) == (squared <= norm_bound(dim))


def test_what_amplification_does_to_residues() -> None:
    """Exact for the largest residues; nothing is left of Δ·q_j times t, and noise beside it is not lost."""
    primes = np.array(RING.primes, np.uint64)[:, None]
    top = np.repeat((primes - 1).astype(np.uint32), 3, axis=1)[None]
    for factor in (AMPLIFIED, RING.t):
        assert (times(top, factor, RING) == primes - factor).all()
    unit = RING.q >> SHARE_BITS
    for coordinate in (-127, 1, 127):
        assert min(RING.t * RING.delta * coordinate % RING.q, -RING.t * RING.delta * coordinate % RING.q) < unit / 256
    assert (SLACK + 1.5) * unit * RING.t < RING.q / 2  # what the guard bits let pass does not come round to zero
