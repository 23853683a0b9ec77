"""An hour of everything at once: enrol, correct, forget, compact, prepare and search, in one process.

    python -m benchmarks.soak                          an hour, about 30,000 rows, d = 128
    python -m benchmarks.soak --minutes 0.2            a smoke run

The gallery lies in block files and is read from memory that follows them. Every search takes the version of that
moment; what it finds, less the rows that are not live, must be what a plain list of templates says. Memory is sampled
after every search; its growth is taken between the second and the last tenth of the run.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--minutes", type=float, default=60)
parser.add_argument("--rows", type=int, default=30_000, help="rows at which the gallery is kept")
parser.add_argument("--dim", type=int, default=128)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--json", type=Path)
options = parser.parse_args()
machine.prepare(options.threads)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

from nodes.blocks import BlockFiles, ResidentGallery  # noqa: E402
from pets.allocator import keep_freed_memory  # noqa: E402
from pets.params import N4096  # noqa: E402
from pets.synthetic import synthetic_templates  # noqa: E402
from pets.templates import quantise  # noqa: E402
from protocol.announcing import Plan  # noqa: E402
from protocol.engine import EncryptedEngine, warm_up  # noqa: E402
from protocol.gallery import Gallery  # noqa: E402
from protocol.terms import Terms  # noqa: E402

TERMS = Terms(Decimal("0.6"), options.dim, N4096)
CHANGES = ("enrol", "enrol", "correct", "forget", "forget", "compact")


class Soak:
    """The gallery, and beside it what it must hold: `people`, template by row number, of those who can be found."""

    def __init__(self, folder: Path) -> None:
        self.rng = np.random.default_rng(options.seed)
        self.pool = quantise(synthetic_templates(8192, options.dim, options.seed, mean=0.0087, sd=0.0757))
        self.files = BlockFiles.create(folder, AESGCM(secrets.token_bytes(32)), dim=options.dim, model=bytes(32))
        self.people: dict[int, npt.NDArray[np.int8]] = {}
        self.replaced: set[int] = set()
        self.done: Counter[str] = Counter()
        while len(self.people) < options.rows:
            self.enrol(1000)
        self.resident = ResidentGallery(self.files, threads=options.threads)

    def templates(self, count: int) -> npt.NDArray[np.int8]:
        picked = self.pool[self.rng.integers(0, len(self.pool), count)]
        return np.ascontiguousarray(picked[:, self.rng.permutation(options.dim)])

    def enrol(self, count: int) -> None:
        rows = self.templates(count)
        for number, template in zip(self.files.append(rows), rows, strict=True):
            self.people[number] = template.copy()

    def change(self) -> None:
        what = str(self.rng.choice(CHANGES))
        if what == "enrol":
            self.enrol(max(1, min(500, options.rows + 1000 - len(self.people))))
        elif what == "compact":
            self.files.retire(self.files.manifest().current.number)
            self.files.compact()
        else:
            numbers = self.rng.choice(list(self.people), int(self.rng.integers(1, 400)), replace=False).tolist()
            if what == "forget":
                self.files.forget(numbers)
            else:
                template = self.templates(1)[0]
                self.people[self.files.correct(numbers[0], template)] = template
                numbers = numbers[:1]
                self.replaced |= {numbers[0]}
            for number in numbers:
                del self.people[number]
        self.done[what] += 1

    def search(self) -> bool:
        """Prepare, change the gallery while the preparation waits, search; whether the hits were right."""
        with self.resident.snapshot() as snapshot:
            gallery = Gallery.of(snapshot.rows, N4096, root=snapshot.version.root)
            engine = EncryptedEngine(options.threads)
            (made,) = engine.prepare(gallery, Plan(N4096, options.dim, TERMS.model))
            known = set(self.people)
            self.change()
            probe = self.people[int(self.rng.choice(sorted(known & set(self.people))))]
            (outcome,) = engine.search_prepared(gallery, probe[None], TERMS, [made])
            slots = [hit.row for hit in outcome.hits]
            live = snapshot.live()
            numbers = set(snapshot.numbers([slot for slot in slots if live[slot]]).tolist())
        self.done["search"] += 1
        if outcome.threshold_used != TERMS.rungs[0]:  # too many rows alike
            self.done["climb"] += 1
            return True
        wide = probe.astype(np.int64)
        due = {row for row in known & set(self.people) if int(self.people[row] @ wide) >= TERMS.theta(0)}
        return numbers - self.replaced == due  # its version still finds what was replaced meanwhile


def main() -> None:
    keep_freed_memory()
    warm_up(N4096)
    wrong, memory = 0, []
    with tempfile.TemporaryDirectory(prefix="lineup-soak-") as folder:
        soak = Soak(Path(folder) / "gallery")
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < 60 * options.minutes or not soak.done["search"]:
            soak.change()
            wrong += not soak.search()
            memory.append((round(elapsed, 1), machine.resident_bytes()))
    tenth = max(1, len(memory) // 10)
    early = max(size for _, size in memory[tenth : 2 * tenth] or memory)
    late = max(size for _, size in memory[-tenth:])
    report = {
        "machine": machine.describe(options.threads),
        "minutes": options.minutes,
        "rows": len(soak.people),
        "dim": options.dim,
        "done": dict(sorted(soak.done.items())),
        "wrong": wrong,
        "rss_early_bytes": early,
        "rss_late_bytes": late,
        "growth": round(late / early - 1, 4),
        "rss_samples": memory[:: max(1, len(memory) // 60)],
    }
    text = json.dumps(report, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
