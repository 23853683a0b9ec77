"""Ours beside other ways to compare one encrypted probe with a gallery: time, and what is revealed to whom.

    python -m benchmarks.compare                 writes benchmarks/results/compare.json and compare.svg
    python -m benchmarks.compare --smoke         tiny sizes; writes nothing unless --out names a folder

Prints JSON, and a markdown table on stderr. Every entry runs on the same synthetic gallery (its first rows, as many as
finish) and on `--threads` cores; a library that computes on one core gets one process a core, all started by the same
barrier, and the slowest counts. Times are medians, scaled to a million comparisons. On a
busy machine (see `load`) look at the core-seconds instead: processor time of all threads and processes.

The others' times are those of the scoring alone: neither the encryption of the probe nor the preparation of the gallery
nor the decryption is counted. Ours is the whole query after the probe is known: encryption, admission, scoring,
comparison, opening and confirmation by three parties in one process, without a network; keys and other things that a
query prepares before it has a probe are left out, as the others' keys are.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=262144, help="rows for numpy and for us")
parser.add_argument("--library-rows", type=int, default=8192, help="rows a core for TenSEAL and OpenFHE")
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=2, help="threads for numpy and us, processes for the others")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--series", default="247:9", help="Chebyshev degree:multiplicative depth")
parser.add_argument("--only", default="", help="entries to run, comma separated")
parser.add_argument("--smoke", action="store_true", help="tiny sizes, and no file unless --out is given")
parser.add_argument("--out", type=Path, help="folder of compare.json and compare.svg")
options = parser.parse_args()
if options.smoke:
    options.rows, options.library_rows, options.dim, options.runs, options.series = 4096, 4096, 16, 1, "5:4"
machine.prepare(options.threads)

import numpy as np  # noqa: E402

from pets.params import N4096  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402

Json = dict[str, Any]
MILLION = 1_000_000
RESULTS = Path(__file__).parent / "results"
BARRIER_SECONDS = 300
CAP = 10
REVEALS = {
    "all": "everything, to whoever computes",
    "scores": "all scores, to the key holder",
    "graded": "a graded value for every row, near the threshold much of its score, to the key holder",
    "hits": f"at most {CAP} hits, to the gallery's owner and who asked; nothing else but the threshold reached",
}

# From the literature, not run here: other machines, other numbers of cores.
QUOTED: list[Json] = [
    {
        "key": "idface",
        "name": "IDFace",
        "seconds_per_million": 0.126,
        "reveals": "scores",
        "how": "authors' machine; the gallery is encrypted too",
        "source": "Kim et al. 2025, arXiv:2507.12050, abstract",
    },
    {
        "key": "hevec",
        "name": "HEVEC (dimension not given)",
        "seconds_per_million": 0.187,
        "reveals": "scores",
        "how": "authors' machine; the gallery is encrypted too; their example has 128 numbers a vector",
        "source": "github.com/cloneisyou/HEVEC, README; Bae et al. 2025, arXiv:2506.17336",
    },
    {
        "key": "hydia",
        "name": "HyDia (48 cores)",
        "seconds_per_million": 100.0,
        "reveals": "graded",
        "how": "authors' machine; the gallery is encrypted too; approximate decisions in place of scores",
        "source": "Martin et al. 2025, PoPETs 2025(4), doi:10.56553/popets-2025-0146",
    },
]


@dataclass
class Work:
    """What one process runs: `run` does `rows` comparisons, `check` says how right the result was.

    `run` returns seconds of the clock of this module if it measures only a part of what it does, otherwise None.
    """

    rows: int
    run: Callable[[], float | None]
    check: Callable[[], Json]
    clock_of: ModuleType | None = None


@dataclass(frozen=True)
class Entry:
    key: str
    name: str
    reveals: str
    how: str
    prepare: Callable[[int], Work]
    needs: str = ""
    most_runs: int = 99


def templates(rows: int, seed: int) -> np.ndarray[Any, Any]:
    """Quantised rows, int8 (rows, dim); `seed` picks the block of 65,536 rows to start with."""
    blocks = [
        quantise(synthetic_templates(min(65536, rows - start), options.dim, seed + i, mean=0.0087, sd=0.0757))
        for i, start in enumerate(range(0, rows, 65536))
    ]
    return np.concatenate(blocks)


def seal_context(scheme: str, prime_bits: int, plain_modulus: int = 0) -> tuple[Any, Any, Any, Any, Any]:
    """SEAL at ring dimension 4096 with one prime, which is enough for one product: module, context, tools."""
    seal = importlib.import_module("tenseal.sealapi")
    parameters = seal.EncryptionParameters(getattr(seal.SCHEME_TYPE, scheme))
    parameters.set_poly_modulus_degree(N4096.n)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(N4096.n, [prime_bits]))
    if plain_modulus:
        parameters.set_plain_modulus(plain_modulus)
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise SystemExit(f"SEAL refused the parameters: {context.parameters_error_message()}")
    keys, public = seal.KeyGenerator(context), seal.PublicKey()
    keys.create_public_key(public)
    encryptor, decryptor = seal.Encryptor(context, public), seal.Decryptor(context, keys.secret_key())
    return seal, context, encryptor, decryptor, seal.Evaluator(context)


def seal_sums(seal: Any, evaluator: Any, probe: list[Any], blocks: list[list[Any]], results: list[Any]) -> None:
    """Σ_j p_j·ct_j for every block, everything in NTT form."""
    product = seal.Ciphertext()
    results.clear()
    for plaintexts in blocks:
        total = seal.Ciphertext()
        evaluator.multiply_plain(probe[0], plaintexts[0], total)
        for ciphertext, plaintext in zip(probe[1:], plaintexts[1:], strict=True):
            evaluator.multiply_plain(ciphertext, plaintext, product)
            evaluator.add_inplace(total, product)
        results.append(total)


def tenseal_bfv(part: int) -> Work:
    """One coordinate a ciphertext, 4096 rows a polynomial as ours; plaintexts kept in NTT form, one 60-bit prime."""
    rows, t = templates(options.library_rows, part), 1032193
    seal, context, encryptor, decryptor, evaluator = seal_context("BFV", 60, t)
    probe: list[Any] = []
    for value in rows[0]:
        probe.append(seal.Ciphertext())
        encryptor.encrypt(seal.Plaintext(f"{int(value) % t:X}"), probe[-1])
        evaluator.transform_to_ntt_inplace(probe[-1])
    blocks: list[list[Any]] = []
    for start in range(0, len(rows), N4096.n):
        blocks.append([])
        for column in rows[start : start + N4096.n].T.tolist():
            terms = [f"{value % t:X}x^{power}" for power, value in enumerate(column) if value]
            plaintext = seal.Plaintext(" + ".join(reversed(terms)) or "0")
            evaluator.transform_to_ntt_inplace(plaintext, context.first_parms_id())
            blocks[-1].append(plaintext)
    results: list[Any] = []

    def run() -> None:
        seal_sums(seal, evaluator, probe, blocks, results)
        for total in results:
            evaluator.transform_from_ntt_inplace(total)

    def check() -> Json:
        scores = np.zeros((len(blocks), N4096.n), np.int64)
        for block, total in enumerate(results):
            plaintext = seal.Plaintext()
            decryptor.decrypt(total, plaintext)
            scores[block, : plaintext.coeff_count()] = [plaintext[i] for i in range(plaintext.coeff_count())]
        signed = np.where(scores > t // 2, scores - t, scores).reshape(-1)
        return {"wrong_scores": int(np.count_nonzero(signed != plain_scores(rows)))}

    return Work(len(rows), run, check)


def tenseal_ckks(part: int) -> Work:
    """One coordinate a ciphertext, two rows a slot (real and imaginary part); plaintexts kept encoded, one prime."""
    rows = templates(options.library_rows, part)
    seal, context, encryptor, decryptor, evaluator = seal_context("CKKS", 60)
    encoder, half, scale = seal.CKKSEncoder(context), N4096.n // 2, 2.0**34
    unit = rows / np.linalg.norm(rows[0])
    probe: list[Any] = []
    for value in unit[0].tolist():
        plaintext = seal.Plaintext()
        encoder.encode(value, scale, plaintext)
        probe.append(seal.Ciphertext())
        encryptor.encrypt(plaintext, probe[-1])
    blocks: list[list[Any]] = []
    for start in range(0, len(rows), N4096.n):
        blocks.append([])
        for column in unit[start : start + N4096.n].T:
            plaintext = seal.Plaintext()
            encoder.encode((column[:half] + 1j * column[half:]).tolist(), 2.0**22, plaintext)
            blocks[-1].append(plaintext)
    results: list[Any] = []

    def check() -> Json:
        worst = 0.0
        for block, total in enumerate(results):
            plaintext = seal.Plaintext()
            decryptor.decrypt(total, plaintext)
            slots = np.array(encoder.decode_complex(plaintext))
            expected = unit[block * N4096.n : (block + 1) * N4096.n] @ unit[0]
            worst = max(worst, float(abs(np.concatenate([slots.real, slots.imag]) - expected).max()))
        return {"max_error": float(f"{worst:.1e}")}

    return Work(len(rows), lambda: seal_sums(seal, evaluator, probe, blocks, results), check)


def tenseal_vector(part: int) -> Work:
    """TenSEAL's own vectors: each coordinate of the probe replicated over all slots, times a column of the gallery."""
    tenseal = importlib.import_module("tenseal")
    slots = 2048
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 2 * slots, coeff_mod_bit_sizes=[60, 49], n_threads=1)
    context.global_scale = 2.0**28
    context.auto_rescale = context.auto_relin = context.auto_mod_switch = False
    rows = templates(slots, part)
    unit = rows / np.linalg.norm(rows[0])
    probe = [tenseal.ckks_vector(context, [value] * slots) for value in unit[0].tolist()]
    columns = [tenseal.plain_tensor(column.tolist()) for column in unit.T]
    results: list[Any] = []

    def run() -> None:
        total = probe[0] * columns[0]
        for ciphertext, column in zip(probe[1:], columns[1:], strict=True):
            total += ciphertext * column
        results[:] = [total]

    def check() -> Json:
        return {"max_error": float(f"{abs(np.array(results[0].decrypt()) - unit @ unit[0]).max():.1e}")}

    return Work(slots, run, check)


