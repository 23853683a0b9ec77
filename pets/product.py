"""The product of int8 rows with public numbers modulo t, and its share (plain numpy)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.params import SHARE_BITS, Parameters

Values = npt.NDArray[np.uint32]


def public_product(rows: npt.NDArray[np.int8], us: npt.NDArray[np.int32], t: int, threads: int = 1) -> Values:
    """D·u modulo t for several u. `rows`: int8 (R, d). `us`: int32 (k, d) in [0, t). Returns uint32 (k, R)."""
    out = np.empty((len(us), len(rows)), np.uint32)
    for start in range(0, len(rows), 16384):
        exact = us.astype(np.float64) @ rows[start : start + 16384].astype(np.float64).T  # below 2^53
        out[:, start : start + 16384] = (exact.astype(np.int64) % t).astype(np.uint32)
    return out


def product_share(values: Values, params: Parameters, threads: int = 1) -> Values:
    """round(v·2^24/t) modulo 2^24 for v in [0, t)."""
    exact = (values.astype(np.uint64) << np.uint64(SHARE_BITS + 1)) + np.uint64(params.t)
    return (exact // np.uint64(2 * params.t)).astype(np.uint32) & np.uint32(2**SHARE_BITS - 1)


def public_sums(masked: Values, values: Values, offset: int, params: Parameters, threads: int = 1) -> Values:
    """masked + round(values·2^24/t) - offset modulo 2^24."""
    total = masked + product_share(values, params, threads) - np.uint32(offset % 2**SHARE_BITS)
    return total & np.uint32(2**SHARE_BITS - 1)
