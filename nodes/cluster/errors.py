"""What can be wrong with a cluster."""

from __future__ import annotations

from pets.errors import LineupError


class ClusterError(LineupError):
    """The cluster cannot be used as it is: not started, another token, a shard that does not hold what it must."""


class ClusterUnavailable(ClusterError):
    """A shard gave no answer for as long as this node waits, from any machine that has it."""


class WorkerLost(ClusterError):
    """A process of the cluster, or the way to it, is gone or does not answer. The same may be asked again."""


class Silent(WorkerLost):
    """No answer in time: it may still work on it."""
