"""The encrypted search end to end, beside numpy's float32 product of the same rows, in one run.

    python -m benchmarks.search                      262,144 rows and 10^6 rows, d = 512
    python -m benchmarks.search --rows 8192 --large 0 --dim 128      a smoke run

Prints JSON and a table of the figures with what they must be and aim at. Three parties in one process, so the online
time is the work of all three on these cores, without a network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=262144)
parser.add_argument("--large", type=int, default=1_000_000, help="rows of the large run; 0 leaves it out")
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=7)
parser.add_argument("--probes", type=int, default=16)
parser.add_argument("--json", type=Path)
parser.add_argument("--only", action="store_true", help="one size, in this process, JSON only")
options = parser.parse_args()
machine.prepare(options.threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from pets.allocator import keep_freed_memory, pages_apart  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.product import public_product  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.announcing import Plan  # noqa: E402
from protocol.engine import EncryptedEngine, PlainEngine  # noqa: E402
from protocol.gallery import Gallery  # noqa: E402
from protocol.terms import Terms  # noqa: E402

BLOCK_ROWS = 65536
BATCH = 8  # preparations that share a pass


def templates(rows: int, dim: int) -> npt.NDArray[np.int8]:
    """Quantised rows, int8 (rows, dim); three of them close to row 0."""
    out = pages_apart((rows, dim), np.int8)
    for seed, start in enumerate(range(0, rows, BLOCK_ROWS)):
        out[start : start + BLOCK_ROWS] = quantise(
            synthetic_templates(min(BLOCK_ROWS, rows - start), dim, seed, mean=0.0087, sd=0.0757)
        )
    out[[rows // 3, rows // 2, rows - 1]] = out[0]
    return out


class Bench:
    """One gallery and everything that is measured on it."""

    def __init__(self, rows: int) -> None:
        self.rows = templates(rows, options.dim)
        self.terms = Terms(Decimal("0.6"), options.dim, N4096)
        self.plan = Plan(N4096, options.dim, self.terms.model)
        self.enrolment = machine.timed(lambda: self._hold())
        self.gallery = self._hold()

    def _hold(self) -> Gallery:
        return Gallery.of(self.rows, N4096, threads=options.threads)

    def prepare(self, count: int) -> tuple[EncryptedEngine, list[Any]]:
        engine = EncryptedEngine(options.threads)
        return engine, engine.prepare(self.gallery, self.plan, count)

    def online(self, probes: int) -> tuple[EncryptedEngine, float]:
        """A search of as many probes with as many preparations, and its seconds."""
        _, made = self.prepare(probes)
        engine = EncryptedEngine(options.threads)
        outcomes = engine.search_prepared(self.gallery, self.rows[:probes], self.terms, made)
        assert all(outcome.hits for outcome in outcomes)
        return engine, engine.cost.seconds["online"]

    def many(self, probes: int) -> tuple[float, float]:
        """Seconds online of a call with several probes, and seconds to prepare all of them, as in `lineup match`."""
        engine = EncryptedEngine(options.threads)
        outcomes = engine.search(self.gallery, self.rows[:probes], self.terms)
        assert all(outcome.hits for outcome in outcomes)
        return engine.cost.seconds["online"], engine.cost.seconds["offline"]

    def memory_of_parties(self) -> int:
        """Bytes at the peak of a preparation and a search, all three parties and Python, less the gallery."""
        machine.reset_peak()
        self.online(1)
        return machine.peak_bytes() - self.rows.nbytes


def measure(rows: int, runs: int) -> dict[str, object]:
    bench = Bench(rows)
    gallery, int8 = bench.gallery, bench.rows
    found = EncryptedEngine(options.threads).search(gallery, int8[:1], bench.terms)
    if found != PlainEngine().search(gallery, int8[:1], bench.terms):
        raise SystemExit("the encrypted search differs from the plaintext twin")
    memory = bench.memory_of_parties()
    floats, query = int8.astype(np.float32), int8[0].astype(np.float32)
    u = np.random.default_rng(1).integers(0, N4096.t, (1, options.dim), np.int32)
    numpy_times, product_times, online_times, cold_times = [], [], [], []
    for _ in range(runs):  # in turns, so that a busy machine hits all alike
        numpy_times.append(machine.timed(lambda: floats @ query))
        product_times.append(machine.timed(lambda: public_product(int8, u, N4096.t, options.threads)))
        engine = EncryptedEngine(options.threads)
        cold_times.append(machine.timed(lambda: engine.search(gallery, int8[:1], bench.terms)))  # noqa: B023
        searched, seconds = bench.online(1)
        online_times.append(seconds)
    prepared, waiting = bench.prepare(BATCH)
    product, offline_bytes = machine.median(numpy_times), sum(engine.cost.prepared.values())
    online_bytes = sum(searched.cost.traffic.values())
    each = prepared.cost.seconds["offline"] / len(waiting)
    del waiting
    report: dict[str, object] = {
        "rows": rows,
        "dim": options.dim,
        "runs": runs,
        "numpy_s": product,
        "product_s": machine.median(product_times),
        "product_over_numpy": round(machine.median(product_times) / product, 2),
        "online_s": machine.median(online_times),
        "online_over_numpy": round(machine.median(online_times) / product, 2),
        "cold_s": machine.median(cold_times),  # nothing prepared: preparation and search one after the other
        "preparation_s": round(each, 3),
        "preparation_batch": BATCH,
        "enrolment_s_per_million": round(bench.enrolment * 1e6 / rows, 2),
        "gallery_bytes_per_row": round(int8.nbytes / rows, 1),
        "other_memory_bytes": memory,
        "online_bytes": online_bytes,
        "online_bytes_per_row": round(online_bytes / rows, 1),
        "preparation_bytes": offline_bytes,
        "preparation_bytes_per_row_beyond_40_mb": round(max(0.0, offline_bytes - 40e6) / rows, 1),
        "phases_s": {phase: round(seconds, 4) for phase, seconds in searched.cost.seconds.items()},
    }
    if rows <= 300_000:
        many, single, apiece = [], [], []
        for _ in range(5):  # in turns, so that a busy machine hits both alike
            seconds, preparing = bench.many(options.probes)
            many.append(seconds)
            apiece.append(preparing / options.probes)
            single.append(bench.online(1)[1])
        report["many_probes"] = options.probes
        report["many_online_s"] = machine.median(many)
        report["many_online_over_one"] = round(machine.median(many) / machine.median(single), 2)
        report["many_preparation_s"] = round(machine.median(apiece), 3)
    return report


def apart(rows: int, runs: int) -> dict[str, object]:
    """`measure` in a process of its own, so that memory kept by one size is not counted in another."""
    command = [sys.executable, "-m", "benchmarks.search", "--only", "--rows", rows, "--dim", options.dim]
    command += ["--threads", options.threads, "--runs", runs, "--probes", options.probes]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    report: dict[str, object] = json.loads(done.stdout)
    return report


def main() -> None:
    keep_freed_memory()
    if options.only:
        print(json.dumps(measure(options.rows, options.runs)))
        return
    runs = [apart(options.rows, options.runs)]
    if options.large:
        runs.append(apart(options.large, max(3, options.runs // 2)))
    result = {"machine": machine.describe(options.threads), "runs": runs}
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    small, large = result["runs"][0], result["runs"][-1]  # type: ignore[index]
    for name, value, must, aim in (
        ("product / numpy", small["product_over_numpy"], 0.5, 0.25),
        ("online / numpy", small["online_over_numpy"], 3.5, 2.2),
        ("online / numpy at the large size", large["online_over_numpy"], 1.8, 1.2),
        (f"{options.probes} probes / one", small["many_online_over_one"], 8, 5),
        (f"preparation, each of {BATCH}, large, s", large["preparation_s"], 2.0, 1.0),
        ("nothing prepared, large, s", large["cold_s"], 6, 3),
        ("gallery, bytes a row", large["gallery_bytes_per_row"], 530, 515),
        ("sent online, bytes a row, large", large["online_bytes_per_row"], 25, 17),
        ("sent in preparation beyond 40 MB, a row", large["preparation_bytes_per_row_beyond_40_mb"], 40, 25),
        ("enrolment, s per million", large["enrolment_s_per_million"], 15, 8),
    ):
        print(f"{name:<40} {value:>8}   must {must:<6} aim {aim or '-'}", file=sys.stderr)


if __name__ == "__main__":
    main()
