"""How far peers' clocks are from this node's: read off the date of every answer, which TLS authenticates.

A warrant that is dated ahead is refused, one that is dated back only looks old. So that a clock that is ahead is
noticed as one that is behind, both nodes compare, and tell their operators.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("lineup.clocks")

WHOLE_SECONDS = 1.0  # a date has no fractions


class Clocks:
    """`limit`: seconds by which a clock may differ. `changed`: told how many differ by more, when that changes."""

    def __init__(self, limit: float, changed: Callable[[int], None]) -> None:
        self._limit, self._changed = limit, changed
        self._off: dict[str, float] = {}

    def heard(self, peer: str, date: float, sent: float, received: float) -> None:
        """A peer's clock showed `date` somewhen between two moments of this node's; all in seconds since 1970."""
        ahead = date - received if date > received else min(0.0, date + WHOLE_SECONDS - sent)
        if abs(ahead) <= self._limit:
            known = self._off.pop(peer, None)
            if known is not None:
                log.info("a clock agrees again", extra={"peer": peer})
        else:
            if peer not in self._off:
                log.error("a clock differs", extra={"peer": peer, "seconds": round(ahead)})
            self._off[peer] = ahead
        self._changed(len(self._off))

    def forget(self, peer: str) -> None:
        """It is no longer a peer."""
        self._off.pop(peer, None)
        self._changed(len(self._off))

    @property
    def alarms(self) -> list[str]:
        """A line for each peer whose clock differs by more than the limit."""
        return [
            f"the clock of {peer} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this node's, limit "
            f"{self._limit:g} s: one of the two is wrong; compare both with a time server"
            for peer, ahead in sorted(self._off.items())
        ]
