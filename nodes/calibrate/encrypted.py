"""The same comparisons by encrypted searches: each probe really searched, in galleries no larger than the cap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

import numpy as np
import numpy.typing as npt

from nodes.calibrate.sample import Sample
from pets.params import N4096
from pets.sketch import MAX_CAP
from pets.templates import quantise_rows
from protocol.engine import EncryptedEngine
from protocol.gallery import Gallery
from protocol.terms import Terms


@dataclass(frozen=True)
class Searched:
    """What encrypted searches said at one threshold: `probes` searched, `matches` of `genuine` pairs of one person.

    `tmr_quantised`: the quantised templates' rate over the same comparisons. `wrong`: rows whose decision or score was
    not that of the quantised templates, of `decisions` in all, the impostors' included.
    """

    threshold: Decimal
    probes: int
    genuine: int
    matches: int
    tmr_quantised: float
    decisions: int
    wrong: int

    @property
    def tmr(self) -> float:
        """True match rate of the encrypted searches."""
        return self.matches / self.genuine


def blocks_of_people(sample: Sample, most_probes: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Rows of a gallery, and rows of its probes: whole people, until `most_probes` are reached.

    A person with more photos than a gallery may hold is searched in several.
    """
    each = sample.photos_each
    starts = np.concatenate([[0], np.cumsum(each)])
    last = int(np.searchsorted(starts, most_probes, side="right")) - 1  # people that fit, at least one below
    gallery: list[int] = []
    for person in range(max(1, last)):
        own = list(range(starts[person], starts[person + 1]))
        if len(own) > MAX_CAP:
            for at in range(0, len(own), MAX_CAP):
                yield np.array(own[at : at + MAX_CAP]), np.array(own)
            continue
        if len(gallery) + len(own) > MAX_CAP:
            yield np.array(gallery), np.array(gallery)
            gallery = []
        gallery += own
    if gallery:
        yield np.array(gallery), np.array(gallery)


def search_all(
    sample: Sample,
    threshold: Decimal,
    most_probes: int,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> Searched:
    """Search every probe, up to `most_probes`, at one threshold. `progress` is told the searches done."""
    quantised = quantise_rows(sample.templates)
    terms = Terms(threshold, sample.dim, N4096, cap=MAX_CAP, ladder=Decimal(0))
    integer = terms.theta(0)
    searched: set[int] = set()
    done = genuine = matches = expected = decisions = wrong = 0
    for rows, probes in blocks_of_people(sample, most_probes):
        gallery = Gallery.of(quantised[rows], N4096, threads=threads)
        told = None if progress is None else partial(_told, progress, done)
        outcomes = EncryptedEngine(threads).search(gallery, quantised[probes], terms, told)
        scores = quantised[probes].astype(np.int64) @ quantised[rows].astype(np.int64).T
        found = np.full_like(scores, np.iinfo(np.int64).min)
        for index, outcome in enumerate(outcomes):
            for hit in outcome.hits:
                found[index, hit.row] = hit.score
        right = scores >= integer
        wrong += int(np.count_nonzero(np.where(right, scores, np.iinfo(np.int64).min) != found))
        decisions += scores.size
        pairs = (sample.people[probes][:, None] == sample.people[rows]) & (probes[:, None] != rows)
        genuine += int(pairs.sum())
        matches += int((pairs & (found >= integer)).sum())
        expected += int((pairs & right).sum())
        searched.update(probes.tolist())
        done += len(probes)
    return Searched(threshold, len(searched), genuine, matches, expected / max(genuine, 1), decisions, wrong)


def _told(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
