"""How long the last ones took: percentiles of what was really seen, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque

import msgspec
import numpy as np

REMEMBERED = 1000
QUANTILES = (0.5, 0.95, 0.99)


class Percentiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds that half, 95 and 99 of a hundred of the last `count` did not exceed.

    Each is the time of one of them (nearest rank), to the millisecond.
    """

    count: int
    p50: float
    p95: float
    p99: float


class Latency:
    """The seconds of the last 1,000 of something. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: deque[float] = deque(maxlen=REMEMBERED)

    def observe(self, seconds: float) -> None:
        """One took so long."""
        with self._lock:
            self._last.append(seconds)

    @property
    def percentiles(self) -> Percentiles | None:
        """Of those that are remembered; None before the first."""
        with self._lock:
            seen = list(self._last)
        if not seen:
            return None
        ranked = np.quantile(seen, QUANTILES, method="inverted_cdf")
        return Percentiles(len(seen), *(round(float(seconds), 3) for seconds in ranked))


class Latencies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one node, since its start. None: there was none."""

    searches: Percentiles | None
    preparations: Percentiles | None
