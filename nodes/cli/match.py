"""`lineup match` and `lineup prepare`: search a file of templates for others, in one process, and report the cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nodes.cli.prepared import PreparedFile, check_no_copies, open_preparation, write_preparation
from nodes.operator.progress import progress_bar
from pets.allocator import peak_memory
from pets.errors import InputError, ParameterError, printable
from pets.params import Parameters, scale
from pets.templates import check_same_model, load_templates, quantise_rows, read_model_spec, read_photo_names
from pets.threads import check_threads
from protocol.announcing import Plan
from protocol.engine import HOLDER, REQUESTER, ROUTER, Cost, EncryptedEngine, Outcome, PlainEngine, warm_up
from protocol.gallery import Gallery
from protocol.searching import check_terms
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
    json_file: Path | None
    prepared: Sequence[Path] = ()

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if self.prepared and self.engine != "encrypted":
            raise ParameterError("--prepared is for the encrypted engine")
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
    """Search, print a table, write the JSON. Returns the exit status.

    Raises `InputError` for refused data. The JSON file exists afterwards only with exit status 0.
    """
    if options.json_file is not None:
        options.json_file.unlink(missing_ok=True)
    gallery_file = read_gallery(options.gallery)
    if not len(gallery_file):
        errors.print(f"the gallery {options.gallery} is empty: nobody can be found in it", markup=False, soft_wrap=True)
    probe_file = np.atleast_2d(load_templates(options.probe, what="probe"))
    if gallery_file.shape[1] != probe_file.shape[1]:
        raise InputError(f"the probe has d = {probe_file.shape[1]}, the gallery d = {gallery_file.shape[1]}")
    if not len(probe_file):
        raise InputError("the probe file holds no templates")
    if options.prepared and len(options.prepared) != len(probe_file):
        raise InputError(f"{len(options.prepared)} preparations for {len(probe_file)} probes: each serves one search")
    specs = read_model_spec(options.probe), read_model_spec(options.gallery)
    check_same_model(*specs)
    model = next((spec.digest() for spec in specs if spec is not None), SYNTHETIC_MODEL)
    terms = Terms(options.threshold, gallery_file.shape[1], options.params, options.cap, options.ladder, model)
    with ExitStack() as stack:
        files = [stack.enter_context(closing(open_preparation(path))) for path in options.prepared]
        check_no_copies(files)
        return _search(options, terms, gallery_file, probe_file, files, console, errors)


def _search(
    options: MatchOptions,
    terms: Terms,
    gallery_file: Any,
    probe_file: Any,
    files: Sequence[PreparedFile],
    console: Console,
    errors: Console,
) -> int:
    if options.engine == "encrypted":
        warm_up(options.params)  # compiling belongs to no phase that is reported
    started = time.perf_counter()
    plain = options.engine == "plain"
    gallery = enrol(gallery_file, options.params, terms.model, options.threads, errors, plain=plain)
    probes = quantise_rows(probe_file, name="probe")
    enrolled = time.perf_counter() - started
    salted = [gallery.salted(file.salt_seed) for file in files]
    for file, same in zip(files, salted, strict=True):
        file.check_gallery(same)
        check_terms(file.preparation.requester, terms, (HOLDER,))
    engine = PlainEngine() if plain else EncryptedEngine(options.threads)
    with progress_bar(errors, "searching", len(probes)) as progress:
        outcomes = [] if files else list(engine.search(gallery, probes, terms, progress))
        for done, (file, same) in enumerate(zip(files, salted, strict=True)):
            assert isinstance(engine, EncryptedEngine)
            probe, made = probes[done : done + 1], [file.preparation]
            outcomes += engine.search_prepared(same, probe, terms, made, file.claim)
            progress(done + 1)
    engine.cost.seconds["enroll"] = enrolled
    photos = read_photo_names(options.gallery)
    if options.json_file is not None:
        _write_json(options.json_file, _report(options, terms, gallery, outcomes, engine.cost, photos))
    _print_table(console, terms, outcomes, engine.cost, len(gallery.templates), options.engine, photos)
    return 0


def run_prepare(
    gallery_path: Path,
    out: Path,
    params: Parameters,
    threads: int,
    console: Console,
    errors: Console,
    as_json: bool = False,
) -> None:
    """`lineup prepare`: prepare a search of a gallery before there is a probe, and write it to a new file.

    Raises `InputError` for refused data or a file that exists.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already; name a new file")
    if not out.parent.is_dir():
        raise InputError(f"the folder of {out} does not exist")
    gallery_file = read_gallery(gallery_path)
    spec = read_model_spec(gallery_path)
    model = SYNTHETIC_MODEL if spec is None else spec.digest()
    warm_up(params)
    gallery = enrol(gallery_file, params, model, threads, errors)
    engine = EncryptedEngine(threads)
    rows, dim = gallery.templates.shape
    with progress_bar(errors, "preparing", rows) as progress:
        (made,) = engine.prepare(gallery, Plan(params, dim, model), 1, progress)
    write_preparation(out, made, gallery)
    size, seconds = out.stat().st_size, engine.cost.seconds["offline"]
    if as_json:
        made_of = {"file": str(out), "rows": rows, "dim": dim, "preset": params.preset}
        print(json.dumps({**made_of, "file_bytes": size, "preparation_s": seconds}))
        return
    console.print(
        f"prepared one search of {rows:,} rows, d = {dim}, in {seconds:.2f} s: {out} "
        f"({size / 1e6:.1f} MB). It is secret, serves one search, and must not be copied.",
        highlight=False,
        soft_wrap=True,
    )


