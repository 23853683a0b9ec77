"""Long work for the operator: lines of JSON that say how far it is, and a last one with what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.responses import StreamingResponse

from nodes.service.operator_api import Line, Progress
from pets.errors import InputError, LineupError

log = logging.getLogger("lineup.service")

LINES = "application/x-ndjson"
TELL_SECONDS = 0.25
SILENT_SECONDS = 10.0  # the longest without a line, so that neither side takes the other for gone
Run = Callable[[Callable[[Progress], None], asyncio.Event], Awaitable[Any]]

_going_on: set[asyncio.Task[Any]] = set()


def streamed(run: Run) -> StreamingResponse:
    """Answer with the lines of some work. `run` is given whom to tell, and an event that is set once nobody listens.

    What is half done when the listener goes is not broken off: its peers would wait in vain.
    """
    return StreamingResponse(_lines(run), media_type=LINES)


async def _lines(run: Run) -> AsyncIterator[bytes]:
    told: list[Progress] = []
    nobody_listens = asyncio.Event()
    task = asyncio.ensure_future(run(told.append, nobody_listens))
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    silent = 0.0
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=TELL_SECONDS)
            silent += TELL_SECONDS
            if told or silent >= SILENT_SECONDS:
                yield _line(Line(progress=told[-1] if told else None))
                told.clear()
                silent = 0.0
        yield _line(_last(task))
    finally:
        nobody_listens.set()


def _last(task: asyncio.Future[Any]) -> Line:
    """What came of it. A failure has the text that an operator may read, and nothing of others."""
    try:
        return Line(report=msgspec.Raw(msgspec.json.encode(task.result())))
    except LineupError as error:
        message = str(error) if isinstance(error, InputError) else None
        return Line(code=getattr(error, "code", "internal"), message=message)
    except Exception as error:
        log.error("internal error", extra={"error": type(error).__name__})
        return Line(code="internal")


def _line(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"
