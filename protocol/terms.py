"""The terms of a query: what all parties agree on before anything is encrypted."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from pets.errors import ParameterError
from pets.params import Parameters, check_dim, preset, theta
from pets.sketch import check_cap
from protocol.messages import Search, Warrant

HIGHEST_RUNG = Decimal("0.9")
MAX_CLIMBS = 8
SYNTHETIC_MODEL = bytes(32)  # the model digest of templates that no model made


def parse_decimal(text: str, what: str) -> Decimal:
    """An exact decimal from text such as 0.55. Raises `ParameterError`."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ParameterError(f"{what} must be a decimal number such as 0.55, got {text!r}") from None
    if not value.is_finite():
        raise ParameterError(f"{what} must be a finite number, got {text!r}")
    return value


@dataclass(frozen=True)
class Terms:
    """Thresholds, cap, ladder, parameters and model of a query. Raises `ParameterError` for values outside their range.

    `threshold` in (0, 1), `ladder` (the step from rung to rung) in [0, 1), both exact; `cap` 1 to 99; `dim` a
    multiple of 8 up to 1024; `model` the 32-byte digest of the model specification, all zero for synthetic templates.
    """

    threshold: Decimal
    dim: int
    params: Parameters
    cap: int = 10
    ladder: Decimal = Decimal("0.02")
    model: bytes = SYNTHETIC_MODEL

    def __post_init__(self) -> None:
        check_dim(self.dim)
        check_cap(self.cap)
        if not 0 <= self.ladder < 1:
            raise ParameterError(f"ladder step must be at least 0 and below 1, got {self.ladder}")
        for value, what in ((self.threshold, "threshold"), (self.ladder, "ladder step")):
            exponent = value.as_tuple().exponent
            if not isinstance(exponent, int) or exponent < -12:
                raise ParameterError(f"{what} may have at most 12 decimals, got {value}")
        theta(self.threshold, self.dim, self.params)

    @property
    def rungs(self) -> tuple[Decimal, ...]:
        """threshold + k·step for k = 0 … 8, as long as it is at most 0.9. A threshold above 0.9 stands alone."""
        climbs = MAX_CLIMBS if self.ladder > 0 else 0
        higher = (self.threshold + k * self.ladder for k in range(1, climbs + 1))
        return (self.threshold, *(rung for rung in higher if rung <= HIGHEST_RUNG))

    def theta(self, rung: int) -> int:
        """The integer threshold of a rung."""
        return theta(self.rungs[rung], self.dim, self.params)

    def announce(
        self,
        requester: str,
        router: str,
        holders: tuple[str, ...],
        preparation: bytes,
        warrant: Warrant | None = None,
    ) -> Search:
        """The requester's announcement of a search with a preparation, by its id; with a fresh nonce."""
        return Search(
            requester=requester,
            router=router,
            holders=holders,
            nonce=secrets.token_bytes(32),
            threshold=f"{self.threshold:f}",
            cap=self.cap,
            ladder=f"{self.ladder:f}",
            preset=self.params.preset,
            dim=self.dim,
            model=self.model,
            preparation=preparation,
            warrant=warrant,
        )

    @classmethod
    def announced(cls, message: Search) -> Terms:
        """The terms that an announcement states, checked.

        Raises `ParameterError`, also for one party in two roles: two seats of a ring see every score.
        """
        parties = (message.requester, message.router, *message.holders)
        if len(set(parties)) != len(parties):
            raise ParameterError(f"one party is named in two roles of the announcement: {', '.join(parties)}")
        return cls(
            threshold=parse_decimal(message.threshold, "threshold"),
            dim=message.dim,
            params=preset(message.preset),
            cap=message.cap,
            ladder=parse_decimal(message.ladder, "ladder step"),
            model=message.model,
        )
