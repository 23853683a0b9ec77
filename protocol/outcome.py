"""How a query ends at one holder, in the words of Prüm II."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from protocol.confirmation_block import Hit
from protocol.release import Released
from protocol.verdict import CONFIRM

SearchStatus = Literal["released", "no_hit", "too_many_candidates", "probe_refused"]


@dataclass(frozen=True)
class Answer:
    """What the requester learns from one holder. `hits`: confirmed ones, by rank."""

    status: SearchStatus
    threshold_used: Decimal
    hits: tuple[Released, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """Of its hits, by rank."""
        return tuple(hit.reference for hit in self.hits)


@dataclass(frozen=True)
class HolderResult:
    """What the holder knows at the end: its own hits with exact scores, by falling score. Stays at home."""

    status: SearchStatus
    threshold_used: Decimal
    hits: tuple[Hit, ...] = ()


def status_of(verdict: str, released: int) -> SearchStatus:
    """The status that a holder's last verdict and the number of released hits stand for."""
    if verdict != CONFIRM:
        return "too_many_candidates"
    return "released" if released else "no_hit"
