"""Sums over hit bits, for the count that three parties share (protocol/cap.py). Bit i of word w is row 64·w + i."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.bits import Planes
from pets.jit import kernel

Words = npt.NDArray[np.uint32]


def masked(bits: Planes, stream: Words) -> Words:
    """Each bit less its mask, modulo 2^32. `bits`: uint64 (words,). `stream`: uint32 (64·words,), used only once."""
    out = np.empty(64 * len(bits), np.uint32)
    _masked(bits, stream, out)
    return out


def sum_where(bits: Planes, values: Words | None) -> int:
    """Σ of the values whose bit is set, modulo 2^32, or the number of set bits. `values`: uint32 (64·words,)."""
    return int(_count(bits) if values is None else _sum_where(bits, values))


@kernel
def _masked(bits: Planes, stream: Words, out: Words) -> None:
    for word in range(len(bits)):
        for lane in range(64):
            bit = np.uint32((bits[word] >> np.uint64(lane)) & np.uint64(1))
            out[64 * word + lane] = np.uint32(bit - stream[64 * word + lane])


@kernel
def _sum_where(bits: Planes, values: Words) -> np.uint32:
    # The other rows are multiplied by zero, not left out: the time does not tell how many bits are set.
    total = np.uint32(0)
    for word in range(len(bits)):
        for lane in range(64):
            bit = np.uint32((bits[word] >> np.uint64(lane)) & np.uint64(1))
            total = np.uint32(total + np.uint32(bit * values[64 * word + lane]))
    return total


@kernel
def _count(bits: Planes) -> np.int64:
    total = np.int64(0)
    for word in range(len(bits)):
        for lane in range(64):
            total += np.int64((bits[word] >> np.uint64(lane)) & np.uint64(1))
    return total
