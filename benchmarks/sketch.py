"""Time and bytes of the set sketch: `python -m benchmarks.sketch`. Prints JSON; times are medians on one thread."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks.machine import commit
from pets import sketch

CASES = ((1_000_000, 10), (1_000_000, 99), (40_000_000, 10))


def median_ms(work: Callable[[], object], repeats: int = 7) -> float:
    work()  # compiles the kernels and fills their tables
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 3)


def measure(rows: int, cap: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    share = rng.integers(0, 2**64, -(-rows // 64), dtype=np.uint64)
    hits = np.sort(rng.choice(rows, cap, replace=False))
    other = share.copy()
    for hit in hits.tolist():
        other[hit // 64] ^= np.uint64(1 << hit % 64)
    sums = sketch.combine(sketch.power_sums(share, cap), sketch.power_sums(other, cap))
    if sketch.decode(sums, rows, cap) != tuple(hits.tolist()):
        raise AssertionError("the sketch lost its hits")
    return {
        "rows": rows,
        "cap": cap,
        "sums_ms": median_ms(lambda: sketch.power_sums(share, cap)),
        "decode_ms": median_ms(lambda: sketch.decode(sums, rows, cap)),
        "bytes": sums.nbytes,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    report = {
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "python": platform.python_version(),
        "commit": commit(),
        "results": [measure(rows, cap) for rows, cap in CASES],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
