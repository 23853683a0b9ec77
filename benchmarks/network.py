"""Prepared queries between nodes over mutual TLS, beside the same with all parties in one process.

    python -m benchmarks.network                     one holder of 262,144 rows, d = 512, loopback
    python -m benchmarks.network --delay-ms 15       the same with 15 ms added each way: 30 ms of round-trip time
    python -m benchmarks.network --union 1000 --runs 3               27 holders in one joint query, sizes over 1000
    python -m benchmarks.network --rows 4096 --dim 128 --runs 2      a smoke run

Every node is a process of its own and all share this machine's cores; the figures in one process are taken in turns
with theirs. Evidence and logs are written. Prints JSON, medians:

- `prepared`: a preparation waited. `online_s` runs from the probe's leaving the requester to the answer, `answer_s`
  from the operator's request on: it has the announcement and the signatures in it that go before.
- `cold`: none waited, so `answer_s` has a preparation in it.
- `preparation_s`: each of a batch of `--runs`, made before.
- `received_bytes`: by node, with all that TLS does not add; those of holders together.
- `core_seconds`: processor time of all nodes.
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
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=262144, help="of each holder")
parser.add_argument("--holders", type=int, default=1)
parser.add_argument("--union", type=int, metavar="BY", help="27 holders, with the sizes of GALLERIES divided by BY")
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=7)
parser.add_argument("--delay-ms", type=float, default=0, help="added each way between nodes")
parser.add_argument("--json", type=Path)
options = parser.parse_args()
machine.prepare(options.threads)

import numpy as np  # noqa: E402

from nodes.bench.blind_lineup import BlindLineup  # noqa: E402
from nodes.bench.engine import THRESHOLD, Clock  # noqa: E402
from nodes.casework import impact  # noqa: E402
from nodes.config.schema import Role  # noqa: E402
from nodes.config.storage import holder_store  # noqa: E402
from nodes.identity.identity import init_node, load_identity  # noqa: E402
from nodes.operator.client import NodeNotRunning, metrics, prepare, search, status  # noqa: E402
from nodes.service.operator_api import PrepareRequest, SearchReport, SearchRequest  # noqa: E402
from nodes.store import Category, Status  # noqa: E402
from pets.allocator import keep_freed_memory  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.terms import SYNTHETIC_MODEL  # noqa: E402

REQUESTER, ROUTER = "CH", "EU"
START_SECONDS = 900.0  # the first time on a machine they compile
# Thousands of photos: what was published of HU, IT, FR and DE; of the others 66 for 1000 inhabitants, as in DE.
GALLERIES = {
    "AT": 610, "BE": 780, "BG": 430, "HR": 250, "CY": 60, "CZ": 720, "DK": 390, "EE": 90, "FI": 370, "FR": 6000,
    "DE": 5500, "EL": 690, "HU": 30000, "IE": 350, "IT": 17000, "LV": 120, "LT": 190, "LU": 45, "MT": 37, "NL": 1180,
    "PL": 2420, "PT": 700, "RO": 1260, "SK": 360, "SI": 140, "ES": 3210, "SE": 700,
}  # fmt: skip
SIZES = (
    {name: max(8, 1000 * thousands // options.union) for name, thousands in GALLERIES.items()}
    if options.union
    else {"ES" if number == 1 else f"ES-{number}": options.rows for number in range(1, options.holders + 1)}
)
ROLES = {REQUESTER: Role.REQUESTER, **dict.fromkeys(SIZES, Role.HOLDER), ROUTER: Role.ROUTER}


def templates(rows: int, dim: int, seed: int) -> np.ndarray[Any, Any]:
    """Quantised rows, int8 (rows, dim); the last one is a copy of row 0."""
    parts = [
        quantise(synthetic_templates(min(65536, rows - start), dim, seed + at, mean=0.0087, sd=0.0757))
        for at, start in enumerate(range(0, rows, 65536))
    ]
    out = np.concatenate(parts)
    out[-1] = out[0]
    return out


def set_up(root: Path, galleries: dict[str, np.ndarray[Any, Any]]) -> float:
    """Folders of all nodes; the holders' galleries enrolled. Returns the seconds of the enrolments."""
    for name, role in ROLES.items():
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            address = f"https://127.0.0.1:{free.getsockname()[1]}"
        init_node(root / name, name=name, role=role, address=address, authority=root / "ca", states=(REQUESTER,))
        document, today = root / name / "dpia.md", datetime.now(timezone.utc).date()
        document.write_text("benchmark")
        impact.lodge(load_identity(root / name), root / name, document, "benchmark", today, today)
        path = root / name / "node.toml"
        # The same row is found again and again, and no preparation is made while something is measured.
        text = re.sub(r"(?m)^(quota_\w+|releases_per_reference) = \d+", r"\1 = 1000", path.read_text())
        text = re.sub(r"(?m)^ready = \d+", f"ready = {0 if name == REQUESTER else 1000}", text)
        path.write_text(re.sub(r"(?m)^max_bytes = \d+", f"max_bytes = {2**36}", text))
    until = (datetime.now(timezone.utc) + timedelta(days=1)).date()
    seconds = 0.0
    for name, rows in galleries.items():
        with holder_store(root / name) as store:
            seconds += machine.timed(
                lambda: store.enrol_many(
                    rows,  # noqa: B023
                    category=Category.SUSPECT,
                    status=Status.IDENTIFIED,
                    retain_until=until,
                    model=SYNTHETIC_MODEL,
                )
            )
    return seconds


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


