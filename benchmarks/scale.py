"""Preparation and search from 10^5 to 3·10^7 rows, all three parties in one process, the gallery in block files.

    python -m benchmarks.scale                                    10^5, 10^6 and 10^7 rows, d = 512
    python -m benchmarks.scale --rows 30000000                    needs 20 GB of memory and 17 GB of disk
    python -m benchmarks.scale --rows 4096 --dim 64 --batch 2     a smoke run
    python -m benchmarks.scale --store --rows 1000000             a holder's store: enrolment, and start of its node

Every size runs in a process of its own: int8 rows are made a chunk at a time, enrolled into block files, opened from
them into memory; `--batch` preparations are made in one pass, and each is used for one search, whose hits must be
those of the plaintext twin. Writes a flat list, an entry a size. Seconds are those of a clock, which other work on the
machine makes longer (`load` says how much there was); `cpu` seconds are of this process, on all cores together.

`--store` adds to the entries of the same size: `enrolment_store_rows_per_s`, into block files and an SQLite database
with a reference each, and `node_start_s`, of what a node does with its store before it answers: the database's own
check, every subject against the digest and, beside that, the rows into memory; who of them may be found.

`verified`: whether gates are verified against cheating parties; it is false until the protocol does that.
`peak_rss_bytes`: of the whole process from its start, the gallery included.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--batch", type=int, default=4, help="preparations that share a pass over the gallery")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--folder", type=Path, help="where block files are made and deleted; default: a temporary folder")
parser.add_argument("--json", type=Path, help="add the entries to this file, in place of those of the same size")
parser.add_argument("--patience", type=float, default=0, help="minutes to wait for memory that other programs have")
parser.add_argument("--store", action="store_true", help="a holder's store in place of preparations and searches")
parser.add_argument("--only", action="store_true", help="one size, in this process")
options = parser.parse_args()
machine.prepare(options.threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

from nodes.blocks import BlockFiles, ResidentGallery  # noqa: E402
from nodes.store import Category, Status, StorageKey  # noqa: E402
from nodes.store.derived import DerivedGallery  # noqa: E402
from nodes.store.opening import verify_and_read  # noqa: E402
from nodes.store.resident import Resident  # noqa: E402
from nodes.store.store import GalleryStore  # noqa: E402
from pets.allocator import keep_freed_memory  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.announcing import Plan  # noqa: E402
from protocol.engine import EncryptedEngine, PlainEngine, warm_up  # noqa: E402
from protocol.gallery import Gallery  # noqa: E402
from protocol.terms import Terms  # noqa: E402

POOL_ROWS = 16384
APPENDED_ROWS = 131072


@dataclass
class Stopwatch:
    """Seconds on the clock and on all cores together, of what was done inside `with`; summed up."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> Stopwatch:
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._started[0]
        self.cpu += time.process_time() - self._started[1]


