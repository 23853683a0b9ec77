"""How near a search and a preparation come to what the machine can do; fills the tables of `roofline.md`.

    python -m benchmarks.roofline --json benchmarks/results/roofline.json --page benchmarks/roofline.md
    python -m benchmarks.roofline --rows 8192 --dim 64 --runs 1      a smoke run

Bytes and operations a row are counted from the shapes, gates by running the circuits; seconds, and the ceilings of this
machine, are measured in one run. A stage's floor is the longest that one of the ceilings makes it take.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=262_144)
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=4, help="masks that share a pass of the preparation")
parser.add_argument("--score-rows", type=int, default=32_768)
parser.add_argument("--runs", type=int, default=7)
parser.add_argument("--json", type=Path)
parser.add_argument("--page", type=Path, help="write the tables into this page")
START, END = "<!-- written by benchmarks/roofline.py -->", "<!-- up to here -->"

if __name__ == "__main__":
    options = parser.parse_args()
    machine.prepare(options.threads)

import numpy as np  # noqa: E402

from benchmarks.product import circuit_works  # noqa: E402
from nodes.bench.blind_lineup import BlindLineup  # noqa: E402
from nodes.bench.engine import Clock  # noqa: E402
from nodes.bench.worker import gallery  # noqa: E402
from pets import scoring  # noqa: E402
from pets.allocator import keep_freed_memory, pages_apart  # noqa: E402
from pets.jit import kernel  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.prf import Keystream  # noqa: E402
from pets.product import public_product  # noqa: E402
from pets.product_kernel import LIMBS  # noqa: E402
from pets.threads import parallel_ranges  # noqa: E402

READ_BYTES = 1 << 29  # beyond every cache
SMALL = 2048  # words that stay in the first cache
REPEATS = 20_000
GATE_BYTES = 7 / 8  # a party reads two parts of both inputs and two masks, and writes one part, a bit each
PARTIES = 3


@kernel
def _read(words: Any, first: int, last: int, out: Any) -> None:
    total = np.uint64(0)
    for word in words[first:last]:
        total ^= word
    out[first] = total


@kernel
def _multiply_add(a: Any, b: Any, first: int, last: int, out: Any) -> None:
    """Products of 32-bit numbers, added to 64 bits: what scoring does, on numbers that stay in the cache."""
    low = np.uint64(0xFFFFFFFF)
    for turn in range(first, last):
        total = np.uint64(turn)
        for i in range(len(a)):
            total += (a[i] & low) * (b[i] & low)
        out[turn] = total


def fastest(work: Callable[[], object], runs: int) -> float:
    """The least of some runs after a first that warms up: other work on the machine only adds."""
    work()
    return min(machine.timed(work) for _ in range(runs))


def ceilings(threads: int, runs: int, dim: int) -> dict[str, float]:
    """What the machine can do with as many threads: by the simplest loop, or by ours where all stays in a cache."""
    words = pages_apart((READ_BYTES // 8,), np.uint64)
    words[:] = 1
    out = np.empty(len(words), np.uint64)
    read = fastest(lambda: parallel_ranges(lambda i, j: _read(words, i, j, out), len(words), threads), runs)
    a, b = np.arange(SMALL, dtype=np.uint64), np.arange(7, 7 + SMALL, dtype=np.uint64)
    turns = np.empty(REPEATS, np.uint64)
    multiply = fastest(lambda: parallel_ranges(lambda i, j: _multiply_add(a, b, i, j, turns), REPEATS, threads), runs)
    rows, vectors = np.ones((4096, dim), np.int8), np.ones((64, dim), np.int32)
    bytes_ = fastest(lambda: public_product(rows, vectors, N4096.t, threads), runs)
    stream = Keystream(secrets.token_bytes(32))
    keystream = fastest(lambda: stream.words(1 << 22), runs)
    return {
        "read_gb_s": READ_BYTES / read / 1e9,
        "multiply_adds_32_bit_g_s": SMALL * REPEATS / multiply / 1e9,
        "multiply_adds_8_bit_in_cache_g_s": LIMBS * dim * rows.shape[0] * len(vectors) / bytes_ / 1e9,
        "keystream_one_thread_gb_s": (8 << 22) / keystream / 1e9,
    }


def stage(seconds: float, rows: int, floors: dict[str, float], counts: dict[str, float]) -> dict[str, Any]:
    """One line. `floors`: by ceiling, the seconds of all rows that it allows at best."""
    bound = max(floors, key=lambda name: floors[name])
    return {
        "ns_a_row": 1e9 * seconds / rows,
        **counts,
        "bound_by": bound,
        "floor_ns_a_row": 1e9 * floors[bound] / rows,
        "reached": floors[bound] / seconds,
    }


def stages(rows: int, dim: int, threads: int, runs: int, batch: int, score_rows: int, top: dict[str, float]) -> Any:
    """All stages by name."""
    read, eight = top["read_gb_s"] * 1e9, top["multiply_adds_8_bit_in_cache_g_s"] * 1e9
    wide, stream = top["multiply_adds_32_bit_g_s"] * 1e9, top["keystream_one_thread_gb_s"] * 1e9
    rng, found = np.random.default_rng(1), {}
    templates = pages_apart((rows, dim), np.int8)
    templates[:] = rng.integers(-127, 128, (rows, dim), np.int8)
    vector = rng.integers(0, N4096.t, (1, dim), np.int32)
    plain, query = templates.astype(np.float32), templates[0].astype(np.float32)
    seconds = fastest(lambda: plain @ query, runs)
    found["numpy float32"] = stage(
        seconds, rows, {"reading": 4 * dim * rows / read}, {"bytes_a_row": 4 * dim, "operations_a_row": dim}
    )
    seconds = fastest(lambda: public_product(templates, vector, N4096.t, threads), runs)
    floors = {"reading": dim * rows / read, "8-bit products": LIMBS * dim * rows / eight}
    found["online: the holder's product"] = stage(
        seconds, rows, floors, {"bytes_a_row": dim, "operations_a_row": LIMBS * dim}
    )
    counted: dict[str, int] = {}
    works = circuit_works(rng, rows, threads, counted)
    for name, what in (("sign", "online: comparison, all parties"), ("difference", "preparation: masks, all parties")):
        seconds = fastest(works[name], runs)
        gates = counted[name] / rows
        floors = {
            "reading": PARTIES * GATE_BYTES * gates * rows / read,
            "key stream": 2 * PARTIES * gates * rows / 8 / stream,  # each party draws two
        }
        found[what] = stage(
            seconds, rows, floors, {"bytes_a_row": PARTIES * GATE_BYTES * gates, "operations_a_row": gates}
        )
    found |= _scoring(rng, dim, threads, max(2, runs // 3), batch, score_rows, read, wide)
    return found


def _scoring(
    rng: np.random.Generator, dim: int, threads: int, runs: int, batch: int, rows: int, read: float, wide: float
) -> dict[str, Any]:
    """The pass of a preparation over the rows: into NTT form, shared by a batch, and the products of each mask."""
    templates = rng.integers(-127, 128, (rows, dim), np.int8)
    residues = rng.integers(0, min(N4096.primes), (dim, 2, 2, N4096.n), np.uint32)
    masks = [scoring.prepare_probe(residues, N4096, threads) for _ in range(batch)]
    one = fastest(lambda: scoring.score_rows(templates, masks[:1], N4096, threads), runs)
    all_ = fastest(lambda: scoring.score_rows(templates, masks, N4096, threads), runs)
    products = (all_ - one) / (batch - 1)
    butterflies = dim * round(math.log2(N4096.n))  # n/2·log n a column and prime: for n rows, two primes
    room = 8 * dim  # bytes of a row in NTT form
    return {
        "preparation: rows into NTT form": stage(
            max(one - products, 1e-9),
            rows,
            {"reading": (dim + room) * rows / read, "32-bit products": 2 * butterflies * rows / wide},
            {"bytes_a_row": dim + room, "operations_a_row": 2 * butterflies},
        ),
        "preparation: products, a mask": stage(
            products,
            rows,
            {"reading": room * rows / read, "32-bit products": 4 * dim * rows / wide},
            {"bytes_a_row": room, "operations_a_row": 4 * dim},
        ),
    }


def whole(rows: int, dim: int, threads: int, runs: int) -> dict[str, Any]:
    """A prepared search with all parties in one process: seconds by phase (medians) and bytes."""
    templates, probes, planted = gallery(rows, dim, 0)
    engine = BlindLineup(dim, threads, N4096.preset)
    engine.enrol(templates)
    clocks = []
    for _ in range(runs + 1):
        engine.prepare(1)
        clocks.append(Clock())
        if [set(found) for found in engine.search(probes, clocks[-1])] != planted:
            raise SystemExit("wrong rows were found")
    phases = {name: machine.median([clock.seconds[name] for clock in clocks[1:]]) for name in clocks[-1].seconds}
    sent = {"online": sum(engine.costs.online_bytes.values()), "offline": sum(engine.costs.offline_bytes.values())}
    return {"phases_s": phases, "bytes": sent, "seconds_at_1_gbit": {part: 8 * n / 1e9 for part, n in sent.items()}}


def tables(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    top, about = report["ceilings"], report["machine"]
    lines = [
        f"{about['processor']}, {about['threads']} threads, load {about['load']:.1f} before, commit {about['commit']}, "
        f"{about['date']}; {report['rows']:,} rows, d = {report['dim']}.",
        "",
        "| ceiling | measured |",
        "|---|---:|",
        f"| reading memory, all threads | {top['read_gb_s']:.1f} GB/s |",
        f"| 8-bit multiply-adds, our kernel on rows in the cache | {top['multiply_adds_8_bit_in_cache_g_s']:.0f} G/s |",
        f"| 32-bit multiply-adds, a plain loop in the cache | {top['multiply_adds_32_bit_g_s']:.1f} G/s |",
        f"| key stream (AES-CTR), one thread | {top['keystream_one_thread_gb_s']:.1f} GB/s |",
        "",
        "| stage | bytes a row | operations a row | ns a row | bound by | floor, ns a row | reached |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for name, item in report["stages"].items():
        lines.append(
            f"| {name} | {item['bytes_a_row']:,.0f} | {item['operations_a_row']:,.0f} | {item['ns_a_row']:.1f} "
            f"| {item['bound_by']} | {item['floor_ns_a_row']:.1f} | {100 * item['reached']:.0f} % |"
        )
    search = report["search"]
    phases = sorted(search["phases_s"].items(), key=lambda pair: -pair[1])
    lines += [
        "",
        "A prepared search, all parties in one process: "
        + ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in phases if seconds >= 5e-4)
        + f". It sends {search['bytes']['online'] / 1e6:.1f} MB over all links, "
        f"{search['seconds_at_1_gbit']['online']:.2f} s at 1 Gbit/s, its preparation "
        f"{search['bytes']['offline'] / 1e6:.0f} MB, {search['seconds_at_1_gbit']['offline']:.2f} s.",
    ]
    return "\n".join(lines)


def fill(page: str, figures: str) -> str:
    """A page with what stands between its marks replaced."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{figures}\n\n{END}{after}"


def main() -> None:
    keep_freed_memory()
    rows, dim, threads, runs = options.rows, options.dim, options.threads, options.runs
    top = ceilings(threads, runs, dim)
    report = {
        "machine": machine.describe(threads),
        "rows": rows,
        "dim": dim,
        "runs": runs,
        "ceilings": top,
        "stages": stages(rows, dim, threads, runs, options.batch, options.score_rows, top),
        "search": whole(rows, dim, threads, min(3, runs)),
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.page:
        options.page.write_text(fill(options.page.read_text("utf-8"), tables(report)), encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
