"""`[cluster]` in node.toml: the machines that hold the gallery, where one is not enough."""

from __future__ import annotations

import re
from pathlib import Path

from nodes.config.values import ConfigError, Section, within


class ClusterConfig(Section, frozen=True):
    """`address`: host:port of the cluster's head, in the holder's own network; empty for a single machine.

    `shards`: ranges of rows. `copies`: processes that hold each, 1 or 2. `threads`: of each process.
    `token_file`: what a machine must show to belong to it. `patience_seconds`: for one piece of work, with retries;
    the peers of a query wait no longer than their own `read_timeout_seconds`, so more is in vain.
    """

    address: str = ""
    shards: int = 4
    copies: int = 1
    threads: int = 1
    patience_seconds: int = 25
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if self.address and not re.fullmatch(r"[\w.-]+:\d{1,5}", self.address):
            raise ConfigError("cluster.address", self.address, "must be host:port of the cluster's head")
        if self.address and self.token_file is None:
            raise ConfigError("cluster.token_file", None, "must be given: Ray runs code for whoever reaches its ports")
        within("cluster.shards", self.shards, 1, 4096)
        within("cluster.copies", self.copies, 1, 2)
        within("cluster.threads", self.threads, 1, 256)
        within("cluster.patience_seconds", self.patience_seconds, 1, 3600)

    @property
    def used(self) -> bool:
        """Whether a cluster is named."""
        return bool(self.address)
