"""A cluster that is played in this process: workers die, are made anew with their old arguments, and it may be gone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nodes.cluster import gallery
from nodes.cluster.errors import ClusterError, WorkerLost
from nodes.cluster.gallery import ClusterGallery
from nodes.cluster.places import Places
from nodes.cluster.shard import Shard
from nodes.config.cluster import ClusterConfig
from nodes.config.schema import Role, load_config
from nodes.config.storage_key import storage_key
from nodes.identity.identity import init_node
from pets.errors import LineupError

ADDRESS = "10.0.0.1:6379"


def config(**values: Any) -> ClusterConfig:
    """`[cluster]` of node.toml."""
    given: dict[str, Any] = {"shards": 3, "patience_seconds": 2, "token_file": Path("cluster.token"), **values}
    return ClusterConfig(ADDRESS, **given)


def holder(root: Path) -> Path:
    """A holder's folder, with its storage key."""
    init_node(root / "es", name="ES", role=Role.HOLDER, address="https://127.0.0.1:1", authority=root / "ca")
    return root / "es"


def name_cluster(node: Path, address: str, token: Path, **values: object) -> None:
    """`[cluster]` in a node's node.toml."""
    lines = ["[cluster]", f'address = "{address}"', f'token_file = "{token}"']
    lines += [f"{key} = {value}" for key, value in values.items()]
    with (node / "node.toml").open("a") as stream:
        stream.write("\n" + "\n".join(lines) + "\n")


def cipher(node: Path) -> Any:
    """What its block files are sealed under."""
    return storage_key(load_config(node)).blocks


@dataclass
class FakeCalls:
    """`nodes.cluster.link.Calls`. Work is done at `get`.

    `dies` says whether the worker dies at the k-th answer that is waited for: it is then made anew, as it was made.
    `is_down`: the cluster is not there. `deaf`: nobody answers. `hosts`: machines and their processors. Workers of
    one that is lost are made anew on another, as Ray does it.
    """

    dies: Callable[[int], bool] = lambda _: False
    is_down: bool = False
    deaf: bool = False
    shards: dict[int, Shard] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=lambda: {"A": 500, "B": 500})
    busy: set[int] = field(default_factory=set)
    deaths: int = 0
    dropped: int = 0
    places: Places = field(default_factory=lambda: Places(1))
    lies: dict[int, str] = field(default_factory=dict)
    _given: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _asked: Iterator[int] = field(default_factory=itertools.count)
    _turn: int = 0
    _lost: bool = True

    def connect(self) -> int:
        if self.is_down:
            raise ClusterError(f"no cluster at {ADDRESS} (Connection refused)")
        if self._lost:
            self._lost, self._turn = False, self._turn + 1
        return self._turn

    def connected(self) -> int:
        return 0 if self._lost else self._turn

    def give_up(self, turn: int) -> None:
        if turn == self._turn:
            self._lost = True
            self.shards.clear()

    def vanish(self) -> None:
        """The cluster is gone, and all processes with it."""
        self.is_down = self._lost = True
        self.shards.clear()

    def make(self, *given: Any, beside: Any = None, there_only: bool = False) -> int:
        number = next(self._numbers)
        self._given[number] = given
        self.shards[number] = Shard(*given)
        self.lies[number] = self.places.take(number, self.hosts, beside) or "nowhere"
        return number

    def lose(self, machine: str) -> None:
        """A machine is gone; the others have room."""
        del self.hosts[machine]
        for number in [number for number, where in self.lies.items() if where == machine and number in self.shards]:
            self.kill(number)
            self.lies[number] = max(self.hosts)

    def kill(self, shard: int) -> None:
        """A worker dies, and another takes its place."""
        self.deaths += 1
        self.shards[shard] = Shard(*self._given[shard])

    def ask(self, shard: int, method: str, *given: Any) -> Any:
        if shard not in self.shards:
            raise WorkerLost("gone")
        return shard, method, given

    def get(self, answer: Any, _: float) -> Any:
        shard, method, given = answer
        if self.deaf or shard not in self.shards:
            raise WorkerLost("gone")
        if self.dies(next(self._asked)):
            self.kill(shard)
            raise WorkerLost("ActorDiedError")
        return getattr(self.shards[shard], method)(*given)

    def drop(self, answer: Any) -> None:
        """Nobody waits for it; it is done all the same."""
        self.dropped += 1
        shard, method, given = answer
        if shard in self.shards:
            with suppress(LineupError):
                getattr(self.shards[shard], method)(*given)

    def there(self, probe: Any) -> Any:
        return probe

    def end(self, shards: tuple[int, ...]) -> None:
        for shard in shards:
            self.shards.pop(shard, None)
            self.places.drop(shard)

    def where(self, shards: tuple[int, ...], _: float) -> tuple[str, ...]:
        if any(shard not in self.shards for shard in shards):
            raise WorkerLost("gone")
        for shard in shards:
            self.places.move(shard, self.lies[shard])
        return tuple("" if shard in self.busy else self.lies[shard] for shard in shards)

    def apart(self, shard: int) -> bool:
        return self.places.apart(self.hosts, shard)

    def processors(self) -> int:
        return sum(self.hosts.values())

    def machines(self) -> int:
        return len(self.hosts)

    def close(self) -> None:
        self.shards.clear()


def play(monkeypatch: pytest.MonkeyPatch, calls: FakeCalls, unit: int) -> None:
    """Nodes that are made from now on have this cluster."""
    monkeypatch.setattr(gallery, "Link", lambda _: calls)
    monkeypatch.setattr(gallery, "READ_SECONDS", 60)  # a machine may be busy
    monkeypatch.setattr(gallery, "ClusterGallery", lambda *given: ClusterGallery(*given, unit=unit, spare=unit))
