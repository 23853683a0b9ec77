"""Nothing is hidden: numpy's product of the gallery and the probes."""

from __future__ import annotations

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows, at_least
from pets.params import scale
from protocol.engine import plain_scores


class Float32:
    """float32 templates, one matrix-vector product."""

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        self.least = THRESHOLD * scale(dim) ** 2

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.gallery = templates.astype(np.float32)

    def prepare(self, probes: int) -> None:
        """Nothing to prepare."""

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`; several probes in one matrix product."""
        with clock("score"):
            queries = probes.astype(np.float32)
            scores = queries @ self.gallery.T if len(queries) > 1 else [self.gallery @ queries[0]]
            return [at_least(some, self.least, len(self.gallery)) for some in scores]


class Int8(Float32):
    """A quarter of the memory; numpy has no fast product of int8."""

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.small = templates

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`, one probe after the other."""
        with clock("score"):
            return [at_least(plain_scores(self.small, probe), self.least, len(self.small)) for probe in probes]
