"""What every measurement states: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("faiss-cpu", "openfhe", "tenseal")


def describe(threads: int, folder: Path | None = None) -> dict[str, object]:
    """Processor, cores, load, versions, the commit of `folder` (default: the working folder) and the date."""
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")), "unknown"
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "commit": commit(folder),
        "date": time.strftime("%Y-%m-%d"),
    }


def libraries() -> dict[str, str | None]:
    """Versions of the libraries that are compared; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for package in LIBRARIES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit(folder: Path | None = None) -> str:
    """The commit that is checked out, with "-dirty" behind it where files were changed since; "none" without one."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)  # noqa: S603  no input
    except OSError:  # no git here
        return "none"
    return done.stdout.strip() or "none"


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
