"""The command `lineup calibrate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nodes.cli.options import Largest, Models, Provider, ProviderName
from pets.errors import InputError, ParameterError
from pets.threads import default_threads

output = Console()
errors = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add this command to `lineup`."""
    app.command()(calibrate)


def calibrate(
    photos: Annotated[Path | None, typer.Option(help="Folder with one folder of photos for each person.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Templates instead of photos: float32 (n, d) .npy.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Whose template each row is, one label a line.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Group of each person, one a line, for error rates by group.")
    ] = None,
    rows: Annotated[
        str, typer.Option(help="Gallery sizes, such as 1000,1000000. Default: the sample's own, 10^6 and 3·10^7.")
    ] = "",
    holders: Annotated[str, typer.Option(help="How many such galleries are asked at once, such as 1,5.")] = "1",
    fpir: Annotated[
        float, typer.Option(help="False positive identification rate that the threshold should reach.")
    ] = 0.1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with plots to this file.")] = None,
    centre: Annotated[
        Path | None,
        typer.Option(
            help="Write the mean template here. Saved as centre.npy beside a model, every template has it subtracted."
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(help="How often people are resampled for the confidence intervals.")] = 200,
    encrypted_probes: Annotated[
        int, typer.Option(help="Largest number of probes to search encrypted at each threshold; 0 for none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads, 1 to 256.", show_default=False)] = None,
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
) -> None:
    """Measure which threshold to set, and what it costs in misses and false hits, on labelled photos."""
    import numpy as np

    from nodes.calibrate.centring import check_centre, write_centre
    from nodes.calibrate.report import as_json, print_tables
    from nodes.calibrate.run import Options
    from nodes.calibrate.run import calibrate as run
    from nodes.calibrate.sample import Sample, from_photos, from_templates

    try:
        options = Options(
            numbers(rows, "--rows"),
            numbers(holders, "--holders") or (1,),
            fpir,
            resamples,
            encrypted_probes,
            default_threads() if threads is None else threads,
            seed,
        )
    except ParameterError as error:
        raise typer.BadParameter(str(error)) from None
    for path in (json_file, report):
        if path is not None and not path.parent.is_dir():
            raise typer.BadParameter(f"the folder of {path} does not exist")
    sample: Sample
    started = time.perf_counter()
    if photos is not None and embeddings is None and labels is None and groups is None:
        from pets.faces import FaceModel

        model = FaceModel.load(models, provider.value)
        if centre is not None:
            check_centre(centre, model.spec)
        sample = from_photos(photos, model, seed, largest=largest, console=errors)
        averaged = sample.templates
        if centre is not None:
            mirror = from_photos(photos, model, seed, largest=largest, console=errors, mirrored=True)
            averaged = np.concatenate([averaged, mirror.templates])
    elif photos is None and embeddings is not None and labels is not None:
        sample = from_templates(embeddings, labels, groups, seed)
        averaged = sample.templates
        if centre is not None:
            check_centre(centre, sample.spec)
    else:
        raise typer.BadParameter("give either --photos, or --embeddings with --labels (and --groups)")
    embedding = time.perf_counter() - started  # of templates: reading them
    if centre is not None:
        norm = write_centre(centre, averaged, len(sample.names))
        said = f"wrote the centre, of norm {norm:.3f}, to {centre}; what follows is measured without it."
        errors.print(f"{said} Measure it on other people", highlight=False, markup=False, soft_wrap=True)
    result = run(sample, options, errors)
    result.seconds["embedding"] = embedding
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if report is not None:
        from nodes.calibrate.page import page

        report.write_text(page(result), encoding="utf-8")
    print_tables(result, output)
    if result.disagreements:
        raise InputError(f"encrypted and quantised differ in {result.disagreements} decisions")


def numbers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers of a list such as 1000,1000000. Raises `ParameterError`."""
    try:
        return tuple(int(part) for part in text.replace("_", "").split(",") if part.strip())
    except ValueError:
        raise ParameterError(f"{what} takes whole numbers such as 1000,1000000, got {text!r}") from None
