"""How fast a node makes preparations, measured from the last ones."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

DAY = 86400
REMEMBERED = 32


class Pace:
    """Counts only the time in which one at least was under way: several share a pass, and idle hours say nothing.

    Thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._busy = 0.0  # seconds, up to `_since`
        self._since = 0.0
        self._running: dict[bytes, float] = {}  # busy seconds at their start
        self._made: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)  # busy seconds at start and end

    @property
    def running(self) -> int:
        """How many are under way."""
        return len(self._running)

    def begin(self, conversation: bytes) -> None:
        """One is begun."""
        with self._lock:
            self._running[conversation] = self._now()

    def end(self, conversation: bytes, made: bool) -> float | None:
        """One is over; gives its seconds if it was `made`. What failed only took time."""
        with self._lock:
            now = self._now()
            begun = self._running.pop(conversation, None)
            if begun is None or not made:
                return None
            self._made.append((begun, now))
            return now - begun

    @property
    def per_day(self) -> int | None:
        """How many a day has time for at the pace of the last ones; None before the first."""
        with self._lock:
            if not self._made:
                return None
            seconds = self._made[-1][1] - min(begun for begun, _ in self._made)
            return int(DAY * len(self._made) / max(seconds, 1e-3))

    def _now(self) -> float:
        now = self._clock()
        if self._running:
            self._busy += now - self._since
        self._since = now
        return self._busy
