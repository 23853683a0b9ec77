"""Who computes next: conversations of many states share a node's processors, and no state makes the others wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most `at_once` conversations compute at once. A turn that is free goes to the state that has computed least of
    those that wait, and within a state to who waited longest.

    A state with nothing to do keeps what it has computed until the others have computed as much: a pause between two
    steps makes nobody's account lower. Nor is it owed anything for a longer one: it begins again with as much as the
    least of the others. So there are never more accounts than states. `Parties.requester` is the state.

    A step is not interrupted: who has a single conversation waits for one step of another state's at each of its own,
    and where those are long gets less than its share. A step under way counts from its beginning: else who has a long
    one would pass for one that computed nothing, and whoever comes meanwhile would begin with as little.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: defaultdict[str, deque[asyncio.Future[float]]] = defaultdict(deque)
        self._running: defaultdict[str, list[float]] = defaultdict(list)  # when its steps under way began
        self._seconds: dict[str, float] = {}  # that each state has computed in those that are over

    @asynccontextmanager
    async def of(self, state: str) -> AsyncIterator[None]:
        """One turn of a state's."""
        began = await self._take(state)
        try:
            yield
        finally:
            self._give_back(state, began)

    async def _take(self, state: str) -> float:
        """Wait for a turn; gives when it began."""
        if state not in self._seconds:
            self._seconds[state] = min(map(self._spent, self._seconds), default=0.0)
        if self._free:
            return self._begin(state)
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[state].append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                if turn in self._waiting[state]:
                    self._waiting[state].remove(turn)
                self._forget()
            else:  # it was given, and nobody is there to take it
                self._give_back(state, turn.result())
            raise

    def _begin(self, state: str) -> float:
        self._free -= 1
        began = time.monotonic()
        self._running[state].append(began)
        return began

    def _spent(self, state: str) -> float:
        now = time.monotonic()
        return self._seconds[state] + sum(now - began for began in self._running.get(state, ()))

    def _give_back(self, state: str, began: float) -> None:
        self._seconds[state] += time.monotonic() - began
        self._running[state].remove(began)
        self._free += 1
        while self._free and self._waiting:
            following = min(self._waiting, key=self._spent)
            turn = self._waiting[following].popleft()
            if not turn.done():  # else who waited for it was cancelled
                turn.set_result(self._begin(following))
            if not self._waiting[following]:
                del self._waiting[following]
        self._forget()

    def _forget(self) -> None:
        """Accounts of states that have nothing to do, and that are no higher than the others'."""
        for state in [each for each, waiting in self._waiting.items() if not waiting]:
            del self._waiting[state]
        for state in [each for each, steps in self._running.items() if not steps]:
            del self._running[state]
        idle = [each for each in self._seconds if each not in self._running and each not in self._waiting]
        least = min((self._spent(each) for each in self._seconds if each not in idle), default=math.inf)
        for state in idle:
            if self._seconds[state] <= least:
                del self._seconds[state]
