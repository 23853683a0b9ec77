"""`lineup match`: search a file of templates for others, encrypted or plain, and report what it cost."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nodes.operator.progress import progress_bar
from pets.errors import InputError, ParameterError
from pets.key_source import key_source
from pets.params import Parameters, scale
from pets.templates import check_same_model, load_templates, quantise_rows, read_identity
from pets.threads import check_threads
from protocol.engine import HOLDER, REQUESTER, ROUTER, Cost, EncryptedEngine, Outcome, PlainEngine, warm_up
from protocol.gallery import Gallery
from protocol.terms import SYNTHETIC_MODEL, Terms

PHASES = ("enroll", "offline", "admit", "score", "share", "compare", "open", "confirm", "online")
ROLES = (("requester", REQUESTER), ("holder", HOLDER), ("router", ROUTER))


@dataclass(frozen=True)
class MatchOptions:
    """The options of `lineup match`, as given. Raises `ParameterError` for one outside its range."""

    gallery: Path
    probe: Path
    threshold: Decimal
    cap: int
    ladder: Decimal
    engine: str
    params: Parameters
    threads: int
    keys: str
    json_file: Path | None

    def __post_init__(self) -> None:
        check_threads(self.threads)
        key_source(self.keys)
        # Thresholds, cap and ladder do not depend on the dimension: check them before any file is read.
        Terms(self.threshold, 128, self.params, self.cap, self.ladder)
        if self.json_file is not None:
            if not self.json_file.parent.is_dir():
                raise ParameterError(f"the folder of --json {self.json_file} does not exist")
            if self.json_file.is_symlink() or (self.json_file.exists() and not self.json_file.is_file()):
                # it would be removed: /dev/stdout is a link
                raise ParameterError(f"--json {self.json_file} is a folder, a device or a link; name a file")
            if self.json_file.resolve() in (self.gallery.resolve(), self.probe.resolve()):
                raise ParameterError(f"--json {self.json_file} would overwrite an input")


def run_match(options: MatchOptions, console: Console, errors: Console) -> int:
    """Search, print a table, write the JSON. Returns the exit status: 0, or 1 when admission refused a probe.

    Raises `InputError` for refused data. The JSON file exists afterwards only with exit status 0.
    """
    if options.json_file is not None:
        options.json_file.unlink(missing_ok=True)
    gallery_file = load_templates(options.gallery, what="gallery")
    probe_file = np.atleast_2d(load_templates(options.probe, what="probe"))
    if gallery_file.ndim != 2:
        raise InputError(f"the gallery must have shape (rows, d), got {gallery_file.shape}")
    if gallery_file.shape[1] != probe_file.shape[1]:
        raise InputError(f"the probe has d = {probe_file.shape[1]}, the gallery d = {gallery_file.shape[1]}")
    if not len(probe_file):
        raise InputError("the probe file holds no templates")
    identities = read_identity(options.probe), read_identity(options.gallery)
    check_same_model(*identities)
    model = next((identity.digest() for identity in identities if identity is not None), SYNTHETIC_MODEL)
    terms = Terms(options.threshold, gallery_file.shape[1], options.params, options.cap, options.ladder, model)
    if options.engine == "encrypted":
        warm_up(options.params, options.threads)  # compiling belongs to no phase that is reported
    started = time.perf_counter()
    gallery = _enrol(gallery_file, options, model, errors)
    probes = quantise_rows(probe_file, name="probe")
    enrolled = time.perf_counter() - started
    engine = PlainEngine() if options.engine == "plain" else EncryptedEngine(options.threads, key_source(options.keys))
    with progress_bar(errors, "searching", len(probes)) as progress:
        outcomes = engine.search(gallery, probes, terms, progress)
    engine.cost.seconds["enroll"] = enrolled
    if any(outcome.status == "probe_refused" for outcome in outcomes):
        errors.print("error: admission refused a probe: it is not a quantised unit vector", highlight=False)
        return 1
    if options.json_file is not None:
        _write_json(options.json_file, _report(options, terms, len(gallery.templates), outcomes, engine.cost))
    _print_table(console, terms, outcomes, engine.cost, len(gallery.templates), options.engine)
    return 0


def _enrol(gallery_file: Any, options: MatchOptions, model: bytes, errors: Console) -> Gallery:
    rows = len(gallery_file)
    quantised = 0
    with progress_bar(errors, "quantising", rows) as progress:

        def advance(count: int) -> None:
            nonlocal quantised
            quantised += count
            progress(quantised)

        templates = quantise_rows(gallery_file, name="gallery", progress=advance)
    if options.engine == "plain":
        return Gallery.plain(templates, options.params, model)
    with progress_bar(errors, "enrolling", rows) as progress:
        return Gallery.enrol(templates, options.params, model=model, threads=options.threads, progress=progress)


def _report(options: MatchOptions, terms: Terms, rows: int, outcomes: Sequence[Outcome], cost: Cost) -> dict[str, Any]:
    encrypted = options.engine == "encrypted"
    params, squared_scale = terms.params, scale(terms.dim) ** 2
    links: dict[str, int | None] = {
        f"{sender}_to_{receiver}": cost.traffic[sent, received] if encrypted else None
        for sender, sent in ROLES
        for receiver, received in ROLES
        if sender != receiver
    }
    return {
        "engine": options.engine,
        "params": {
            "preset": params.preset if encrypted else None,
            "n": params.n if encrypted else None,
            "log2_q": params.log2_q if encrypted else None,
            "t": params.t if encrypted else None,
            "scale": scale(terms.dim),
            "dim": terms.dim,
            "key_source": options.keys if encrypted else None,
        },
        "rows": rows,
        "probes": [
            {
                "status": outcome.status,
                "threshold_used": float(outcome.threshold_used),
                "released": [
                    {"row": hit.row, "score": hit.score / squared_scale, "score_int": hit.score} for hit in outcome.hits
                ],
            }
            for outcome in outcomes
        ],
        "timing_s": {phase: cost.seconds.get(phase) for phase in PHASES},
        "bytes": {**links, "total": sum(cost.traffic.values()) if encrypted else None},
        "peak_rss_bytes": peak_rss_bytes(),
    }


def peak_rss_bytes() -> int:
    """The largest resident set this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write_json(path: Path, report: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _print_table(
    console: Console, terms: Terms, outcomes: Sequence[Outcome], cost: Cost, rows: int, engine: str
) -> None:
    table = Table(title=f"{engine} search of {rows:,} rows, d = {terms.dim} (candidates, not identified)")
    for column, justify in (
        ("probe", "right"),
        ("status", "left"),
        ("threshold", "right"),
        ("row", "right"),
        ("score", "right"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    squared_scale = scale(terms.dim) ** 2
    for index, outcome in enumerate(outcomes):
        head = (str(index), outcome.status, f"{outcome.threshold_used:f}")
        if not outcome.hits:
            table.add_row(*head, "", "")
        for rank, hit in enumerate(outcome.hits):
            table.add_row(*(head if rank == 0 else ("", "", "")), str(hit.row), f"{hit.score / squared_scale:.4f}")
    console.print(table)
    seconds = ", ".join(f"{phase} {cost.seconds[phase]:.3f} s" for phase in PHASES if phase in cost.seconds)
    console.print(f"time: {seconds}", highlight=False, soft_wrap=True)
    if cost.traffic:
        console.print(f"sent on all links: {sum(cost.traffic.values()) / 1e6:.1f} MB", highlight=False)
