"""A set sketch that opens at most `cap` hits and else only says that there are more (protocol/DESIGN.md, section 6).

PinSketch (Dodis, Ostrovsky, Reyzin and Smith, "Fuzzy Extractors", 2004; SIAM J. Comput. 38(1), 2008, section 6.3): the
syndromes of a BCH code over GF(2^32). Row i has its own nonzero element g_i = α^i; the sketch of a set of rows is

    S_k = Σ_{i in the set} g_i^(2k-1),    k = 1 … cap+2.

It is linear: the sketch of y ^ z is the XOR of the two sketches, so requester and router send the sums of their
share z, the holder adds those of y and decodes. Two sets with equal sums differ in at least 2·cap + 5 rows, the
designed distance of the code: up to cap hits are found exactly, and cap+1 … cap+4 are always seen to be too many. (Who
forgoes that certainty could decode cap+1 and cap+2 hits as well: hence `protocol.cap`, before any sum is sent.)
Of larger sets, a fraction of about rows^cap / cap! / 2^(32·(cap+2)) < 2^-64 share their sums with a small one.
"""

from __future__ import annotations

import hmac
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pets import gf32
from pets.errors import ParameterError, SketchMismatch
from pets.jit import kernel
from pets.threads import check_threads, parallel_ranges

MAX_CAP = 99
MAX_ROWS = gf32.ORDER - MAX_CAP  # each row needs its own power of α; the last ones fill the locator of a smaller set
BLOCK_ROWS = 4096  # one table of 16 KiB, which stays in the L1 cache, serves every block of one power sum
_BLOCK_WORDS = BLOCK_ROWS // 64

PowerSums: TypeAlias = npt.NDArray[np.uint32]
"""uint32 (cap+2,): entry k-1 is S_k."""


def check_cap(cap: int) -> int:
    """Return `cap`, or raise `ParameterError` outside 1…99."""
    if not 1 <= cap <= MAX_CAP:
        raise ParameterError(f"cap must be 1 to {MAX_CAP}, got {cap}")
    return cap


