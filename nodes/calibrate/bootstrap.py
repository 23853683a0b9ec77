"""Confidence intervals by drawing the people again, with replacement.

Comparisons that share a person are not independent, so people are drawn and not comparisons (ISO/IEC 19795-1, annex
on uncertainty; Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap",
CVIU 93(1), 2004). A person drawn twice is never compared with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

LEVEL = 0.95


def draws(people: int, count: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """`count` times how often each person was drawn, int64 (people,)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield np.bincount(rng.integers(0, people, people), minlength=people)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle `LEVEL` of the values; (nan, nan) if there are none."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
