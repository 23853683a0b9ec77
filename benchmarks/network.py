"""A query between nodes over mutual TLS, beside the same query with all parties in one process.

    python -m benchmarks.network                     one holder of 262,144 rows, d = 512, loopback
    python -m benchmarks.network --delay-ms 15       the same with 15 ms added each way: 30 ms of round-trip time
    python -m benchmarks.network --rows 4096 --dim 128 --runs 2      a smoke run

Requester, holder and router are processes of their own and share this machine's cores; the figure in one process is
taken in turns with theirs. Prints JSON: medians of the online part, from the known probe to the answer,
and of the processor time of all parties, offline part included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=262144)
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=7)
parser.add_argument("--delay-ms", type=float, default=0, help="added each way between nodes")
parser.add_argument("--json", type=Path)
options = parser.parse_args()
machine.prepare(options.threads)

import numpy as np  # noqa: E402

from nodes.casework import impact  # noqa: E402
from nodes.config.schema import Role  # noqa: E402
from nodes.config.storage import holder_store  # noqa: E402
from nodes.identity.identity import init_node, load_identity  # noqa: E402
from nodes.operator.client import NodeNotRunning, search, status  # noqa: E402
from nodes.service.operator_api import SearchReport, SearchRequest  # noqa: E402
from nodes.store import Category, Status  # noqa: E402
from pets.allocator import keep_freed_memory  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.engine import EncryptedEngine, PlainEngine  # noqa: E402
from protocol.gallery import Gallery  # noqa: E402
from protocol.terms import SYNTHETIC_MODEL, Terms  # noqa: E402

ROLES = {"FR": Role.REQUESTER, "ES": Role.HOLDER, "EU": Role.ROUTER}
THRESHOLD = "0.6"
START_SECONDS = 300.0


def templates(rows: int, dim: int) -> np.ndarray[Any, Any]:
    """Quantised rows, int8 (rows, dim); the last one is a copy of row 0."""
    parts = [
        quantise(synthetic_templates(min(65536, rows - start), dim, seed, mean=0.0087, sd=0.0757))
        for seed, start in enumerate(range(0, rows, 65536))
    ]
    out = np.concatenate(parts)
    out[-1] = out[0]
    return out


def set_up(root: Path, rows: np.ndarray[Any, Any]) -> float:
    """Folders of three nodes; the holder's gallery enrolled. Returns the seconds of the enrolment."""
    for name, role in ROLES.items():
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            address = f"https://127.0.0.1:{free.getsockname()[1]}"
        init_node(root / name, name=name, role=role, address=address, authority=root / "ca", states=("FR",))
        document, today = root / name / "dpia.md", datetime.now(timezone.utc).date()
        document.write_text("benchmark")
        impact.lodge(load_identity(root / name), root / name, document, "benchmark", today, today)
        path = root / name / "node.toml"
        # The same row is found again and again.
        text = re.sub(r"(?m)^(quota_\w+|releases_per_reference) = \d+", r"\1 = 1000", path.read_text())
        path.write_text(text)
    until = (datetime.now(timezone.utc) + timedelta(days=1)).date()
    with holder_store(root / "ES") as store:
        return machine.timed(
            lambda: store.enrol_many(
                rows, category=Category.SUSPECT, status=Status.IDENTIFIED, retain_until=until, model=SYNTHETIC_MODEL
            )
        )


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Callable[[], float]]:
    """The nodes as processes, warm. Gives what tells how many seconds of processors they have used so far."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    ticks = os.sysconf("SC_CLK_TCK")

    def used() -> float:
        stats = [Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1] for process in processes.values()]
        return sum(int(field) for stat in stats for field in stat.split()[11:13]) / ticks

    try:
        for name in ROLES:
            command = [sys.executable, "-m", "nodes.cli", "node", "serve", "--dir", str(root / name)]
            with (root / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(
                    [*command, "--delay-ms", str(options.delay_ms)], stderr=log, stdin=subprocess.DEVNULL
                )
        deadline = time.monotonic() + START_SECONDS
        for name, process in processes.items():
            while True:
                try:
                    status(root / name)
                    break
                except NodeNotRunning:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{name} did not start: {(root / f'{name}.log').read_text()}") from None
                    time.sleep(0.1)
        yield used
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(60)


def ask(root: Path, probe: np.ndarray[Any, Any]) -> SearchReport:
    """One query; it must find the two rows that are the probe."""
    report = search(
        root / "FR",
        SearchRequest(
            template=probe.tobytes(),
            model=SYNTHETIC_MODEL,
            holders=("ES",),
            threshold=THRESHOLD,
            case="benchmark",
            offence="benchmark",
            maximum_penalty_years=5,
            officer="A",
            approver="B",
        ),
    )
    if report.answers["ES"].status != "candidates" or len(report.answers["ES"].references) != 2:
        raise SystemExit(f"wrong answer: {report.answers}")
    return report


def main() -> None:
    keep_freed_memory()
    rows = templates(options.rows, options.dim)
    gallery = Gallery.of(rows, N4096, threads=options.threads)
    terms = Terms(Decimal(THRESHOLD), options.dim, N4096)
    floats, query = rows.astype(np.float32), rows[0].astype(np.float32)
    online, offline, local, product = [], [], [], []
    nodes_cpu, local_cpu = [], []
    with tempfile.TemporaryDirectory(prefix="lineup-network-") as folder:
        root = Path(folder)
        enrolment = set_up(root, rows)
        with serving(root) as used:
            ask(root, rows[0])
            if EncryptedEngine(options.threads).search(gallery, rows[:1], terms) != PlainEngine().search(
                gallery, rows[:1], terms
            ):
                raise SystemExit("the encrypted search differs from the plaintext twin")
            for _ in range(options.runs):  # in turns, so that a busy machine hits all alike
                before = used()
                report = ask(root, rows[0])
                nodes_cpu.append(used() - before)
                online.append(report.seconds_online)
                offline.append(report.seconds_offline)
                engine = EncryptedEngine(options.threads)
                before = time.process_time()
                engine.search(gallery, rows[:1], terms)
                local_cpu.append(time.process_time() - before)
                local.append(engine.cost.seconds["online"])
                product.append(machine.timed(lambda: floats @ query))
    result = {
        "machine": machine.describe(options.threads),
        "rows": options.rows,
        "dim": options.dim,
        "runs": options.runs,
        "round_trip_added_ms": 2 * options.delay_ms,
        "numpy_s": machine.median(product),
        "one_process_online_s": machine.median(local),
        "nodes_online_s": machine.median(online),
        "nodes_online_over_one_process": round(machine.median(online) / machine.median(local), 2),
        "nodes_offline_s": machine.median(offline),
        "one_process_core_seconds": machine.median(local_cpu),
        "nodes_core_seconds": machine.median(nodes_cpu),
        "store_enrolment_s": round(enrolment, 1),
    }
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
