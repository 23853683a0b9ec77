"""Work side by side of which nothing goes on once nobody waits for it, and work that is done in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once. What one of it raises is raised when the others, which are cancelled then, are over.

    Each is cancelled once. Not `asyncio.gather` alone: cancelled, it cancels all and is over with the first of them;
    the others would be cancelled again here, while they put away what they did.
    """
    tasks = [asyncio.create_task(one) for one in work]
    if not tasks:
        return
    try:
        over, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await to_the_end(asyncio.gather(*tasks, return_exceptions=True))
    for task in over:
        task.result()


async def to_the_end(work: Awaitable[T]) -> T:
    """Do it, however often whoever waits for it is cancelled meanwhile: that is raised once it is done.

    A thread that is awaited alone never begins where that comes while all threads are busy.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # else the loop would log it
    raise cancelled
