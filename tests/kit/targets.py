"""Kernels compiled for another processor than this one, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llvmlite import binding

# What numba is told to compile for: name and features. Ours is compiled in every other test.
TARGETS = {
    "generic": ("generic", ""),
    "avx2": ("haswell", "+avx,+avx2,+fma,+bmi,+bmi2"),
    "avx512": ("skylake-avx512", "+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl"),
    "avx-vnni": ("alderlake", "+avx,+avx2,+fma,+bmi,+bmi2,+avxvnni"),
    "avx512-vnni": ("icelake-server", "+avx,+avx2,+fma,+bmi,+bmi2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni"),
}


def lacking(target: str) -> str:
    """What this processor cannot run of a target's instructions, nothing if it can."""
    own = binding.get_host_cpu_features()
    return ", ".join(name for name in TARGETS[target][1].split(",") if name and not own.get(name[1:]))


def run_compiled_for(target: str, program: str, cache: Path) -> str:
    """Run a program with numba compiling for `target`, and return what it prints; errors go to ours."""
    name, features = TARGETS[target]
    settings = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
