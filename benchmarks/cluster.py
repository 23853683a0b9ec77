"""A gallery in shards under Ray: the same hits as one process, while workers are killed; and what two workers gain.

    python -m benchmarks.cluster                                100 searches with kills; efficiency on 1 and 2 workers
    python -m benchmarks.cluster --rows 8192 --dim 64 --searches 3 --skip-efficiency      a smoke run

Starts Ray on this machine, bound to 127.0.0.1, with a token, through the same functions as `lineup cluster start`.
All three parties run in this process; only the holder's passes over its rows are done by the shards, which are asked
as a node asks them, through a process of its own.

*Efficiency*: seconds of one pass of a preparation over all rows on one worker, over twice those on two, each worker on
a core of its own. Beyond two it is *projected*, by the model written into the file: what is shared (the mask travels
once to every machine, results of 16 bytes a row come back) stays, the rest is divided.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import statistics
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=65536)
parser.add_argument("--dim", type=int, default=128)
parser.add_argument("--workers", type=int, default=4)
parser.add_argument("--searches", type=int, default=100)
parser.add_argument("--kill-every", type=float, default=1.0, help="seconds between two kills, on average")
parser.add_argument("--pass-rows", type=int, default=262_144, help="rows of the pass that is timed")
parser.add_argument("--pass-dim", type=int, default=512)
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--port", type=int, default=6391)
parser.add_argument("--skip-efficiency", action="store_true")
parser.add_argument("--json", type=Path)
options = parser.parse_args()
machine.prepare(1)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from nodes.blocks import BlockFiles  # noqa: E402
from nodes.cluster import machines  # noqa: E402
from nodes.cluster.gallery import ClusterGallery  # noqa: E402
from nodes.cluster.link import Link  # noqa: E402
from nodes.config.cluster import ClusterConfig  # noqa: E402
from nodes.config.schema import Role, load_config  # noqa: E402
from nodes.config.storage_key import storage_key  # noqa: E402
from nodes.identity.identity import init_node  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.scoring import prepare_probe  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.engine import EncryptedEngine, PlainEngine  # noqa: E402
from protocol.gallery import Gallery  # noqa: E402
from protocol.steps import Product, ScoreRows  # noqa: E402
from protocol.terms import Terms  # noqa: E402
from protocol.work import perform  # noqa: E402

HOST = "127.0.0.1"


def configuration(folder: Path, shards: int) -> ClusterConfig:
    token = folder / "cluster.token"
    return ClusterConfig(f"{HOST}:{options.port}", shards=shards, threads=1, token_file=token, patience_seconds=120)


def enrolled(node: Path, name: str, rows: npt.NDArray[np.int8]) -> BlockFiles:
    """Block files with rows, sealed under the node's key."""
    cipher = storage_key(load_config(node)).blocks
    files = BlockFiles.create(node / name, cipher, dim=rows.shape[1], model=bytes(32))
    files.append(rows)
    return files


def process(link: Link, gallery: ClusterGallery, shard: int) -> int:
    """The number of a shard's process."""
    copy = gallery.shards.parts[shard].copies[0]
    return int(link.get(link.ask(copy, "status"), 60)["pid"])


class Killer(threading.Thread):
    """Kills a worker at random, again and again."""

    def __init__(self, gallery: ClusterGallery, link: Link) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self._gallery, self._link, self._stop_it = gallery, link, threading.Event()

    def run(self) -> None:
        random.seed(1)
        while not self._stop_it.wait(random.expovariate(1 / options.kill_every)):
            shard = random.randrange(len(self._gallery.shards.parts))
            try:
                os.kill(process(self._link, self._gallery, shard), signal.SIGKILL)
                self.kills += 1
            except Exception:  # it is dead already
                continue

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