def ask(root: Path, probe: np.ndarray[Any, Any], prepared: str) -> SearchReport:
    """One query; it must find the two rows of the first holder that are the probe, and nobody elsewhere."""
    report = search(
        root / REQUESTER,
        SearchRequest(
            template=probe.tobytes(),
            model=SYNTHETIC_MODEL,
            holders=tuple(SIZES),
            threshold=str(THRESHOLD),
            case="benchmark",
            offence="benchmark",
            maximum_penalty_years=5,
            officer="A",
            approver="B",
        ),
    )
    first = next(iter(SIZES))
    due = {name: ("candidates", 2) if name == first else ("no hit", 0) for name in SIZES}
    if {name: (answer.status, len(answer.references)) for name, answer in report.answers.items()} != due:
        raise SystemExit(f"wrong answer: {report.answers}")
    if report.prepared != prepared:
        raise SystemExit(f"a preparation should be {prepared!r}, it was {report.prepared!r}")
    return report


def received(root: Path) -> dict[str, int]:
    """Bytes that were taken from peers so far: by requester and router, and by all holders together."""
    found = dict.fromkeys(("requester", "holders", "router"), 0)
    for name, role in ROLES.items():
        (count,) = re.findall(r"(?m)^lineup_received_bytes_total\{.*\} (\S+)$", metrics(root / name))
        found["holders" if role is Role.HOLDER else role.value] += int(float(count))
    return found


@dataclass
class Turns:
    """What was measured of one kind of query between nodes."""

    online: list[float] = field(default_factory=list)
    answer: list[float] = field(default_factory=list)
    core: list[float] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)

    def take(self, root: Path, probe: np.ndarray[Any, Any], used: Callable[[], float], prepared: str) -> None:
        """One query more."""
        core, taken, started = used(), received(root), time.perf_counter()
        report = ask(root, probe, prepared)
        self.answer.append(time.perf_counter() - started)
        self.online.append(report.seconds_online)
        self.core.append(used() - core)
        self.bytes = {name: count - taken[name] for name, count in received(root).items()}

    def told(self) -> dict[str, object]:
        """Medians."""
        return {
            "online_s": machine.median(self.online),
            "answer_s": machine.median(self.answer),
            "core_seconds": machine.median(self.core),
            "received_bytes": self.bytes,
        }


def main() -> None:
    keep_freed_memory()
    galleries = {name: templates(rows, options.dim, 1000 * at) for at, (name, rows) in enumerate(SIZES.items())}
    rows = np.concatenate(list(galleries.values()))
    probe = rows[0]
    engine = BlindLineup(options.dim, options.threads, N4096.preset, galleries=list(galleries.values()))
    floats, query = rows.astype(np.float32), probe.astype(np.float32)
    waiting, cold, local, product = Turns(), Turns(), [], []
    with tempfile.TemporaryDirectory(prefix="lineup-network-") as folder:
        root = Path(folder)
        enrolment = set_up(root, galleries)
        with serving(root) as used:
            ask(root, probe, "now")  # warms up
            batch = PrepareRequest(tuple(SIZES), options.runs, options.dim, SYNTHETIC_MODEL)
            core, taken = used(), received(root)
            made = prepare(root / REQUESTER, batch, lambda _: None)
            if made.made != options.runs:
                raise SystemExit(f"{made.made} of {options.runs} preparations: {made.refused}")
            preparing = {
                "preparation_s": round(made.seconds / made.made, 3),
                "batch": made.made,
                "core_seconds": round((used() - core) / made.made, 3),
                "received_bytes": {name: (now - taken[name]) // made.made for name, now in received(root).items()},
            }
            for _ in range(options.runs):  # in turns, so that a busy machine hits all alike
                waiting.take(root, probe, used, "waiting")
                engine.prepare(1)
                started = time.perf_counter()
                (found,) = engine.search(probe[None], Clock())
                local.append(time.perf_counter() - started)
                if found != [0, len(galleries[next(iter(SIZES))]) - 1]:
                    raise SystemExit(f"in one process rows {found} were found")
                product.append(machine.timed(lambda: floats @ query))
            for _ in range(min(3, options.runs)):
                cold.take(root, probe, used, "now")
    result = {
        "machine": machine.describe(options.threads),
        "rows": len(rows),
        "holders": len(SIZES),
        "dim": options.dim,
        "runs": options.runs,
        "round_trip_added_ms": 2 * options.delay_ms,
        "numpy_s": machine.median(product),
        "one_process_online_s": machine.median(local),
        "prepared": waiting.told(),
        "cold": cold.told(),
        "preparing": preparing,
        "nodes_online_over_one_process": round(machine.median(waiting.online) / machine.median(local), 2),
        "store_enrolment_s": round(enrolment, 1),
    }
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
