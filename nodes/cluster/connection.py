"""Joining the cluster that `node.toml` names: the only module that imports Ray, when a cluster is asked for."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from nodes.cluster.errors import ClusterError
from nodes.config.cluster import ClusterConfig

SHARD = "shard-"  # how the names of shards begin, among the actors of a cluster
KNOCK_SECONDS = 5.0  # Ray itself tries a head that is not there for a minute


def check_installed() -> None:
    """Raise ModuleNotFoundError without Ray: the command line names the extra then."""
    if find_spec("ray") is None:
        raise ModuleNotFoundError("ray is not installed", name="ray")


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
    knock(config.address)
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address=config.address, logging_level=logging.ERROR, log_to_driver=False, namespace="lineup")
        except Exception as error:  # whatever Ray raises, it means the same
            raise ClusterError(f"no cluster at {config.address}: {str(error).splitlines()[0]}") from None
    return ray


def on_machine(machine: str, *, spill: bool) -> Any:
    """To be begun on a machine, by its ID; elsewhere if that machine is lost.

    `spill`: elsewhere too if it is full, as it may be with processes of others. Else Ray waits for room there.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(machine, soft=True, _spill_on_unavailable=spill)


def this_machine() -> str:
    """The ID of the machine on which a process of the cluster lies."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def shards_on(ray: Any, seconds: float) -> tuple[Counter[str], int]:
    """How many shards lie on each machine, by its ID, and how many do not say so in time.

    Those work, are being begun, or wait for room.
    """
    asked = []
    for name in ray.util.list_named_actors():
        with suppress(ValueError):  # it has ended since
            if name.startswith(SHARD):
                asked.append(ray.get_actor(name).machine.remote())
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=seconds)
    found = Counter[str]()
    for answer in asked:
        with suppress(ray.exceptions.RayError):
            found[ray.get(answer, timeout=0)] += 1
    return found, len(asked) - found.total()


def knock(address: str) -> None:
    """Raise `ClusterError` where nobody listens at an address."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ClusterError(f"no cluster at {address} ({why}): `lineup cluster start` there begins it") from None
