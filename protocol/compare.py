"""The threshold, as it is taken off shares (protocol/DESIGN.md, section 6)."""

from __future__ import annotations

from pets.params import SHARE_BITS, Parameters


def threshold_offset(theta: int, params: Parameters) -> int:
    """round((theta - 1/2)·2^K/t): what the holder takes off its share, so that a hit is a sum that is not negative."""
    doubled = (2 * theta - 1) << SHARE_BITS
    return (doubled + params.t) // (2 * params.t)
