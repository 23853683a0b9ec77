"""The command `lineup bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pets.errors import ParameterError
from pets.params import N4096, PRESETS
from pets.threads import default_threads

output = Console()
errors = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add this command to `lineup`."""
    app.command()(bench)


def bench(
    rows: Annotated[int, typer.Option(help="Rows of the gallery.")] = 262_144,
    dim: Annotated[int, typer.Option(help="Length of a template.")] = 512,
    engines: Annotated[
        str, typer.Option(help="Engines, separated by commas: blind-lineup, plain, tenseal-ckks, … Default: all.")
    ] = "",
    runs: Annotated[int, typer.Option(help="Searches with each engine; the median is shown.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads, 1 to 256.", show_default=False)] = None,
    params: Annotated[str, typer.Option("--preset", help=f"{' or '.join(PRESETS)}.")] = N4096.preset,
    probes: Annotated[int, typer.Option(help="Probes to search for at once, 1 to 16.")] = 1,
    holders: Annotated[
        int, typer.Option(help="Holders among whom ours splits the rows in a joint query, 1 to 27.")
    ] = 1,
    round_trips: Annotated[
        str, typer.Option(help="Round-trip times in ms for which the latency of ours is computed.")
    ] = "0,10,30,100",
    sweep: Annotated[
        str, typer.Option(help="Further numbers of rows for ours and numpy's, such as 65536,1000000.")
    ] = "",
    literature: Annotated[
        Path | None, typer.Option(help="Published figures to show alongside, such as benchmarks/literature.csv.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with plots to this file.")] = None,
) -> None:
    """Compare encrypted matching with other ways to search, and show what each reveals and to whom."""
    from nodes.bench.literature import read_literature
    from nodes.bench.report import print_table
    from nodes.bench.run import Options, compare

    try:
        names = tuple(name.strip() for name in engines.split(",") if name.strip())
        sizes = tuple(int(part) for part in sweep.split(",") if part.strip())
        lines = tuple(int(part) for part in round_trips.split(",") if part.strip())
        count = default_threads() if threads is None else threads
        options = Options(names, rows, dim, count, runs, params, sizes, probes, holders, lines)
    except (ParameterError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    for path in (json_file, report):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"the folder of {path} does not exist")
    quoted = [] if literature is None else read_literature(literature)
    found = compare(options, errors) | {"literature": quoted}
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if report is not None:
        from nodes.bench.page import page

        report.write_text(page(found), encoding="utf-8")
    print_table(found, output)
