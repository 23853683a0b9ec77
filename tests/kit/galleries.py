"""Templates for tests: random ones, and ones made to sit exactly where a comparison could go wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.params import norm_bound, scale
from pets.templates import Templates


def unit_rows(rng: np.random.Generator, rows: int, dim: int) -> Templates:
    """Quantised random unit vectors, int8 (rows, d)."""
    return quantised(rng.standard_normal((rows, dim)))


def quantised(vectors: npt.NDArray[np.float64]) -> Templates:
    """round(S·x/‖x‖), clipped."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    templates: Templates = np.clip(np.rint(scale(vectors.shape[1]) * unit), -127, 127).astype(np.int8)
    return templates


def near(rng: np.random.Generator, probe: Templates, rows: int, cosines: npt.NDArray[np.float64]) -> Templates:
    """Rows at the given cosines to the probe, up to rounding."""
    direction = probe / np.linalg.norm(probe)
    noise = rng.standard_normal((rows, len(probe)))
    noise -= (noise @ direction)[:, None] * direction
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return quantised(cosines[:, None] * direction + np.sqrt(1 - cosines**2)[:, None] * noise)


def scores(templates: Templates, probe: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Exact integer scores."""
    return templates.astype(np.int64) @ probe.astype(np.int64)


def rows_with_scores(rng: np.random.Generator, probe: Templates, targets: npt.ArrayLike) -> Templates:
    """Rows whose score with the probe is exactly the target, within the norm bound. Targets: below 0.97·S² in size."""
    wanted = np.asarray(targets, np.int64)
    out = near(rng, probe, len(wanted), wanted / float(scale(len(probe))) / float(np.linalg.norm(probe)))
    order = np.argsort(-np.abs(probe.astype(np.int64)), kind="stable")
    for row, target in zip(out, wanted, strict=True):
        entries = row.astype(np.int64)
        missing = int(target - entries @ probe.astype(np.int64))
        for j in order:
            if (weight := int(probe[j])) and abs(weight) <= abs(missing):
                step = int(missing / weight)
                step = max(-127 - int(entries[j]), min(127 - int(entries[j]), max(-3, min(3, step))))
                entries[j] += step
                missing -= step * weight
        if missing:  # less than every weight: the difference of two weights will do
            j, k, sign = next(
                (j, k, sign)
                for j in order
                for k in order
                for sign in (1, -1)
                if j != k and int(probe[j]) + sign * int(probe[k]) == missing and max(abs(entries[[j, k]])) < 127
            )
            entries[j] += 1
            entries[k] += sign
        row[:] = entries
    assert (scores(out, probe) == wanted).all()
    norms = np.einsum("ij,ij->i", out.astype(np.int64), out.astype(np.int64))
    assert (norms <= norm_bound(len(probe))).all(), (norms.max(), norm_bound(len(probe)))
    return out


def longest(rng: np.random.Generator, dim: int) -> Templates:
    """A template whose squared norm is exactly the bound, int8 (d,)."""
    row = unit_rows(rng, 1, dim)[0].astype(np.int64)
    bound = norm_bound(dim)
    while (room := bound - int(row @ row)) != 0:
        # raising |x| by one adds 2|x| + 1; take the largest step that fits, or go one back to change parity
        costs = np.where(np.abs(row) < 127, 2 * np.abs(row) + 1, 2**30)
        fitting = np.where(costs <= room, costs, -1)
        j = int(fitting.argmax())
        if fitting[j] < 0:
            j = int(np.abs(row).argmin())
            row[j] = 0
            j = int(rng.integers(dim))
            row[j] -= np.sign(row[j])
        else:
            row[j] += 1 if row[j] >= 0 else -1
    template: Templates = row.astype(np.int8)
    return template
