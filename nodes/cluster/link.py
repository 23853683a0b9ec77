"""A node's connection to its cluster, by a process of its own (`nodes.cluster.agent`), begun again when it is lost."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import secrets
import threading
import time
import weakref
from collections import OrderedDict
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from nodes.cluster.agent import AgentManager, There, serve
from nodes.cluster.connection import check_installed, knock
from nodes.cluster.errors import ClusterError, WorkerLost
from nodes.cluster.folder import OwnedFolder
from nodes.config.cluster import ClusterConfig
from pets.scoring import ScoringProbe

log = logging.getLogger("lineup.cluster")

BEGIN_SECONDS = 120.0  # to load the libraries
AGAIN_SECONDS = 2.0  # after a failed try everybody is told the same, without another
PROBES_KEPT = 32  # encrypted masks that lie with the shards; 33 MB each at d = 512
_NUMBERS = 2**40  # of each connection, so that none means something else in another


class Calls(Protocol):
    """What `nodes.cluster.shards` needs of a cluster: so it can be tested without one. Raises `WorkerLost`."""

    def connect(self) -> int:
        """Be connected; gives which connection it is, from 1: what earlier ones made is gone. Raises `ClusterError`."""

    def connected(self) -> int:
        """As `connect`, without doing anything; 0: not connected."""

    def give_up(self, turn: int) -> None:
        """A connection is of no use, although it is not known to be lost: the next is another."""

    def make(self, *given: Any, beside: Any = None, there_only: bool = False) -> Any:
        """A process with `Shard(*given)`: the first of its range, or a copy of `beside`.

        A copy lies on another machine that has room. `there_only`: it is not begun elsewhere, should that be full.
        """

    def ask(self, shard: Any, method: str, *given: Any) -> Any:
        """Begin a call; gives what `get` waits for."""

    def get(self, answer: Any, seconds: float) -> Any:
        """Wait. An error of the shard's own is raised as it was."""

    def drop(self, answer: Any) -> None:
        """Wait for an answer no longer."""

    def there(self, probe: ScoringProbe) -> Any:
        """An encrypted mask, where every shard can read it. Ciphertext."""

    def end(self, shards: tuple[Any, ...]) -> None:
        """End processes."""

    def where(self, shards: tuple[Any, ...], seconds: float) -> tuple[str, ...]:
        """The machine on which each process lies; empty where it does not say so in time."""

    def apart(self, shard: Any) -> bool:
        """Whether a machine other than this process's has room for a copy of it."""

    def processors(self) -> int:
        """How many processors the cluster has."""


class Link:
    """`Calls` with Ray. Safe for use by many threads."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._turn = 0
        self._closed = False
        self._process: SpawnProcess | None = None
        self._folder: OwnedFolder | None = None
        self._agent: Any = None
        self._refused, self._again = "", 0.0
        self._put: OrderedDict[int, tuple[weakref.ref[ScoringProbe], There]] = OrderedDict()

    def connect(self) -> int:
        """As `Calls.connect`."""
        with self._lock:
            if turn := self.connected():
                return turn
            if self._closed:
                raise ClusterError("the node is being stopped")
            if time.monotonic() < self._again:
                raise ClusterError(self._refused)
            self._stop()
            check_installed()
            try:
                knock(self._config.address)  # before a process is made for it
                self._begin(self._turn + 1)
            except ClusterError as error:
                self._stop()
                self._refused, self._again = str(error), time.monotonic() + AGAIN_SECONDS
                raise
            self._turn += 1
            self._put.clear()
            return self._turn

    def connected(self) -> int:
        """As `Calls.connected`."""
        process = self._process
        return self._turn if self._agent is not None and process is not None and process.is_alive() else 0

    def give_up(self, turn: int) -> None:
        """As `Calls.give_up`."""
        with self._lock:
            if turn == self._turn:
                self._stop()

    def make(self, *given: Any, beside: Any = None, there_only: bool = False) -> Any:
        """As `Calls.make`."""
        return self._call("make", *given, beside=beside, there_only=there_only)

    def ask(self, shard: Any, method: str, *given: Any) -> Any:
        """As `Calls.ask`."""
        return self._call("ask", shard, method, given)

    def get(self, answer: Any, seconds: float) -> Any:
        """As `Calls.get`."""
        return self._call("get", answer, seconds)

    def drop(self, answer: Any) -> None:
        """As `Calls.drop`."""
        self._call("drop", answer)

    def there(self, probe: ScoringProbe) -> Any:
        """As `Calls.there`."""
        with self._lock:
            kept = self._put.get(id(probe))
            if kept is None or kept[0]() is not probe:
                kept = self._put[id(probe)] = weakref.ref(probe), self._call("put", probe)
            self._put.move_to_end(id(probe))
            gone = [number for number, (known, _) in self._put.items() if known() is None]
            gone += list(self._put)[: max(0, len(self._put) - len(gone) - PROBES_KEPT)]
            for number in dict.fromkeys(gone):
                self._call("drop", self._put.pop(number)[1].number)
            return kept[1]

    def end(self, shards: tuple[Any, ...]) -> None:
        """As `Calls.end`."""
        self._call("end", shards)

    def where(self, shards: tuple[Any, ...], seconds: float) -> tuple[str, ...]:
        """As `Calls.where`."""
        return tuple(self._call("where", shards, seconds))

    def apart(self, shard: Any) -> bool:
        """As `Calls.apart`."""
        return bool(self._call("apart", shard))

    def processors(self) -> int:
        """As `Calls.processors`."""
        return int(self._call("processors"))

    def machines(self) -> int:
        """How many machines are alive."""
        return int(self._call("machines"))

    def close(self) -> None:
        """Leave the cluster. The processes that were made there end."""
        with self._lock:
            self._closed = True
            self._stop()

    def _call(self, method: str, *given: Any, **named: Any) -> Any:
        agent = self._agent
        if agent is None:
            raise WorkerLost(self._refused or "not connected")
        try:
            return getattr(agent, method)(*given, **named)
        except (EOFError, OSError):
            raise WorkerLost("the process that talks to the cluster has ended") from None

    def _begin(self, turn: int) -> None:
        context, key = multiprocessing.get_context("spawn"), secrets.token_bytes(32)
        here, there = context.Pipe(duplex=False)
        self._folder = OwnedFolder()
        address = str(self._folder.path / "agent")
        self._process = context.Process(target=serve, args=(there, address, key), name="lineup-cluster", daemon=True)
        self._process.start()
        atexit.register(self._stop)  # Python would ask it to end, and wait: it ends with this process only
        there.close()
        with here:
            try:
                began = here.poll(BEGIN_SECONDS) and here.recv()
            except EOFError:
                began = False
        if not began:
            raise ClusterError(f"the process that talks to the cluster at {self._config.address} did not begin")
        manager = AgentManager(address, key)
        try:
            manager.connect()
            self._agent = manager.Agent(self._config, turn * _NUMBERS)  # type: ignore[attr-defined]
        except (EOFError, OSError):
            raise ClusterError(f"no cluster at {self._config.address}: Ray ended the connection") from None
        log.info("connected to the cluster", extra={"address": self._config.address})

    def _stop(self) -> None:
        """End the process that talks to Ray; Ray ends what was made through it."""
        atexit.unregister(self._stop)
        process, self._process, self._agent = self._process, None, None
        if process is not None:
            process.kill()  # Ray would say much of a gentler end
            process.join()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
