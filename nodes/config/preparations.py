"""`[preparations]` of node.toml: how much waits for the searches of others, or of this node's own officers."""

from __future__ import annotations

from decimal import Decimal

from nodes.config.names import Role
from nodes.config.values import ConfigError, Section, within

MAX_READY = 1000
MAX_AGE_HOURS = 168
MIN_BYTES = 2**24
MAX_BYTES = 2**50


class Preparations(Section, frozen=True):
    """What is made before there is a probe (protocol/DESIGN.md, section 7).

    `ready`: at a requester, how many it keeps ready; at a holder or the router, the most that wait for one requester.
    A requester keeps up to twice its own (4 by default). Those that answer have room for twice as many again: after a
    change of a gallery none of those that wait can be used, and they lie there until the nodes have compared.
    `max_age_hours`: what is older is erased unused. `max_bytes`: of all that waits for one requester, so that no
    state takes the room of another. `on_disk`: sealed to files under the storage key, so that it outlives a restart.
    `cpu_share`: of `limits.threads`, what making them may use; at least one.
    """

    ready: int = 16
    max_age_hours: int = 24
    max_bytes: int = 2**30
    on_disk: bool = False
    cpu_share: Decimal = Decimal("0.5")

    def __post_init__(self) -> None:
        within("preparations.ready", self.ready, 0, MAX_READY)
        within("preparations.max_age_hours", self.max_age_hours, 1, MAX_AGE_HOURS)
        within("preparations.max_bytes", self.max_bytes, MIN_BYTES, MAX_BYTES)
        if not self.cpu_share.is_finite() or not 0 < self.cpu_share <= 1:
            raise ConfigError("preparations.cpu_share", self.cpu_share, "must be above 0 and at most 1")

    def check(self, role: Role) -> None:
        """Raise `ConfigError` for what a role cannot work with: a holder at which none may wait answers nobody."""
        if role is not Role.REQUESTER and not self.ready:
            raise ConfigError("preparations.ready", self.ready, f"must be at least 1 at a {role.value}")
