"""Labelled templates: from a folder of photos a person, or from a file of templates with a label a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from nodes.operator.progress import progress_bar
from pets.errors import InputError, PhotoError
from pets.faces import FaceModel
from pets.photos import SUFFIXES
from pets.templates import ModelSpec, load_templates, read_model_spec, unit_templates

MOST_PHOTOS = 20_000  # all their pairs are compared: 2·10^8 comparisons, a minute


@dataclass(frozen=True)
class Sample:
    """Photos of known people, those of one person next to each other.

    `templates`: unit vectors, float64 (n, d). `people`: int64 (n,), 0 to the number of people less one, rising.
    `names`: label of each person. `groups`: group of each person, or None. `spec`: their model, None if unknown.
    `failed`: photos that gave no template. `left_out`: photos beyond `MOST_PHOTOS`.
    """

    templates: npt.NDArray[np.float64] = field(repr=False)
    people: npt.NDArray[np.int64]
    names: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    spec: ModelSpec | None = None
    failed: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def dim(self) -> int:
        """Entries of a template."""
        return int(self.templates.shape[1])

    @property
    def photos_each(self) -> npt.NDArray[np.int64]:
        """Photos of each person."""
        return np.bincount(self.people, minlength=len(self.names))


def from_templates(embeddings: Path, labels: Path, groups: Path | None, seed: int) -> Sample:
    """Read a .npy file of unit vectors and its labels, a line a row.

    Raises `InputError` where they do not fit, `TemplateError` for rows that are not unit vectors.
    """
    array = load_templates(embeddings, what="embeddings")
    if array.ndim != 2:
        raise InputError(f"the embeddings must have shape (n, d), got {array.shape}")
    templates = unit_templates(array, name=str(embeddings)).astype(np.float64)
    listed = read_lines(labels, len(templates), "label")
    grouped = None if groups is None else read_lines(groups, len(templates), "group")
    return arrange(templates, listed, grouped, seed, spec=read_model_spec(embeddings))


def from_photos(
    folder: Path, model: FaceModel, seed: int, *, largest: bool, console: Console, mirrored: bool = False
) -> Sample:
    """Embed the photos of a folder that holds one folder a person. Photos without a template are left out and listed.

    With `mirrored`, of the mirror images. Raises `InputError` for a folder without folders, or when no photo gives a
    template.
    """
    paths = _photos_of_people(folder)
    good: list[npt.NDArray[np.float32]] = []
    labels: list[str] = []
    failed: list[str] = []
    with progress_bar(console, "embedding", len(paths)) as progress:
        results = model.embed_each(paths, largest=largest, mirrored=mirrored)
        for done, (path, result) in enumerate(results, start=1):
            if isinstance(result, PhotoError):
                failed.append(str(result))
            else:
                good.append(result.template)
                labels.append(path.relative_to(folder).parts[0])
            progress(done)
    if not good:
        raise InputError(f"none of {len(paths)} photos gives a template, the first because: {failed[0]}")
    templates = np.stack(good).astype(np.float64)
    return arrange(templates, labels, None, seed, spec=model.spec, failed=tuple(failed))


def _photos_of_people(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"--photos {folder} is not a folder")
    paths = [
        path
        for person in sorted(item for item in folder.iterdir() if item.is_dir())
        for path in sorted(person.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not paths:
        raise InputError(f"--photos {folder} holds no folders with photos in them, one folder a person")
    return paths


def arrange(
    templates: npt.NDArray[np.float64],
    labels: list[str],
    groups: list[str] | None,
    seed: int,
    *,
    spec: ModelSpec | None = None,
    failed: tuple[str, ...] = (),
) -> Sample:
    """Bring the photos of one person together and number the people.

    Beyond `MOST_PHOTOS` people are left out at random. Raises `InputError` unless two people have photos and one has
    two, and for a person with two groups.
    """
    names, people = np.unique(np.array(labels), return_inverse=True)
    kept = _people_kept(people, seed)
    chosen = np.flatnonzero(kept[people])
    order = chosen[np.argsort(people[chosen], kind="stable")]
    numbers = np.cumsum(kept) - 1
    arranged = numbers[people[order]]
    kept_names = tuple(str(name) for name in names[kept])
    each = np.bincount(arranged)
    if len(each) < 2 or each.max() < 2:
        raise InputError(
            f"calibration needs photos of at least 2 people and 2 photos of one of them, got {len(labels)} photos of "
            f"{len(names)} people, at most {int(each.max())} of one"
        )
    by_person = None
    if groups is not None:
        by_person = _group_of_each([groups[row] for row in order], arranged, kept_names)
    return Sample(templates[order], arranged, kept_names, by_person, spec, failed, left_out=len(labels) - len(order))


def _people_kept(people: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.bool_]:
    each = np.bincount(people)
    if len(people) <= MOST_PHOTOS:
        return np.ones(len(each), bool)
    order = np.random.default_rng(seed).permutation(len(each))
    kept = np.zeros(len(each), bool)
    kept[order[np.cumsum(each[order]) <= MOST_PHOTOS]] = True
    return kept


def _group_of_each(groups: list[str], people: npt.NDArray[np.int64], names: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for person, group in zip(people.tolist(), groups, strict=True):
        if found.setdefault(person, group) != group:
            raise InputError(f"{names[person]!r} is in two groups, {found[person]!r} and {group!r}")
    return tuple(found[person] for person in range(len(names)))


def read_lines(path: Path, rows: int, what: str) -> list[str]:
    """The lines of a text file, one a row. Raises `InputError` for another number of lines or an empty line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the {what}s in {path} cannot be read: {error}") from error
    if len(lines) != rows:
        raise InputError(f"{path} has {len(lines)} lines, one {what} a row is needed: {rows}")
    lines = [line.strip() for line in lines]
    if "" in lines:
        raise InputError(f"line {lines.index('') + 1} of {path} is empty, a {what} is needed")
    return lines
