"""The same search with OpenFHE's own calls: `OMP_NUM_THREADS=2 python -m benchmarks.openfhe_products`. Prints JSON.

- `bfv`: Σ_j p_j·ct_j by `EvalMult(ct, pt)` and `EvalAddInPlace`, plaintexts made as they are needed ("streaming":
  kept ready, those of 10^6 rows would take tens of GB). This is what our scoring kernel does; whoever holds the key
  would then see every score. With our two primes the lift of negative numbers to [0, t) costs so much noise that
  some scores come out wrong (they are counted); OpenFHE needs a third prime.
- `ckks`: the threshold alone, by a Chebyshev series over scores that are already encrypted under a joint key of three
  parties, and the joint decryption of the graded values.
- `keys`: what a query needs ahead of time, OpenFHE beside our own sampling.

OpenFHE spreads one call over OMP_NUM_THREADS threads; there is no binding to set it from within.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nodes.bench.openfhe_threshold import joint_keys
from pets import keys, openfhe_keys, sampling
from pets.keys import JointKey, ZeroPool
from pets.openfhe_keys import OpenFheKeys
from pets.params import N4096

MILLION = 1_000_000
Json = dict[str, Any]


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def templates(rows: int, dim: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Quantised unit vectors, int8, the first row being the probe's own."""
    vectors = np.random.default_rng(1).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = np.clip(np.rint(497 * vectors), -127, 127).astype(np.int8)
    return gallery, gallery[0]


def bfv(openfhe: Any, rows: int, dim: int, sums: int) -> Json:
    """`sums` is what `SetEvalAddCount` is told; from 2^31 on it makes OpenFHE take a third prime."""
    wanted = openfhe.CCParamsBFVRNS()
    wanted.SetRingDim(N4096.n)
    wanted.SetPlaintextModulus(N4096.t)
    wanted.SetScalingModSize(30)
    wanted.SetMultiplicativeDepth(0)
    wanted.SetEvalAddCount(sums)
    context = openfhe.GenCryptoContext(wanted)
    for feature in (openfhe.PKE, openfhe.KEYSWITCH, openfhe.LEVELEDSHE):
        context.Enable(feature)
    pair = context.KeyGen()
    gallery, probe = templates(rows, dim)
    ciphertexts = [context.Encrypt(pair.publicKey, context.MakeCoefPackedPlaintext([int(v)])) for v in probe]
    spent = dict.fromkeys(("encode", "multiply", "add"), 0.0)
    totals = []
    for start in range(0, rows, N4096.n):
        columns = np.ascontiguousarray(gallery[start : start + N4096.n].T, np.int64)
        total = None
        for ciphertext, column in zip(ciphertexts, columns, strict=True):
            marks = [time.perf_counter()]
            plaintext = context.MakeCoefPackedPlaintext(column)
            marks.append(time.perf_counter())
            product = context.EvalMult(ciphertext, plaintext)
            marks.append(time.perf_counter())
            if total is None:
                total = product
            else:
                context.EvalAddInPlace(total, product)
            marks.append(time.perf_counter())
            for name, before, after in zip(spent, marks, marks[1:], strict=False):
                spent[name] += after - before
        totals.append(total)
    wrong = 0
    expected = gallery.astype(np.int64) @ probe.astype(np.int64)
    for block, total in enumerate(totals):
        plaintext = context.Decrypt(pair.secretKey, total)
        plaintext.SetLength(N4096.n)
        part = expected[block * N4096.n : (block + 1) * N4096.n]
        wrong += int(np.count_nonzero(np.array(plaintext.GetCoefPackedValue())[: len(part)] != part))
    everything = sum(spent.values())
    return {
        "n": N4096.n,
        "primes": 2 if sums == 0 else 3,
        "rows": rows,
        "dim": dim,
        "seconds": {name: round(value, 3) for name, value in spent.items()},
        "us_per_row": round(1e6 * everything / rows, 2),
        "seconds_per_million": round(MILLION * everything / rows, 2),
        "seconds_per_million_without_encoding": round(MILLION * (everything - spent["encode"]) / rows, 2),
        "wrong_scores": wrong,
    }


