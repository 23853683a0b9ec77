"""Fuzzing of every decoder: only typed errors, no crash, no hang, bounded memory.

python -m benchmarks.fuzz                        a million cases; prints JSON, exits 1 at the first kind of escape
python -m benchmarks.fuzz --cases 2000 --seed 7  fewer; the seed decides every case

An escape is any exception that is not in the decoder's list, a case over `SLOW_SECONDS`, or growth of the process by
more than `MEMORY_BYTES`. The bytes of the first ones are printed in hexadecimal.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.fuzz_evidence import Target
from benchmarks.fuzz_targets import memory_folder, targets
from benchmarks.machine import describe, resident_bytes

SLOW_SECONDS = 5
MEMORY_BYTES = 512 << 20
SHOWN = 20


class Hung(BaseException):
    """A case took too long. Not an `Exception`, so that no decoder catches it."""


def _hung(_: int, __: FrameType | None) -> None:
    raise Hung


def fuzz(target: Target, cases: int, seed: int) -> dict[str, Any]:
    """Run cases on one decoder."""
    rng = random.Random(f"{seed}|{target.name}")
    outcomes: Counter[str] = Counter()
    escapes: list[dict[str, str]] = []
    before, slowest, started = resident_bytes(), 0.0, time.perf_counter()
    for seed_input in target.seeds[:1]:
        target.decode(seed_input)  # the first one must be well formed, or nothing is tested
    for _ in range(cases):
        data = target.mutation(rng, target.seeds)
        signal.setitimer(signal.ITIMER_REAL, SLOW_SECONDS)
        begun = time.perf_counter()
        try:
            target.decode(data)
            outcomes["accepted"] += 1
        except target.errors as error:
            outcomes[type(error).__name__] += 1
        except (Exception, Hung) as error:
            outcomes[f"escaped: {type(error).__name__}"] += 1
            if len(escapes) < SHOWN:
                where = traceback.extract_tb(error.__traceback__)[-1]
                escapes.append({
                    "error": f"{type(error).__name__}: {error}"[:200],
                    "at": f"{Path(where.filename).name}:{where.lineno}",
                    "input": data.hex()[:4000],
                })  # fmt: skip
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - begun)
    return {
        "decoder": target.name,
        "cases": cases,
        "seconds": round(time.perf_counter() - started, 2),
        "slowest_s": round(slowest, 4),
        "grown_bytes": max(0, resident_bytes() - before),
        "outcomes": dict(outcomes.most_common()),
        "escaped": sum(count for name, count in outcomes.items() if name.startswith("escaped")),
        "escapes": escapes,
    }


def run(cases: int, seed: int) -> dict[str, Any]:
    """At least one case on every decoder, `cases` in all or a few more."""
    signal.signal(signal.SIGALRM, _hung)
    warnings.simplefilter("ignore")  # of image decoders about hostile metadata
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        every = list(targets(Path(folder)))
        limit = resident_bytes() + 8 * MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        total = sum(target.share for target in every)
        results = [fuzz(target, -(-cases * target.share // total), seed) for target in every]
    return {
        "machine": describe(1),
        "seed": seed,
        "cases": sum(result["cases"] for result in results),
        "decoders": len(results),
        "escaped": sum(result["escaped"] for result in results),
        "grown_bytes": max(result["grown_bytes"] for result in results),
        "slowest_s": max(result["slowest_s"] for result in results),
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report = run(arguments.cases, arguments.seed)
    print(json.dumps(report, indent=2))
    sys.exit(1 if report["escaped"] or report["grown_bytes"] > MEMORY_BYTES else 0)


if __name__ == "__main__":
    main()
