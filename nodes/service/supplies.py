"""What an operator is told of the preparations that wait at a node (`lineup node status`)."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from nodes.config.schema import Role
from nodes.pool import Waiting
from nodes.service.operator_api import Supplies, WaitingTold

if TYPE_CHECKING:
    from nodes.service.node import Node


def supplies(node: Node) -> Supplies:
    """What waits, for whom and since when; and whether the node can make as many a day as it grants searches."""
    policy, counts, now = node.config.policy, node.pool.counts, time.time()
    answers, today = node.config.role is not Role.REQUESTER, datetime.now(timezone.utc).date()
    began = {state: node.store.preparations_taken(state, today) for state in policy.states if answers}
    quotas = len(policy.states) * (policy.quota_identified_per_day + policy.quota_unidentified_per_day)
    return Supplies(
        waiting=tuple(_told(one, now) for one in node.pool.standing()),
        being_made=node.pace.running,
        made=counts.made,
        spent=counts.spent,
        expired=counts.expired,
        dropped=counts.dropped,
        refused=counts.refused,
        per_day=node.pace.per_day,
        quota_per_day=quotas if answers else None,
        limit_per_day=node.config.preparations.per_day if answers else None,
        today={state: number for state, number in began.items() if number},
    )


def _told(one: Waiting, now: float) -> WaitingTold:
    return WaitingTold(
        preparation=one.conversation.hex(),
        requester=one.requester,
        holders=one.holders,
        made=_iso(one.made),
        expires=_iso(one.expires),
        age_seconds=round(max(0.0, now - one.made), 3),
        size_bytes=one.bytes,
        on_disk=one.on_disk,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat()