def openfhe_ready(part: int) -> Work:
    """`EvalMult(ct, pt)` and `EvalAddInPlace` on plaintexts that a first pass has left in NTT form. Three primes."""
    openfhe = importlib.import_module("openfhe")
    wanted = openfhe.CCParamsBFVRNS()
    wanted.SetRingDim(N4096.n)
    wanted.SetPlaintextModulus(N4096.t)
    wanted.SetScalingModSize(30)
    wanted.SetMultiplicativeDepth(0)
    wanted.SetEvalAddCount(2**32 - 2)  # with fewer it takes two primes, and scores come out wrong
    context = openfhe.GenCryptoContext(wanted)
    for feature in (openfhe.PKE, openfhe.KEYSWITCH, openfhe.LEVELEDSHE):
        context.Enable(feature)
    pair = context.KeyGen()
    rows = templates(N4096.n, part)
    probe = [context.Encrypt(pair.publicKey, context.MakeCoefPackedPlaintext([int(v)])) for v in rows[0]]
    columns = [context.MakeCoefPackedPlaintext(column.tolist()) for column in rows.T]
    results: list[Any] = []

    def run() -> None:
        total = context.EvalMult(probe[0], columns[0])
        for ciphertext, column in zip(probe[1:], columns[1:], strict=True):
            context.EvalAddInPlace(total, context.EvalMult(ciphertext, column))
        results[:] = [total]

    def check() -> Json:
        plaintext = context.Decrypt(pair.secretKey, results[0])
        plaintext.SetLength(N4096.n)
        return {"wrong_scores": int(np.count_nonzero(plaintext.GetCoefPackedValue() != plain_scores(rows)))}

    run()
    return Work(len(rows), run, check)


