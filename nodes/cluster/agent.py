"""The process in which a node talks to Ray, and what the node calls in it.

Ray takes over signals of the process that connects, and ends that process a minute after the cluster went. So it is
not the node's own: it is a process that the node begins, and begins again (`nodes.cluster.link`). It ends with the
node, however that ends, and Ray then ends the shards.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.managers import BaseManager
from typing import Any

from nodes.cluster.connection import SHARD, connect, on_machine
from nodes.cluster.errors import ClusterError, Silent, WorkerLost
from nodes.cluster.places import Places
from nodes.cluster.shard import Shard
from nodes.config.cluster import ClusterConfig
from pets.errors import LineupError

METHODS = ("make", "ask", "get", "put", "drop", "end", "where", "apart", "machines", "processors")


@dataclass(frozen=True)
class There:
    """Stands, among what a shard is asked with, for a value that lies in the cluster."""

    number: int


class Agent:
    """Everything that it keeps goes by a number from `first` on. Raises `ClusterError`, naming the address."""

    def __init__(self, config: ClusterConfig, first: int) -> None:
        self._config = config
        self._ray = connect(config)
        self._error = self._ray.exceptions.RayError  # every one that is not below means a loss, and is asked again
        self._shard = self._ray.remote(Shard)
        self._numbers = itertools.count(first)
        self._kept: dict[int, Any] = {}
        self._places = Places(config.threads)

    def make(self, *given: Any, beside: int | None = None, there_only: bool = False) -> int:
        """A process with `Shard(*given)`; another one, made alike, takes its place whenever it is lost.

        On another machine than `beside`, where one has room. If its machine is lost, Ray chooses another; also if
        others than this node have taken the room there, but with `there_only` it waits for room.
        """
        with self._losses():
            number, alive = next(self._numbers), self._alive()
            machine = self._places.take(number, alive, beside)  # Ray may choose otherwise: `where`
            where: Any = "SPREAD" if machine is None else on_machine(machine, spill=not there_only)
            options = {"num_cpus": self._config.threads, "max_restarts": -1, "max_task_retries": 0}
            name = f"{SHARD}{secrets.token_hex(16)}"  # by which `lineup cluster status` finds it
            try:
                self._kept[number] = self._shard.options(**options, name=name, scheduling_strategy=where).remote(*given)
            except BaseException:
                self._places.drop(number)
                raise
            return number

    def ask(self, shard: int, method: str, given: tuple[Any, ...]) -> int:
        """Begin a call of a shard's method; `get` waits for its answer. Raises `WorkerLost`."""
        values = [self._of(one.number) if isinstance(one, There) else one for one in given]
        with self._losses():
            return self._keep(getattr(self._of(shard), method).remote(*values))

    def get(self, answer: int, seconds: float) -> Any:
        """The answer, once. Raises `WorkerLost`, and what the shard raised."""
        reference = self._kept.pop(answer, None)
        if reference is None:
            raise WorkerLost("the connection is another")
        try:
            return self._ray.get(reference, timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            raise Silent(f"silence for {seconds:.0f} s") from None
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, LineupError) else ClusterError(_last_line(error)) from None
        except self._error as error:
            raise WorkerLost(type(error).__name__) from None

    def put(self, value: Any) -> There:
        """Lay a value where every worker can read it."""
        with self._losses():
            return There(self._keep(self._ray.put(value)))

    def drop(self, number: int) -> None:
        """Keep something no longer."""
        self._kept.pop(number, None)

    def end(self, shards: tuple[int, ...]) -> None:
        """End processes."""
        for shard in shards:
            self._places.drop(shard)
            if (actor := self._kept.pop(shard, None)) is not None:
                self._ray.kill(actor)

    def where(self, shards: tuple[int, ...], seconds: float) -> tuple[str, ...]:
        """The machine on which each process lies; empty for one that does not say so in time: it works, or is lost."""
        with self._losses():
            asked = [self._of(shard).machine.remote() for shard in shards]
            self._ray.wait(asked, num_returns=len(asked), timeout=seconds)
        found = []
        for shard, answer in zip(shards, asked, strict=True):
            machine = ""
            with suppress(self._error):
                machine = str(self._ray.get(answer, timeout=0))
                self._places.move(shard, machine)
            found.append(machine)
        return tuple(found)

    def apart(self, shard: int) -> bool:
        """Whether a machine other than this process's has room for a copy of it."""
        with self._losses():
            return self._places.apart(self._alive(), shard)

    def machines(self) -> int:
        """How many machines of the cluster are alive."""
        with self._losses():
            return len(self._alive())

    def processors(self) -> int:
        """How many processors they have together."""
        with self._losses():
            return int(self._ray.cluster_resources().get("CPU", 0))

    def _alive(self) -> dict[str, int]:
        """Processors of each machine that is alive."""
        return {one["NodeID"]: int(one["Resources"].get("CPU", 0)) for one in self._ray.nodes() if one["Alive"]}

    @contextmanager
    def _losses(self) -> Iterator[None]:
        """Ray's errors do not leave this process: who reads one would load Ray."""
        try:
            yield
        except self._error as error:
            raise WorkerLost(type(error).__name__) from None

    def _keep(self, value: Any) -> int:
        number = next(self._numbers)
        self._kept[number] = value
        return number

    def _of(self, number: int) -> Any:
        try:
            return self._kept[number]
        except KeyError:
            raise WorkerLost("the connection is another") from None


class AgentManager(BaseManager):
    """Lets another process of this machine that has the key call an `Agent` in this one (a socket of this user's)."""


AgentManager.register("Agent", Agent, exposed=METHODS)


def serve(told: Connection, address: str, key: bytes) -> None:
    """Be the process of a node: tell it when it may call at `address`, a socket's file, and serve until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # to the group, they mean the node, which needs this while it drains
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_node, daemon=True).start()
    _say_nothing()
    server = AgentManager(address, key).get_server()
    told.send(True)
    told.close()
    server.serve_forever()


def _say_nothing() -> None:
    """What Ray prints would stand among the node's log, which is JSON. What is wrong is raised; Ray has logs too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _end_with_the_node() -> None:
    node = multiprocessing.parent_process()
    assert node is not None
    node.join()
    os._exit(0)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
