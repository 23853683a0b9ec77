"""All comparisons of a sample: every genuine score, and of the impostor scores a histogram and the upper tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodes.calibrate.sample import Sample
from pets.templates import quantise_rows

TAIL = 0.03  # share of the impostor scores that is kept one by one: false match rates up to 1e-2 are read there
BINS = np.linspace(-1, 1, 201)
BLOCK = 1024

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Comparisons by falling score. `score`: cosine. `integer`: the score of the quantised templates.

    `first`, `second`: the two people, as numbered in the sample. All of shape (pairs,).
    """

    score: Floats
    integer: Integers
    first: Integers
    second: Integers

    def count(self, threshold: float) -> int:
        """Comparisons with a cosine of at least `threshold`."""
        return int(np.searchsorted(-self.score, -threshold, side="right"))


@dataclass(frozen=True)
class Scores:
    """`genuine`: all pairs of one person. `tail`: the impostor pairs from `floor` up, of `impostors` in all.

    `genuine_counts`, `impostor_counts`: histograms over `BINS`.
    """

    genuine: Pairs
    tail: Pairs
    floor: float
    impostors: int
    genuine_counts: Integers
    impostor_counts: Integers


def all_scores(sample: Sample, progress: Callable[[int], object] | None = None) -> Scores:
    """Compare every photo with every other. `progress` is told the photos done."""
    quantised = quantise_rows(sample.templates).astype(np.float64)  # integers up to 2^53 are exact
    floor = _tail_floor(sample)
    count = len(sample.templates)
    genuine: list[tuple[npt.NDArray[np.generic], ...]] = []
    tail: list[tuple[npt.NDArray[np.generic], ...]] = []
    counts = np.zeros(len(BINS) - 1, np.int64)
    impostors = 0
    for start in range(0, count, BLOCK):
        stop = min(count, start + BLOCK)
        scores = sample.templates[start:stop] @ sample.templates[start:].T
        integers = quantised[start:stop] @ quantised[start:].T
        later = np.arange(start, count)[None, :] > np.arange(start, stop)[:, None]
        same = sample.people[start:stop, None] == sample.people[None, start:]
        others = later & ~same
        impostors += int(np.count_nonzero(others))
        counts += np.histogram(scores[others], BINS)[0]
        for which, into in ((later & same, genuine), (others & (scores >= floor), tail)):
            row, column = np.nonzero(which)
            people = sample.people[row + start], sample.people[column + start]
            into.append((scores[row, column], integers[row, column], *people))
        if progress is not None:
            progress(stop)
    paired = _by_score(genuine)
    return Scores(
        paired, _by_score(tail), floor, impostors, np.histogram(paired.score, BINS)[0].astype(np.int64), counts
    )


def _by_score(parts: list[tuple[npt.NDArray[np.generic], ...]]) -> Pairs:
    score, integer, first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    return Pairs(
        score[order].astype(np.float64),
        integer[order].astype(np.int64),
        first[order].astype(np.int64),
        second[order].astype(np.int64),
    )


def _tail_floor(sample: Sample, most: int = 200_000) -> float:
    """A cosine that about `TAIL` of the impostor pairs reach, from pairs drawn at random."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, len(sample.templates), (2, most))
    different = sample.people[a] != sample.people[b]
    scores = np.einsum("ij,ij->i", sample.templates[a[different]], sample.templates[b[different]])
    return float(np.quantile(scores, 1 - TAIL)) if len(scores) else -1.0
