"""Machines of a cluster: Ray started, looked at and stopped, always with a token and on an address that is named."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from nodes.cluster.connection import authenticated, check_installed, connect, shards_on
from nodes.cluster.errors import ClusterError
from nodes.config.cluster import ClusterConfig
from nodes.private_files import write_private

COMMAND_SECONDS = 120
SHARDS_SECONDS = 10.0  # to say where they are
STORE_BYTES = 2 * 2**30  # for masks and results on their way, rows among them in the daily comparison


def make_token(path: Path) -> bool:
    """Write a random token, mode 0600, unless there is one. Whoever has it can run code on every machine."""
    if path.exists():
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, secrets.token_hex(32).encode())
    return True


def start(config: ClusterConfig, host: str, processors: int | None = None, store_bytes: int = STORE_BYTES) -> str:
    """Start Ray on this machine, listening on `host`: the head if it is the configured address, else a worker.

    Returns "head" or "worker". Raises `ClusterError` with what Ray said.
    """
    head, port = config.address.rsplit(":", 1)
    options = ["start", "--node-ip-address", host, "--object-store-memory", str(store_bytes), "--disable-usage-stats"]
    options += ["--include-log-monitor=false"]  # nobody asks for what shards log
    options += ["--num-cpus", str(processors)] if processors else []
    if host == head:
        options += ["--head", "--port", port, "--include-dashboard=false"]
        options += ["--no-monitor"]  # which would start machines as they are needed: here they are started by hand
    else:
        options += ["--address", config.address]
    _ray(config, options)
    return "head" if host == head else "worker"


def stop() -> None:
    """Stop Ray on this machine: shards on it go, and the others do their work if there are copies."""
    _run([*_program(), "stop"], dict(os.environ))


def status(config: ClusterConfig) -> tuple[list[dict[str, Any]], int]:
    """Every machine: address, whether it is alive, processors, and the processes with rows that say they are there.

    And how many such processes do not say in time where they are: they work, are being begun, or wait for room.
    """
    ray = connect(config)
    held, silent = shards_on(ray, SHARDS_SECONDS)
    machines = []
    for node in ray.nodes():
        machines.append(
            {
                "machine": node["NodeManagerAddress"],
                "alive": bool(node["Alive"]),
                "processors": int(node["Resources"].get("CPU", 0)),
                "shards": held[node["NodeID"]],
            }
        )
    return machines, silent


def _ray(config: ClusterConfig, options: list[str]) -> None:
    _run([*_program(), *options], {**os.environ, **authenticated(config)})


def _program() -> list[str]:
    check_installed()
    return [sys.executable, "-m", "ray.scripts.scripts"]


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the program is this Python, the arguments are ours
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"Ray did not answer within {COMMAND_SECONDS} s") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = " ".join(line.strip() for line in said[-3:])
        raise ClusterError(f"Ray refused: {reason or f'status {done.returncode}'}")


__all__ = ["make_token", "start", "status", "stop"]
