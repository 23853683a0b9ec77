"""What every engine of the comparison is: three verbs, and what it reveals to whom."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.6  # cosine: no two synthetic templates reach it, and the planted copies of the probe do
Rows = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Kind:
    """An engine as the table has it.

    `reveals`: key of `REVEALS`. `how`: how the library is used. `module`: `file:class` below `nodes.bench`. `needs`:
    module that must be installed. `most_rows`: rows a process is given, more are extrapolated. `one_core`: the library
    computes on one core, so it gets one process a core. `most_runs`: for engines that take minutes.
    """

    name: str
    reveals: str
    how: str
    module: str
    needs: str = ""
    most_rows: int = 1 << 20
    one_core: bool = False
    most_runs: int = 99


REVEALS = {
    "all": ("everything: gallery, probe and scores", "whoever computes"),
    "scores": ("every score", "the holder of the key"),
    "graded": ("a graded value for every row, near the threshold much of its score", "the holders of the key"),
    "hits": ("at most the cap's number of hits, and the threshold reached", "the gallery's owner and who asked"),
}


@dataclass
class Clock:
    """Seconds by phase, those that pass and (`core`) those of all threads. `FIXED` does not grow with the rows."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    core: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of a block to a phase."""
        started, processor = time.perf_counter(), time.process_time()
        yield
        self.seconds[phase] += time.perf_counter() - started
        self.core[phase] += time.process_time() - processor


@dataclass
class Costs:
    """By link ("requester to holder") bytes, and by party seconds of computing; the offline part apart."""

    online_bytes: dict[str, int] = field(default_factory=dict)
    offline_bytes: dict[str, int] = field(default_factory=dict)
    online_seconds: dict[str, float] = field(default_factory=dict)
    offline_seconds: dict[str, float] = field(default_factory=dict)


FIXED = frozenset({"encrypt probe"})


class Engine(Protocol):
    """One way to search. `threads` and `dim` are given when it is made, then the verbs follow in this order."""

    def enrol(self, templates: Rows) -> None:
        """Take a gallery, int8 (rows, dim)."""
        ...

    def prepare(self, probes: int) -> None:
        """Do what the search for so many probes needs and can be done before they are known."""
        ...

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """From probes, int8 (n, dim), to the rows at or above `THRESHOLD` for each. Tells `clock` its phases."""
        ...


OURS = "blind-lineup"
KINDS = [
    Kind(OURS, "hits", "three parties in one process, no network", "blind_lineup:BlindLineup"),
    Kind("plain-float32", "all", "numpy, float32 product", "plain:Float32"),
    Kind("plain-int8", "all", "numpy, int8 gallery, turned into float32 by blocks", "plain:Int8"),
    Kind("faiss-flat", "all", "IndexFlatIP, range_search", "faiss_flat:FaissFlat", "faiss"),
    Kind(
        "tenseal-ckks", "scores", "sealapi, N = 4096, one 60-bit prime, two rows a slot, plaintexts kept",
        "tenseal_ckks:TensealCkks", "tenseal", 8192, True,
    ),
    Kind(
        "tenseal-bfv", "scores", "sealapi, N = 4096, one 60-bit prime, plaintexts kept in NTT form",
        "tenseal_bfv:TensealBfv", "tenseal", 8192, True,
    ),
    Kind(
        "openfhe-bfv", "scores", "EvalMult and EvalAddInPlace, N = 4096, three 30-bit primes, plaintexts kept",
        "openfhe_bfv:OpenfheBfv", "openfhe", 4096, True,
    ),
    Kind(
        "openfhe-ckks-threshold", "graded",
        "scores by EvalMult, then a Chebyshev series of degree 247, three joint keys, N = 32768",
        "openfhe_threshold:OpenfheThreshold", "openfhe", 16384, True, 1,
    ),
]  # fmt: skip
GROUPS = {"plain": ("plain-float32", "plain-int8", "faiss-flat")}


def missing(kind: Kind) -> str | None:
    """One sentence if the library of an engine cannot be used here.

    Libraries are looked for, not imported: each brings threads and mathematics of its own, and FAISS, TenSEAL and
    OpenFHE in one process have crashed it.
    """
    if kind.needs == "openfhe":
        from pets import openfhe_keys

        return openfhe_keys.available()
    if kind.needs and importlib.util.find_spec(kind.needs) is None:
        return f"{kind.needs} is not installed"
    return None


def make(kind: Kind, dim: int, threads: int, preset: str, holders: int = 1) -> Engine:
    """The engine of a kind. `holders`: galleries of a joint query, for ours; the others have all rows in one."""
    file, name = kind.module.split(":")
    more = {"holders": holders} if kind.name == OURS else {}
    engine: Engine = getattr(importlib.import_module(f"nodes.bench.{file}"), name)(dim, threads, preset, **more)
    return engine


def padded(templates: Rows, rows: int) -> Rows:
    """With rows of zeros up to a multiple of `rows`."""
    return np.pad(templates, ((0, -len(templates) % rows), (0, 0)))


def at_least(scores: npt.NDArray[Any], least: float, rows: int) -> list[int]:
    """Rows with a score of at least `least`, those of padding left out."""
    return [int(row) for row in np.flatnonzero(scores[:rows] >= least)]
