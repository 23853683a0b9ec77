"""One calibration from sample to results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial

import numpy as np
from rich.console import Console

from nodes.calibrate.costs import Cost, costs
from nodes.calibrate.encrypted import Searched, search_all
from nodes.calibrate.identification import FPIRS, Identified, identification
from nodes.calibrate.rates import FMRS, GroupRate, Rate, by_group, det_curve, rate_at
from nodes.calibrate.sample import Sample
from nodes.calibrate.scores import Floats, Integers, Scores, all_scores
from nodes.calibrate.tail import Check, check
from nodes.operator.progress import progress_bar
from pets.errors import ParameterError
from pets.params import N4096
from pets.threads import check_threads
from protocol.engine import warm_up

SAME_PHOTO = 0.95  # different people do not come this close; a label that is wrong does


@dataclass(frozen=True)
class Options:
    """What to measure. `rows`, `holders`: sizes and numbers of galleries; `fpir`: what the threshold to set is for.

    `resamples`: of the bootstrap. `encrypted_probes`: most probes of encrypted searches a threshold, 0: none.
    Raises `ParameterError`.
    """

    rows: tuple[int, ...]
    holders: tuple[int, ...]
    fpir: float
    resamples: int
    encrypted_probes: int
    threads: int
    seed: int

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for values, what, limit in ((self.rows, "--rows", 10**10), (self.holders, "--holders", 1000)):
            for value in values:
                if not 1 <= value <= limit:
                    raise ParameterError(f"{what} must be 1 to {limit}, got {value}")
        if self.fpir not in FPIRS:
            raise ParameterError(f"--fpir must be one of {', '.join(map(str, FPIRS))}, got {self.fpir}")
        if not 20 <= self.resamples <= 10_000:
            raise ParameterError(f"--resamples must be 20 to 10000, got {self.resamples}")
        if self.encrypted_probes < 0:
            raise ParameterError(f"--encrypted-probes must be at least 0, got {self.encrypted_probes}")


@dataclass(frozen=True)
class Calibration:
    """All results of one calibration. `seconds`: by step."""

    sample: Sample
    options: Options
    scores: Scores
    rates: list[Rate]
    encrypted: dict[float, Searched]
    identified: list[Identified]
    tail_check: Check | None
    costs: list[Cost]
    groups: list[GroupRate]
    det: list[tuple[float, float, float]]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def to_set(self) -> Identified | None:
        """The row whose threshold answers the options: most rows in all, at the FPIR asked for; None if it has none."""
        found = [row for row in self.identified if row.fpir == self.options.fpir]
        largest = max(found, key=lambda row: row.rows * row.holders)
        return largest if largest.threshold is not None else None

    @property
    def disagreements(self) -> int:
        """Decisions in which encrypted and quantised differ."""
        return sum(found.wrong for found in self.encrypted.values())

    @property
    def warnings(self) -> list[str]:
        """What the reader must know about the sample."""
        sample, said = self.sample, []
        if sample.failed:
            said.append(f"{len(sample.failed)} photos gave no template (failure to acquire); no rate counts them")
        if sample.left_out:
            said.append(f"{sample.left_out} photos were left out, whole people at random, to keep the pairs few")
        if close := self.scores.tail.count(SAME_PHOTO):
            said.append(f"{close} impostor pairs have a cosine above {SAME_PHOTO}: look for people with two labels")
        if self.disagreements:
            said.append(f"ENCRYPTED AND QUANTISED DISAGREE in {self.disagreements} decisions; trust neither")
        return said


def calibrate(sample: Sample, options: Options, console: Console) -> Calibration:
    """Measure everything. `console` takes the progress bars."""
    rows = options.rows or default_rows(sample)
    seconds: dict[str, float] = {}
    with _timed(seconds, "comparing"), progress_bar(console, "comparing", len(sample.templates)) as progress:
        scores = all_scores(sample, progress)
    with _timed(seconds, "rates"):
        rates = [rate_at(scores, sample, fmr, options.resamples, options.seed) for fmr in FMRS]
    sizes = len(rows) * len(options.holders)
    with _timed(seconds, "searches"), progress_bar(console, "searches", sizes) as progress:
        found = identification(sample, scores, rows, options.holders, options.resamples, options.seed, progress)
    with _timed(seconds, "encrypted searches"):
        encrypted = _encrypted(sample, rates, options, console)
    at = next((rate.threshold for rate in reversed(rates) if rate.fmr >= 1e-3 and rate.threshold), None)
    groups = [] if at is None else by_group(scores, sample, at, options.resamples, options.seed)
    totals = [count * parties for count in rows for parties in options.holders]
    return Calibration(
        sample,
        options,
        scores,
        rates,
        encrypted,
        found,
        check(scores.tail, sample, options.seed),
        costs(sample, scores, totals, options.resamples, options.seed),
        groups,
        det_curve(scores),
        seconds,
    )


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started


def default_rows(sample: Sample) -> tuple[int, ...]:
    """The largest gallery that the sample can show, a million, and 30 million."""
    return (len(sample.names) - 1, 1_000_000, 30_000_000)


def _encrypted(sample: Sample, rates: Sequence[Rate], options: Options, console: Console) -> dict[float, Searched]:
    thresholds = {rate.fmr: rate.threshold for rate in rates if rate.threshold is not None}
    if not options.encrypted_probes or not thresholds:
        return {}
    warm_up(N4096)
    # People with more photos than a gallery holds are searched more than once; the bar then ends early.
    each = min(len(sample.templates), options.encrypted_probes)
    found: dict[float, Searched] = {}
    known: dict[Decimal, Searched] = {}
    with progress_bar(console, "encrypted searches", each * len(thresholds)) as progress:
        for index, (fmr, threshold) in enumerate(thresholds.items()):
            if threshold not in known:
                known[threshold] = search_all(
                    sample,
                    threshold,
                    options.encrypted_probes,
                    options.threads,
                    partial(_beyond, progress, index * each),
                )
            found[fmr] = known[threshold]
    return found


def _beyond(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def mean_and_sd(counts: Integers, centres: Floats) -> tuple[float, float]:
    """Mean and standard deviation of a histogram."""
    total = counts.sum()
    mean = float((counts * centres).sum() / total)
    return mean, float(np.sqrt((counts * (centres - mean) ** 2).sum() / total))
