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

from pets.allocator import keep_freed_memory  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.scoring import prepare_probe, score, score_many  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.engine import Cost, EncryptedEngine, PlainEngine  # noqa: E402
from protocol.gallery import Gallery  # noqa: E402
from protocol.terms import Terms  # noqa: E402

BLOCK_ROWS = 65536


def templates(rows: int, dim: int) -> np.ndarray[Any, Any]:
    """Quantised rows, int8 (rows, dim); three of them close to row 0."""
    out = np.empty((rows, dim), np.int8)
    for seed, start in enumerate(range(0, rows, BLOCK_ROWS)):
        out[start : start + BLOCK_ROWS] = quantise(
            synthetic_templates(min(BLOCK_ROWS, rows - start), dim, seed, mean=0.0087, sd=0.0757)
        )
    out[[rows // 3, rows // 2, rows - 1]] = out[0]
    return out


def memory_of_parties(gallery: Gallery, terms: Terms) -> int:
    """Bytes at the peak of a query, all three parties, less the gallery in both forms. Python itself is included."""
    machine.reset_peak()
    EncryptedEngine(options.threads).search(gallery, gallery.templates[:1], terms)
    return machine.peak_bytes() - gallery.encoded.data.nbytes - gallery.templates.nbytes


def online(gallery: Gallery, terms: Terms, runs: int, probes: int = 1) -> tuple[Cost, list[float], list[float]]:
    """Cost of the last query, and online and offline seconds of each run."""
    times, offline = [], []
    for _ in range(runs):
        engine = EncryptedEngine(options.threads)
        engine.search(gallery, gallery.templates[:probes], terms)
        times.append(engine.cost.seconds["online"])
        offline.append(engine.cost.seconds["offline"])
    return engine.cost, times, offline


def measure(rows: int, runs: int) -> dict[str, object]:
    dim, threads = options.dim, options.threads
    rows_int8 = templates(rows, dim)
    terms = Terms(Decimal("0.6"), dim, N4096)
    Gallery.enrol(rows_int8[:4096], N4096, threads=threads)  # compiles
    enrolments: list[float] = []
    gallery = None
    for _ in range(3):
        gallery = None
        enrolments.append(
            machine.timed(lambda: globals().__setitem__("made", Gallery.enrol(rows_int8, N4096, threads=threads)))
        )
        gallery = globals().pop("made")
    assert gallery is not None
    if EncryptedEngine(threads).search(gallery, rows_int8[:1], terms) != PlainEngine().search(
        gallery, rows_int8[:1], terms
    ):
        raise SystemExit("the encrypted search differs from the plaintext twin")
    memory = memory_of_parties(gallery, terms)
    floats, query = rows_int8.astype(np.float32), rows_int8[0].astype(np.float32)
    rng = np.random.default_rng(1)
    ciphertexts = rng.integers(0, min(N4096.primes), (dim, 2, 2, N4096.n), np.uint32)
    probe = prepare_probe(ciphertexts, N4096, threads)
    numpy_times, kernel_times, online_times, offline_times = [], [], [], []
    cost = Cost()
    score(gallery.encoded, probe, threads=threads)
    for _ in range(runs):  # in turns, so that a busy machine hits all alike
        numpy_times.append(machine.timed(lambda: floats @ query))
        kernel_times.append(machine.timed(lambda: score(gallery.encoded, probe, threads=threads)))
        cost, times, offline = online(gallery, terms, 1)
        online_times += times
        offline_times += offline
    product = machine.median(numpy_times)
    sent = sum(cost.traffic.values())
    report: dict[str, object] = {
        "rows": rows,
        "dim": dim,
        "runs": runs,
        "numpy_s": product,
        "kernel_s": machine.median(kernel_times),
        "kernel_over_numpy": round(machine.median(kernel_times) / product, 2),
        "online_s": machine.median(online_times),
        "online_over_numpy": round(machine.median(online_times) / product, 2),
        "offline_s": machine.median(offline_times),
        "enrolment_s_per_million": round(machine.median(enrolments) * 1e6 / rows, 2),
        "enrolment_first_s_per_million": round(
            enrolments[0] * 1e6 / rows, 2
        ),  # its memory is touched for the first time
        "gallery_bytes_per_row": round(gallery.encoded.data.nbytes / rows, 1),
        "other_memory_bytes": memory,
        "bytes_sent": sent,
        "bytes_per_row_beyond_probe": round((sent - dim * 16 * N4096.n - 12e6) / rows, 1),
        "phases_s": {phase: round(seconds, 4) for phase, seconds in cost.seconds.items()},
    }
    if rows <= 300_000:
        probes = [prepare_probe(ciphertexts, N4096, threads) for _ in range(options.probes)]
        many = [machine.timed(lambda: score_many(gallery.encoded, probes, threads=threads)) for _ in range(3)]
        _, first, _ = online(gallery, terms, 1, options.probes)  # its memory is touched for the first time
        batch, single = [], []
        for _ in range(5):  # in turns, so that a busy machine hits both alike
            batch += online(gallery, terms, 1, options.probes)[1]
            single += online(gallery, terms, 1)[1]
        report["many_probes"] = options.probes
        report["many_kernel_over_one"] = round(machine.median(many) / machine.median(kernel_times), 2)
        report["many_first_over_one"] = round(machine.median(first) / machine.median(single), 2)
        report["many_online_s"] = machine.median(batch)
        report["many_online_over_one"] = round(machine.median(batch) / machine.median(single), 2)
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
        ("kernel / numpy", small["kernel_over_numpy"], 3.6, 2.3),
        ("online / numpy", small["online_over_numpy"], 14, 7),
        ("online at the large size, s", large["online_s"], 1.3, 0.6),
        ("online / numpy at the large size", large["online_over_numpy"], 10, None),
        (f"{options.probes} probes / one", small["many_online_over_one"], 12, 6),
        ("enrolment, s per million", large["enrolment_s_per_million"], 15, 8),
        ("offline, s", small["offline_s"], 1.0, 0.4),
        ("gallery, bytes a row", large["gallery_bytes_per_row"], 4200, None),
        ("other memory at the large size, GB", round(large["other_memory_bytes"] / 1e9, 2), 1.5, None),
        ("bytes a row beyond probe + 12 MB", small["bytes_per_row_beyond_probe"], 70, None),
    ):
        print(f"{name:<36} {value:>8}   must {must:<6} aim {aim or '-'}", file=sys.stderr)


if __name__ == "__main__":
    main()
