"""Has ours become slower beside numpy, or does it send more? Never compares seconds.

    python -m benchmarks.check               fails if a ratio is more than 25 % worse than in results/bench-check.json
    python -m benchmarks.check --smoke       what CI runs: bytes by link and messages waited for, which must be the same
    python -m benchmarks.check --write       measures and checks in what is the case now, with --smoke or without

A ratio is the processor time of an engine, offline part included, over that of numpy's float32 product of the same rows
in the same run: the least of several searches, which other work on the machine moves least. It still depends on the
processor, and CI has whichever comes, so CI checks what depends on none.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from nodes.bench.blind_lineup import BlindLineup
from nodes.bench.engine import Clock
from nodes.bench.machine import describe
from nodes.bench.run import COLD, Options, compare
from nodes.bench.worker import gallery
from pets.params import N4096

RESULTS = Path(__file__).parent / "results" / "bench-check.json"
BASE = "plain-float32"
FULL = (262_144, 512)  # rows, numbers of a template
SMOKE = (20_000, 64)
ENGINES = ("blind-lineup", BASE)
WORSE = 0.25


def ratios(report: dict[str, Any]) -> dict[str, float]:
    """Processor time of each engine over numpy's."""
    least = {item["name"]: item["core_seconds_least_per_million"] for item in report["engines"]}
    return {name: round(least[name] / least[BASE], 2) for name in least if name not in (BASE, COLD)}


def worse(now: dict[str, float], before: dict[str, float]) -> list[str]:
    """One line for each ratio that is more than a quarter above the checked-in one, or that is missing."""
    lines = [f"{name} was not measured, checked in is {before[name]}" for name in before if name not in now]
    for name, ratio in now.items():
        if name in before and ratio > before[name] * (1 + WORSE):
            lines.append(f"{name} takes {ratio} times numpy, checked in is {before[name]}: more than 25 % worse")
    return lines


def exact(threads: int) -> dict[str, Any]:
    """What one preparation and one search send by link, and how many messages the search waits for."""
    templates, probes, planted = gallery(*SMOKE, 0)
    engine = BlindLineup(SMOKE[1], threads, N4096.preset)
    engine.enrol(templates)
    engine.prepare(1)
    if [set(rows) for rows in engine.search(probes, Clock())] != planted:
        raise SystemExit("wrong rows were found")
    sent = {"online": engine.costs.online_bytes, "offline": engine.costs.offline_bytes}
    return {"bytes": sent, "hops": engine.hops(probes[0])}


def different(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """One line for each number that is not the checked-in one; both ways, because a gain is checked in as well."""
    flat = [_flat(values) for values in (before, now)]
    return [
        f"{name}: {flat[1].get(name)}, checked in is {flat[0].get(name)}"
        for name in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(name) != flat[1].get(name)
    ]


def _flat(values: dict[str, Any]) -> dict[str, int]:
    parts = {f"{part} bytes, {link}": n for part, links in values["bytes"].items() for link, n in links.items()}
    return parts | {"messages waited for": values["hops"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="bytes and messages only")
    parser.add_argument("--write", action="store_true", help="check in what is measured now")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    size, (rows, dim) = ("smoke", SMOKE) if options.smoke else ("full", FULL)
    now: dict[str, Any] = {"rows": rows, "dim": dim, "machine": describe(options.threads)}
    if options.smoke:
        now |= exact(options.threads)
    else:
        wanted = Options(ENGINES, rows, dim, options.threads, options.runs, N4096.preset)
        now |= {"ratios": ratios(compare(wanted, Console(stderr=True)))}
    checked_in = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    print(json.dumps({"size": size, "now": now, "checked_in": checked_in.get(size)}))
    if options.write:
        checked_in[size] = now
        RESULTS.write_text(json.dumps(checked_in, indent=2) + "\n", encoding="utf-8")
        return 0
    if size not in checked_in:
        print(f"{RESULTS} has nothing for this size; --write makes it", file=sys.stderr)
        return 1
    before = checked_in[size]
    lines = different(now, before) if options.smoke else worse(now["ratios"], before["ratios"])
    processors = [values["machine"]["processor"] for values in (before, now)]
    if lines and not options.smoke and processors[0] != processors[1]:
        lines.append(f"checked in on {processors[0]}, this is {processors[1]}: ratios differ between processors")
    print("\n".join(lines) or "as checked in", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
