"""The form check's circuit and inputs at every edge, on plain bits. Attacks on it are in tests/attacks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import protocol.form
from pets.circuits import evaluate_plain
from pets.params import SHARE_BITS
from pets.planes import to_planes
from protocol.form import AMPLIFIED, SLACK, form_lanes, times
from tests.kit.planes import planes_of
from tests.kit.ring import RING

pytestmark = pytest.mark.ring


def well_formed(values: npt.NDArray[np.int64]) -> bool:
    """Whether lanes that add up to these, each split into a public and a shared number, pass."""
    public = np.random.default_rng(0).integers(0, 2**SHARE_BITS, len(values))
    shared = planes_of(values + SLACK - public, SHARE_BITS)
    e = to_planes(public.astype(np.uint32), SHARE_BITS)
    bit = evaluate_plain(protocol.form._in_place(e, shared))
    return bool(bit.parts[0][0, 0] & np.uint64(1))


@pytest.mark.parametrize("dim", [8, 128, 1024])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_lane_passes_within_the_slack_and_nowhere_else(dim: int, place: str) -> None:
    lanes = form_lanes(dim)
    for value in (*range(-20, 21), 2**10, -(2**10), 2**23 - 4, -(2**23)):
        values = np.zeros(lanes, np.int64)
        values[0 if place == "first" else -1] = value
        assert well_formed(values) == (abs(value) <= SLACK)


def test_what_amplification_does_to_residues() -> None:
    """Exact for the largest residues; nothing is left of round(Q·r/t) times t, and noise beside it is not lost."""
    primes = np.array(RING.primes, np.uint64)[:, None]
    top = np.repeat((primes - 1).astype(np.uint32), 3, axis=1)[None]
    for factor in (AMPLIFIED, RING.t):
        assert (times(top, factor, RING) == primes - factor).all()
    unit = RING.q >> SHARE_BITS
    for value in (1, 2, RING.t // 2, RING.t - 1):
        exact = (2 * RING.q * value + RING.t) // (2 * RING.t)
        assert min(RING.t * exact % RING.q, -RING.t * exact % RING.q) < unit / 256
    assert (SLACK + 1) * unit * RING.t < RING.q / 2  # what the guard bits let pass does not come round to zero
