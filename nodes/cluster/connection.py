"""Ray, as far as it is used here. The only module that imports it, and only when a cluster is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nodes.cluster.errors import ClusterError, ClusterUnavailable
from nodes.cluster.rows import ClusterRows, Part
from nodes.cluster.shard import Shard, split
from nodes.config.cluster import ClusterConfig

START_SECONDS = 300.0  # a shard of thirty million rows is read in some twenty seconds


class Calls:
    """`put`, `get` and the errors of a lost worker, so that `nodes.cluster.rows` needs no Ray to be tested."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        errors = ray.exceptions
        self.lost = (errors.RayActorError, errors.WorkerCrashedError, errors.GetTimeoutError, errors.ObjectLostError)

    def put(self, value: Any) -> Any:
        """Where every worker can read it."""
        return self._ray.put(value)

    def get(self, reference: Any, seconds: float) -> Any:
        """Wait. An error of the shard's own is raised as it was."""
        try:
            return self._ray.get(reference, timeout=seconds)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None


def authenticated(config: ClusterConfig) -> dict[str, str]:
    """The environment in which Ray asks for the token and shows it. Raises `ClusterError` where there is none."""
    token = config.token_file
    if token is None or not token.is_file():
        raise ClusterError(f"[cluster] token_file {token} is missing: `lineup cluster start` makes it")
    if token.stat().st_mode & 0o077:
        raise ClusterError(f"{token} has mode {token.stat().st_mode & 0o777:04o}, it must be 0600")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}


def connect(config: ClusterConfig) -> Any:
    """Ray, connected to the cluster that is configured. Raises `ClusterError`, naming its address."""
    os.environ.update(authenticated(config))
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address=config.address, logging_level=logging.ERROR, log_to_driver=False, namespace="lineup")
        except Exception as error:  # whatever Ray raises, it means the same
            raise ClusterError(f"no cluster at {config.address}: {str(error).splitlines()[0]}") from None
    return ray


def disconnect() -> None:
    """Leave the cluster. What this process started there ends. Do it before the cluster stops, or Ray ends us."""
    import ray

    ray.shutdown()


def open_rows(
    config: ClusterConfig, node: Path, gallery: Path, version: int, rows: int, dim: int, unit: int
) -> ClusterRows:
    """Rows of a version of block files, spread over the cluster. `unit`: rows that stay together.

    Returns when every shard has read its own. Raises `ClusterError`, and what a shard raises.
    """
    ray = connect(config)
    calls = Calls(ray)
    actor = ray.remote(Shard)
    parts = []
    for part in split(rows, unit, config.shards):
        options: dict[str, Any] = {"num_cpus": config.threads, "max_restarts": -1, "max_task_retries": 0}
        if config.copies > 1:  # on different machines, where there are two
            options["scheduling_strategy"] = "SPREAD"
        made = actor.options(**options)
        given = (str(node), str(gallery), version, part, config.threads)
        parts.append(Part(part, tuple(made.remote(*given) for _ in range(config.copies))))
    held = ClusterRows(parts, dim, unit, calls, config.patience_seconds)
    try:
        for status in status_of(held, calls, START_SECONDS):
            assert status["rows"]
    except calls.lost as error:
        raise ClusterUnavailable(f"a shard did not start: {str(error).splitlines()[0]}") from None
    return held


def status_of(held: ClusterRows, calls: Calls, seconds: float) -> Sequence[dict[str, Any]]:
    """What every copy of every shard says of itself, in row order."""
    asked = [(part, copy.status.remote()) for part in held.parts for copy in part.copies]
    return [{"first": part.range.first, **calls.get(reference, seconds)} for part, reference in asked]


def close_rows(held: ClusterRows) -> None:
    """End the processes of a gallery that is not needed any more."""
    import ray

    for part in held.parts:
        for copy in part.copies:
            ray.kill(copy)
