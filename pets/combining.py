"""Few rows, each times a polynomial, scored at once: Σ_k f_k·(Σ_j rows_kj·ct_j), without the rows' own NTT form.

The slots of a confirmation are the same row at several coefficients. Scored as a block (`pets.scoring`), its d columns
must be transformed; here only the f_k are, one for each row. The result is the same word for word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from pets import ntt
from pets.errors import GalleryError
from pets.interleaving import TILE
from pets.jit import kernel
from pets.residues import Residues, check_shape, prime_row
from pets.scoring import ScoringProbe
from pets.threads import check_threads, parallel_ranges

LIMB_BITS = 15  # of a residue, which has two
LONGEST = 2**16 - 1  # Σ|entry| of a row: its product with limbs stays below 2^31
LANES = 32  # int16 that are multiplied at once; rows are padded to a multiple of it
TOGETHER = 2  # rows that share a load of limbs

_WORD, _INT, _SHORT = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_SHORTS, _PRODUCTS, _SUMS = (ir.VectorType(kind, n) for kind, n in ((_SHORT, LANES), (_INT, LANES), (_INT, LANES // 2)))
_tools: Any = cgutils  # numba's helpers carry no types


def combine_rows(
    rows: npt.NDArray[np.int8], polynomials: npt.NDArray[np.int32], probe: ScoringProbe, threads: int = 1
) -> Residues:
    """The scores of `rows` at the places that `polynomials` say: a ciphertext, uint32 (2 comps, 2 primes, n), NTT form.

    `rows`: int8 (k, d), of which no Σ|entry| is above 65535: no template's is. `polynomials`: int32 (k, n),
    coefficients of f_k. The time follows k and d, and not what the rows hold. The result is not re-randomised. Raises
    `CryptoError` for another dtype or shape, `GalleryError` for a longer row.
    """
    params = probe.params
    check_shape(rows, (None, probe.dim), "rows", np.int8)
    check_shape(polynomials, (len(rows), params.n), "polynomials", np.int32)
    check_threads(threads)
    source = np.zeros((-(-len(rows) // TOGETHER) * TOGETHER, -(-probe.dim // LANES) * LANES), np.int16)
    source[: len(rows), : probe.dim] = rows
    lengths = np.abs(source).sum(axis=1, dtype=np.int64)
    if (lengths > LONGEST).any():
        raise GalleryError(f"the entries of a row add up to {int(lengths.max())}, the limit is {LONGEST}")
    factors = ntt.forward(polynomials, params, threads)
    out = np.empty((2, 2, params.n), np.uint32)
    data, primes = probe.data, prime_row(params).astype(np.int64)
    parallel_ranges(
        lambda start, stop: _combine(source, data, factors, primes, start, stop, out), params.n, threads, grain=TILE
    )
    return out


@intrinsic
def _dot_products(_typing: Any, rows: Any, low: Any, high: Any, size: Any, lows: Any, highs: Any) -> Any:
    """Σ row·low and Σ row·high of TOGETHER rows to int32 at `lows` and `highs`: a limb is loaded once for all rows.

    All are addresses of int16, `size` bytes a row and a limb, 64 a step. Sums of neighbouring products, written so that
    the compiler takes the instruction for it (vpmaddwd, vpdpwssd); from a loop over int32 it does not.
    """

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        rows, low, high, size, *sums = args
        totals = [_tools.alloca_once_value(builder, _SUMS([0] * (LANES // 2))) for _ in range(2 * TOGETHER)]

        def load(base: Any, offset: Any) -> Any:
            place = builder.inttoptr(builder.add(base, offset), _SHORTS.as_pointer())
            return builder.sext(builder.load(place, align=2), _PRODUCTS)

        def pick(vector: Any, lanes: range) -> Any:
            return builder.shuffle_vector(vector, vector, ir.VectorType(_INT, len(lanes))(list(lanes)))

        with _tools.for_range_slice(builder, _WORD(0), size, _WORD(2 * LANES), _WORD) as (offset, _):
            limbs = [load(limb, offset) for limb in (low, high)]
            for row in range(TOGETHER):
                values = load(builder.add(rows, builder.mul(size, _WORD(row))), offset)
                for limb, total in zip(limbs, totals[2 * row :], strict=False):
                    product = builder.mul(values, limb)
                    pairs = builder.add(pick(product, range(0, LANES, 2)), pick(product, range(1, LANES, 2)))
                    builder.store(builder.add(builder.load(total), pairs), total)
        for index, total in enumerate(totals):
            vector, lanes = builder.load(total), LANES // 2
            while lanes > 1:
                lanes //= 2
                vector = builder.add(pick(vector, range(lanes)), pick(vector, range(lanes, 2 * lanes)))
            place = builder.inttoptr(builder.add(sums[index % 2], _WORD(4 * (index // 2))), _INT.as_pointer())
            builder.store(builder.extract_element(vector, _INT(0)), place)
        return context.get_dummy_value()

    return types.void(*[types.uint64] * 6), codegen


_dots: Any = _dot_products


@kernel
def _combine(rows: Any, data: Any, factors: Any, primes: Any, start: Any, stop: Any, out: Any) -> None:
    """Points `start` to `stop`. `rows`: a multiple of TOGETHER. `data`: uint32 (2 primes, n, 2 comps, d), < 2^30."""
    count, width = rows.shape
    dim = data.shape[3]
    # Rows and limbs begin with a cache line, else every other load touches two.
    memory = np.zeros((count + 2) * width + LANES, np.int16)
    skipped = -(memory.ctypes.data // 2) % LANES
    aligned = memory[skipped : skipped + (count + 2) * width].reshape(count + 2, width)
    aligned[2:] = rows
    low, high = aligned[0], aligned[1]
    # A row that is there only to make a pair has the factor zero.
    lows, highs, chosen = np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros(count, np.int64)
    at_low, at_high = np.uint64(low.ctypes.data), np.uint64(high.ctypes.data)
    at_lows, at_highs = np.uint64(lows.ctypes.data), np.uint64(highs.ctypes.data)
    at_rows = np.uint64(aligned[2:].ctypes.data)
    size = np.uint64(2 * width)
    for prime in range(2):
        p = primes[prime]
        inverse = 1.0 / np.float64(p)
        for point in range(start, stop):
            for k in range(len(factors)):
                chosen[k] = factors[k, prime, point]
            for comp in range(2):
                residues = data[prime, point, comp]
                for j in range(dim):
                    low[j] = np.int16(residues[j] & np.uint32(2**LIMB_BITS - 1))
                    high[j] = np.int16(residues[j] >> np.uint32(LIMB_BITS))
                for first in range(0, count, TOGETHER):
                    at_row, place = at_rows + np.uint64(first) * size, np.uint64(4 * first)
                    _dots(at_row, at_low, at_high, size, at_lows + place, at_highs + place)
                total = np.int64(0)
                for k in range(count):
                    # Quotients by floats are off by one at most: what is left lies between -p and 2p.
                    score = np.int64(lows[k]) + (np.int64(highs[k]) << np.int64(LIMB_BITS))
                    score -= np.int64(np.float64(score) * inverse) * p
                    product = score * chosen[k]
                    total += product - np.int64(np.float64(product) * inverse) * p
                out[comp, prime, point] = np.uint32(total % p)
