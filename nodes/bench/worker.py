"""One engine in a process of its own: the threads of numpy and OpenMP are set before either is loaded."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nodes.bench.engine import FIXED, OURS, Clock, Costs, Kind, Rows, make

BARRIER_SECONDS = 600
BLOCK = 65536  # rows of synthetic templates made at a time


@dataclass(frozen=True)
class Job:
    """What a process is to do: `rows` of its own, searched `runs` times for `probes` together."""

    kind: Kind
    rows: int
    dim: int
    threads: int
    preset: str
    runs: int
    part: int
    probes: int = 1
    holders: int = 1


@dataclass
class Part:
    """What one process measured: by run, seconds by phase, seconds of preparation and processor seconds of both.

    `core_fixed`: those of them that rows do not change.
    """

    rows: int
    enrol: float = 0.0
    phases: list[dict[str, float]] = field(default_factory=list)
    offline: list[float] = field(default_factory=list)
    core: list[float] = field(default_factory=list)
    core_fixed: list[float] = field(default_factory=list)
    wrong: int = 0
    costs: Costs = field(default_factory=Costs)
    hops: int = 0


@dataclass(frozen=True)
class Measured:
    """All processes of an engine together, `rows` of all. `hops`: messages that one search waits for, one after the
    other; 0: not counted.

    `fixed` and `scaled`: online seconds by run that stay, and that grow with the rows. `core_fixed` and `core`: the
    same of the processors, preparation included; what stays is that of one process, because one would do.
    """

    kind: Kind
    rows: int
    fixed: list[float]
    scaled: list[float]
    offline: list[float]
    core: list[float]
    enrol: float
    phases: dict[str, float]
    costs: Costs
    wrong: int
    processes: int
    hops: int = 0
    core_fixed: list[float] = field(default_factory=list)


def measure(
    kind: Kind, rows: int, dim: int, threads: int, preset: str, runs: int, probes: int = 1, holders: int = 1
) -> Measured:
    """Run one engine on at most `rows` rows, as many as it may have, in fresh processes."""
    processes = threads if kind.one_core and rows > kind.most_rows and kind.most_runs > 1 else 1
    each = min(rows // processes, kind.most_rows)
    jobs = [
        Job(kind, each, dim, 1 if kind.one_core else threads, preset, min(runs, kind.most_runs), part, probes, holders)
        for part in range(processes)
    ]
    spawning = multiprocessing.get_context("spawn")
    with _environment(jobs[0].threads):
        barrier = spawning.Barrier(processes)
        with ProcessPoolExecutor(processes, spawning, initializer=_start, initargs=(barrier,)) as pool:
            parts = list(pool.map(work, jobs))
    counted = range(len(parts[0].phases))
    fixed = [max(_of(part.phases[run], True) for part in parts) for run in counted]
    scaled = [max(_of(part.phases[run], False) for part in parts) for run in counted]
    names = parts[0].phases[0]
    return Measured(
        kind,
        sum(part.rows for part in parts),
        fixed,
        scaled,
        [max(part.offline[run] for part in parts) for run in counted],
        [sum(part.core[run] - part.core_fixed[run] for part in parts) for run in counted],
        max(part.enrol for part in parts),
        {name: statistics.median(phases.get(name, 0.0) for phases in parts[0].phases) for name in names},
        parts[0].costs,
        sum(part.wrong for part in parts),
        processes,
        parts[0].hops,
        [max(part.core_fixed[run] for part in parts) for run in counted],
    )


def _of(phases: dict[str, float], fixed: bool) -> float:
    return sum(seconds for name, seconds in phases.items() if (name in FIXED) == fixed)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """What processes started inside inherit. OPENBLAS_CORETYPE would make numpy slower than it is."""
    before = dict(os.environ)
    os.environ.pop("OPENBLAS_CORETYPE", None)
    os.environ.update(OPENBLAS_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


_barrier: Any = None


def _start(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def work(job: Job) -> Part:
    """Enrol once, then prepare and search as often as asked, each time together with the other processes."""
    try:
        from pets.allocator import keep_freed_memory

        keep_freed_memory()
        engine = make(job.kind, job.dim, job.threads, job.preset, job.holders)
        templates, probes, planted = gallery(job.rows, job.dim, job.part, job.probes)
        part = Part(job.rows)
        started = time.perf_counter()
        engine.enrol(templates)
        part.enrol = time.perf_counter() - started
        for run in range(-1, job.runs):  # the first warms up
            if run < 0 and job.kind.most_runs == 1:
                continue
            _barrier.wait(BARRIER_SECONDS)
            clock, processor = Clock(), time.process_time()
            started = time.perf_counter()
            engine.prepare(job.probes)
            offline = time.perf_counter() - started
            found = engine.search(probes, clock)
            part.wrong += sum(len(set(rows) ^ due) for rows, due in zip(found, planted, strict=True))
            if run >= 0:
                part.core.append(time.process_time() - processor)
                part.core_fixed.append(_of(clock.core, True))
                part.phases.append(dict(clock.seconds))
                part.offline.append(offline)
        if job.kind.name == OURS:
            from nodes.bench.blind_lineup import BlindLineup

            assert isinstance(engine, BlindLineup)
            part.costs, part.hops = engine.costs, engine.hops(probes[0])
    except BaseException:
        _barrier.abort()  # the others would wait
        raise
    return part


def gallery(rows: int, dim: int, part: int, probes: int = 1) -> tuple[Rows, Rows, list[set[int]]]:
    """Quantised synthetic templates, int8 (rows, dim), probes (n, dim), and the rows that hold copies of each.

    `rows` must be at least four times `probes`.
    """
    import numpy as np

    from pets.synthetic import synthetic_templates
    from pets.templates import quantise

    def made(count: int, seed: int) -> Rows:
        return quantise(synthetic_templates(count, dim, seed, mean=0.0087, sd=max(0.0757, 1.1 / dim**0.5)))

    starts = range(0, rows, BLOCK)
    templates = np.concatenate([made(min(BLOCK, rows - at), 1000 * part + index) for index, at in enumerate(starts)])
    wanted = templates[:probes].copy()
    planted = [{at, rows // 2 + at, rows - 1 - at} for at in range(probes)]
    for probe, copies in zip(wanted, planted, strict=True):
        templates[list(copies)] = probe
    return templates, wanted, planted
