"""Nothing is hidden: FAISS, an exact search by inner product."""

from __future__ import annotations

import importlib
from itertools import pairwise

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows
from pets.params import scale


class FaissFlat:
    """`IndexFlatIP` with `range_search`, which returns all rows above a score."""

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        self.faiss = importlib.import_module("faiss")
        self.faiss.omp_set_num_threads(threads)
        self.index = self.faiss.IndexFlatIP(dim)
        self.least = THRESHOLD * scale(dim) ** 2

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.index.add(templates.astype(np.float32))

    def prepare(self, probes: int) -> None:
        """Nothing to prepare."""

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`, all probes in one call."""
        with clock("score"):
            bounds, _, rows = self.index.range_search(probes.astype(np.float32), self.least)
        return [sorted(map(int, rows[start:end])) for start, end in pairwise(bounds)]