def ckks(openfhe: Any, degree: int, depth: int, threshold: float = 0.4) -> Json:
    """Scores in [-1, 1] against a threshold under the joint key of three parties, one ciphertext of 16,384 scores."""
    wanted = openfhe.CCParamsCKKSRNS()
    wanted.SetRingDim(32768)
    wanted.SetScalingModSize(50)
    wanted.SetFirstModSize(60)
    wanted.SetMultiplicativeDepth(depth)
    wanted.SetScalingTechnique(openfhe.FLEXIBLEAUTO)
    context = openfhe.GenCryptoContext(wanted)
    for feature in (openfhe.PKE, openfhe.KEYSWITCH, openfhe.LEVELEDSHE, openfhe.ADVANCEDSHE, openfhe.MULTIPARTY):
        context.Enable(feature)
    pairs = joint_keys(context)
    joint = pairs[-1].publicKey
    slots = 16384
    rng = np.random.default_rng(2)
    scores = rng.uniform(-1, 1, slots)
    ciphertext = context.Encrypt(joint, context.MakeCKKSPackedPlaintext(scores.tolist()))
    results: list[Any] = []

    def step(x: float) -> float:
        return float(x >= threshold)

    compare = seconds(lambda: results.append(context.EvalChebyshevFunction(step, ciphertext, -1, 1, degree)))
    start = time.perf_counter()
    parts = context.MultipartyDecryptLead([results[0]], pairs[0].secretKey)
    for pair in pairs[1:]:
        parts += context.MultipartyDecryptMain([results[0]], pair.secretKey)
    plaintext = context.MultipartyDecryptFusion(parts)
    plaintext.SetLength(slots)
    graded = np.array(plaintext.GetRealPackedValue())
    decrypt = time.perf_counter() - start
    error = abs(graded - (scores >= threshold))
    far = abs(scores - threshold) >= 0.05
    return {
        "n": 32768,
        "degree": degree,
        "depth": depth,
        "parties": 3,
        "scores": slots,
        "threshold_seconds": round(compare, 3),
        "joint_decrypt_seconds": round(decrypt, 3),
        "seconds_per_million": round(MILLION * (compare + decrypt) / slots, 1),
        "max_error_outside_0.05_of_threshold": round(float(error[far].max()), 4),
        "wrong_decisions": int(np.count_nonzero(error >= 0.5)),
        "graded_values_0.1_to_0.9": int(np.count_nonzero((graded > 0.1) & (graded < 0.9))),
    }


def key_sources(threads: int, count: int = 64) -> Json:
    common = sampling.common_polynomial(N4096, b"benchmark")
    source = OpenFheKeys()
    share = source.sample_share(N4096, common, b"benchmark")
    joint = JointKey(N4096, b"benchmark", share.public, common)
    work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "openfhe": (
            lambda: source.sample_share(N4096, common, b"benchmark"),
            lambda: source.make_zeros(joint, "probe", count, threads),
        ),
        "native": (
            lambda: keys.sample_key_share(N4096, common, bytes(32), b"benchmark"),
            lambda: ZeroPool.make(joint, bytes(32), "probe", count, threads),
        ),
    }
    out: Json = {}
    for name, (sample, zeros) in work.items():
        sample(), zeros()
        per_zero = 1000 * seconds(zeros, 5) / count
        out[name] = {
            "share_ms": round(1000 * seconds(sample, 9), 2),
            "zero_ms": round(per_zero, 3),
            "zeros_for_d512_seconds": round(512 * per_zero / 1000, 3),
        }
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2, help="for `keys`; the rest follows OMP_NUM_THREADS")
    parser.add_argument("--degrees", default="119:8,247:9", help="degree:multiplicative depth, comma separated")
    options = parser.parse_args()
    reason = openfhe_keys.available()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    openfhe = importlib.import_module("openfhe")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    degrees = [tuple(map(int, part.split(":"))) for part in options.degrees.split(",")]
    report = {
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "python": platform.python_version(),
        "openfhe": openfhe.__version__,
        "commit": commit.stdout.strip() or None,
        "threads": options.threads,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "1"),
        "keys": key_sources(options.threads),
        "bfv": [bfv(openfhe, options.rows, options.dim, sums) for sums in (0, 2**32 - 2)],
        "ckks": [ckks(openfhe, degree, depth) for degree, depth in degrees],
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
