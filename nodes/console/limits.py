"""Rate limits, by who asks and for what. In memory: a restart forgives."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from nodes.console.errors import TooMany

# what: how many at once, and seconds until one more is allowed
LIMITS = {"sign-in": (10, 6.0), "upload": (10, 3.0), "page": (240, 0.25)}
REMEMBERED = 10_000


class RateLimits:
    """Token buckets. The oldest are forgotten beyond `REMEMBERED`, so memory stays bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, what: str, who: str) -> None:
        """Count one try. Raises `TooMany`."""
        burst, seconds = LIMITS[what]
        now = self._clock()
        left, before = self._buckets.pop((what, who), (float(burst), now))
        left = min(float(burst), left + (now - before) / seconds)
        allowed = left >= 1
        self._buckets[what, who] = (left - 1 if allowed else left, now)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if not allowed:
            raise TooMany(1 + int((1 - left) * seconds))