def openfhe_streaming(part: int) -> Work:
    """As `benchmarks.openfhe_products` has it: plaintexts are made as they are needed."""
    products = importlib.import_module("benchmarks.openfhe_products")
    report: Json = {}

    def run() -> float:
        report.update(products.bfv(importlib.import_module("openfhe"), N4096.n, options.dim, 2**32 - 2))
        return float(sum(report["seconds"].values()))

    return Work(N4096.n, run, lambda: {"wrong_scores": report["wrong_scores"]}, products)


def openfhe_threshold(part: int) -> Work:
    """A Chebyshev series over encrypted scores, then joint decryption by three parties. The scoring is not in it."""
    products = importlib.import_module("benchmarks.openfhe_products")
    degree, depth = map(int, options.series.split(":"))
    report: Json = {}

    def run() -> float:
        report.update(products.ckks(importlib.import_module("openfhe"), degree, depth))
        return float(report["threshold_seconds"] + report["joint_decrypt_seconds"])

    def check() -> Json:
        wanted = ("degree", "wrong_decisions", "graded_values_0.1_to_0.9", "max_error_outside_0.05_of_threshold")
        return {key: report[key] for key in wanted}

    return Work(16384, run, check, products)


LIBRARIES = [
    Entry(
        "tenseal_bfv",
        "TenSEAL BFV (sealapi)",
        "scores",
        "NTT-form plaintexts kept, N = 4096, one 60-bit prime",
        tenseal_bfv,
        "tenseal",
    ),
    Entry(
        "tenseal_ckks",
        "TenSEAL CKKS (sealapi)",
        "scores",
        "encoded plaintexts kept, two rows a slot, N = 4096, one 60-bit prime",
        tenseal_ckks,
        "tenseal",
    ),
    Entry(
        "tenseal_vector",
        "TenSEAL CKKSVector",
        "scores",
        "replicated probe × column, N = 4096, 60 + 49 bits",
        tenseal_vector,
        "tenseal",
        3,
    ),
    Entry(
        "openfhe_ready",
        "OpenFHE BFV, plaintexts kept",
        "scores",
        "EvalMult and EvalAddInPlace, N = 4096, three 30-bit primes",
        openfhe_ready,
        "openfhe",
    ),
    Entry(
        "openfhe_streaming",
        "OpenFHE BFV, plaintexts made as needed",
        "scores",
        "the same, with MakeCoefPackedPlaintext inside",
        openfhe_streaming,
        "openfhe",
        3,
    ),
    Entry(
        "openfhe_threshold",
        "OpenFHE CKKS threshold, on top of scoring",
        "graded",
        "Chebyshev series, three joint keys, N = 32768; scores already encrypted",
        openfhe_threshold,
        "openfhe",
        1,
    ),
]


