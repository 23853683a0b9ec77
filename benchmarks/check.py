"""Has ours become slower beside numpy? Compares ratios with the checked-in ones, never seconds.

    python -m benchmarks.check               fails if a ratio is more than 25 % worse than in results/bench-check.json
    python -m benchmarks.check --smoke       the size for CI
    python -m benchmarks.check --write       measures and checks in what is the case now

A ratio is the processor time of an engine, offline part included, over that of numpy's float32 product of the same rows
in the same run: the least of several searches, which other work on the machine moves least.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from nodes.bench.run import Options, compare
from pets.params import N4096

RESULTS = Path(__file__).parent / "results" / "bench-check.json"
BASE = "plain-float32"
SIZES = {"smoke": (65_536, 128), "full": (262_144, 512)}  # rows, numbers of a template
ENGINES = ("blind-lineup", BASE)
WORSE = 0.25


def ratios(report: dict[str, Any]) -> dict[str, float]:
    """Processor time of each engine over numpy's."""
    least = {item["name"]: item["core_seconds_least_per_million"] for item in report["engines"]}
    names = [name for name in least if name not in (BASE, "blind-lineup-cold")]
    return {name: round(least[name] / least[BASE], 2) for name in names}


def worse(now: dict[str, float], before: dict[str, float]) -> list[str]:
    """One line for each ratio that is more than a quarter above the checked-in one, or that is missing."""
    lines = [f"{name} was not measured, checked in is {before[name]}" for name in before if name not in now]
    for name, ratio in now.items():
        if name in before and ratio > before[name] * (1 + WORSE):
            lines.append(f"{name} takes {ratio} times numpy, checked in is {before[name]}: more than 25 % worse")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the size for CI")
    parser.add_argument("--write", action="store_true", help="check in what is measured now")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size = "smoke" if options.smoke else "full"
    rows, dim = SIZES[size]
    wanted = Options(ENGINES, rows, dim, options.threads, options.runs, N4096.preset)
    report = compare(wanted, Console(stderr=True))
    now = ratios(report)
    checked_in = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    print(json.dumps({"size": size, "ratios": now, "checked_in": checked_in.get(size), "machine": report["machine"]}))
    if options.write:
        checked_in[size] = {"ratios": now, "rows": rows, "dim": dim, "machine": report["machine"]}
        RESULTS.write_text(json.dumps(checked_in, indent=2) + "\n", encoding="utf-8")
        return 0
    if size not in checked_in:
        print(f"{RESULTS} has nothing for this size; --write makes it", file=sys.stderr)
        return 1
    lines = worse(now, checked_in[size]["ratios"])
    print("\n".join(lines) or "no ratio is more than 25 % worse", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
