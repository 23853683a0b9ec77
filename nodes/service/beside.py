"""The console beside a running node (`[console] enabled`): a process of its own, which ends with the node.

A process of its own, because whoever takes over what browsers talk to should not be inside the node.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0  # one that ran this long is started again at once
STOP_SECONDS = 10.0

_log = logging.getLogger("lineup.serve")


async def keep_console(folder: Path, name: str) -> None:
    """Start the console, and start it again whenever it ends, until this is cancelled. Its lines go where ours go."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        began = time.monotonic()
        command = (sys.executable, "-m", "nodes.cli", "console", "--dir", str(folder), "--with-parent")
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )  # Ctrl-C reaches the node, which ends it
        try:
            status = await process.wait()
        finally:
            await _end(process)
        if time.monotonic() - began > STEADY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        _log.error(f"console ended with status {status}; again in {pause:g} s", extra={"node": name})
        await asyncio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE_SECONDS)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
