"""All rows of a gallery in shards, to be used like one array."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.cluster.errors import ClusterUnavailable
from nodes.cluster.shard import Range
from pets.scoring import ScoringProbe
from protocol.steps import Product, ScoreRows, Work
from protocol.work import RowsElsewhere

log = logging.getLogger("lineup.cluster")

PAUSE_SECONDS = 0.2  # between tries of a shard of which no copy answers
PROBES_KEPT = 32  # encrypted masks that lie with the shards; 33 MB each at d = 512


@dataclass(frozen=True)
class Part:
    """A shard and the processes that hold it, the same rows in each."""

    range: Range
    copies: tuple[Any, ...]


class ClusterRows(RowsElsewhere):
    """`parts`: in row order, without gaps. `patience`: seconds for one piece of work, over all tries of it.

    `calls` is the part of Ray that is used: see `nodes.cluster.connection.Calls`. Every method may raise
    `ClusterUnavailable`, and what a shard raises for what it was asked.
    """

    def __init__(self, parts: Sequence[Part], dim: int, unit: int, calls: Any, patience: float = 120.0) -> None:
        self.parts = tuple(parts)
        self.shape = (sum(part.range.rows for part in parts), dim)
        self.dtype = np.dtype(np.int8)
        self._unit = unit
        self._calls = calls
        self._patience = patience
        self._put: OrderedDict[int, tuple[ScoringProbe, Any]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """A few rows, fetched."""
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        out = np.empty((len(wanted), self.shape[1]), np.int8)
        for part, inside, mine in self._owners(wanted):
            out[inside] = self._ask(part, partial(_take, mine))
        return out

    def forget(self, rows: Iterable[int]) -> None:
        """Overwrite rows in every copy. A copy that is down reads them from the files again, where they are gone."""
        for part, _, mine in self._owners(np.fromiter(rows, np.int64)):
            for copy in part.copies:
                try:
                    self._calls.get(copy.forget.remote(mine), self._patience)
                except self._calls.lost as error:
                    log.warning("a shard did not hear what to forget", extra={"error": type(error).__name__})

    def perform(self, works: Sequence[Work], threads: int) -> npt.NDArray[np.uint32]:
        """As `protocol.work.perform`, for works that share a pass; every shard does its part of it at once."""
        first = works[0]
        start, stop = first.first, first.first + first.count
        if isinstance(first, ScoreRows):
            probes = [self._there(work.probe) for work in works if isinstance(work, ScoreRows)]
            pieces = self._over(start, stop, lambda copy, at, count: copy.score.remote(at, count, *probes))
        else:
            assert isinstance(first, Product)
            values = np.stack([work.values for work in works if isinstance(work, Product)])
            name = first.params.preset
            pieces = self._over(start, stop, lambda copy, at, count: copy.multiply.remote(name, at, count, values))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def _over(self, start: int, stop: int, ask: Callable[[Any, int, int], Any]) -> list[npt.NDArray[np.uint32]]:
        """Have every shard of blocks start … stop do its part, in row order."""
        asked: list[tuple[Part, Callable[[Any], Any]]] = []
        for part in self.parts:
            low, high = part.range.first // self._unit, -(-(part.range.first + part.range.rows) // self._unit)
            begin, end = max(start, low), min(stop, high)
            if begin < end:
                asked.append((part, partial(_of_blocks, ask, begin - low, end - begin)))
        begun = [(part, one, one(part.copies[0])) for part, one in asked]
        return [self._answer(part, one, reference) for part, one, reference in begun]

    def _ask(self, part: Part, ask: Callable[[Any], Any]) -> Any:
        return self._answer(part, ask, ask(part.copies[0]))

    def _answer(self, part: Part, ask: Callable[[Any], Any], reference: Any) -> Any:
        """The answer; from another copy, or from the same one started anew, where a worker was lost."""
        deadline, tries = time.monotonic() + self._patience, 0
        while True:
            try:
                return self._calls.get(reference, max(0.1, deadline - time.monotonic()))
            except self._calls.lost as error:
                tries += 1
                name = f"rows {part.range.first} to {part.range.first + part.range.rows}"
                log.warning("a worker was lost; its part is asked for again", extra={"error": type(error).__name__})
                if time.monotonic() > deadline:
                    raise ClusterUnavailable(
                        f"{name}: no answer in {self._patience:g} s, {tries} tries ({type(error).__name__})"
                    ) from None
            if tries % len(part.copies) == 0:
                time.sleep(PAUSE_SECONDS)
            reference = ask(part.copies[tries % len(part.copies)])

    def _there(self, probe: ScoringProbe) -> Any:
        """The encrypted mask where every shard can read it. Ciphertext; rows never go there."""
        with self._lock:
            kept = self._put.get(id(probe))
            if kept is None:
                kept = self._put[id(probe)] = (probe, self._calls.put(probe))
                while len(self._put) > PROBES_KEPT:
                    self._put.popitem(last=False)
            self._put.move_to_end(id(probe))
            return kept[1]

    def _owners(self, rows: npt.NDArray[np.int64]) -> list[tuple[Part, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Of each shard that has any of them: which of `rows`, and their places in it. Raises IndexError."""
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"row {int(rows.max())} of {len(self)}")
        found = []
        for part in self.parts:
            inside = np.flatnonzero((rows >= part.range.first) & (rows < part.range.first + part.range.rows))
            if len(inside):
                found.append((part, inside, rows[inside] - part.range.first))
        return found


def _take(rows: npt.NDArray[np.int64], copy: Any) -> Any:
    return copy.take.remote(rows)


def _of_blocks(ask: Callable[[Any, int, int], Any], first: int, count: int, copy: Any) -> Any:
    return ask(copy, first, count)
