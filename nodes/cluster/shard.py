"""One range of rows, held by one process of the cluster."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.blocks import BlockFiles, UnknownVersion, VersionReader
from nodes.blocks.manifest import Manifest, Version
from nodes.blocks.memory import RowMemory
from nodes.cluster.connection import this_machine
from nodes.cluster.errors import ClusterError
from nodes.config.schema import load_config
from nodes.config.storage_key import storage_key
from pets.errors import LineupError
from pets.params import preset
from pets.scoring import ScoringProbe
from protocol.steps import Product, ScoreRows
from protocol.work import perform

READ_ROWS = 65536  # at a time
HOLD_SECONDS = 0.05  # that `hold` waits for rows that came since: a few are read by then

Answer = tuple[int, Any]


@dataclass(frozen=True)
class Range:
    """Slots `first` … `first + room` of an epoch of a gallery: as many of them as there are."""

    first: int
    room: int

    @property
    def stop(self) -> int:
        """The slot behind the last."""
        return self.first + self.room

    def of(self, rows: int) -> int:
        """How many of the first `rows` slots lie in it."""
        return max(0, min(rows - self.first, self.room))


def split(rows: int, unit: int, shards: int, spare: int = 0) -> tuple[Range, ...]:
    """Ranges of whole units, as even as that allows, for `rows` and, in the last one, `spare` rows that may come.

    Fewer than `shards` where there are not as many units.
    """
    units = -(-rows // unit)
    count = max(1, min(shards, units))
    ends = [units * k // count for k in range(count + 1)]
    ends[-1] += -(-spare // unit)
    return tuple(Range(start * unit, (stop - start) * unit) for start, stop in itertools.pairwise(ends))


class _Reader(threading.Thread):
    """Calls `read` once. `error`: what it raised."""

    def __init__(self, read: Callable[[], object]) -> None:
        super().__init__(name="lineup-reader", daemon=True)
        self._read = read
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self.error = error


class Shard:
    """Reads its rows from sealed block files when it is made, and what came since when it is asked for that.

    It answers from memory. `node`: the node's folder, whose `node.toml` names the storage key. `gallery`: folder of
    block files. `epoch`: what slots are counted in. Nothing is raised here: a process that cannot begin is gone for
    good. Whoever asks for rows is told: every method that is given `rows`, how many slots of this range the asked
    version has, raises `BlocksError`, `StorageKeyError`, or `ClusterError` where the files have fewer.

    An `Answer` is the generation of the manifest (`nodes.blocks`) that the rows were read under, and the answer itself.

    Rows that `hold` asks for are read by a thread, and rows that are at hand are searched meanwhile.
    """

    def __init__(self, node: str, gallery: str, epoch: int, part: Range, dim: int, threads: int) -> None:
        self._node, self._gallery, self._threads = Path(node), Path(gallery), threads
        self._epoch, self._part = epoch, part
        self._memory = RowMemory(part.room, dim)
        self._files: BlockFiles | None = None
        self._held, self._generation = 0, -1
        self._reading, self._changing = threading.Lock(), threading.Lock()  # the second for a moment only
        self._forgotten: list[npt.NDArray[np.int64]] = []  # while rows are read
        self._reader: _Reader | None = None
        with suppress(LineupError, OSError):
            self._read()

    def hold(self, rows: int) -> Answer:
        """Begin to read until so many rows are at hand; gives how many are now."""
        if self._held < rows or self._reader is not None:
            reader = self._reader = self._reader or _Reader(self._read)
            reader.join(HOLD_SECONDS)
            if not reader.is_alive():
                self._reader = None
                if reader.error is not None and self._held < rows:
                    raise reader.error
                self._check(rows)
        return self._generation, self._held

    def score(self, rows: int, first: int, count: int, *probes: ScoringProbe) -> Answer:
        """Blocks of this range under several masks: uint32 (probes, count, 2, 2, n)."""
        view = self._first(rows)
        return self._generation, perform([ScoreRows(view, probe, first, count) for probe in probes], self._threads)

    def multiply(self, rows: int, name: str, first: int, count: int, values: npt.NDArray[np.int32]) -> Answer:
        """D·u modulo t of blocks of this range. `values`: int32 (k, d). `name`: of the preset. uint32 (k, rows)."""
        view, params = self._first(rows), preset(name)
        return self._generation, perform([Product(view, one, params, first, count) for one in values], self._threads)

    def take(self, rows: int, places: npt.NDArray[np.int64]) -> Answer:
        """Some rows, by their place in this range: int8 (k, d)."""
        view = self._first(rows)
        return self._generation, view[places]

    def forget(self, places: npt.NDArray[np.int64]) -> None:
        """Overwrite rows, by their place in this range. What was not read yet is gone from the files."""
        with self._changing:
            self._memory.rows[places] = 0
            if self._reading.locked():  # they may be among those that were just read
                self._forgotten.append(places)

    def status(self) -> dict[str, Any]:
        """Where it runs and what it holds."""
        return {"host": socket.gethostname(), "pid": os.getpid(), "first": self._part.first, "rows": self._held}

    def machine(self) -> str:
        """The ID of the machine of the cluster on which it runs."""
        return this_machine()

    def _first(self, rows: int) -> npt.NDArray[np.int8]:
        if self._held < rows:
            self._read()
        self._check(rows)
        return self._memory.rows[:rows]

    def _check(self, rows: int) -> None:
        if self._held < rows:
            where = f"{rows} rows from {self._part.first} on are asked for"
            raise ClusterError(f"{where}, {socket.gethostname()} finds {self._held} in {self._gallery}")

    def _read(self) -> None:
        """Read the rows that came since, those that are erased as zeros."""
        with self._reading:
            with self._changing:
                self._forgotten = []
            held, generation = self._read_on()
            with self._changing:
                for places in self._forgotten:
                    self._memory.rows[places] = 0
                self._generation, self._held = generation, held

    def _read_on(self) -> tuple[int, int]:
        """How many rows lie in memory now, and the generation of the manifest that they were read under."""
        if self._files is None:
            self._files = BlockFiles(self._gallery, storage_key(load_config(self._node)).blocks)
        newest = self._newest(self._files.manifest())
        reader, first, stop = VersionReader(self._files, newest.number), self._part.first, self._part.of(newest.rows)
        for start in range(self._held, stop, READ_ROWS):
            end = min(start + READ_ROWS, stop)
            self._memory.rows[start:end] = reader.read(first + start, first + end).rows
        return stop, self._files.manifest().generation  # at least that of every file that was read

    def _newest(self, manifest: Manifest) -> Version:
        """Of this epoch, also after a compaction: who still searches in it reads what was kept of it."""
        for version in reversed(manifest.versions):
            if version.epoch == self._epoch:
                return version
        raise UnknownVersion(f"no version of epoch {self._epoch} is kept in {self._gallery}")
