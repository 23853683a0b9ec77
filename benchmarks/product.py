"""The kernels of prepared queries, beside numpy's float32 matrix-vector product on the same rows in the same run.

    python -m benchmarks.product --rows 262144 --dim 512 --threads 2

Prints JSON; times are seconds, medians and minima of turns that all sides take one after the other, so that a busy
machine hits them alike.

- `product`: D·u modulo t for one public vector; `products`: for `--probes` of them in one pass.
- `publish`: what the holder then sends of each row, as bit planes.
- `difference`, `pair_products`, `sign`: the circuits of preparation and search, all three parties, one after the other
  in one process, with their masks. Messages are handed over in memory.
- `score_rows`: `--batch` encrypted masks against `--score-rows` rows, which are brought into NTT form on the way.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable

from benchmarks import machine

if __name__ == "__main__":
    machine.prepare(int(sys.argv[sys.argv.index("--threads") + 1]) if "--threads" in sys.argv[:-1] else 2)

import numpy as np

from pets import circuits, params, public_sum, scoring
from pets.allocator import keep_freed_memory
from pets.bits import PARTIES, Bits, party_bits
from pets.circuits import Circuit
from pets.planes import to_planes
from pets.prf import Keystream, derive_key
from pets.product import public_product, public_sums
from pets.replicated import Masks, and_local

WIDTH = params.SHARE_BITS


def turns(works: dict[str, Callable[[], object]], count: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(count):
        for name, work in works.items():
            times[name].append(machine.timed(work))
    return {
        name: {"median": round(statistics.median(some), 6), "min": round(min(some), 6), "runs": len(some)}
        for name, some in times.items()
    }


def run_parties(
    running: list[Circuit[Bits]], purpose: str, threads: int, gates: dict[str, int] | None = None
) -> list[Bits]:
    """All three in turn. `gates`: is told under `purpose` how many ANDs of single bits it took."""
    count = 0
    keys = [derive_key(bytes(32), "benchmark", purpose, k) for k in range(PARTIES)]
    masks = [Masks(i, Keystream(keys[i]), Keystream(keys[(i + 1) % PARTIES])) for i in range(PARTIES)]
    pairs = [next(circuit) for circuit in running]
    while True:
        count += 64 * pairs[0][0].shape[0] * pairs[0][0].shape[1]
        products = [and_local(masks[i], *pairs[i], threads) for i in range(PARTIES)]
        results = []
        for i, circuit in enumerate(running):
            products[i].parts[1] = products[(i + 1) % PARTIES].parts[0]
            try:
                pairs[i] = circuit.send(products[i])
            except StopIteration as end:
                results.append(end.value)
        if results:
            if gates is not None:
                gates[purpose] = count
            return results


def circuit_works(
    rng: np.random.Generator, rows: int, threads: int, gates: dict[str, int] | None = None
) -> dict[str, Callable[[], object]]:
    words = -(-rows // 64)
    e, z, m_0, m_1 = rng.integers(0, 2**64, (4, WIDTH, words), np.uint64)
    zero = np.zeros_like(z)
    x = [party_bits(0, zero, zero), party_bits(1, zero, z), party_bits(2, z, zero)]
    y = [party_bits(0, m_0, m_1), party_bits(1, m_1, zero), party_bits(2, zero, m_0)]

    def difference() -> list[Bits]:
        return run_parties(
            [public_sum.subtract(*pair, threads) for pair in zip(x, y, strict=True)], "difference", threads, gates
        )

    shared = difference()

    def pair_products() -> list[Bits]:
        return run_parties([circuits.adjacent_products(own) for own in shared], "pair_products", threads, gates)

    products = pair_products()

    def sign() -> list[Bits]:
        both = zip(shared, products, strict=True)
        return run_parties([public_sum.sign_of_public_sum(e, *own, threads) for own in both], "sign", threads, gates)

    return {"difference": difference, "pair_products": pair_products, "sign": sign}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=262144)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--probes", type=int, default=16, help="vectors that share one pass")
    parser.add_argument("--batch", type=int, default=8, help="masks that share one pass of the preparation")
    parser.add_argument("--score-rows", type=int, default=131072)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--preset", default=params.N4096.preset, choices=sorted(params.PRESETS))
    options = parser.parse_args()
    keep_freed_memory()
    ring, threads, dim = params.preset(options.preset), options.threads, options.dim
    rng = np.random.default_rng(1)

    rows = rng.integers(-127, 128, (options.rows, dim), np.int8)
    us = rng.integers(0, ring.t, (options.probes, dim), np.int32)
    values = public_product(rows, us, ring.t, threads)[0]
    padded = np.zeros(-(-options.rows // 64) * 64, np.uint32)
    padded[: options.rows] = values
    plain = rows.astype(np.float32)
    vector = plain[0].copy()
    works: dict[str, Callable[[], object]] = {
        "numpy_float32": lambda: plain @ vector,
        "product": lambda: public_product(rows, us[:1], ring.t, threads),
        "products": lambda: public_product(rows, us, ring.t, threads),
        "publish": lambda: to_planes(public_sums(padded, padded, 1, ring, threads), WIDTH, threads),
        **circuit_works(rng, options.rows, threads),
    }
    for work in works.values():
        work()
    times = turns(works, options.runs)

    some = rng.integers(-127, 128, (options.score_rows, dim), np.int8)
    residues = rng.integers(0, min(ring.primes), (dim, 2, 2, ring.n), np.uint32)
    probes = [scoring.prepare_probe(residues, ring, threads) for _ in range(options.batch)]
    scoring.score_rows(some[: ring.n], probes, ring, threads)
    times |= turns({"score_rows": lambda: scoring.score_rows(some, probes, ring, threads)}, max(3, options.runs // 5))

    per_million = 1e6 / options.score_rows
    report = {
        "machine": machine.describe(threads),
        "preset": ring.preset,
        "rows": options.rows,
        "dim": dim,
        "probes": options.probes,
        "batch": options.batch,
        "times": times,
        "over_numpy": {
            which: {
                name: round(times[name][which] / times["numpy_float32"][which], 3)
                for name in ("product", "products", "publish", "sign")
            }
            for which in ("median", "min")
        },
        "products_over_product": round(times["products"]["median"] / times["product"]["median"], 2),
        "score_rows_s_per_million_rows": round(times["score_rows"]["median"] * per_million, 3),
        "score_rows_s_per_million_rows_min": round(times["score_rows"]["min"] * per_million, 3),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