def plain_scores(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scores: np.ndarray[Any, Any] = rows.astype(np.int64) @ rows[0].astype(np.int64)
    return scores


_barrier: Any = None


def _start(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def worker(key: str, part: int, runs: int) -> Json:
    """In a process of its own: prepare, then run as often as asked, each time together with the others."""
    entry = next(entry for entry in LIBRARIES if entry.key == key)
    times: list[float] = []
    core_seconds: list[float] = []
    try:
        work = entry.prepare(part)
        for _ in range(runs):
            _barrier.wait(BARRIER_SECONDS)
            wall, processor = time.perf_counter(), time.process_time()
            partly = work.run()
            core_seconds.append(time.process_time() - processor)
            times.append(time.perf_counter() - wall if partly is None else partly)
        if work.clock_of is not None:
            with processor_clock(work.clock_of):
                core_seconds = [work.run() or 0.0]
    except BaseException:
        _barrier.abort()  # the others would wait
        raise
    return {"rows": work.rows, "times": times, "core_seconds": statistics.median(core_seconds), "checks": work.check()}


@contextmanager
def processor_clock(module: Any) -> Iterator[None]:
    """Let a module that reads `time.perf_counter` measure processor time of this process instead."""
    before, module.time = module.time, SimpleNamespace(perf_counter=time.process_time)
    try:
        yield
    finally:
        module.time = before


def measure(entry: Entry, floats: np.ndarray[Any, Any], numpy_times: list[tuple[float, float]]) -> Json:
    """`entry` in one process a core. numpy takes its turn before and after."""
    runs, processes = min(options.runs, entry.most_runs), 1 if options.smoke else options.threads
    numpy_turn(floats, numpy_times)
    spawning = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawning, initializer=_start, initargs=(spawning.Barrier(processes),))
    threads_before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # OpenFHE: a process a core is faster than its threads
    try:
        with pool:
            reports = list(pool.map(worker, [entry.key] * processes, range(processes), [runs] * processes))
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if threads_before is not None:
            os.environ["OMP_NUM_THREADS"] = threads_before
    numpy_turn(floats, numpy_times)
    slowest = [max(times) for times in zip(*(report["times"] for report in reports), strict=True)]
    rows = sum(report["rows"] for report in reports)
    core_seconds = sum(report["core_seconds"] for report in reports)
    return row_of(entry.key, entry.name, entry.reveals, entry.how, rows, slowest, core_seconds) | {
        "processes": processes,
        "checks": [report["checks"] for report in reports],
    }


def numpy_turn(floats: np.ndarray[Any, Any], numpy_times: list[tuple[float, float]]) -> None:
    """Twice the plaintext product: seconds and core-seconds."""
    for _ in range(2):
        processor = time.process_time()
        seconds = machine.timed(lambda: floats @ floats[0])
        numpy_times.append((seconds, time.process_time() - processor))


def row_of(key: str, name: str, reveals: str, how: str, rows: int, times: list[float], core_seconds: float) -> Json:
    return {
        "key": key,
        "name": name,
        "reveals": reveals,
        "how": how,
        "rows": rows,
        "runs": len(times),
        "seconds": machine.median(times),
        "seconds_per_million": per_million(statistics.median(times), rows),
        "core_seconds_per_million": per_million(core_seconds, rows),
    }


def per_million(seconds: float, rows: int) -> float:
    return float(f"{seconds * MILLION / rows:.4g}")


def ours_and_numpy(numpy_times: list[tuple[float, float]]) -> tuple[Json, np.ndarray[Any, Any]]:
    """Our row, and the gallery as float32. numpy and we take turns."""
    from pets.allocator import keep_freed_memory
    from protocol import engine as engines
    from protocol.gallery import Gallery
    from protocol.terms import Terms

    keep_freed_memory()
    rows = templates(options.rows, 0)
    rows[[len(rows) // 3, len(rows) // 2, len(rows) - 1]] = rows[0]
    floats = rows.astype(np.float32)
    gallery = Gallery.enrol(rows, N4096, threads=options.threads)
    terms = Terms(Decimal("0.6"), options.dim, N4096, cap=CAP)
    outcomes = engines.EncryptedEngine(options.threads).search(gallery, rows[:1], terms)
    if outcomes != engines.PlainEngine().search(gallery, rows[:1], terms):
        raise SystemExit("the encrypted search differs from the plaintext twin")

    def cost() -> tuple[float, float]:
        engine = engines.EncryptedEngine(options.threads)
        engine.search(gallery, rows[:1], terms)
        return engine.cost.seconds["online"], engine.cost.seconds["offline"]

    times, offline, core_seconds = [], [], []
    for _ in range(options.runs):
        numpy_turn(floats, numpy_times)
        seconds, before = cost()
        times.append(seconds)
        offline.append(before)
        with processor_clock(engines):
            core_seconds.append(cost()[0])
    words = "ours", "Blind Lineup, the whole query", "hits"
    how = "three parties in one process; everything but the network, confirmation included"
    return row_of(*words, how, len(rows), times, statistics.median(core_seconds)) | {
        "threads": options.threads,
        "offline_seconds": machine.median(offline),
        "checks": [{"hits": len(outcomes[0].hits), "wrong_hits": 0}],
    }, floats


def missing(module: str) -> str | None:
    """One sentence if `module` cannot be used here."""
    if module == "openfhe":
        from pets import openfhe_keys

        return openfhe_keys.available()
    try:
        importlib.import_module(module)
    except ImportError:
        return f"{module} is not installed"
    return None


def table(report: Json) -> str:
    """Markdown, fastest first within what is revealed; least revealed last."""
    product = report["entries"][0]["seconds_per_million"]
    lines = [
        "| | s per million | core-s per million | × numpy | measured on | revealed |",
        "|---|---:|---:|---:|---|---|",
    ]
    for group, words in report["reveals"].items():
        rows = [row for row in report["entries"] + report["quoted"] if row["reveals"] == group]
        for row in sorted(rows, key=lambda row: row["seconds_per_million"]):
            seconds = f"{row['seconds_per_million']:.3g}"
            if "source" in row:
                lines.append(f"| *{row['name']}* (quoted) | *{seconds}* | | | *{row['how']}* | {words} |")
            else:
                cores = f"{row['core_seconds_per_million']:.3g}"
                ratio = row["seconds_per_million"] / product
                size = f"{row['rows']:,} rows; {row['how']}"
                times = f"{seconds} | {cores} | {ratio:,.{1 if ratio < 10 else 0}f}"
                lines.append(f"| {row['name']} | {times} | {size} | {words} |")
    return "\n".join(lines + [f"\nLeft out: {sentence}." for sentence in report["left_out"]])


def versions() -> Json:
    found: Json = {}
    for package in ("tenseal", "openfhe"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main() -> None:
    numpy_times: list[tuple[float, float]] = []
    described = machine.describe(options.threads) | versions()
    ours, floats = ours_and_numpy(numpy_times)
    known = {entry.key for entry in LIBRARIES}
    chosen = set(options.only.split(",")) if options.only else known
    if not chosen <= known:
        parser.error(f"--only knows {', '.join(sorted(known))}")
    reasons = {needs: missing(needs) for needs in sorted({entry.needs for entry in LIBRARIES})}
    measured = []
    for entry in LIBRARIES:
        if entry.key in chosen and reasons[entry.needs] is None:
            print(f"{entry.name} …", file=sys.stderr, flush=True)
            measured.append(measure(entry, floats, numpy_times))
    walls, core_seconds = zip(*numpy_times, strict=True)
    words = "numpy", "numpy float32", "all", "plaintext"
    product = row_of(*words, len(floats), list(walls), statistics.median(core_seconds))
    product["threads"] = options.threads
    report: Json = {
        "machine": described,
        "load_at_the_end": round(os.getloadavg()[0], 2),
        "dim": options.dim,
        "smoke": options.smoke,
        "reveals": REVEALS,
        "entries": [product, ours, *measured],
        "quoted": QUOTED,
        "left_out": [f"{needs}: {reason}" for needs, reason in reasons.items() if reason is not None],
    }
    for row in report["entries"]:
        row["over_numpy"] = float(f"{row['seconds_per_million'] / product['seconds_per_million']:.3g}")
    text = json.dumps(report, indent=2, ensure_ascii=False)
    print(text)
    print(table(report), file=sys.stderr)
    folder = options.out or (None if options.smoke else RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "compare.json").write_text(text + "\n", encoding="utf-8")
        if missing("matplotlib") is None:
            from benchmarks.chart import draw

            draw(report, folder / "compare.svg")
        else:
            print("matplotlib is not installed: no chart", file=sys.stderr)


if __name__ == "__main__":
    main()
