"""How long a requester's node makes no more with a peer that has it drop what waits, again and again.

A peer may have lost its part, or have another gallery: what waits then is of no use, and is made anew at once. A peer
that says so of everything would otherwise use up what router and other holders grant this state in a day.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

FIRST_PAUSE_SECONDS = 600.0  # after the second time in a row
LONGEST_PAUSE_SECONDS = 2 * 3600.0
FORGOTTEN_SECONDS = 3 * 3600.0  # longer than the longest pause: what is dropped as soon as it is made is in a row


class Drops:
    """In memory, by the name of the peer. Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def note(self, peer: str, now: float) -> None:
        """Something was dropped because this peer said so."""
        times, last = self._last.get(peer, (0, -math.inf))
        self._last[peer] = (times + 1 if now - last < FORGOTTEN_SECONDS else 1, now)

    def pause(self, peers: Iterable[str], now: float) -> float:
        """Seconds to wait before the next one with all of these; 0 if it can be made now."""
        return max((self._pause(peer, now) for peer in peers), default=0.0)

    def _pause(self, peer: str, now: float) -> float:
        times, last = self._last.get(peer, (0, -math.inf))
        if times < 2:
            return 0.0
        doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(times - 2, 32)
        return max(0.0, last + min(doubled, LONGEST_PAUSE_SECONDS) - now)
