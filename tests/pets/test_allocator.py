"""Memory that a query frees is there for the next one, whichever thread runs it."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pets.allocator import pages_apart

SIZE = 48 << 20
TURNS = 4

# Page faults of a thread that takes and frees the same megabytes again and again, after the first time.
PROGRAM = f"""
import resource, sys, threading
from pets.allocator import keep_freed_memory

def turns(count):
    for _ in range(count):
        bytearray(b"x") * {SIZE}

def work():
    turns(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    turns({TURNS})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "keep":
    keep_freed_memory()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults(setting: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, setting], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told anything")
def test_freed_memory_serves_another_thread_without_page_faults_and_without_the_setting_it_does_not() -> None:
    pages = SIZE // resource.getpagesize()
    assert faults("keep") < pages
    assert faults("leave") > (TURNS - 1) * pages


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_pages_of_an_array_go_back_to_the_system_with_it() -> None:
    before = resident()
    array = pages_apart((3, SIZE // 12), np.uint32)
    assert not array.any()
    array[:] = 1
    assert resident() - before > SIZE // 2
    del array
    assert resident() - before < SIZE // 2
