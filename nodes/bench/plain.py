"""Nothing is hidden: numpy's product of the gallery and the probe."""

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

    def prepare(self) -> None:
        """Nothing to prepare."""

    def search(self, probe: Rows, clock: Clock) -> list[int]:
        """As `Engine`."""
        with clock("score"):
            return at_least(self.gallery @ probe.astype(np.float32), self.least, len(self.gallery))


class Int8(Float32):
    """A quarter of the memory; numpy has no fast product of int8."""

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.small = templates

    def search(self, probe: Rows, clock: Clock) -> list[int]:
        """As `Engine`."""
        with clock("score"):
            return at_least(plain_scores(self.small, probe), self.least, len(self.small))
