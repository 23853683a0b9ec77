"""The centre of a model: a public mean of templates, subtracted from each before it is normalised.

Templates of all faces lean in one direction, which makes different people look alike. A centre takes that away:

    template = (x - c) / ‖x - c‖        x: the unit vector that the embedder gives, c: the centre

It is part of the model's specification, because centred templates and others cannot be compared. The file lies beside
the model's ONNX files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pets.cache import sha256_file
from pets.errors import ModelError
from pets.templates import load_templates

CENTRE_FILE = "centre.npy"
LONGEST = 0.9  # a mean of templates this long is one of a few photos, not of many people


def mean_of(templates: NDArray[np.float64]) -> NDArray[np.float32]:
    """The centre of unit templates (n, d), float32 (d,). Raises `ModelError` if they are too few to have one."""
    centre = templates.mean(axis=0)
    _check(centre, "the mean of these templates")
    result: NDArray[np.float32] = centre.astype(np.float32)
    return result


def centred(unit: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (d,) or (n, d) less the centre (d,), normalised again."""
    moved = unit - centre
    result: NDArray[np.float64] = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    return result


def load_centre(folder: Path, dim: int) -> tuple[NDArray[np.float64] | None, str]:
    """The centre that lies in a model folder and its SHA-256; (None, "") if there is none.

    Raises `ModelError` for a file that is no centre of `dim` numbers, `GalleryError` or `TemplateError` for one that is
    no array of numbers.
    """
    path = folder / CENTRE_FILE
    if not path.exists():
        return None, ""
    centre = np.array(load_templates(path, what="centre"), np.float64)
    if centre.shape != (dim,):
        raise ModelError(f"the centre {path} must have shape {(dim,)} for this model, got {centre.shape}")
    _check(centre, f"the centre {path}")
    return centre, sha256_file(path)


def _check(centre: NDArray[np.float64], what: str) -> None:
    norm = float(np.linalg.norm(centre))
    if not norm <= LONGEST:  # written so that NaN is refused
        raise ModelError(f"{what} has norm {norm:.3g}, the limit is {LONGEST}: it is not a mean over many people")
