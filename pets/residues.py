"""Arithmetic on residues: uint32 arrays shaped (..., 2, n), one row of n values below each of the two primes.

Sums and products are the same in NTT and in coefficient form, point by point; in NTT form the product is that of
the ring Z_Q[X]/(X^n + 1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pets.errors import CryptoError, ResidueOutOfRange
from pets.jit import kernel, read_only
from pets.params import Parameters
from pets.threads import check_threads, parallel_ranges

Residues = npt.NDArray[np.uint32]
Values = npt.NDArray[np.uint32]  # integers modulo t or 2^SHARE_BITS, one each


@lru_cache(maxsize=16)
def prime_row(params: Parameters) -> npt.NDArray[np.uint32]:
    """The two primes as a read-only uint32 (2,), the form in which kernels take them."""
    row = np.array(params.primes, np.uint32)
    row.setflags(write=False)
    return row


def check_shape(array: npt.NDArray[Any], shape: tuple[int | None, ...], name: str, dtype: type = np.uint32) -> None:
    """Raise `CryptoError` unless `array` has `dtype` and `shape` (None stands for any length)."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise CryptoError(f"{name} must be an array of {np.dtype(dtype)}, got {got}")
    if array.ndim != len(shape) or any(
        want is not None and got != want for got, want in zip(array.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise CryptoError(f"{name} must have shape ({wanted}), got {array.shape}")


def check_form(array: npt.NDArray[Any], params: Parameters, name: str) -> None:
    """Raise `CryptoError` unless `array` is uint32 shaped (..., 2, n). Values are not looked at."""
    lead = max(0, array.ndim - 2) if isinstance(array, np.ndarray) else 0
    check_shape(array, (None,) * lead + (2, params.n), name)


def check_residues(array: npt.NDArray[Any], params: Parameters, name: str) -> None:
    """Check what came from outside: uint32 (..., 2, n) with every value below its prime.

    Raises `CryptoError` for a wrong dtype or shape and `ResidueOutOfRange`, naming the first bad index, its
    value and its prime.
    """
    check_form(array, params, name)
    flat = read_only(np.ascontiguousarray(array).reshape(-1, 2, params.n))
    found = _first_out_of_range(flat, prime_row(params))
    if found >= 0:
        index = tuple(int(i) for i in np.unravel_index(found, array.shape))
        raise ResidueOutOfRange(
            f"{name}{list(index)} is {int(array[index])}, which is not below its prime {params.primes[index[-2]]}"
        )


def multiply(a: Residues, b: Residues, params: Parameters, threads: int = 1) -> Residues:
    """a·b point by point; uint32 (..., 2, n) each, leading axes broadcast. Raises `CryptoError` for other shapes.

    Inputs must be fully reduced (`check_residues`); so is the result.
    """
    return _pointwise(_multiply, a, b, params, threads)


def add(a: Residues, b: Residues, params: Parameters, threads: int = 1) -> Residues:
    """a + b, like `multiply`."""
    return _pointwise(_add, a, b, params, threads)


def subtract(a: Residues, b: Residues, params: Parameters, threads: int = 1) -> Residues:
    """a - b, like `multiply`."""
    return _pointwise(_subtract, a, b, params, threads)


def _pointwise(combine: Any, a: Residues, b: Residues, params: Parameters, threads: int) -> Residues:
    check_form(a, params, "the first operand")
    check_form(b, params, "the second operand")
    check_threads(threads)
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError as error:
        raise CryptoError(f"residues shaped {a.shape} and {b.shape} do not broadcast") from error
    rows = [read_only(np.ascontiguousarray(x).reshape(-1, 2, params.n)) for x in (a, b)]
    # Row numbers are broadcast instead of rows, so that nothing large is copied.
    picks = [
        read_only(np.ascontiguousarray(np.broadcast_to(np.arange(len(r)).reshape(x.shape[:-2]), lead)).reshape(-1))
        for r, x in zip(rows, (a, b), strict=True)
    ]
    out = np.empty((len(picks[0]), 2, params.n), np.uint32)
    primes = prime_row(params)
    parallel_ranges(
        lambda i, j: combine(rows[0], rows[1], picks[0][i:j], picks[1][i:j], out[i:j], primes), len(out), threads
    )
    return out.reshape(*lead, 2, params.n)


@kernel
def _first_out_of_range(array: Any, primes: Any) -> Any:
    count, _, n = array.shape
    for row in range(count):
        for prime in range(2):
            p = primes[prime]
            bad = np.uint32(0)
            for k in range(n):
                bad |= np.uint32(array[row, prime, k] >= p)
            if bad:
                for k in range(n):
                    if array[row, prime, k] >= p:
                        return (row * 2 + prime) * n + k
    return -1


@kernel
def _multiply(a: Any, b: Any, pick_a: Any, pick_b: Any, out: Any, primes: Any) -> None:
    # Barrett: with v < 2^60 and mu = floor(2^60 / p), q = ((v >> 28)·mu) >> 32 is at most 2 short of v // p.
    low = np.uint64(0xFFFFFFFF)
    for row in range(len(out)):
        for prime in range(2):
            p = np.uint64(primes[prime])
            mu = (np.uint64(1 << 60) // p) & low
            x, y, z = a[pick_a[row], prime], b[pick_b[row], prime], out[row, prime]
            for k in range(len(z)):
                v = np.uint64(x[k]) * np.uint64(y[k])
                q = (((v >> np.uint64(28)) & low) * mu) >> np.uint64(32)
                r = np.uint32(v) - np.uint32(q) * np.uint32(p)
                r = min(np.uint32(r), np.uint32(r - np.uint32(2) * np.uint32(p)))
                z[k] = min(np.uint32(r), np.uint32(r - np.uint32(p)))


@kernel
def _add(a: Any, b: Any, pick_a: Any, pick_b: Any, out: Any, primes: Any) -> None:
    for row in range(len(out)):
        for prime in range(2):
            p = primes[prime]
            x, y, z = a[pick_a[row], prime], b[pick_b[row], prime], out[row, prime]
            for k in range(len(z)):
                s = np.uint32(x[k] + y[k])
                z[k] = min(s, np.uint32(s - p))


@kernel
def _subtract(a: Any, b: Any, pick_a: Any, pick_b: Any, out: Any, primes: Any) -> None:
    for row in range(len(out)):
        for prime in range(2):
            p = primes[prime]
            x, y, z = a[pick_a[row], prime], b[pick_b[row], prime], out[row, prime]
            for k in range(len(z)):
                s = np.uint32(x[k] - y[k])
                z[k] = min(s, np.uint32(s + p))
