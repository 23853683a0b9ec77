"""Keeping the two copies of a shard on different machines: Ray leaves them where they were begun anew after a loss."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from nodes.cluster.errors import WorkerLost
from nodes.cluster.shards import START_SECONDS, Part, Shards
from pets.errors import LineupError

log = logging.getLogger("lineup.cluster")

WHERE_SECONDS = 10.0  # to say where a process lies
PAUSE_SECONDS = 0.2


def spread(shards: Shards) -> int:
    """Move copies that lie on the machine of the other, where another machine has room; returns once they are there.

    Searches go on meanwhile. Gives how many ranges have both copies on one machine still. A process that does not say
    where it lies, because it works, is left alone until the next time.
    """
    try:
        return _spread(shards)
    except WorkerLost:  # what is lost with the connection is made anew, apart
        return 0


def _spread(shards: Shards) -> int:
    calls, turn = shards.calls, shards.calls.connected()
    parts = [part for part in shards.parts if turn and part.turn == turn and part.held and len(part.copies) == 2]
    if not parts:
        return 0
    found = calls.where(tuple(copy for part in parts for copy in part.copies), WHERE_SECONDS)
    firsts = Counter(found[::2])
    together = 0
    for part, machine, other in zip(parts, found[::2], found[1::2], strict=True):
        if machine and machine == other:
            together += not (calls.apart(part.copies[0]) and _move(shards, part, machine, firsts))
    return together


def _move(shards: Shards, part: Part, machine: str, firsts: Counter[str]) -> bool:
    """Have a third copy read its rows elsewhere, and end the second. Whether that went well."""
    kept, old = part.copies
    new = shards.make(part, beside=kept)
    changed = shards.change(part, (kept, old), (kept, old, new))  # it hears who is forgotten, and nobody asks it yet
    elsewhere = _read(shards, part, new) if changed else ""
    if elsewhere and elsewhere != machine:
        swap = firsts[elsewhere] < firsts[machine]  # who stood alone did the work of both
        if shards.change(part, (kept, old, new), (new, kept) if swap else (kept, new)):
            firsts.update({elsewhere: int(swap)})
            firsts.subtract({machine: int(swap)})
            _end(shards, old)
            log.info(f"{part}: a copy lies on another machine again")
            return True
    shards.change(part, (kept, old, new), (kept, old))
    _end(shards, new)
    return False


def _read(shards: Shards, part: Part, copy: Any) -> str:
    """Wait until a copy has its rows; gives the machine on which it lies, empty where it has them not in time."""
    calls, deadline = shards.calls, time.monotonic() + START_SECONDS
    try:
        while (left := deadline - time.monotonic()) > 0:
            rows = part.range.of(shards.reached)
            _, held = calls.get(calls.ask(copy, "hold", rows), left)
            if held >= rows:
                return calls.where((copy,), WHERE_SECONDS)[0]
            time.sleep(PAUSE_SECONDS)
    except LineupError as error:
        log.warning(f"{part}: no copy on another machine", extra={"error": str(error)})
    return ""


def _end(shards: Shards, copy: Any) -> None:
    with suppress(WorkerLost):
        shards.calls.end((copy,))
