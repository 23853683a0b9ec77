"""Work on a gallery for all conversations of a node: those that want the same blocks at once share one pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from protocol.steps import Work, WorkResult
from protocol.work import passes, perform

BATCH = 16  # that share one pass; bounds memory at 100 MB each (d = 512)
GIVE_WAY_SECONDS = 5.0  # the longest that a preparation waits for searches before each pass: its peers wait with it


class Scorer:
    """One pass runs at a time; works that arrive meanwhile wait and are done together.

    `threads`: of a pass. `turn`: waited for before each pass.
    """

    def __init__(self, threads: int, turn: Callable[[], Awaitable[None]] | None = None) -> None:
        self._threads = threads
        self._turn = turn
        self._waiting: list[tuple[Work, asyncio.Future[WorkResult]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def score(self, work: Work) -> WorkResult:
        """The result of `work` (`protocol.steps`)."""
        future: asyncio.Future[WorkResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        while self._waiting:
            if self._turn is not None:
                await self._turn()
            self._waiting = [item for item in self._waiting if not item[1].done()]  # else nobody waits for it any more
            if not self._waiting:
                return
            batch = passes(self._waiting, lambda item: item[0])[0][:BATCH]
            taken = {id(future) for _, future in batch}
            self._waiting = [item for item in self._waiting if id(item[1]) not in taken]
            try:
                results = await asyncio.to_thread(perform, [work for work, _ in batch], self._threads)
            except Exception as error:  # whatever it is, the conversations that wait must hear of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


class Precedence:
    """Searches before preparations. `seconds`: the longest that anybody gives way. `searches`: under way now."""

    def __init__(self, seconds: float = GIVE_WAY_SECONDS) -> None:
        self.searches = 0
        self._seconds = seconds
        self._quiet = asyncio.Event()
        self._quiet.set()

    def begin(self) -> None:
        """A search begins."""
        self.searches += 1
        self._quiet.clear()

    def end(self) -> None:
        """A search is over."""
        self.searches -= 1
        if not self.searches:
            self._quiet.set()

    async def give_way(self) -> None:
        """Wait until no search is under way, but not for ever: an officer may wait for this very preparation."""
        try:
            await asyncio.wait_for(self._quiet.wait(), self._seconds)
        except asyncio.TimeoutError:
            return
