"""One range of rows, held by one process of the cluster."""

from __future__ import annotations

import itertools
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.blocks import BlockFiles
from nodes.cluster.errors import ClusterError
from nodes.config.schema import load_config
from nodes.config.storage import storage_key
from pets.params import preset
from pets.scoring import ScoringProbe
from protocol.steps import Product, ScoreRows
from protocol.work import perform


@dataclass(frozen=True)
class Range:
    """Rows `first` … `first + rows` of a version of a gallery."""

    first: int
    rows: int


def split(rows: int, unit: int, shards: int) -> tuple[Range, ...]:
    """Rows in ranges as even as whole units allow; fewer than `shards` where there are not as many units."""
    units = -(-rows // unit)
    count = max(1, min(shards, units))
    ends = [min(rows, units * k // count * unit) for k in range(count + 1)]
    return tuple(Range(start, stop - start) for start, stop in itertools.pairwise(ends))


class Shard:
    """Opens its rows from sealed block files when it is made, and answers from memory.

    `node`: the node's folder, whose `node.toml` names the storage key. `gallery`: folder of block files. `version`:
    number of the version. Raises `BlocksError`, `StorageKeyError`, `ClusterError` for a range that it does not have.
    """

    def __init__(self, node: str, gallery: str, version: int, part: Range, threads: int) -> None:
        self._threads = threads
        files = BlockFiles(Path(gallery), storage_key(load_config(Path(node))).blocks)
        manifest = files.manifest()
        there = manifest.version(version).rows
        stop = part.first + part.rows
        if stop > there:
            raise ClusterError(f"rows {part.first} to {stop} of version {version}, which has {there}")
        self._rows = np.empty((part.rows, manifest.dim), np.int8)
        reader, size = files.block_reader(manifest), manifest.block_rows
        for index in range(part.first // size, -(-stop // size)):
            start = max(part.first, index * size)
            rows = reader.read(manifest.blocks[index]).rows[start - index * size : stop - index * size]
            self._rows[start - part.first : start - part.first + len(rows)] = rows

    def score(self, first: int, count: int, *probes: ScoringProbe) -> npt.NDArray[np.uint32]:
        """Blocks of this range under several masks: uint32 (probes, count, 2, 2, n)."""
        return perform([ScoreRows(self._rows, probe, first, count) for probe in probes], self._threads)

    def multiply(self, name: str, first: int, count: int, values: npt.NDArray[np.int32]) -> npt.NDArray[np.uint32]:
        """D·u modulo t of blocks of this range. `values`: int32 (k, d). `name`: of the preset. uint32 (k, rows)."""
        params = preset(name)
        return perform([Product(self._rows, one, params, first, count) for one in values], self._threads)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """Some rows, by their place in this range: int8 (k, d)."""
        return self._rows[rows]

    def forget(self, rows: npt.NDArray[np.int64]) -> None:
        """Overwrite rows, by their place in this range."""
        self._rows[rows] = 0

    def status(self) -> dict[str, Any]:
        """Where it runs and what it holds."""
        return {"host": socket.gethostname(), "pid": os.getpid(), "rows": len(self._rows), "bytes": self._rows.nbytes}
