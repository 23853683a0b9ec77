"""Spreading kernels that release the GIL over a few threads.

numba's own `prange` is not used: its portable threading layer dies when two Python threads enter it at once,
and nodes serve several queries at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise

from pets.errors import ParameterError

MAX_THREADS = 256
TURN = 0.0003  # seconds; Python's own is 0.005


def check_threads(threads: int) -> int:
    """Return `threads`, or raise `ParameterError` outside 1…256."""
    if not 1 <= threads <= MAX_THREADS:
        raise ParameterError(f"threads must be 1 to {MAX_THREADS}, got {threads}")
    return threads


def default_threads() -> int:
    """Processors this process may use."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@contextmanager
def short_turns() -> Iterator[None]:
    """While threads take many small steps between kernels: who comes out of a kernel soon gets the interpreter's lock.

    Python lets a thread wait for five milliseconds, in which another could do ten steps. Holds for the whole process.
    """
    usual = sys.getswitchinterval()
    if usual <= TURN:
        yield
        return
    sys.setswitchinterval(TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


@lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="lineup")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of the threads


def parallel_ranges(
    work: Callable[[int, int], object], count: int, threads: int, grain: int = 1, ranges: int = 1
) -> None:
    """Call `work(start, stop)` on consecutive ranges that cover 0…count, `ranges` for each thread.

    More than one lets a thread that is held up leave some to the others. Range borders are multiples of `grain`. An
    exception in any range is raised here after all have ended.
    """
    grains = -(-count // grain)
    parts = min(threads * ranges, grains)
    if threads == 1 or parts <= 1:
        if count:
            work(0, count)
        return
    borders = [min(count, grain * (grains * part // parts)) for part in range(parts + 1)]
    futures = [_pool(threads).submit(work, start, stop) for start, stop in pairwise(borders)]
    for future in futures:
        future.exception()
    for future in futures:
        future.result()
