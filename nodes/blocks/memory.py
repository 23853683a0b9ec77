"""Memory for the rows of a gallery: one array, more of it than is needed now, so that an append moves nothing.

Only the pages that rows were written to take memory; the rest is address space.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

# <asm-generic/mman-common.h>; the module has it from 3.13 on
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_PRIVATE = 0o600


class RowMemory:
    """`rows`: int8 (capacity, d), zeroed. `file`: lie in this file, in the clear, in the place of memory."""

    def __init__(self, capacity: int, dim: int, file: Path | None = None) -> None:
        self._dim = dim
        size = max(1, capacity * dim)
        if file is None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
            self._pages = mmap.mmap(-1, size, flags=flags)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                self._pages.madvise(mmap.MADV_HUGEPAGE)
        else:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, _PRIVATE)
            try:
                os.ftruncate(handle, size)
                self._pages = mmap.mmap(handle, size)
            finally:
                os.close(handle)
        self._in_file = file is not None
        self.rows: npt.NDArray[np.int8] = np.frombuffer(self._pages, np.int8, capacity * dim).reshape(capacity, dim)

    @property
    def capacity(self) -> int:
        """Rows that there is address space for."""
        return len(self.rows)

    def release(self, start: int, stop: int) -> None:
        """Zero some rows at the end; whole pages of them go back to the system."""
        first = -(-start * self._dim // mmap.PAGESIZE) * mmap.PAGESIZE
        length = stop * self._dim - first
        if self._in_file or length <= 0 or not hasattr(mmap, "MADV_DONTNEED"):
            self.rows[start:stop] = 0
            return
        self.rows[start : min(stop, -(-first // self._dim))] = 0
        self._pages.madvise(mmap.MADV_DONTNEED, first, length)

    def flush(self) -> None:
        """Bring a file's content to disk."""
        if self._in_file:
            self._pages.flush()
