"""The rows of one version in shards, to be used like one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.cluster.shards import Part, Shards
from pets.errors import LineupError
from protocol.errors import QueryRefused
from protocol.steps import Product, ScoreRows, Work
from protocol.work import RowsElsewhere


class ClusterRows(RowsElsewhere):
    """The first `rows` rows of `shards`, whatever came behind them since.

    `told` is called with the generation of the manifest under which a shard read what it answers with: whoever was
    forgotten since the rows were lent must be let go of before the answer is used. `copy`: read that one only.
    """

    def __init__(
        self, shards: Shards, rows: int, told: Callable[[int], object] = lambda _: None, copy: int | None = None
    ) -> None:
        self.shape = (rows, shards.dim)
        self.dtype = np.dtype(np.int8)
        self._shards, self._told, self._copy = shards, told, copy

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """Rows, fetched. A slice gives them as they are.

        Of single ones, as a search confirms them, none may have been forgotten meanwhile. Raises `QueryRefused`
        (internal) for that, and where the cluster does not give them; IndexError.
        """
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, np.int64)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"row {int(wanted.max())} of {len(self)}")
        try:
            found = self._fetch(wanted)
        except LineupError as error:  # whatever it is, it is no fault of a peer
            raise QueryRefused("internal", "the gallery cannot be used") from error
        if not isinstance(rows, slice) and not found.any(axis=1).all():  # no template is zero
            raise QueryRefused("internal", "a subject was forgotten during the search: ask again")
        return found

    def perform(self, works: Sequence[Work], threads: int) -> npt.NDArray[np.uint32]:
        """As `protocol.work.perform`, for works that share a pass; every shard does its part of it at once."""
        first, calls = works[0], self._shards.calls
        if isinstance(first, ScoreRows):
            n, probes = first.probe.params.n, [work.probe for work in works if isinstance(work, ScoreRows)]

            def ask(copy: Any, rows: int, start: int, count: int) -> Any:
                return calls.ask(copy, "score", rows, start, count, *[calls.there(probe) for probe in probes])

        else:
            n, name = first.params.n, first.params.preset
            values = np.stack([work.values for work in works if isinstance(work, Product)])

            def ask(copy: Any, rows: int, start: int, count: int) -> Any:
                return calls.ask(copy, "multiply", rows, name, start, count, values)

        pieces = self._over(n, first.first, first.first + first.count, ask)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)

    def _over(self, n: int, start: int, stop: int, ask: Callable[[Any, int, int, int], Any]) -> list[Any]:
        """Have every shard of blocks start … stop, of n rows, do its part, in row order."""
        pieces = []
        for part in self._shards.parts:
            rows, low = part.range.of(len(self)), part.range.first // n
            begin, end = max(start, low), min(stop, low - (-rows // n))
            if begin < end:
                pieces.append((part, _bound(ask, rows, begin - low, end - begin)))
        return self._answers(pieces)

    def _fetch(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        out: npt.NDArray[np.int8] = np.empty((len(wanted), self.shape[1]), np.int8)
        owned = list(self._shards.owners(wanted))
        pieces = [(part, self._taking(part, wanted[inside])) for part, inside in owned]
        for (_, inside), found in zip(owned, self._answers(pieces), strict=True):
            out[inside] = found
        return out

    def _taking(self, part: Part, rows: npt.NDArray[np.int64]) -> Callable[[Any], Any]:
        calls, places, count = self._shards.calls, rows - part.range.first, part.range.of(len(self))
        return lambda copy: calls.ask(copy, "take", count, places)

    def _answers(self, pieces: Sequence[tuple[Part, Callable[[Any], Any]]]) -> list[Any]:
        answers = self._shards.each(pieces, copy=self._copy)
        self._told(max((generation for generation, _ in answers), default=-1))
        return [value for _, value in answers]


def _bound(ask: Callable[[Any, int, int, int], Any], rows: int, first: int, count: int) -> Callable[[Any], Any]:
    return lambda copy: ask(copy, rows, first, count)
