"""Error rates of one-to-one comparisons: FMR and TMR at a threshold, the threshold for an FMR, DET, groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from nodes.calibrate.bootstrap import draws, interval
from nodes.calibrate.sample import Sample
from nodes.calibrate.scores import Pairs, Scores
from pets.params import N4096, theta

FMRS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TICKS = 10_000  # thresholds have four decimals
RULE_OF_THREE = 3  # nothing seen in n trials: the rate lies below 3/n with 95 % confidence


@dataclass(frozen=True)
class Rate:
    """What a false match rate asks for, and what it costs; None where the sample is too small to say.

    `fmr`: the rate asked for. `measured`: the rate at `threshold`, with its interval `low` to `high`. `tmr`, from
    `tmr_low` to `tmr_high`, and `fmr_quantised`, `tmr_quantised`: of float and of quantised templates.
    """

    fmr: float
    threshold: Decimal | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    tmr: float | None = None
    tmr_low: float | None = None
    tmr_high: float | None = None
    tmr_quantised: float | None = None
    fmr_quantised: float | None = None


def measurable(rate: float, trials: int) -> bool:
    """Whether `trials` are enough for `rate`: at least 3/n."""
    return trials > 0 and rate >= RULE_OF_THREE / trials


def threshold_for(tail: Pairs, impostors: int, fmr: float) -> Decimal | None:
    """The smallest threshold with four decimals that at most a share `fmr` of the impostor pairs reach.

    None if the sample is too small for the rate, or if such a threshold would not lie between 0 and 1.
    """
    if not measurable(fmr, impostors):
        return None
    allowed = math.floor(fmr * impostors * (1 + 1e-12))
    tick = math.floor(tail.score[allowed] * TICKS) + 1 if allowed < len(tail.score) else 0
    return Decimal(tick) / TICKS if 0 < tick < TICKS else None


def rate_at(scores: Scores, sample: Sample, fmr: float, resamples: int, seed: int) -> Rate:
    """Threshold and rates for one false match rate."""
    threshold = threshold_for(scores.tail, scores.impostors, fmr)
    if threshold is None:
        return Rate(fmr)
    matches = scores.tail.count(float(threshold))
    accepted = scores.genuine.count(float(threshold))
    genuine = len(scores.genuine.score)
    false, true = [], []
    for drawn in draws(len(sample.names), resamples, seed):
        false.append(fmr_of(scores.tail, matches, drawn, sample.photos_each))
        true.append(tmr_of(scores.genuine, accepted, drawn))
    integer = theta(threshold, sample.dim, N4096)
    fmr_interval, tmr_interval = interval(false), interval(true)
    return Rate(
        fmr,
        threshold,
        matches / scores.impostors,
        *fmr_interval,
        accepted / genuine,
        *tmr_interval,
        int(np.count_nonzero(scores.genuine.integer >= integer)) / genuine,
        int(np.count_nonzero(scores.tail.integer >= integer)) / scores.impostors,
    )


def fmr_of(tail: Pairs, matches: int, drawn: npt.NDArray[np.int64], photos: npt.NDArray[np.int64]) -> float:
    """The share of impostor pairs among the first `matches` of the tail, people counted as often as drawn."""
    weights = drawn[tail.first[:matches]] * drawn[tail.second[:matches]]
    total = weighted_impostors(drawn, photos)
    return float(weights.sum() / total) if total else float("nan")


def weighted_impostors(drawn: npt.NDArray[np.int64], photos: npt.NDArray[np.int64]) -> float:
    """Impostor pairs among the people drawn: Σ over a < b of drawn_a·photos_a·drawn_b·photos_b."""
    each = (drawn * photos).astype(np.float64)
    return float((each.sum() ** 2 - (each**2).sum()) / 2)


def tmr_of(genuine: Pairs, accepted: int, drawn: npt.NDArray[np.int64]) -> float:
    """The share of genuine pairs among the first `accepted`, people counted as often as drawn."""
    weights = drawn[genuine.first]
    total = weights.sum()
    return float(weights[:accepted].sum() / total) if total else float("nan")


def det_curve(scores: Scores, points: int = 200) -> list[tuple[float, float, float]]:
    """The detection error trade-off: (threshold, FMR, FNMR), from FMR 1e-2 to the lowest that can be measured."""
    least = RULE_OF_THREE / scores.impostors
    if least >= max(FMRS):
        return []
    curve: list[tuple[float, float, float]] = []
    for fmr in np.geomspace(max(FMRS), least, points):
        threshold = threshold_for(scores.tail, scores.impostors, float(fmr))
        if threshold is not None and (not curve or curve[-1][0] != float(threshold)):
            value = float(threshold)
            fnmr = 1 - scores.genuine.count(value) / len(scores.genuine.score)
            curve.append((value, scores.tail.count(value) / scores.impostors, fnmr))
    return curve


@dataclass(frozen=True)
class GroupRate:
    """Rates of one group at `threshold`: genuine pairs of its people, impostor pairs of two of its people.

    `fmr` is None where the pairs are too few for what was counted: it lies below 3/`impostors` then.
    """

    group: str
    people: int
    threshold: Decimal
    genuine: int
    impostors: int
    fmr: float | None
    fnmr: float | None
    fnmr_low: float | None
    fnmr_high: float | None


def by_group(scores: Scores, sample: Sample, threshold: Decimal, resamples: int, seed: int) -> list[GroupRate]:
    """Error by group, if the sample has groups."""
    rates = []
    for name in sorted(set(sample.groups or ())):
        member = np.array([group == name for group in sample.groups or ()])
        photos = np.where(member, sample.photos_each, 0)
        matches = scores.tail.count(float(threshold))
        both = member[scores.tail.first[:matches]] & member[scores.tail.second[:matches]]
        own = member[scores.genuine.first]
        missed = scores.genuine.score < float(threshold)
        impostors, genuine = int(weighted_impostors(np.ones_like(photos), photos)), int(own.sum())
        values = []
        for drawn in draws(len(sample.names), resamples, seed):
            weights = drawn[scores.genuine.first] * own
            values.append(float((weights * missed).sum() / weights.sum()) if weights.any() else float("nan"))
        low, high = interval(values) if genuine else (None, None)
        fmr = int(both.sum()) / impostors if impostors else 0.0
        rates.append(
            GroupRate(
                name,
                int(member.sum()),
                threshold,
                genuine,
                impostors,
                fmr if measurable(fmr, impostors) else None,
                int((own & missed).sum()) / genuine if genuine else None,
                low,
                high,
            )
        )
    return rates
