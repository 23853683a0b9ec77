"""What usual thresholds cost: misses, and false positives of searches in galleries of several sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodes.calibrate.bootstrap import draws, interval
from nodes.calibrate.rates import tmr_of
from nodes.calibrate.sample import Sample
from nodes.calibrate.scores import Scores
from nodes.calibrate.tail import fit

THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65)


@dataclass(frozen=True)
class Cost:
    """One threshold. `fnmr`, from `low` to `high`: genuine pairs missed. `matches`: impostor pairs at or above it.

    `fpirs`: FPIR by rows in all, along the tail of `nodes.calibrate.tail`; empty for a sample too small for it.
    `fmr`: false match rate along that tail, `extrapolated` where the sample shows none.
    """

    threshold: float
    fnmr: float
    low: float
    high: float
    matches: int
    fmr: float | None
    extrapolated: bool
    fpirs: dict[int, float]


def costs(sample: Sample, scores: Scores, rows: Sequence[int], resamples: int, seed: int) -> list[Cost]:
    """The cost of each of `THRESHOLDS` at which single impostor scores are kept. `rows`: of all galleries together."""
    photos = sample.photos_each
    tail = fit(scores.tail, np.ones_like(photos), photos)
    found = []
    for threshold in THRESHOLDS:
        if threshold < scores.floor:
            continue
        accepted = scores.genuine.count(threshold)
        tmrs = [tmr_of(scores.genuine, accepted, drawn) for drawn in draws(len(photos), resamples, seed)]
        low, high = interval([1 - value for value in tmrs])
        fmr = None if tail is None else tail.fmr(threshold)
        fpirs = {} if fmr is None else {count: -math.expm1(count * math.log1p(-fmr)) for count in sorted(set(rows))}
        fnmr = 1 - accepted / len(scores.genuine.score)
        matches = scores.tail.count(threshold)
        beyond = tail is not None and matches / scores.impostors < tail.measured
        found.append(Cost(threshold, fnmr, min(low, fnmr), max(high, fnmr), matches, fmr, beyond, fpirs))
    return found
