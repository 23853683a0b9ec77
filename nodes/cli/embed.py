"""`lineup embed`: photos in, a file of templates out, and beside it the model they come from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from nodes.operator.progress import progress_bar
from pets.errors import InputError, PhotoError
from pets.faces import Embedded, FaceModel, Provider
from pets.photos import list_photos, skipped_files, tell_skipped
from pets.templates import save_templates


@dataclass(frozen=True)
class Written:
    """What `run_embed` did. `seconds`: for all `photos`, from reading to template, the model's loading left out.

    `batch`: faces that the embedder took in one call; `provider`: "cuda" or "cpu".
    """

    templates: int
    photos: int
    seconds: float
    provider: str
    batch: int

    @property
    def photos_per_second(self) -> float:
        """Rounded to three digits."""
        return float(f"{self.photos / self.seconds:.3g}")


def run_embed(
    photos: list[Path],
    output: Path,
    *,
    models: Path | None,
    provider: Provider,
    largest: bool,
    skip_bad: bool,
    console: Console,
) -> Written:
    """Embed photos and write `output` (n, d) float32 with its sidecar, one row a photo in the order given.

    There are fewer templates than photos given if bad ones were left out.

    `photos`: files and folders; a folder stands for all photos below it, sorted by path.
    `console` takes the progress bar and reports (standard error). Unless `skip_bad`, one photo without a template
    means that nothing is written. Raises `InputError`: no photos, a bad model, a photo that fails.
    """
    if output.suffix != ".npy":
        raise InputError(f"the output file must end in .npy, got {output}")
    if not output.parent.is_dir():
        raise InputError(f"the output folder {output.parent} does not exist")
    paths = list_photos(photos)
    if skipped := skipped_files(photos):
        console.print(tell_skipped(skipped), highlight=False, markup=False, soft_wrap=True)
    model = FaceModel.load(models, provider)
    given = photo_count(len(paths))
    about = f"{given}, model {model.spec}, running on {model.provider}"
    console.print(about, highlight=False, soft_wrap=True)
    batch, started = model.batch_size if len(paths) > 1 else 1, time.perf_counter()
    good, bad = _embed_all(model, paths, largest, console)
    done = Written(len(good), len(paths), time.perf_counter() - started, model.provider, batch)
    if bad and not skip_bad:
        raise InputError(
            f"{len(bad)} of {given} give no template, so nothing was written "
            "(--skip-bad keeps the others):\n" + _listing(bad)
        )
    if not good:
        raise InputError(f"none of {given} gives a template, so nothing was written:\n" + _listing(bad))
    if bad:
        left_out = f"left out {len(bad)} of {given}:\n{_listing(bad)}"
        console.print(left_out, highlight=False, markup=False, soft_wrap=True)
    templates = np.stack([face.template for _, face in good])
    save_templates(output, templates, model.spec, [str(path) for path, _ in good])
    for path, face in good:
        if face.faces > 1:
            several = f"{path}: {face.faces} faces, the largest was taken"
            console.print(several, highlight=False, markup=False, soft_wrap=True)
    written = f"{len(good)} template" + ("" if len(good) == 1 else "s")
    console.print(
        f"wrote {written} to {output}" + (f", {done.photos_per_second:g} photos a second" if len(paths) > 1 else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return done


def _embed_all(
    model: FaceModel, paths: list[Path], largest: bool, console: Console
) -> tuple[list[tuple[Path, Embedded]], list[PhotoError]]:
    good: list[tuple[Path, Embedded]] = []
    bad: list[PhotoError] = []
    with progress_bar(console, "embedding", len(paths)) as progress:
        for done, (path, result) in enumerate(model.embed_each(paths, largest=largest), start=1):
            if isinstance(result, PhotoError):
                bad.append(result)
            else:
                good.append((path, result))
            progress(done)
    return good, bad


def _listing(errors: list[PhotoError]) -> str:
    return "\n".join(f"  {error}" for error in errors)


def photo_count(count: int) -> str:
    """How many photos, in words."""
    return f"{count} photo" if count == 1 else f"{count} photos"