def enrol(files: BlockFiles, rows: int, dim: int) -> tuple[Stopwatch, npt.NDArray[np.int8]]:
    """Append synthetic rows; gives the time that took, without making them, and a probe that hits three.

    A chunk is a pool of rows with entries in another order, so that chunks differ and keep the pool's statistics.
    """
    pool = quantise(synthetic_templates(min(POOL_ROWS, rows), dim, 0, mean=0.0087, sd=0.0757))
    probe = pool[0].copy()
    planted = sorted({rows // 3, rows // 2, rows - 1})
    rng, spent = np.random.default_rng(1), Stopwatch()
    for start in range(0, rows, APPENDED_ROWS):
        count = min(APPENDED_ROWS, rows - start)
        part = np.empty((count, dim), np.int8)
        for place in range(0, count, len(pool)):
            part[place : place + len(pool)] = pool[: count - place, rng.permutation(dim)]
        for row in planted:
            if start <= row < start + count:
                part[row - start] = probe
        with spent:
            files.append(part)
    return spent, probe


def await_memory(rows: int) -> None:
    """Wait until the gallery and what is kept of the preparations fit. Raises SystemExit after `--patience` minutes."""
    kept = options.dim + 32 * options.batch  # bytes a row: planes of three parties, and what the holder adds
    needed = rows * kept + 10**9
    deadline = time.monotonic() + 60 * options.patience
    while (free := machine.available_bytes()) < needed:
        if time.monotonic() >= deadline:
            raise SystemExit(f"{rows:,} rows need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are available")
        time.sleep(5)


def measure(rows: int, folder: Path) -> dict[str, Any]:
    dim, threads = options.dim, options.threads
    load = os.getloadavg()[0]
    keep_freed_memory()
    warm_up(N4096)
    files = BlockFiles.create(folder, AESGCM(secrets.token_bytes(32)), dim=dim, model=bytes(32))
    enrolling, probe = enrol(files, rows, dim)
    await_memory(rows)
    with Stopwatch() as opening:
        resident = ResidentGallery(files, threads=threads)
    terms = Terms(Decimal("0.6"), dim, N4096)
    with resident.snapshot() as snapshot:
        gallery = Gallery.of(snapshot.rows, N4096, root=snapshot.version.root)
        wanted = PlainEngine().search(gallery, probe[None], terms)
        opened_peak = machine.peak_bytes()
        engine = EncryptedEngine(threads)
        with Stopwatch() as preparing:
            made = engine.prepare(gallery, Plan(terms.params, dim, terms.model), options.batch)
        prepared = sum(engine.cost.prepared.values())
        preparing_peak, kept = machine.peak_bytes(), machine.resident_bytes()
        searches = []
        for one in made:
            with Stopwatch() as search:
                found = engine.search_prepared(gallery, probe[None], terms, [one])
            searches.append(search)
            if found != wanted:
                raise SystemExit(f"{rows} rows: the encrypted search differs from the plaintext twin")
        sent = sum(engine.cost.traffic.values()) - prepared
    return {
        "rows": rows,
        "dim": dim,
        "online_s": machine.median([search.wall for search in searches]),
        "preparation_s": round(preparing.wall / options.batch, 3),
        "batch": options.batch,
        "verified": False,
        "peak_rss_bytes": machine.peak_bytes(),
        "measured": True,
        "online_runs_s": [round(search.wall, 4) for search in searches],
        "online_cpu_s": machine.median([search.cpu for search in searches]),
        "preparation_cpu_s": round(preparing.cpu / options.batch, 3),
        "online_bytes": sent // options.batch,
        "preparation_bytes": prepared // options.batch,
        "enrolment_rows_per_s": round(rows / enrolling.wall),
        "enrolment_cpu_s": round(enrolling.cpu, 2),
        "open_s": round(opening.wall, 2),
        "open_cpu_s": round(opening.cpu, 2),
        "peak_opened_bytes": opened_peak,
        "peak_preparing_bytes": preparing_peak,
        "rss_prepared_bytes": kept,
        "load": round(load, 1),
        **{key: value for key, value in machine.describe(threads).items() if key in ("processor", "commit", "date")},
    }


class Chunks:
    """Synthetic rows as `GalleryStore.enrol_many` reads them, and the time that making them takes."""

    def __init__(self, rows: int, dim: int) -> None:
        self._rows, self._dim = rows, dim
        self._pool = quantise(synthetic_templates(min(POOL_ROWS, rows), dim, 0, mean=0.0087, sd=0.0757))
        self.making = Stopwatch()

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, part: slice) -> npt.NDArray[np.int8]:
        with self.making:
            start, stop, _ = part.indices(self._rows)
            mixed = self._pool[:, np.random.default_rng(start).permutation(self._dim)]
            rows: npt.NDArray[np.int8] = mixed[np.arange(start, stop) % len(mixed)]
            return rows


def measure_store(rows: int, folder: Path) -> dict[str, Any]:
    """Enrolment with references and store; and a start on it, as in `nodes.service.known_store` and `Node.warm`."""
    dim, threads, load = options.dim, options.threads, os.getloadavg()[0]
    folder.mkdir()
    url, key = f"sqlite:///{folder}/store.db", StorageKey(secrets.token_bytes(32))
    chunks = Chunks(rows, dim)
    what = Category.SUSPECT, Status.IDENTIFIED, date.today() + timedelta(days=365)
    with GalleryStore(url, key, state="ES") as store, Stopwatch() as enrolling:
        store.enrol_many(
            chunks,
            category=what[0],
            status=what[1],
            retain_until=what[2],
            model=bytes(32),
            source=bytes(32),
            tell=False,
        )
    os.sync()  # else the start waits for the disk to take what was enrolled
    with Stopwatch() as starting, GalleryStore(url, key, state="ES") as store:
        resident = Resident(store, threads=threads)
        with Stopwatch() as reading:
            verify_and_read(resident, Category)
            store.settle()
        derived = DerivedGallery(store, N4096, resident=resident)
        with Stopwatch() as opening:
            gallery = derived.current()
        with Stopwatch() as finding:
            lent = derived.lend(gallery.root, datetime.now(timezone.utc), list(Category))
        assert lent is not None
        assert int(lent[1].sum()) == rows
        with Stopwatch() as again:
            derived.lend(gallery.root, datetime.now(timezone.utc), list(Category))
        gallery.reference(rows - 1)
    steps = {
        "check_and_rows_s": reading.wall, "open_s": opening.wall, "bits_s": finding.wall, "bits_again_s": again.wall
    }  # fmt: skip
    seconds = enrolling.wall - chunks.making.wall
    return {
        "rows": rows,
        "dim": dim,
        "measured": True,
        "enrolment_store_rows_per_s": round(rows / seconds),
        "enrolment_store_cpu_s": round(enrolling.cpu - chunks.making.cpu, 2),
        "node_start_s": round(starting.wall, 2),
        "node_start_cpu_s": round(starting.cpu, 2),
        "node_start_steps": {name: round(value, 3) for name, value in steps.items()},
        "database_bytes": (folder / "store.db").stat().st_size,
        "store_peak_rss_bytes": machine.peak_bytes(),
        "store_load": round(load, 1),
        "store_commit": machine.describe(threads)["commit"],
    }


def apart(rows: int, folder: Path) -> dict[str, Any]:
    """`measure` in a process of its own, so that the memory of one size is not counted in another."""
    command = [sys.executable, "-m", "benchmarks.scale", "--only", "--rows", rows, "--dim", options.dim]
    command += ["--batch", options.batch, "--threads", options.threads, "--folder", folder]
    command += ["--patience", options.patience, *(["--store"] if options.store else [])]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    entry: dict[str, Any] = json.loads(done.stdout)
    return entry


def main() -> None:
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for rows in options.rows:
        folder = Path(tempfile.mkdtemp(prefix="lineup-scale-", dir=options.folder))
        try:
            if options.only:
                entries.append((measure_store if options.store else measure)(rows, folder / "gallery"))
                print(json.dumps(entries[0]))
                return
            entry = apart(rows, folder)
        finally:
            shutil.rmtree(folder)
        entries.append(entry)
        if options.store:
            print(
                f"{rows:>10,} rows: enrolled at {entry['enrolment_store_rows_per_s']:,} rows/s, start in "
                f"{entry['node_start_s']:.1f} s",
                file=sys.stderr,
            )
            if options.json:
                add(options.json, entry)
            continue
        print(
            f"{rows:>10,} rows: online {entry['online_s']:.3f} s, preparation {entry['preparation_s']:.2f} s, "
            f"peak {entry['peak_rss_bytes'] / 1e9:.2f} GB",
            file=sys.stderr,
        )
        if options.json:
            save(options.json, entry)
    print(json.dumps(entries, indent=2))


def add(path: Path, entry: dict[str, Any]) -> None:
    """Add what was measured of a store to the entries of the same size. Raises SystemExit if there are none."""
    kept = json.loads(path.read_text()) if path.exists() else []
    same = [other for other in kept if (other["rows"], other["dim"]) == (entry["rows"], entry["dim"])]
    if not same:
        raise SystemExit(f"{path} has no entry of {entry['rows']} rows: measure preparations and searches first")
    for other in same:
        other.update(entry)
    path.write_text(json.dumps(kept, indent=2) + "\n")


def save(path: Path, entry: dict[str, Any]) -> None:
    """After every size, so that an interruption of a long run loses one size only."""
    same = ("rows", "dim", "batch", "verified")
    kept = json.loads(path.read_text()) if path.exists() else []
    kept = [other for other in kept if any(other[key] != entry[key] for key in same)]
    kept.append(entry)
    path.write_text(json.dumps(sorted(kept, key=lambda item: [item[key] for key in same]), indent=2) + "\n")


if __name__ == "__main__":
    main()
