"""The threshold of a search that names none, by model: cosines of two models do not mean the same.

0.55 under SFace: of searches over a million rows for somebody who is in none of them about one in seven shows a false
candidate, and about one in seven misses somebody who is there (benchmarks/calibration.md). Larger galleries and other
models ask for other thresholds: `lineup calibrate` measures them.
"""

from __future__ import annotations

from decimal import Decimal

from pets.errors import ParameterError
from pets.templates import ModelSpec
from pets.weights import CONVERTED_SHA256, EMBEDDER

BY_EMBEDDER = {CONVERTED_SHA256[EMBEDDER]: Decimal("0.55")}
UNKNOWN = Decimal("0.55")  # templates that no model is known of


def default_threshold(spec: ModelSpec | None) -> Decimal:
    """The default for templates of a model. Raises `ParameterError` for a model that nobody has calibrated here."""
    if spec is None:
        return UNKNOWN
    if spec.centre_sha256 or spec.embedder_sha256 not in BY_EMBEDDER:
        raise ParameterError(
            f"there is no default threshold for this model ({spec}): give --threshold; `lineup calibrate` measures one"
        )
    return BY_EMBEDDER[spec.embedder_sha256]
