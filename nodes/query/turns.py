"""Who computes next: conversations of many states share a node's processors, and no state makes the others wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most `at_once` conversations compute at once. A turn that is free goes to the state that has computed least of
    those that wait, and within a state to who waited longest.

    A state with nothing to do keeps what it has computed until the others have computed as much: a pause between two
    steps makes nobody's account lower. Nor is it owed anything for a longer one: it begins again with as much as the
    least of the others. So there are never more accounts than states. `Parties.requester` is the state.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._running: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}  # that each state has computed

    @asynccontextmanager
    async def of(self, state: str) -> AsyncIterator[None]:
        """One turn of a state's."""
        await self._take(state)
        began = time.monotonic()
        try:
            yield
        finally:
            self._give_back(state, time.monotonic() - began)

    async def _take(self, state: str) -> None:
        if state not in self._seconds:
            self._seconds[state] = min(self._seconds.values(), default=0.0)
        if self._free:
            self._free -= 1
            self._running[state] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[state].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                if turn in self._waiting[state]:
                    self._waiting[state].remove(turn)
                self._forget()
            else:  # it was given, and nobody is there to take it
                self._give_back(state, 0.0)
            raise

    def _give_back(self, state: str, seconds: float) -> None:
        self._seconds[state] += seconds
        self._running[state] -= 1
        self._free += 1
        while self._free and self._waiting:
            following = min(self._waiting, key=self._seconds.__getitem__)
            turn = self._waiting[following].popleft()
            if not turn.done():  # else who waited for it was cancelled
                self._free -= 1
                self._running[following] += 1
                turn.set_result(None)
            if not self._waiting[following]:
                del self._waiting[following]
        self._forget()

    def _forget(self) -> None:
        """Accounts of states that have nothing to do, and that are no higher than the others'."""
        for state in [each for each, waiting in self._waiting.items() if not waiting]:
            del self._waiting[state]
        idle = [each for each in self._seconds if not self._running[each] and each not in self._waiting]
        least = min((spent for each, spent in self._seconds.items() if each not in idle), default=math.inf)
        for state in idle:
            del self._running[state]
            if self._seconds[state] <= least:
                del self._seconds[state]
