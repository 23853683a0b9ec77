"""Several photos of one person, fused into one template: the mean of the unit vectors, made a unit vector again.

What differs from photo to photo averages out, so a further photo of the person is closer to it than to any one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pets.errors import OddPhoto, TemplateError

ODD_BELOW = 0.36  # of the cosine with the mean of the others: SFace's own limit between one person and two


def fuse(units: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """One unit template, float32 (d,), from unit vectors, float32 (n, d), of photos of one person.

    `names`: of the photos. Raises `OddPhoto`, which names them, if one does not look like the others, and
    `TemplateError` for none.
    """
    if units.ndim != 2 or not len(units) or len(units) != len(names):
        raise TemplateError(f"a subject has at least one photo and a name for each, got {units.shape}, {len(names)}")
    check_alike(units, names)
    mean = units.astype(np.float64).mean(axis=0)
    fused: NDArray[np.float32] = (mean / np.linalg.norm(mean)).astype(np.float32)
    return fused


def check_alike(units: NDArray[np.float32], names: Sequence[str]) -> None:
    """Raise `OddPhoto` if a photo does not look like the others; of two, neither can be said to be the wrong one."""
    if len(units) < 2:
        return
    exact = units.astype(np.float64)
    others = exact.sum(axis=0) - exact
    lengths = np.maximum(np.linalg.norm(others, axis=1), 1e-9)
    cosines = np.einsum("ij,ij->i", exact, others) / lengths
    worst = int(cosines.argmin())
    if cosines[worst] < ODD_BELOW:
        if len(units) == 2:
            raise OddPhoto((0, 1), f"{names[0]} and {names[1]} do not look like one person (cosine {cosines[0]:.2f})")
        raise OddPhoto(
            (worst,),
            f"{names[worst]} does not look like the other photos of its subject: cosine {cosines[worst]:.2f} with "
            f"their mean, the limit is {ODD_BELOW}",
        )
