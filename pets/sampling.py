"""Sampling from seeds: the common polynomial, ternary secrets, rounded Gaussian errors."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from pets.jit import kernel
from pets.params import Parameters
from pets.prf import Keystream, encode_labels
from pets.threads import parallel_ranges

# floor(2^63 · P(|x| <= k)) for k = 0, 1, … where x is a Gaussian of standard deviation 3.2 rounded to the nearest
# integer. Integers, because a float table could differ between machines and break audits by recomputation.
GAUSSIAN_TABLE = np.array(
    [
        1145211075642350021, 3327346745107060974, 5214382916682333781, 6695571912810222819, 7750861598355862392,
        8433298879110946552, 8833872350291519373, 9047288981892740530, 9150493550516387120, 9195792885414376140,
        9213839857395009152, 9220365654744594921, 9222507442294722353, 9223145455055816616, 9223317954968521088,
        9223360285243071476, 9223369713077175595, 9223371618832674237, 9223371968465679950, 9223372026681777736,
        9223372035479180512, 9223372036685720564, 9223372036835896362, 9223372036852860197, 9223372036854599234,
        9223372036854761024, 9223372036854774683, 9223372036854775730, 9223372036854775803,
    ],
    np.uint64,
)  # fmt: skip


def common_polynomial(params: Parameters, query_id: bytes) -> npt.NDArray[np.uint32]:
    """The polynomial `a` of a query, uint32 (2, n) in NTT form, from SHAKE-128 with rejection modulo each prime.

    Every party recomputes it: with an `a` of somebody's choice (zero, say) the re-randomiser hides nothing.
    """
    out = np.empty((2, params.n), np.uint32)
    for index, prime in enumerate(params.primes):
        xof = hashlib.shake_128(
            encode_labels("blind-lineup/common-polynomial/v1", params.digest_input(), query_id, index)
        )
        words = 2 * params.n
        while True:
            candidates = np.frombuffer(xof.digest(4 * words), "<u4") & np.uint32(2**30 - 1)
            accepted = candidates[candidates < prime]
            if len(accepted) >= params.n:
                break
            words *= 2
        out[index] = accepted[: params.n]
    return out


def ternary(stream: Keystream, count: int, n: int) -> npt.NDArray[np.int8]:
    """Uniform in {-1, 0, 1}, int8 (count, n): bytes below 255, modulo 3.

    Each polynomial consumes n + n/64 bytes. On average n/256 bytes are rejected; needing more than the n/64 spare
    ones is 12 standard deviations away and raises `OverflowError`.
    """
    raw = stream.bytes_array(count, n + n // 64)
    out = np.empty((count, n), np.int8)
    if not _ternary(raw, out):
        raise OverflowError("ternary sampling ran out of bytes")
    return out


def gaussian(stream: Keystream, count: int, n: int, threads: int = 1) -> npt.NDArray[np.int8]:
    """Rounded Gaussian of standard deviation 3.2, int8 (count, n), by inversion with 63 bits of precision."""
    raw = stream.words(count, n)
    out = np.empty((count, n), np.int8)
    parallel_ranges(lambda start, stop: _gaussian(raw[start:stop], GAUSSIAN_TABLE, out[start:stop]), count, threads)
    return out


@kernel
def _ternary(raw: npt.NDArray[np.uint8], out: npt.NDArray[np.int8]) -> bool:
    count, n = out.shape
    for row in range(count):
        filled = 0
        for position in range(raw.shape[1]):
            if filled == n:
                break
            value = raw[row, position]
            # Written always, kept only when the byte is below 255.
            out[row, filled] = np.int8(value % 3) - np.int8(1)
            filled += value != 255
        if filled < n:
            return False
    return True


@kernel
def _gaussian(raw: npt.NDArray[np.uint64], table: npt.NDArray[np.uint64], out: npt.NDArray[np.int8]) -> None:
    # The whole table is read for every sample, so the time does not depend on the sample.
    count, n = out.shape
    magnitude = np.empty(n, np.int64)
    for row in range(count):
        magnitude[:] = 0
        for entry in table:
            for i in range(n):
                magnitude[i] += np.int64(raw[row, i] >> np.uint64(1)) >= np.int64(entry)
        for i in range(n):
            sign = np.int64(1) - np.int64(2) * np.int64(raw[row, i] & np.uint64(1))
            out[row, i] = sign * magnitude[i]