def read_gallery(path: Path) -> Any:
    """A gallery file: unit templates, or int8 rows that are quantised already. Raises `InputError`."""
    gallery = load_templates(path, what="gallery", quantised=True)
    if gallery.ndim != 2:
        raise InputError(f"the gallery must have shape (rows, d), got {gallery.shape}")
    return gallery


def enrol(
    gallery_file: Any,
    params: Parameters,
    model: bytes,
    threads: int,
    errors: Console,
    *,
    plain: bool = False,
) -> Gallery:
    """Quantise what is not, and hold the rows."""
    templates = gallery_file
    if gallery_file.dtype != np.int8:
        quantised = 0
        with progress_bar(errors, "quantising", len(gallery_file)) as progress:

            def advance(count: int) -> None:
                nonlocal quantised
                quantised += count
                progress(quantised)

            templates = quantise_rows(gallery_file, name="gallery", progress=advance)
    if plain:
        return Gallery.plain(templates, params, model)
    return Gallery.of(templates, params, None, model, threads=threads)


def _report(
    options: MatchOptions,
    terms: Terms,
    gallery: Gallery,
    outcomes: Sequence[Outcome],
    cost: Cost,
    photos: Sequence[str],
) -> dict[str, Any]:
    encrypted = options.engine == "encrypted"
    total, offline = sum(cost.traffic.values()), sum(cost.prepared.values())
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
            "key_source": "native" if encrypted else None,
            "verified": False if encrypted else None,
        },
        "rows": len(gallery.templates),
        "gallery_bytes": gallery.templates.nbytes,
        "probes": [
            {
                "status": outcome.status,
                "threshold_used": float(outcome.threshold_used),
                "released": [
                    {"row": hit.row, "score": hit.score / squared_scale, "score_int": hit.score}
                    | ({"photo": photos[hit.row]} if photos else {})
                    for hit in outcome.hits
                ],
            }
            for outcome in outcomes
        ],
        "timing_s": {phase: cost.seconds.get(phase) for phase in PHASES},
        "bytes": {
            **links,
            "offline_total": offline if encrypted else None,
            "online_total": total - offline if encrypted else None,
            "total": total if encrypted else None,
        },
        "peak_rss_bytes": peak_memory() + cost.forks_bytes,
    }


def _write_json(path: Path, report: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _print_table(
    console: Console,
    terms: Terms,
    outcomes: Sequence[Outcome],
    cost: Cost,
    rows: int,
    engine: str,
    photos: Sequence[str],
) -> None:
    table = Table(title=f"{engine} search of {rows:,} rows, d = {terms.dim} (candidates, not identified)")
    for column, justify in (
        ("probe", "right"),
        ("status", "left"),
        ("threshold", "right"),
        ("row", "right"),
        ("score", "right"),
        *((("photo", "left"),) if photos else ()),
    ):
        table.add_column(column, justify=justify, overflow="fold")
    squared_scale = scale(terms.dim) ** 2
    for index, outcome in enumerate(outcomes):
        head = (str(index), outcome.status, f"{outcome.threshold_used:f}")
        if not outcome.hits:
            table.add_row(*head)
        for rank, hit in enumerate(outcome.hits):
            found = [str(hit.row), f"{hit.score / squared_scale:.4f}"]
            found += [escape(printable(photos[hit.row]))] if photos else []
            table.add_row(*(head if rank == 0 else ("", "", "")), *found)
    console.print(table)
    seconds = ", ".join(f"{phase} {cost.seconds[phase]:.3f} s" for phase in PHASES if phase in cost.seconds)
    console.print(f"time: {seconds}", highlight=False, soft_wrap=True)
    if cost.traffic:
        total, offline = sum(cost.traffic.values()), sum(cost.prepared.values())
        console.print(
            f"sent on all links: {offline / 1e6:.1f} MB to prepare, {(total - offline) / 1e6:.1f} MB to search",
            highlight=False,
        )
