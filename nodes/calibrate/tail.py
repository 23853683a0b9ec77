"""Thresholds for false match rates that a sample is too small to show, from the shape of the impostor tail.

The upper tail of cosines between different people is close to a normal tail: on a probit scale, thresholds lie near a
straight line over z = -Φ⁻¹(FMR). The line is fitted between FMR 1e-2 and ten impostor pairs, and followed beyond. This
is a model, not a measurement: `check` says how far such a line was off where the sample can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from nodes.calibrate.rates import weighted_impostors
from nodes.calibrate.sample import Sample
from nodes.calibrate.scores import Floats, Pairs

HIGHEST = 1e-2
LEAST_PAIRS = 10  # the line ends where fewer impostor pairs remain
LEAST_IMPOSTORS = 10_000
LEVELS = 25


@dataclass(frozen=True)
class Tail:
    """Thresholds over false match rates. `offset` + `slope`·z is the line; down to the rate `measured` the sample
    itself says the threshold: `score` by falling value, reached by the share `survival`.
    """

    offset: float
    slope: float
    measured: float
    score: Floats
    survival: Floats

    def threshold(self, fmr: float) -> float:
        """The threshold at which the false match rate is `fmr`, at most 0.9999."""
        if fmr >= self.measured:
            at = int(np.searchsorted(self.survival, fmr))
            return float(self.score[min(at, len(self.score) - 1)])
        return min(self.offset + self.slope * probit(fmr), 0.9999)

    def fmr(self, threshold: float) -> float:
        """The false match rate at a threshold: of the sample where it shows one, else along the line."""
        reached = int(np.searchsorted(-self.score, -threshold, side="right"))
        shown = float(self.survival[reached - 1]) if reached else 0.0
        if shown >= self.measured:
            return shown
        return 1 - NormalDist().cdf((threshold - self.offset) / self.slope)

    def decades(self, fmr: float) -> float:
        """How many powers of ten `fmr` lies below what the sample shows."""
        return max(0.0, math.log10(self.measured / fmr))


def probit(fmr: float) -> float:
    """z = -Φ⁻¹(fmr)."""
    return -NormalDist().inv_cdf(fmr)


def fit(tail: Pairs, drawn: npt.NDArray[np.int64], photos: npt.NDArray[np.int64]) -> Tail | None:
    """The tail of the people drawn, each counted as often as drawn; None for fewer than 10,000 impostor pairs."""
    impostors = weighted_impostors(drawn, photos)
    if impostors < LEAST_IMPOSTORS:
        return None
    weights = drawn[tail.first] * drawn[tail.second]
    survival = np.cumsum(weights) / impostors
    measured = LEAST_PAIRS / impostors
    levels = np.geomspace(HIGHEST, measured, LEVELS)
    at = np.minimum(np.searchsorted(survival, levels), len(survival) - 1)
    z = np.array([probit(float(level)) for level in levels])
    slope, offset = np.polyfit(z, tail.score[at], 1)
    return Tail(float(offset), float(slope), measured, tail.score, survival)


@dataclass(frozen=True)
class Check:
    """How far extrapolated thresholds were off, fitted on few people and compared with all.

    `people` drawn each time, `decades` extrapolated, `mean` and `sd` of the error of the threshold (cosine; positive:
    extrapolated too high) over `repeats`.
    """

    people: int
    decades: float
    mean: float
    sd: float
    repeats: int


def check(tail: Pairs, sample: Sample, seed: int, repeats: int = 50) -> Check | None:
    """Fit a 30th of the pairs and look how well the line meets the whole sample; None if the sample is too small."""
    photos = sample.photos_each
    everybody = np.ones_like(photos)
    whole = fit(tail, everybody, photos)
    people = round(len(photos) / math.sqrt(30))
    rng = np.random.default_rng(seed)
    errors, decades = [], []
    for _ in range(repeats):
        some = np.zeros_like(photos)
        some[rng.permutation(len(photos))[:people]] = 1
        part = fit(tail, some, photos)
        if whole is None or part is None:
            continue
        fmr = whole.measured
        errors.append(part.threshold(fmr) - whole.threshold(fmr))
        decades.append(part.decades(fmr))
    if len(errors) < repeats // 2:
        return None
    return Check(people, float(np.mean(decades)), float(np.mean(errors)), float(np.std(errors)), len(errors))
