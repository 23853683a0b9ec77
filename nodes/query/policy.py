"""What a node serves: its policy, applied to a query before any work is done for it.

`PolicyRefused` (a protocol.errors.QueryRefused): `reason` from the closed list `Reason`, `code` what the peer is told.
Nothing here looks at signatures or remembers queries: see `protocol.warrant` and `nodes.store`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum

from nodes.config.schema import PolicyConfig
from nodes.store.errors import QuotaExceeded
from nodes.store.subjects import Status
from protocol.errors import QueryRefused
from protocol.terms import HIGHEST_RUNG, MAX_CLIMBS

TakeQuota = Callable[[str, Status, date, int], int]
TakeReleases = Callable[[str, Sequence[str], date, int], int]


class Reason(str, Enum):
    """Why a policy refuses a query: a closed list."""

    PURPOSE = "purpose"
    THRESHOLD = "threshold"
    CAP = "cap"
    STATE = "state"
    WARRANT_EXPIRED = "warrant-expired"
    WARRANT_TOO_OLD = "warrant-too-old"
    CLOCK = "clock"
    PARAMETERS = "parameters"
    QUOTA = "quota"


_CODES = {Reason.WARRANT_EXPIRED: "warrant", Reason.WARRANT_TOO_OLD: "warrant"}


class PolicyRefused(QueryRefused):
    """The policy does not serve this query. `reason`: exactly why; `code`: one of `protocol.messages.ABORT_CODES`."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(_CODES.get(reason, reason.value), message)
        self.reason = reason


class Policy:
    """The policy of a node. `take_quota`, `take_releases`: those of `GalleryStore`, or what does the same."""

    def __init__(self, config: PolicyConfig, take_quota: TakeQuota, take_releases: TakeReleases) -> None:
        self.config = config
        self._take_quota = take_quota
        self._take_releases = take_releases

    def check_query(
        self,
        *,
        requester_state: str,
        purpose: str,
        threshold: Decimal,
        cap: int,
        ladder: Decimal,
        preset: str,
        issued: float,
        expires: float,
        now: float,
    ) -> None:
        """Raise `PolicyRefused` unless this node serves such a query. Times: seconds since 1970, UTC.

        `requester_state`, `issued`, `expires`: from the warrant, whose signature was checked before. This counts
        nothing: see `take_quota`.
        """
        config = self.config
        self._check_state(requester_state)
        accepted = [item.value for item in config.purposes]
        _require(
            purpose in accepted, Reason.PURPOSE, f"purpose {purpose!r:.40} is not accepted here: {', '.join(accepted)}"
        )
        self._check_time(issued, expires, now)
        _require(
            threshold.is_finite() and config.minimum_threshold <= threshold < 1,
            Reason.THRESHOLD,
            f"threshold {threshold} must be at least {config.minimum_threshold} and below 1",
        )
        _require(1 <= cap <= config.max_candidates, Reason.CAP, f"cap {cap} must be from 1 to {config.max_candidates}")
        self._check_ladder(threshold, ladder)
        self._check_preset(preset)

    def check_preparation(self, *, requester_state: str, preset: str) -> None:
        """Raise `PolicyRefused` unless this node prepares so for such a state."""
        self._check_state(requester_state)
        self._check_preset(preset)

    def take_quota(self, requester_state: str, status: Status, now: float) -> int:
        """Count a query against its state's quota of the UTC day; gives the number used, this one included.

        Raises `PolicyRefused` (quota), and what the store raises if it cannot count.
        """
        limit = (
            self.config.quota_identified_per_day
            if status is Status.IDENTIFIED
            else self.config.quota_unidentified_per_day
        )
        try:
            return self._take_quota(requester_state, status, _day(now), limit)
        except QuotaExceeded as error:
            raise PolicyRefused(Reason.QUOTA, str(error)) from error

    def take_releases(self, requester_state: str, references: Sequence[str], now: float) -> None:
        """Count a release of each reference to a state; with none, only look whether the node is closed to it.

        Raises `PolicyRefused` (quota) if the state was given any reference, not only these, more often than it may.
        A refusal of just the queries that find that reference would tell as much as its release: it counts as one,
        and once there was one, all queries of the state are refused, whatever they would find.
        """
        limit, days = self.config.releases_per_reference, self.config.release_window_days
        count = self._take_releases(requester_state, references, _day(now), days)
        _require(
            count <= limit,
            Reason.QUOTA,
            f"{requester_state} asked {count} times in {days} days for the release of one reference, limit {limit}",
        )

    def _check_state(self, state: str) -> None:
        _require(state in self.config.states, Reason.STATE, f"state {state!r:.20} may not ask here")

    def _check_preset(self, preset: str) -> None:
        accepted = self.config.presets
        _require(
            preset in accepted, Reason.PARAMETERS, f"preset {preset!r:.40} is not accepted here: {', '.join(accepted)}"
        )

    def _check_time(self, issued: float, expires: float, now: float) -> None:
        skew, oldest = self.config.clock_skew_seconds, self.config.max_warrant_age_seconds
        # written so that a NaN is refused as well
        _require(issued <= now + skew, Reason.CLOCK, f"the warrant is dated {issued - now:.0f} s ahead, limit {skew}")
        _require(issued < expires, Reason.WARRANT_EXPIRED, "the warrant expires before it is issued")
        _require(now <= expires + skew, Reason.WARRANT_EXPIRED, f"the warrant expired {now - expires:.0f} s ago")
        _require(
            now - issued <= oldest + skew,
            Reason.WARRANT_TOO_OLD,
            f"the warrant is {now - issued:.0f} s old, limit {oldest}",
        )

    def _check_ladder(self, threshold: Decimal, ladder: Decimal) -> None:
        smallest, most = self.config.minimum_ladder_step, self.config.max_rungs
        _require(
            ladder.is_finite() and (ladder == 0 or smallest <= ladder < 1),
            Reason.PARAMETERS,
            f"ladder step {ladder} must be 0, or at least {smallest} and below 1",
        )
        # as in `protocol.terms.Terms.rungs`
        climbs = sum(threshold + k * ladder <= HIGHEST_RUNG for k in range(1, MAX_CLIMBS + 1)) if ladder else 0
        _require(
            1 + climbs <= most,
            Reason.PARAMETERS,
            f"threshold {threshold} with ladder step {ladder} has {1 + climbs} rungs, limit {most}",
        )


def _day(now: float) -> date:
    return datetime.fromtimestamp(now, timezone.utc).date()


def _require(condition: bool, reason: Reason, message: str) -> None:
    if not condition:
        raise PolicyRefused(reason, message)
