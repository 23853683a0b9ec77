"""Parameters outside the security table, or that the kernels cannot work with, are refused when they are made."""

from __future__ import annotations

from typing import Any

import pytest

import pets.params
from pets.errors import ParameterError
from pets.params import N4096, PRESETS, SECURITY_TABLE, Parameters

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
