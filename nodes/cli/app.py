"""The command line, `lineup`."""

from __future__ import annotations

import json
import sys
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nodes.cli import bench, calibrate, case, cluster, console, evidence, gallery, node, store
from nodes.cli.extras import install_hint
from nodes.cli.options import Json, Largest, Models, Provider, ProviderName
from pets.allocator import keep_freed_memory
from pets.errors import LineupError, ParameterError, printable
from pets.params import N4096, PRESETS, preset
from pets.threads import check_threads, default_threads

app = typer.Typer(
    name="lineup",
    help="Face search across national galleries in which nobody sees a face that did not match.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# The command-line parser's own base of bad arguments; typer gives it no public name.
UsageError: Any = typer.BadParameter.__bases__[0]
INTERRUPTED = 130  # the parser's status too, when Ctrl-C ends a command
output = Console()
errors = Console(stderr=True)


class EngineName(str, Enum):
    """Engines of `lineup match`."""

    encrypted = "encrypted"
    plain = "plain"


GALLERY_HELP = "Templates to search, .npy: float32 (rows, d), unit vectors, or int8 (rows, d), quantised."
Threads = Annotated[
    int | None,
    typer.Option(help="Threads, 1 to 256. Default: the processors this process may use.", show_default=False),
]


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"lineup {version('blind-lineup')}")
        raise typer.Exit


@app.callback()
def lineup(
    tell_version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Face search across national galleries in which nobody sees a face that did not match."""


@app.command()
def embed(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write: float32 (photos, d), unit vectors.")],
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip photos that give no template.")] = False,
    as_json: Json = False,
) -> None:
    """Turn photos into face templates, one row a photo."""
    from nodes.cli.embed import run_embed

    done = run_embed(
        photos, out, models=models, provider=provider.value, largest=largest, skip_bad=skip_bad, console=errors
    )
    if as_json:
        told = {"file": str(out), "templates": done.templates, "photos": done.photos, "seconds": round(done.seconds, 3)}
        rate = {"photos_per_second": done.photos_per_second, "provider": done.provider, "batch": done.batch}
        print(json.dumps(told | rate))


@app.command()
def match(
    gallery: Annotated[Path, typer.Option(help=GALLERY_HELP)],
    probe: Annotated[Path, typer.Option(help="Templates to look for: float32 (d,) or (n, d) .npy, unit vectors.")],
    threshold: Annotated[str, typer.Option(help="Smallest cosine of a hit, strictly between 0 and 1.")],
    max_candidates: Annotated[int, typer.Option(help="Cap on released candidates, 1 to 99.")] = 10,
    ladder: Annotated[str, typer.Option(help="Step by which the threshold climbs when the cap is exceeded.")] = "0.02",
    engine: Annotated[
        EngineName, typer.Option(help="Encrypted, or the plaintext twin, which gives the same result.")
    ] = EngineName.encrypted,
    params: Annotated[
        str, typer.Option("--preset", help=f"Lattice parameters: {' or '.join(PRESETS)}.")
    ] = N4096.preset,
    prepared: Annotated[
        list[Path] | None,
        typer.Option(
            help="File written by `lineup prepare`, one for each probe; it serves one search.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result and its cost to this file.")
    ] = None,
) -> None:
    """Search a gallery with all three parties on this machine; they exchange only messages."""
    from nodes.cli.match import MatchOptions, run_match
    from protocol.terms import parse_decimal

    try:
        options = MatchOptions(
            gallery,
            probe,
            parse_decimal(threshold, "--threshold"),
            max_candidates,
            parse_decimal(ladder, "--ladder"),
            engine.value,
            preset(params),
            default_threads() if threads is None else threads,
            json_file,
            tuple(prepared or ()),
        )
    except ParameterError as error:
        _fail(error, 2)
    raise typer.Exit(run_match(options, output, errors))


@app.command()
def prepare(
    gallery: Annotated[Path | None, typer.Option(help=GALLERY_HELP, show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="With --gallery: file to write, mode 0600. It is secret and serves one search."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="A requester node's folder, to prepare for its `lineup query`.")
    ] = None,
    holders: Annotated[str, typer.Option(help="With --dir: holders to prepare with, such as ES,DE.")] = "",
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=1000, help="With --dir: how many preparations to make.")
    ] = 1,
    dim: Annotated[
        int | None,
        typer.Option(help="With --dir: length of templates given as .npy files, in place of a face model's."),
    ] = None,
    models: Models = None,
    provider: Provider = ProviderName.auto,
    params: Annotated[
        str, typer.Option("--preset", help=f"Lattice parameters: {' or '.join(PRESETS)}.")
    ] = N4096.preset,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Prepare searches before there is a probe: at a running node, or of a gallery file for `lineup match --prepared`.

    At a node a preparation waits, there and at router and holders, until a query of these holders or some of them uses
    it. Each serves one search.
    """
    try:
        count_of_threads = check_threads(default_threads() if threads is None else threads)
        parameters = preset(params)
    except ParameterError as error:
        _fail(error, 2)
    if (folder is None) == (gallery is None):
        raise typer.BadParameter("give either --gallery with -o, or --dir with --holders")
    if gallery is not None:
        if out is None:
            raise typer.BadParameter("say with -o where to write the preparation", param_hint="--output")
        from nodes.cli.match import run_prepare

        run_prepare(gallery, out, parameters, count_of_threads, output, errors, as_json)
        return
    from nodes.cli.supply import run_prepare_at_node

    names = node.names_of(holders)
    if not names:
        raise typer.BadParameter("name those who will be asked, such as ES,DE", param_hint="--holders")
    assert folder is not None
    status = run_prepare_at_node(
        folder, names, count, parameters, dim=dim, models=models, provider=provider,
        console=output, errors=errors, as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(status)


@app.command()
def demo(provider: Provider = ProviderName.auto) -> None:
    """Start four nodes on loopback and search two countries for a real face; then for one that is in neither."""
    from nodes.cli.demo import run_demo

    run_demo(provider.value, output, errors)


node.register(app)
console.register(app)
gallery.register(app)
store.register(app)
evidence.register(app)
calibrate.register(app)
bench.register(app)
case.register(app)
cluster.register(app)
# Built here, once: it takes a tenth of a second, and what runs several commands in one process, or forks, has it ready.
commands = typer.main.get_command(app)


def _fail(error: BaseException, status: int) -> None:
    _show(error)
    raise typer.Exit(status)


def _show(error: object) -> None:
    """One error. Its text may quote what came from outside."""
    lines = [printable(line) for line in f"error: {error}".split("\n")]
    errors.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line: one clear line on standard error and status 1 for refused data, 2 for bad arguments."""
    keep_freed_memory()
    try:
        status = commands(standalone_mode=False)
        if status == INTERRUPTED:
            errors.print("interrupted")
        sys.exit(status)
    except UsageError as error:
        if message := error.format_message():  # empty when no arguments were given and the help was printed
            errors.print(f"error: {message}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        errors.print("interrupted")
        sys.exit(INTERRUPTED)
    except LineupError as error:
        _show(error)
        sys.exit(1)
    except ModuleNotFoundError as error:
        hint = install_hint(error)
        if hint is None:
            raise
        _show(hint)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is missing or may not be written
        place = "" if error.filename is None else f"{error.filename}: "
        _show(f"{place}{error.strerror or error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
