"""Kernels compiled for another processor than this one, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What numba is told to compile for. All of it runs on any processor with AVX2; ours is compiled in every other test.
TARGETS = {
    "generic": ("generic", ""),
    "avx2": ("haswell", "+avx,+avx2,+fma,+bmi,+bmi2"),
}


def run_compiled_for(target: str, program: str, cache: Path) -> str:
    """Run a program with numba compiling for `target`, and return what it prints; errors go to ours."""
    name, features = TARGETS[target]
    settings = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
