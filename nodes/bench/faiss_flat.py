"""Nothing is hidden: FAISS, an exact search by inner product."""

from __future__ import annotations

import importlib

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

    def prepare(self) -> None:
        """Nothing to prepare."""

    def search(self, probe: Rows, clock: Clock) -> list[int]:
        """As `Engine`."""
        with clock("score"):
            _, _, rows = self.index.range_search(probe.astype(np.float32)[None], self.least)
        return sorted(map(int, rows))
