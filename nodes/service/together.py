"""Work side by side of which nothing goes on once nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once. What one of it raises is raised when the others, which are cancelled then, are over.

    Each is cancelled once. Not `asyncio.gather`: cancelled, it cancels all and is over with the first of them; the
    others would be cancelled again here, while they put away what they did.
    """
    tasks = [asyncio.create_task(one) for one in work]
    if not tasks:
        return
    try:
        over, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        _ = [task.exception() for task in tasks if not task.cancelled()]  # else the loop would log them
    for task in over:
        task.result()
