"""Keeping the two copies of a shard on different machines: Ray leaves them where they were begun anew after a loss."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nodes.cluster.errors import Silent, WorkerLost
from nodes.cluster.shards import START_SECONDS, Part, Shards
from pets.errors import LineupError

log = logging.getLogger("lineup.cluster")

WHERE_SECONDS = 10.0  # to say where a process lies
PAUSE_SECONDS = 0.2
FULL = "no other has room for one"


@dataclass(frozen=True)
class Together:
    """How many ranges have both copies on one machine, and why the last of them stays so."""

    ranges: int = 0
    why: str = ""


def spread(shards: Shards) -> Together:
    """Move copies that lie on the machine of the other, where another machine has room; returns once they are there.

    Searches go on meanwhile. A process that does not say where it lies, because it works, is left alone until the next
    time. What is lost with the connection is made anew, apart.
    """
    stay: list[str] = []
    with suppress(WorkerLost):
        _spread(shards, stay)
    return Together(len(stay), stay[-1] if stay else "")


def _spread(shards: Shards, stay: list[str]) -> None:
    calls, turn = shards.calls, shards.calls.connected()
    held = [(part, part.copies) for part in shards.parts if turn and part.turn == turn and part.held]
    held = [(part, pair) for part, pair in held if len(pair) == 2]
    if not held:
        return
    found = calls.where(tuple(copy for _, pair in held for copy in pair), WHERE_SECONDS)
    firsts = Counter(found[::2])
    for (part, pair), machine, other in zip(held, found[::2], found[1::2], strict=True):
        if machine and machine == other and (why := _move(shards, part, pair, machine, firsts)):
            stay.append(why)


def _move(shards: Shards, part: Part, pair: tuple[Any, ...], machine: str, firsts: Counter[str]) -> str:
    """Have a third copy read its rows elsewhere, and end the second. Gives why the two stay where they are, if so."""
    calls, (kept, old) = shards.calls, pair
    if calls.where(pair, WHERE_SECONDS) != (machine, machine):
        return ""  # while others were moved, which takes minutes, these were begun anew
    if not calls.apart(kept):
        return FULL
    new = shards.add(part, pair)  # it hears who is forgotten, and nobody asks it yet
    if new is None:
        return ""
    three, leaves, why = (*pair, new), new, ""
    try:
        elsewhere = _read(shards, part, new)
        swap = firsts[elsewhere] < firsts[machine]  # who stood alone did the work of both
        if elsewhere == machine:
            why = FULL
        elif shards.change(part, three, (new, kept) if swap else (kept, new)):
            leaves = old
            firsts.update({elsewhere: int(swap)})
            firsts.subtract({machine: int(swap)})
            log.info(f"{part}: a copy lies on another machine again")
    except LineupError as error:
        why = f"another did not read the rows: {error}"
        log.warning(f"{part}: no copy on another machine", extra={"error": str(error)})
    finally:
        stays = shards.change(part, three, pair)
        shards.end(leaves)
    return why if stays and part.turn == calls.connected() else ""


def _read(shards: Shards, part: Part, copy: Any) -> str:
    """Wait until a copy has its rows; gives the machine on which it lies. Raises `Silent`, and what the copy raised."""
    calls, deadline = shards.calls, time.monotonic() + START_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        rows = part.range.of(shards.reached)
        _, held = calls.get(calls.ask(copy, "hold", rows), left)
        if held >= rows and (machine := calls.where((copy,), WHERE_SECONDS)[0]):
            return machine
        time.sleep(PAUSE_SECONDS)
    raise Silent(f"silence for {START_SECONDS:.0f} s")
