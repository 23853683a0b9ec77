"""Plain bits for circuits."""

from __future__ import annotations

from typing import Any

import numpy as np

from pets.bits import Bits, plain_bits
from pets.planes import to_planes


def planes_of(values: np.ndarray[Any, Any], width: int) -> Bits:
    padded = np.zeros(-(-len(values) // 64) * 64, np.uint32)
    padded[: len(values)] = values.astype(np.int64) & (2**width - 1)
    return plain_bits(to_planes(padded, width))
