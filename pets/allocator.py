"""Keeping freed memory: a query frees and takes the same megabytes again and again.

By default glibc gives every freed block beyond 128 KB (later: beyond the largest seen) back to the system and gets it
again page by page; measured, that is a third of a query's time. Elsewhere than on glibc nothing is changed.
"""

from __future__ import annotations

import ctypes
import platform

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Ask glibc to keep up to 1 GB of freed memory for this process. Call once, at the start of a program."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 1 << 30), (_M_TOP_PAD, 64 << 20)):
        libc.mallopt(option, value)