def searches_with_kills(node: Path, link: Link) -> dict[str, Any]:
    rows = quantise(synthetic_templates(options.rows, options.dim, seed=11))
    files, config = enrolled(node, "searched", rows), configuration(node, options.workers)
    gallery = ClusterGallery(files, link, config, node, unit=N4096.n)
    plain = Gallery.plain(rows, N4096)
    spread = Gallery.of(gallery.snapshot().rows, N4096, root=secrets.token_bytes(32))
    terms = Terms(Decimal("0.55"), options.dim, N4096, 10, Decimal("0.02"))
    killer = Killer(gallery, link)
    killer.start()
    engine, right, seconds = EncryptedEngine(threads=2), 0, []
    started = time.perf_counter()
    for number in range(options.searches):
        probe = rows[number * 7919 % len(rows)][None].copy() if number % 2 else quantise(
            synthetic_templates(1, options.dim, seed=1000 + number)
        )  # fmt: skip
        begun = time.perf_counter()
        found = engine.search(spread, probe, terms)
        seconds.append(time.perf_counter() - begun)
        due = PlainEngine().search(plain, probe, terms)
        right += found == due
    killer.stop()
    gallery.shards.close()
    return {
        "rows": len(rows), "dim": options.dim, "workers": options.workers, "searches": options.searches,
        "right": right, "kills": killer.kills, "seconds": round(time.perf_counter() - started, 1),
        "median_s": round(statistics.median(seconds), 3), "slowest_s": round(max(seconds), 3),
    }  # fmt: skip


def efficiency(node: Path, link: Link) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    pool = quantise(synthetic_templates(16384, options.pass_dim, seed=12))
    rows = pool[rng.integers(0, len(pool), options.pass_rows)]
    files = enrolled(node, "passed", rows)
    mask = rng.integers(0, 2**29, (options.pass_dim, 2, 2, N4096.n), np.uint32)
    probe = prepare_probe(mask, N4096)
    values = rng.integers(0, N4096.t, options.pass_dim, np.int32)
    blocks = -(-len(rows) // N4096.n)
    cores = sorted(os.sched_getaffinity(0))[:2]
    timed: dict[int, dict[str, list[float]]] = {}
    held = {k: ClusterGallery(files, link, configuration(node, k), node, unit=N4096.n) for k in (1, 2)}
    spread = {k: gallery.snapshot().rows for k, gallery in held.items()}
    for count, gallery in held.items():
        for shard, core in zip(range(count), cores, strict=False):
            os.sched_setaffinity(process(link, gallery, shard), {core})
        timed[count] = {"pass": [], "product": []}
    for turn in range(options.repeat + 1):  # in turns, so that a noisy neighbour meets both; the first compiles
        for count, there in spread.items():
            for name, work in (
                ("pass", ScoreRows(there, probe, 0, blocks)),
                ("product", Product(there, values, N4096, 0, blocks)),
            ):
                started = time.perf_counter()
                perform([work], 1)
                if turn:
                    timed[count][name].append(time.perf_counter() - started)
    for gallery in held.values():
        gallery.shards.close()
    best = {count: {name: statistics.median(found) for name, found in one.items()} for count, one in timed.items()}
    # Amdahl's: seconds(k) = shared + divided / k, from the two that were measured.
    divided = 2 * (best[1]["pass"] - best[2]["pass"])
    shared = max(0.0, best[1]["pass"] - divided)
    return {
        "rows": len(rows), "dim": options.pass_dim, "cores": len(cores), "repeat": options.repeat,
        "pass_s": {str(k): round(v["pass"], 3) for k, v in best.items()},
        "product_s": {str(k): round(v["product"], 4) for k, v in best.items()},
        "efficiency_2": round(best[1]["pass"] / (2 * best[2]["pass"]), 3),
        "model": "seconds(k) = shared + divided / k; shared and divided from 1 and 2 workers",
        "projected_pass_s": {str(k): round(shared + divided / k, 3) for k in (4, 8, 16)},
        "measured": {"1": True, "2": True, "4": False, "8": False, "16": False},
    }  # fmt: skip


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="lineup-cluster-"))
    node = root / "es"
    init_node(node, name="ES", role=Role.HOLDER, address="https://127.0.0.1:8443", authority=root / "ca", states=["FR"])
    config = configuration(node, options.workers)
    machines.make_token(node / "cluster.token")
    machines.start(config, HOST, processors=16, store_bytes=3 * 2**30)  # Ray's places, not this machine's cores
    link = Link(config)
    try:
        report: dict[str, Any] = {"machine": machine.describe(2), "kills": searches_with_kills(node, link)}
        print(json.dumps(report["kills"]))
        if not options.skip_efficiency:
            report["efficiency"] = efficiency(node, link)
            print(json.dumps(report["efficiency"], indent=1))
    finally:
        link.close()
        machines.stop()
        shutil.rmtree(root)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if report["kills"]["right"] != options.searches:
        raise SystemExit("wrong answers")


if __name__ == "__main__":
    main()
