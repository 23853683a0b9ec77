"""The holder's part of a search in the clear: its rows times a public vector modulo t (DESIGN, section 6).

u = q - r hides the probe q behind a mask r that is used once, so the holder may see it. Its rows are int8 and are read
once for all vectors. The product is a function of (rows, u) and additive in the rows. It is fastest where rows begin
with a cache line: d a multiple of 64, and memory from `pets.allocator.pages_apart` or a mapped file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pets.errors import CryptoError, GalleryError, ParameterError
from pets.jit import read_only
from pets.params import SHARE_BITS, Parameters, check_dim
from pets.product_kernel import LIMB_BITS, LIMBS, TILE, WIDTH, multiply_rows, share_products
from pets.residues import Values, check_shape
from pets.threads import check_threads, parallel_ranges


def public_product(rows: npt.NDArray[np.int8], us: npt.NDArray[np.int32], t: int, threads: int = 1) -> Values:
    """D·u mod t for several vectors u in one pass over the rows.

    `rows`: int8 (R, d), C order, possibly memory-mapped, d a multiple of 8 up to 1024. `us`: int32 (k, d), values in
    [0, t). `t`: a plaintext modulus, between 2^19 and 2^20. Returns uint32 (k, R), values in [0, t).
    Raises `GalleryError` for other rows, `ParameterError` for another d or t, `CryptoError` for vectors of another
    dtype or shape or with a value that is not below t.
    """
    if not isinstance(rows, np.ndarray) or rows.dtype != np.int8 or rows.ndim != 2:
        got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise GalleryError(f"rows must be int8 shaped (rows, d), got {got}")
    if not rows.flags.c_contiguous:
        raise GalleryError(f"rows must lie one after the other, got strides {rows.strides}")
    check_threads(threads)
    if not 2**19 < t < 2**20:
        raise ParameterError(f"the modulus must lie between 2^19 and 2^20, got {t}")
    count, dim = rows.shape[0], check_dim(rows.shape[1])
    limbs = _limbs(us, dim, t)
    out = np.empty((len(us), count), np.uint32)
    if out.size:
        source = read_only(rows)
        parallel_ranges(
            lambda i, j: multiply_rows(source, limbs, i, j, np.uint64(t), out), count, threads, grain=TILE, ranges=8
        )
    return out


def product_share(values: Values, params: Parameters, threads: int = 1) -> Values:
    """round(v·2^K/t) mod 2^K for each v, uint32 (R,) below t, exactly: what D·u adds to a rounded share.

    Raises `CryptoError` for another dtype or shape.
    """
    return public_sums(np.zeros_like(values), values, 0, params, threads)


def public_sums(masked: Values, values: Values, offset: int, params: Parameters, threads: int = 1) -> Values:
    """masked + round(values·2^K/t) - offset mod 2^K: what the holder publishes of each row.

    `masked`: uint32 (R,), its rounded shares e' plus the masks m. `values`: uint32 (R,), D·u mod t. `offset`: what a
    score must reach, in units of a share: round((theta - 1/2)·2^K/t). Raises `CryptoError` for another dtype or shape.
    """
    check_shape(values, (None,), "values")
    check_shape(masked, values.shape, "masked shares")
    check_threads(threads)
    out = np.empty(len(values), np.uint32)
    # round(2^64/t) is off by at most a half, which moves v·2^K/t by less than v/2^41. The fraction keeps 1/(2t) from a
    # half (t is odd), and v < t < 2^20: so no value is rounded to the other side.
    inverse, shift = np.uint64((2**64 + params.t // 2) // params.t), np.uint64(64 - SHARE_BITS)
    take = np.uint32(offset % 2**SHARE_BITS)
    parallel_ranges(
        lambda i, j: share_products(values, inverse, shift, masked, take, i, j, out), len(out), threads, grain=1 << 14
    )
    return out


def _limbs(us: npt.NDArray[np.int32], dim: int, t: int) -> npt.NDArray[np.uint8]:
    """Seven bits each of the values of vectors, lowest first: uint8 (k, 3, d padded to a multiple of WIDTH)."""
    check_shape(us, (None, dim), "public vectors", np.int32)
    bad: npt.NDArray[Any] = np.argwhere((us < 0) | (us >= t))
    if len(bad):
        i, j = (int(k) for k in bad[0])
        raise CryptoError(f"public vectors[{i}, {j}] is {int(us[i, j])}, which is not from 0 to {t - 1}")
    limbs = np.zeros((len(us), LIMBS, -(-dim // WIDTH) * WIDTH), np.uint8)
    for k in range(LIMBS):
        limbs[:, k, :dim] = (us >> (LIMB_BITS * k)) & (2**LIMB_BITS - 1)
    return limbs
