"""The gallery in chunks, so that memory is bounded by the chunk, and what follows from the bit that the cap opens."""

from __future__ import annotations

from pets.params import Parameters
from protocol.terms import Terms
from protocol.wire import CHUNK_ROWS

CONFIRM, CLIMB, EXHAUSTED = "confirm", "climb", "exhausted"


def chunks(blocks: int, params: Parameters) -> list[tuple[int, int]]:
    """(first block, number of blocks) of each chunk."""
    size = CHUNK_ROWS // params.n
    return [(first, min(size, blocks - first)) for first in range(0, blocks, size)]


def verdict_on(few: bool, rung: int, terms: Terms) -> str:
    """What follows from the bit that all three opened."""
    return CONFIRM if few else EXHAUSTED if rung == len(terms.rungs) - 1 else CLIMB
