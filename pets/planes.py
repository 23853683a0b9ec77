"""Bit planes: plane k holds bit k of every row, 64 rows to a word. Bit i of word w belongs to row 64·w + i."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.jit import kernel
from pets.threads import parallel_ranges

TOGETHER = 8  # words that are transposed at a time


def to_planes(values: npt.NDArray[np.uint32], width: int, threads: int = 1) -> npt.NDArray[np.uint64]:
    """Transpose values to planes. `values`: uint32 (rows,), rows a multiple of 64. Returns uint64 (width, rows/64)."""
    words = len(values) // 64
    out = np.empty((width, words), np.uint64)
    parallel_ranges(lambda start, stop: _to_planes(values, out, start, stop), words, threads, grain=8)
    return out


def from_planes(planes: npt.NDArray[np.uint64], threads: int = 1) -> npt.NDArray[np.uint32]:
    """The inverse of `to_planes`: uint64 (width, words), width at most 32, to uint32 (64·words,)."""
    words = planes.shape[1]
    source = np.ascontiguousarray(planes)
    out = np.empty(64 * words, np.uint32)
    parallel_ranges(lambda start, stop: _from_planes(source, out, start, stop), words, threads, grain=8)
    return out


def unpack_bits(plane: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """One plane, uint64 (words,), as one uint8 of 0 or 1 for each row."""
    return np.unpackbits(plane.astype("<u8").view(np.uint8), bitorder="little")


def pack_bits(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """0/1 values, uint8 (rows,), as uint64 (ceil(rows/64),), padded with zeros."""
    padded = np.zeros(-(-len(bits) // 64) * 64, np.uint8)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


@kernel
def _to_planes(values: npt.NDArray[np.uint32], out: npt.NDArray[np.uint64], start: int, stop: int) -> None:
    squares = np.zeros((32, 2 * TOGETHER), np.uint32)
    for first in range(start, stop, TOGETHER):
        words = min(TOGETHER, stop - first)
        for word in range(words):
            rows = values[64 * (first + word) : 64 * (first + word + 1)]
            for i in range(32):
                squares[i, word] = rows[i]
                squares[i, TOGETHER + word] = rows[32 + i]
        _transpose(squares)
        for k in range(out.shape[0]):
            low, high, plane = squares[k, :words], squares[k, TOGETHER:], out[k, first : first + words]
            for word in range(words):
                plane[word] = np.uint64(low[word]) | (np.uint64(high[word]) << np.uint64(32))


@kernel
def _from_planes(planes: npt.NDArray[np.uint64], out: npt.NDArray[np.uint32], start: int, stop: int) -> None:
    squares = np.empty((32, 2 * TOGETHER), np.uint32)
    for first in range(start, stop, TOGETHER):
        words = min(TOGETHER, stop - first)
        squares[:] = 0
        for k in range(planes.shape[0]):
            low, high, plane = squares[k, :words], squares[k, TOGETHER:], planes[k, first : first + words]
            for word in range(words):
                low[word] = np.uint32(plane[word])
                high[word] = np.uint32(plane[word] >> np.uint64(32))
        _transpose(squares)
        for word in range(words):
            rows = out[64 * (first + word) : 64 * (first + word + 1)]
            for i in range(32):
                rows[i] = squares[i, word]
                rows[32 + i] = squares[i, TOGETHER + word]


@kernel
def _transpose(squares: npt.NDArray[np.uint32]) -> None:
    # 32×32 bits a column, in five rounds of swapping ever smaller squares. Columns go side by side through vectors.
    for step in range(5):
        j = 16 >> step
        shift = np.uint32(j)
        mask = np.uint32(0)
        if step == 0:
            mask = np.uint32(0x0000FFFF)
        elif step == 1:
            mask = np.uint32(0x00FF00FF)
        elif step == 2:
            mask = np.uint32(0x0F0F0F0F)
        elif step == 3:
            mask = np.uint32(0x33333333)
        else:
            mask = np.uint32(0x55555555)
        for block in range(0, 32, 2 * j):
            for k in range(block, block + j):
                upper, lower = squares[k], squares[k + j]
                for column in range(2 * TOGETHER):
                    swap = ((upper[column] >> shift) ^ lower[column]) & mask
                    lower[column] ^= swap
                    upper[column] ^= swap << shift