def power_sums(bits: npt.NDArray[np.uint64], cap: int, threads: int = 1, first_row: int = 0) -> PowerSums:
    """The cap+2 odd power sums of the rows whose bit is 1.

    `bits`: uint64 (words,), contiguous; bit i of the array is (bits[i // 64] >> (i % 64)) & 1 and stands for row
    `first_row` + i. A gallery may be worked in chunks: the XOR of the chunks' sums is the sum of the whole.
    Neither branches nor addresses depend on the bits. Raises `ParameterError` for anything else, for `cap` outside
    1…99, and for rows from `MAX_ROWS` on.
    """
    check_cap(cap)
    check_threads(threads)
    if bits.dtype != np.uint64 or bits.ndim != 1 or not bits.flags.c_contiguous:
        raise ParameterError(f"bits must be a contiguous uint64 vector, got {bits.dtype} of shape {bits.shape}")
    if first_row < 0 or first_row + 64 * len(bits) > MAX_ROWS:
        raise ParameterError(f"rows must lie from 0 to {MAX_ROWS - 1}, got {64 * len(bits)} from {first_row} on")
    # With β = α^(2k-1):  S_k = β^first_row · Σ_b (β^4096)^b · Σ_{i<4096} z_{4096b+i}·β^i
    bases, planes = _tables(cap)
    blocks = np.zeros((cap + 2, -(-len(bits) // _BLOCK_WORDS)), np.int64)
    parallel_ranges(lambda start, stop: _block_sums(bits, planes, start, stop, blocks), cap + 2, threads)
    return gf32.evaluate_powers(blocks, bases, BLOCK_ROWS, first_row).astype(np.uint32)


@lru_cache(maxsize=4)
def _tables(cap: int) -> tuple[gf32.Elements, npt.NDArray[np.uint64]]:
    """Of each power sum: β, int64 (cap+2,), and bit j of β^i for i < 4096, packed like the rows: uint64 (…, 32, 64)."""
    bases = np.array([gf32.power(gf32.ALPHA, 2 * k + 1) for k in range(cap + 2)], np.int64)
    planes = np.stack([_bit_planes(gf32.powers(base, BLOCK_ROWS)) for base in bases])
    planes.setflags(write=False)
    return bases, planes


def _bit_planes(elements: gf32.Elements) -> npt.NDArray[np.uint64]:
    bits = ((elements[None, :] >> np.arange(32)[:, None]) & 1).astype(np.uint8)
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)


@kernel
def _block_sums(
    bits: npt.NDArray[np.uint64], planes: npt.NDArray[np.uint64], start: int, stop: int, sums: gf32.Elements
) -> None:
    """Σ_i z_i·β^i within each block, for sums `start` to `stop`: bit j is the parity of the bits under plane j."""
    for index in range(start, stop):
        for block in range(sums.shape[1]):
            words = bits[block * _BLOCK_WORDS : (block + 1) * _BLOCK_WORDS]
            for j in range(32):
                parity = np.uint64(0)
                for i in range(len(words)):
                    parity ^= words[i] & planes[index, j, i]
                for half in (32, 16, 8, 4, 2, 1):
                    parity ^= parity >> np.uint64(half)
                sums[index, block] |= np.int64(parity & np.uint64(1)) << j


def combine(a: PowerSums, b: PowerSums) -> PowerSums:
    """The sums of the symmetric difference of two sets: a ^ b. Raises `ParameterError` for unlike or malformed sums."""
    _check_pair(a, b)
    return a ^ b


def check_equal(a: PowerSums, b: PowerSums) -> None:
    """Raise `SketchMismatch`, naming the first k with different S_k, unless two parties sent the same sums.

    The values themselves stay out of the message. Raises `ParameterError` for unlike or malformed sums.
    """
    _check_pair(a, b)
    if not hmac.compare_digest(a.tobytes(), b.tobytes()):
        first = int(np.flatnonzero(a != b)[0])
        raise SketchMismatch(f"power sum {first + 1} of {len(a)} differs between the two parties")


def decode(sums: PowerSums, rows: int, cap: int) -> tuple[int, ...] | None:
    """The rows of the set behind `sums`, ascending, or None if they are not a set of at most `cap` rows.

    `sums`: uint32 (cap+2,). `rows`: size of the gallery, 1 to `MAX_ROWS`; a member beyond it also gives None.
    Whatever is returned has exactly these sums: they are computed again from the rows found. Whoever waits for the
    holder's next message should not see how many there were, so a polynomial of degree `cap` is always factored:
    elements that belong to no row fill it up. Raises `ParameterError` for malformed arguments.
    """
    check_cap(cap)
    _check_sums(sums)
    if len(sums) != cap + 2:
        raise ParameterError(f"cap {cap} needs {cap + 2} power sums, got {len(sums)}")
    if not 1 <= rows <= MAX_ROWS:
        raise ParameterError(f"rows must be 1 to {MAX_ROWS}, got {rows}")
    # The power sums of elements g follow the linear recurrence whose characteristic polynomial is Π (x - g).
    locator = gf32.minimal_polynomial(_all_power_sums(sums))
    fits = len(locator) <= cap + 1 and locator[0] != 0
    if not fits:
        locator = np.ones(1, np.int64)
    fillers = gf32.powers(gf32.ALPHA, cap + 1 - len(locator), MAX_ROWS)
    elements = gf32.distinct_roots(gf32.with_roots(locator, fillers))
    if elements is None:
        return None
    logarithms = sorted(gf32.discrete_log(element) for element in elements)
    found = [row for row in logarithms if row < MAX_ROWS]
    again = gf32.odd_power_sums(np.array([gf32.power(gf32.ALPHA, row) for row in found], np.int64), cap + 2)
    right = fits and np.array_equal(again, sums) and all(row < rows for row in found)
    return tuple(found) if right else None


def _all_power_sums(sums: PowerSums) -> npt.NDArray[np.int64]:
    """Σ g^m for m = 1 … 2·cap+4: the odd ones as given, the even ones by Σ g^2m = (Σ g^m)²."""
    everything = np.zeros(2 * len(sums), np.int64)
    everything[0::2] = sums
    for m in range(2, len(everything) + 1, 2):
        half = int(everything[m // 2 - 1])
        everything[m - 1] = gf32.multiply(half, half)
    return everything


def _check_sums(sums: PowerSums) -> None:
    if sums.dtype != np.uint32 or sums.ndim != 1 or not 3 <= len(sums) <= MAX_CAP + 2:
        raise ParameterError(f"power sums must be uint32 of 3 to {MAX_CAP + 2}, got {sums.dtype} of shape {sums.shape}")


def _check_pair(a: PowerSums, b: PowerSums) -> None:
    _check_sums(a)
    _check_sums(b)
    if len(a) != len(b):
        raise ParameterError(f"power sums of two caps: {len(a)} and {len(b)} entries")
