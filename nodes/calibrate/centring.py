"""The centre of a model from a sample: the mean over all photos and, where there are photos, their mirror images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pets.centre import CENTRE_FILE, mean_of
from pets.errors import InputError
from pets.templates import ModelSpec

LEAST_PEOPLE = 50


def check_centre(path: Path, spec: ModelSpec | None) -> None:
    """Refuse, before anything is measured, a file that no centre can be written to."""
    if path.suffix != ".npy" or not path.parent.is_dir():
        raise InputError(f"--centre must name a .npy file in a folder that exists, such as {CENTRE_FILE}, got {path}")
    if spec is not None and spec.centre_sha256:
        raise InputError("--centre: these templates are centred already; take a model without a centre")


def write_centre(path: Path, templates: npt.NDArray[np.float64], people: int) -> float:
    """Write the mean of templates (n, d), float32 (d,). Returns its norm. Raises `InputError` for too few people."""
    if people < LEAST_PEOPLE:
        raise InputError(f"--centre needs photos of at least {LEAST_PEOPLE} people, got {people}")
    centre = mean_of(templates)
    np.save(path, centre, allow_pickle=False)
    return float(np.linalg.norm(centre))
