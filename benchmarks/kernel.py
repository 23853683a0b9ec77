"""Scoring rows under an encrypted mask, which preparing is made of, beside numpy's float32 product in the same run.

    python -m benchmarks.kernel --rows 262144 --dim 512 --threads 2

Prints JSON. Times are seconds. The two sides take turns, so that a busy machine hits both alike; medians and minima
of all turns are reported, and `ratio` is ours divided by numpy's. (What a search does with rows: `benchmarks.product`.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

# numpy's product must run on as many threads as ours; OpenBLAS reads this once, when numpy is imported.
if "--threads" in sys.argv[:-1]:
    os.environ["OPENBLAS_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1]
else:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

from typing import Any

import numpy as np

from pets import params as presets
from pets import scoring


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def summary(times: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(times), 5), "min": round(min(times), 5), "runs": len(times)}


def random_probe(rng: np.random.Generator, dim: int, params: presets.Parameters) -> np.ndarray[Any, Any]:
    return rng.integers(0, min(params.primes), (dim, 2, 2, params.n), np.uint32)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=262144)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--probes", type=int, default=16, help="probes that share one pass")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--preset", default=presets.N4096.preset, choices=sorted(presets.PRESETS))
    options = parser.parse_args()
    params, rows, dim, threads = presets.preset(options.preset), options.rows, options.dim, options.threads
    rng = np.random.default_rng(1)

    templates = rng.integers(-127, 128, (rows, dim), np.int8)
    ciphertexts = random_probe(rng, dim, params)
    scoring.prepare_probe(ciphertexts[:8], params, threads)
    prepare = [timed(lambda: scoring.prepare_probe(ciphertexts, params, threads)) for _ in range(5)]
    probe = scoring.prepare_probe(ciphertexts, params, threads)
    scoring.score_rows(templates[:16], [probe], params, threads)  # compiles

    plain = rng.standard_normal((rows, dim), np.float32)
    vector = plain[0].copy()
    ours, numpy_times = [], []
    for _ in range(options.runs):
        numpy_times.append(timed(lambda: plain @ vector))
        ours.append(timed(lambda: scoring.score_rows(templates, [probe], params, threads)))

    report: dict[str, object] = {
        "machine": f"{platform.machine()} {os.cpu_count()} cpus, python {platform.python_version()}",
        "commit": commit(),
        "preset": params.preset,
        "rows": rows,
        "dim": dim,
        "threads": threads,
        "numpy_float32": summary(numpy_times),
        "numpy_gb_per_s": round(plain.nbytes / min(numpy_times) / 1e9, 2),
        "score": summary(ours),
        "score_s_per_million_rows": round(statistics.median(ours) * 1e6 / rows, 4),
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(numpy_times), 3),
        "ratio_of_minima": round(min(ours) / min(numpy_times), 3),
        "prepare_probe": summary(prepare),
    }
    if options.probes > 1:
        several = [
            scoring.prepare_probe(random_probe(rng, dim, params), params, threads) for _ in range(options.probes)
        ]
        one, many = [], []
        for _ in range(max(3, options.runs // 3)):
            one.append(timed(lambda: scoring.score_rows(templates, [probe], params, threads)))
            many.append(timed(lambda: scoring.score_rows(templates, several, params, threads)))
        report["probes"] = options.probes
        report["score_together"] = summary(many)
        report["many_over_one_medians"] = round(statistics.median(many) / statistics.median(one), 2)
        report["many_over_one_minima"] = round(min(many) / min(one), 2)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
