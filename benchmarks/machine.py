"""What every benchmark states: machine, versions, commit. Also numpy's threads, which must be set before its import."""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nodes.bench.machine import commit as commit
from nodes.bench.machine import describe as describe


def prepare(threads: int = 2) -> None:
    """Call before numpy is imported: numpy gets as many threads as we do, and OpenBLAS its own choice of kernel."""
    if "numpy" in sys.modules:
        raise RuntimeError("numpy was imported before its threads were set")
    for choice in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        os.environ.pop(choice, None)
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(times: list[float]) -> float:
    return round(statistics.median(times), 5)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reset_peak() -> None:
    """Forget this process's memory peak, and what the allocator keeps of earlier work (Linux, glibc)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def available_bytes() -> int:
    """Memory that programs can have without swapping (Linux)."""
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
