"""Synthetic templates with the statistics of a real model, for large galleries. Nothing here is secret."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Cosines of different people under the default model (SFace): mean and standard deviation on LFW, 11.9 M pairs.
IMPOSTOR_MEAN = 0.0907
IMPOSTOR_SD = 0.0882


def synthetic_templates(
    count: int,
    dim: int,
    seed: int,
    centre: npt.NDArray[np.float32] | None = None,
    mean: float = IMPOSTOR_MEAN,
    sd: float = IMPOSTOR_SD,
) -> npt.NDArray[np.float32]:
    """Unit vectors whose pairwise cosines have about this mean and standard deviation, float32 (count, dim).

    x = √mean·c + √(1-mean)·z with one common direction c (`centre`, normalised; random if not given) and z uniform on
    the sphere of a random subspace of dimension ((1-mean)/sd)², because the cosine of two such z has sd 1/√dimension.
    """
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=dim) if centre is None else np.asarray(centre, np.float64)
    direction = direction / np.linalg.norm(direction)
    rank = max(2, min(dim - 1, round(((1 - mean) / sd) ** 2)))
    basis, _ = np.linalg.qr(np.column_stack([direction, rng.normal(size=(dim, rank))]))
    out = np.empty((count, dim), np.float32)
    for start in range(0, count, 65536):
        stop = min(count, start + 65536)
        z = rng.normal(size=(stop - start, rank))
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        part = np.sqrt(mean) * direction + np.sqrt(1 - mean) * (z @ basis[:, 1:].T)
        out[start:stop] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out
