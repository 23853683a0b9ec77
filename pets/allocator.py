"""Where large arrays lie: a query frees and takes the same megabytes again and again, a gallery stays.

By default glibc gives every freed block beyond 128 KB (later: beyond the largest seen, up to 32 MB) back to the system
and gets it again page by page; and each thread has a heap of its own, too small for anything large, whose freed memory
no other thread can use. Measured, pages took a third of the time of one query, and of sixteen at once as long as the
arithmetic. Elsewhere than on glibc nothing is changed.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Ask glibc to keep up to 1 GB of freed memory, for all threads. Call once, before a program starts threads."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 1 << 30),
        (_M_TOP_PAD, 64 << 20),
    ):
        libc.mallopt(option, value)


def peak_memory() -> int:
    """Bytes of the largest resident set that this process has had; of a fork, with what it shares."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def unshared_memory() -> int:
    """Bytes that a fork has had for itself at its peak: written by it, so not its parent's, nor a file's. Linux only.

    What it gave back since counts as its own. Where the system does not tell, all of `peak_memory`.
    """
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return peak_memory()
    sizes = {name: 1024 * int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    return sizes["Private_Dirty"] + max(0, peak_memory() - sizes["Rss"])


def pages_apart(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """A zeroed array in pages of its own, which go back to the system when it is dropped, whatever was kept above."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)
