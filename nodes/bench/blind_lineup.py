"""Ours: requester, holder and router in one process, everything but the network."""

from __future__ import annotations

from decimal import Decimal

from nodes.bench.engine import THRESHOLD, Clock, Rows
from pets.params import preset as parameters
from protocol.engine import EncryptedEngine, warm_up
from protocol.gallery import Gallery
from protocol.terms import Terms

SUMMED = ("online", "offline")  # of the other phases


class BlindLineup:
    """The whole query, confirmation included. Its search does both parts and tells them apart by the clock.

    `traffic`: bytes of the last search by link, as "requester to holder".
    """

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        self.params, self.threads = parameters(preset), threads
        self.terms = Terms(Decimal(str(THRESHOLD)), dim, self.params)
        self.traffic: dict[str, int] = {}
        self.offline = 0.0
        warm_up(self.params, threads)

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.gallery = Gallery.of(templates, self.params, threads=self.threads)

    def prepare(self) -> None:
        """The engine prepares at the start of its search; `offline` has the seconds of it afterwards."""

    def search(self, probe: Rows, clock: Clock) -> list[int]:
        """As `Engine`. The clock gets the phases of the online part, the rest of it as "other"."""
        engine = EncryptedEngine(self.threads)
        (outcome,) = engine.search(self.gallery, probe[None], self.terms)
        seconds = engine.cost.seconds
        self.offline = seconds["offline"]
        self.traffic = {
            f"{sender} to {receiver}".lower(): count for (sender, receiver), count in engine.cost.traffic.items()
        }
        # Phases of parties that work at the same time add up to more than the time that passes.
        phases = {name: value for name, value in seconds.items() if name not in SUMMED}
        share = seconds["online"] / max(sum(phases.values()), seconds["online"])
        for name, value in phases.items():
            clock.seconds[name] += share * value
        clock.seconds["other"] += max(0.0, seconds["online"] - sum(share * value for value in phases.values()))
        return sorted(hit.row for hit in outcome.hits)
