"""Error rates of searches: FPIR and FNIR for one gallery and for several that are asked together.

The gallery has the first photo of each person, every other photo is a probe. For FPIR the probe's own person is not
in the gallery. Over all galleries of N rows that can be drawn from M other people, a probe that m of them resemble
finds none with probability C(M-m, N) / C(M, N), so nothing is drawn at random. Galleries that are asked together
under one threshold act as one gallery of all their rows. For the intervals people are drawn again as probes only: in a
gallery a person drawn twice would stand twice, which makes false candidates look rarer than they are.

Larger galleries than the sample has people are extrapolated: rows as independent comparisons,
FPIR = 1 - (1 - FMR)^N, at the FMR of `nodes.calibrate.tail`. Since E[(1-f)^N] >= (1-E[f])^N, that the probes differ
makes the true FPIR lower, not higher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from nodes.calibrate.bootstrap import draws, interval
from nodes.calibrate.rates import RULE_OF_THREE, TICKS, measurable
from nodes.calibrate.sample import Sample
from nodes.calibrate.scores import Floats, Integers, Scores
from nodes.calibrate.tail import Tail, fit

FPIRS = (0.3, 0.1, 0.03, 0.01, 0.003)
CANDIDATES = 0.9  # mean number of false candidates a search from which scores are kept: FPIR about 0.6

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Identified:
    """FNIR at one FPIR, `holders` galleries of `rows` each; `reason` where there is no figure.

    `low` to `high`: interval of the FNIR, `threshold_low` to `threshold_high` of the threshold. `decades`: how many
    powers of ten below the sample's own false match rates the threshold was taken.
    """

    rows: int
    holders: int
    fpir: float
    extrapolated: bool
    threshold: Decimal | None = None
    fnir: float | None = None
    low: float | None = None
    high: float | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None
    decades: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Searches:
    """Every probe against the gallery. `mated`: score with its own person, (probes,), and `people`, whose probe it is.

    `scores`: float32 (probes, people), -2 where it is the probe's own person.
    """

    mated: Floats
    people: Integers
    scores: npt.NDArray[np.float32]

    def fnir(self, threshold: float, drawn: Integers | None = None) -> float:
        """The share of mated searches that miss, people counted as often as drawn."""
        weights = np.ones(len(self.people)) if drawn is None else drawn[self.people]
        total = float(weights.sum())
        return float(weights[self.mated < threshold].sum()) / total if total else float("nan")


def searches(sample: Sample) -> Searches:
    """Compare all probes with the gallery."""
    first = np.unique(sample.people, return_index=True)[1]
    probes = np.setdiff1d(np.arange(len(sample.people)), first)
    people = sample.people[probes]
    mated = np.einsum("ij,ij->i", sample.templates[probes], sample.templates[first[people]])
    scores = sample.templates[probes].astype(np.float32) @ sample.templates[first].astype(np.float32).T
    scores[np.arange(len(probes)), people] = -2
    return Searches(mated, people, scores)


class Galleries:
    """FPIR over thresholds for galleries of `rows` in all, from the impostor scores that matter there."""

    def __init__(self, done: Searches, rows: int) -> None:
        self.people = done.people
        self.rows = rows
        self.total = done.scores.shape[1]
        share = min(1.0, CANDIDATES / rows)
        floor = np.quantile(done.scores, 1 - share) if share < 1 else -1.5
        probe, other = np.nonzero(done.scores >= max(floor, -1.5))
        score = done.scores[probe, other].astype(np.float64)
        order = np.argsort(-score, kind="stable")
        self.score, self.probe = score[order], probe[order]
        self.log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, self.total + 1)))])

    def fpir(self, threshold: float, drawn: Integers) -> float:
        """The mean over probes of the chance that a gallery has a row at or above `threshold`."""
        upto = int(np.searchsorted(-self.score, -threshold, side="right"))
        hits = np.bincount(self.probe[:upto], minlength=len(self.people))
        others = self.total - 1
        spared = others - hits - self.rows  # rows to spare when none of those hit is taken
        log = self.log_factorial
        missed = np.exp(log[others - hits] + log[others - self.rows] - log[np.maximum(spared, 0)] - log[others])
        weights = drawn[self.people]
        found = np.where(spared < 0, 1.0, 1 - missed) * weights
        return float(found.sum() / weights.sum()) if weights.any() else float("nan")

    def threshold(self, fpir: float, drawn: Integers) -> Decimal | None:
        """The smallest threshold with four decimals at which the FPIR is at most `fpir`; None below the kept scores."""
        low, high = math.floor(float(self.score[-1]) * TICKS), TICKS
        if low <= 0 and self.fpir(0, drawn) <= fpir:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.fpir(middle / TICKS, drawn) <= fpir:
                high = middle
            else:
                low = middle
        return Decimal(high) / TICKS if 0 < high < TICKS else None


def identification(
    sample: Sample,
    scores: Scores,
    rows: Sequence[int],
    holders: Sequence[int],
    resamples: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Identified]:
    """FNIR at `FPIRS` for every number of rows and holders. `progress` is told the sizes done."""
    done = searches(sample)
    results: list[Identified] = []
    sizes = [(count, parties) for count in rows for parties in holders]
    for index, (count, parties) in enumerate(sizes, start=1):
        if count * parties < len(sample.names):
            results += _measured(done, count, parties, resamples, seed)
        else:
            results += _extrapolated(done, sample, scores, count, parties, resamples, seed)
        if progress is not None:
            progress(index)
    return results


def _measured(done: Searches, rows: int, holders: int, resamples: int, seed: int) -> list[Identified]:
    galleries = Galleries(done, rows * holders)
    everybody = np.ones(galleries.total, np.int64)
    drawn = list(draws(galleries.total, resamples, seed))
    results = []
    for fpir in FPIRS:
        if not measurable(fpir, len(done.people)):
            reason = f"not measurable: {len(done.people)} searches, rates below {RULE_OF_THREE / len(done.people):.2g}"
            results.append(Identified(rows, holders, fpir, False, reason=reason))
            continue
        threshold = galleries.threshold(fpir, everybody)
        if threshold is None:
            reason = "no threshold between 0 and 1 gives this rate"
            results.append(Identified(rows, holders, fpir, False, reason=reason))
            continue
        again = [(galleries.threshold(fpir, weights), weights) for weights in drawn]
        values = [(float(value), done.fnir(float(value), weights)) for value, weights in again if value is not None]
        results.append(_result(done, rows, holders, fpir, False, threshold, values, 0.0))
    return results


def _extrapolated(
    done: Searches, sample: Sample, scores: Scores, rows: int, holders: int, resamples: int, seed: int
) -> list[Identified]:
    photos = sample.photos_each
    whole = fit(scores.tail, np.ones_like(photos), photos)
    if whole is None:
        reason = f"not measurable: {scores.impostors} impostor pairs, 10,000 are needed to extrapolate"
        return [Identified(rows, holders, fpir, True, reason=reason) for fpir in FPIRS]
    again: list[tuple[Tail, Integers]] = []
    for drawn in draws(len(photos), resamples, seed):
        refitted = fit(scores.tail, drawn, photos)
        if refitted is not None:
            again.append((refitted, drawn))
    results = []
    for fpir in FPIRS:
        fmr = -math.expm1(math.log1p(-fpir) / (rows * holders))
        threshold = Decimal(min(math.ceil(whole.threshold(fmr) * TICKS), TICKS - 1)) / TICKS
        values = [(value := tail.threshold(fmr), done.fnir(value, drawn)) for tail, drawn in again]
        results.append(_result(done, rows, holders, fpir, True, threshold, values, whole.decades(fmr)))
    return results


def _result(
    done: Searches,
    rows: int,
    holders: int,
    fpir: float,
    extrapolated: bool,
    threshold: Decimal,
    again: list[tuple[float, float]],
    decades: float,
) -> Identified:
    fnir = done.fnir(float(threshold))
    low, high = interval([value for _, value in again])
    if np.isnan(low):
        low = high = fnir
    if fnir == 0:
        high = max(high, min(1.0, RULE_OF_THREE / len(done.people)))
    bounds = interval([value for value, _ in again])
    known = not np.isnan(bounds[0])
    return Identified(
        rows,
        holders,
        fpir,
        extrapolated,
        threshold,
        fnir,
        min(low, fnir),
        max(high, fnir),
        bounds[0] if known else None,
        bounds[1] if known else None,
        decades,
    )
