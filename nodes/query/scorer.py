"""Scoring for all queries of a node: those that want the same blocks at the same time share one pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pets.scoring import score_many
from protocol.engine import BATCH
from protocol.steps import Score

Scored = npt.NDArray[np.uint32]


class Scorer:
    """One pass over a gallery runs at a time; wants that arrive meanwhile wait and are served together."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._waiting: list[tuple[Score, asyncio.Future[Scored]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def score(self, want: Score) -> Scored:
        """uint32 (count, 2, 2, n) of `want`."""
        future: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append((want, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._waiting:
            first = self._waiting[0][0]
            batch = [item for item in self._waiting if _same_blocks(item[0], first)][:BATCH]
            self._waiting = [item for item in self._waiting if item not in batch]
            try:
                results = await asyncio.to_thread(self._score, [want for want, _ in batch])
            except Exception as error:  # whatever it is, the queries that wait must hear of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _score(self, wants: Sequence[Score]) -> Scored:
        first = wants[0]
        probes = [want.probe for want in wants]
        return score_many(first.gallery, probes, first.first, first.count, self._threads)


def _same_blocks(a: Score, b: Score) -> bool:
    return a.gallery is b.gallery and (a.first, a.count) == (b.first, b.count)
