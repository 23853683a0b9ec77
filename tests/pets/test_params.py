"""Parameters outside the security table, or that the kernels cannot work with, are refused when they are made."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import pets.params
from pets.errors import ParameterError
from pets.params import MAX_DIM, N4096, PRESETS, SECURITY_TABLE, Parameters, norm_bound, scale

PRIMES = (1073692673, 1073643521)  # 1 modulo 2·8192, so for every smaller ring too


@pytest.mark.parametrize("n", [1024, 2048])
def test_a_modulus_too_large_for_its_ring_is_refused(n: int) -> None:
    with pytest.raises(ParameterError, match=f"log2 Q = 60 exceeds {min(SECURITY_TABLE[n])}"):
        Parameters("weak", n, PRIMES)


@pytest.mark.parametrize("n", [1024, 2048])
def test_control_without_the_table_it_is_made(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pets.params, "SECURITY_TABLE", {n: (60, 60)})
    assert Parameters("weak", n, PRIMES).log2_q == 60


def test_the_stricter_column_of_the_table_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pets.params, "SECURITY_TABLE", {4096: (106, 59)})
    with pytest.raises(ParameterError, match="exceeds 59"):
        Parameters("weak", 4096, PRIMES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 4095}, "not in the security table"),
        ({"n": 512}, "not in the security table"),
        ({"primes": (PRIMES[0], PRIMES[0])}, "must differ"),
        ({"primes": (PRIMES[0], 1073741789)}, "is not 1 modulo"),
        ({"primes": (PRIMES[0], PRIMES[1] + 16384)}, "is not a prime"),
        ({"primes": (PRIMES[0], 12289)}, "between 2\\^29 and 2\\^30"),
        ({"t": 2**20 - 1}, "must be a prime"),
        ({"t": 65537}, "between 2\\^19 and 2\\^20"),
    ],
)
def test_what_the_kernels_cannot_work_with_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        Parameters(**{"preset": "odd", "n": 4096, "primes": PRIMES, **changes})


def test_control_the_presets_are_within_the_table() -> None:
    assert N4096 in PRESETS.values()
    for params in PRESETS.values():
        assert params.log2_q <= min(SECURITY_TABLE[params.n])


def test_the_norm_bound_is_the_smaller_of_two_at_every_dimension() -> None:
    """In fractions and big integers, floor by floor; it takes over from d = 24 on."""
    for dim in range(8, MAX_DIM + 1, 8):
        s, bound = scale(dim), norm_bound(dim)
        usual = Fraction(s * s) + Fraction(dim, 12) + 8 * Fraction("0.577") * s
        # k <= (S + √d/2)² exactly where (k - S² - d/4)² <= S²·d, or the left is not positive
        within = [k for k in range(s * s, s * s + 1 + int(s * dim**0.5 + dim / 4 + 2)) if _within_rounding(k, s, dim)]
        assert bound == min(math.floor(usual), within[-1])
        assert (bound < within[-1]) == (dim >= 24)
        assert s * s < bound < 2**24


def _within_rounding(squared: int, s: int, dim: int) -> bool:
    beyond = 4 * (squared - s * s) - dim  # times four, so that it is whole
    return beyond <= 0 or beyond**2 <= 16 * s * s * dim


@pytest.mark.parametrize("dim", [64, 128, 512, 1024])
def test_a_probe_is_scaled_by_less_than_one_hundredth_from_128_dimensions_on(dim: int) -> None:
    """What admission lets a requester gain; at 128 dimensions it was 2.3 %."""
    assert math.sqrt(norm_bound(dim)) / scale(dim) - 1 < (0.0095 if dim >= 128 else 0.0132)


@pytest.mark.parametrize("dim", [8, 24, 64, 128, 512, 1024])
def test_no_random_unit_vector_comes_near_the_norm_bound(dim: int) -> None:
    rng = np.random.default_rng(dim)
    unit = rng.standard_normal((20_000, dim))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    squared = (np.rint(scale(dim) * unit).clip(-127, 127) ** 2).sum(axis=1)
    assert squared.max() <= scale(dim) ** 2 + (norm_bound(dim) - scale(dim) ** 2) * (0.9 if dim > 8 else 1)
