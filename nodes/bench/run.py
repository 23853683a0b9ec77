"""One comparison: every engine in turn on the same synthetic templates, and what came out as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import nodes
from nodes.bench import machine
from nodes.bench.engine import GROUPS, KINDS, OURS, REVEALS, Kind, missing
from nodes.bench.worker import Measured, measure
from nodes.operator.progress import progress_bar
from pets.errors import InputError, ParameterError
from pets.params import check_dim, preset
from pets.threads import check_threads

MILLION = 1_000_000
MOST_ROWS = 1 << 26
COLD = "blind-lineup-cold"
SWEPT = (OURS, COLD, "plain-float32")
MOST_PROBES, MOST_HOLDERS, MOST_ROUND_TRIP_MS = 16, 27, 10_000


@dataclass(frozen=True)
class Options:
    """What to measure. `rows`: of the gallery; `sweep`: other numbers of rows for ours and numpy's.

    `probes`: searched for together. `holders`: galleries that ours splits the rows into, for one joint query.
    `round_trips`: milliseconds for which the latency of ours is worked out. Raises `ParameterError`.
    """

    engines: tuple[str, ...]
    rows: int
    dim: int
    threads: int
    runs: int
    preset: str
    sweep: tuple[int, ...] = ()
    probes: int = 1
    holders: int = 1
    round_trips: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_threads(self.threads)
        check_dim(self.dim)
        preset(self.preset)
        for rows in (self.rows, *self.sweep):
            if not 8 <= rows <= MOST_ROWS:
                raise ParameterError(f"--rows must be 8 to {MOST_ROWS}, got {rows}")
            if rows < 8 * max(self.probes, self.holders):
                raise ParameterError(f"--rows must be at least 8 a probe and 8 a holder, got {rows}")
        for value, what, most in (
            (self.runs, "--runs", 1000),
            (self.probes, "--probes", MOST_PROBES),
            (self.holders, "--holders", MOST_HOLDERS),
        ):
            if not 1 <= value <= most:
                raise ParameterError(f"{what} must be 1 to {most}, got {value}")
        for value in self.round_trips:
            if not 0 <= value <= MOST_ROUND_TRIP_MS:
                raise ParameterError(f"--round-trips must be 0 to {MOST_ROUND_TRIP_MS} ms, got {value}")
        chosen(self.engines)


def chosen(names: Sequence[str]) -> list[Kind]:
    """The engines of a list of names, in their usual order; none: all. Raises `ParameterError`."""
    wanted = {part for name in names for part in GROUPS.get(name, (name,))}
    known = {kind.name for kind in KINDS}
    if unknown := wanted - known:
        listed = ", ".join([*GROUPS, *(kind.name for kind in KINDS)])
        raise ParameterError(f"--engines does not know {', '.join(sorted(unknown))}; known: {listed}")
    return [kind for kind in KINDS if not wanted or kind.name in wanted]


def compare(options: Options, console: Console) -> dict[str, Any]:
    """Measure, and return the report. Raises `InputError` when none of the engines can be used here."""
    described = machine.describe(options.threads, Path(nodes.__path__[0])) | machine.libraries()
    kinds = chosen(options.engines)
    reasons = {kind.name: missing(kind) for kind in kinds}
    usable = [kind for kind in kinds if reasons[kind.name] is None]
    left_out = [{"name": name, "reason": reason} for name, reason in reasons.items() if reason is not None]
    if not usable:
        raise InputError("none of the engines can be used here: " + "; ".join(item["reason"] for item in left_out))
    engines: list[dict[str, Any]] = []
    sweep: list[dict[str, Any]] = []
    sizes = [rows for rows in options.sweep if rows != options.rows]
    swept = [kind for kind in usable if kind.name in SWEPT]
    with progress_bar(console, "engines", len(usable) + len(sizes) * len(swept)) as progress:
        for done, kind in enumerate(usable, start=1):
            try:
                engines += entries(_measured(kind, options.rows, options), options.rows, options.probes)
            except (BrokenProcessPool, MemoryError) as error:  # one library must not take the others' figures along
                left_out.append({"name": kind.name, "reason": f"its process ended ({type(error).__name__})"})
            progress(done)
        if not engines:
            raise InputError("no engine could be measured: " + "; ".join(str(item["reason"]) for item in left_out))
        for rows in sizes:
            for kind in swept:
                sweep += entries(_measured(kind, rows, options), rows, options.probes)
                progress(len(usable) + len(sweep))
    return {
        "machine": described,
        "rows": options.rows,
        "dim": options.dim,
        "preset": options.preset,
        "probes": options.probes,
        "holders": options.holders,
        "engines": engines,
        "sweep": [
            *sweep,
            *(item for item in engines if item["name"] in SWEPT),
        ],
        "latency": [latency(item, each) for item in engines if item["name"] == OURS for each in options.round_trips],
        "left_out": left_out,
    }


def _measured(kind: Kind, rows: int, options: Options) -> Measured:
    sizes = (options.dim, options.threads, options.preset, options.runs, options.probes, options.holders)
    return measure(kind, rows, *sizes)


def latency(ours: dict[str, Any], round_trip_ms: int) -> dict[str, Any]:
    """What ours takes on a line of some length: its online seconds, and half a round trip for each message that it
    waits for. Worked out, not measured; bandwidth is not in it. (`benchmarks.network` measures.)
    """
    seconds = ours["seconds"] + ours["hops"] * round_trip_ms / 2000
    return {"name": ours["name"], "round_trip_ms": round_trip_ms, "seconds": seconds, "measured": False}


def entries(found: Measured, rows: int, probes: int = 1) -> Iterable[dict[str, Any]]:
    """The row of an engine in the report; ours has two, with the offline part done before and not."""
    entry = _entry(found, rows, probes)
    yield entry
    if found.kind.name == OURS:
        cold = [online + offline for online, offline in zip(_online(found, rows), found.offline, strict=True)]
        yield entry | {
            "name": COLD,
            "how": f"{found.kind.how}; nothing prepared",
            "seconds": statistics.median(cold),
            "spread": [min(cold), max(cold)],
            "seconds_per_million": statistics.median(cold) * MILLION / (rows * probes),
            "offline_seconds": 0.0,
        }


def _online(found: Measured, rows: int) -> list[float]:
    factor = rows / found.rows
    return [fixed + factor * scaled for fixed, scaled in zip(found.fixed, found.scaled, strict=True)]


def _entry(found: Measured, rows: int, probes: int) -> dict[str, Any]:
    seconds = _online(found, rows)
    core = [stay + grow * rows / found.rows for stay, grow in zip(found.core_fixed, found.core, strict=True)]
    what, whom = REVEALS[found.kind.reveals]
    return {
        "name": found.kind.name,
        "seconds": statistics.median(seconds),
        "spread": [min(seconds), max(seconds)],
        "offline_seconds": statistics.median(found.offline),
        "reveals": what,
        "to_whom": whom,
        "group": found.kind.reveals,
        "how": found.kind.how,
        "rows": rows,
        "rows_measured": found.rows,
        "extrapolated": found.rows < rows,
        "runs": len(seconds),
        "processes": found.processes,
        "seconds_per_million": statistics.median(seconds) * MILLION / (rows * probes),
        "core_seconds_per_million": statistics.median(core) * MILLION / (rows * probes),
        "core_seconds_least_per_million": min(core) * MILLION / (rows * probes),
        "enrol_seconds_per_million": found.enrol * MILLION / found.rows,
        "phases": found.phases,
        "bytes": {"online": found.costs.online_bytes, "offline": found.costs.offline_bytes},
        "parties": {"online": found.costs.online_seconds, "offline": found.costs.offline_seconds},
        "hops": found.hops,
        "wrong_rows": found.wrong,
    }
