"""Preparing blocks of a gallery: scores of the mask, left as two shares, and their bits (DESIGN, section 5).

    e' = round((c0 + c1·s1)·2^24/Q)   at the holder
    z' = round(c1·s2·2^24/Q)          at requester and router, from the c1 that the holder sends to both
    e' + z' = (D·r mod t)·2^24/t within 1, modulo 2^24

z' is the component x_2 of a replicated sharing, and m = x_0 ^ x_1 two streams: nobody sends an input. All compute
z = z' - m, and the products of its neighbouring planes, with which the first level of the comparison costs nothing.
Every stream is drawn under blocks and attempt: with one that followed the block alone, preparing a block again would
give away the key, a row's difference, or all score differences.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pets import ntt, residues
from pets.allocator import pages_apart
from pets.bits import Planes
from pets.circuits import adjacent_products
from pets.errors import StreamReused
from pets.keys import JointKey, ZeroPool
from pets.params import SHARE_BITS, Parameters
from pets.planes import from_planes, to_planes
from pets.public_sum import subtract
from pets.residues import Residues
from pets.rounding import round_shares
from pets.scoring import ScoringProbe
from protocol.compute import Ring, evaluate, masked_bits
from protocol.form import SHARE_MASK
from protocol.messages import PreparedBlocks
from protocol.preparation import Array, Chunk, Version
from protocol.roles import Seat
from protocol.steps import Phase, Scored, ScoreRows, Send, Step, receive
from protocol.wire import CHUNK_ROWS, as_bytes, residue_array

Prepared = tuple[Chunk, list[Version]]


@dataclass(frozen=True)
class HolderKeys:
    """What a holder scores with. `secret`: s1. `joint`: the key it re-randomises with. `seed`: its own randomness."""

    secret: Residues = field(repr=False)
    joint: JointKey
    seed: bytes = field(repr=False)
    _used: set[str] = field(default_factory=set, repr=False)

    @property
    def params(self) -> Parameters:
        """Lattice parameters."""
        return self.joint.params

    def zeros(self, purpose: str, count: int, threads: int) -> Residues:
        """Fresh encryptions of zero for one purpose, uint32 (count, 2, 2, n).

        Raises `StreamReused` when the same purpose is asked for twice.
        """
        if purpose in self._used:
            raise StreamReused(f"encryptions of zero for {purpose} were already drawn from this seed")
        self._used.add(purpose)
        return ZeroPool.make(self.joint, self.seed, purpose, count, threads).take(count)

    def own_addend(self, ciphertexts: Residues, threads: int) -> Residues:
        """c0 + c1·s1 out of NTT form, of uint32 (count, 2, 2, n): uint32 (count, 2, n)."""
        c1 = residues.multiply(np.ascontiguousarray(ciphertexts[:, 1]), self.secret, self.params, threads)
        total = residues.add(np.ascontiguousarray(ciphertexts[:, 0]), c1, self.params, threads)
        return ntt.inverse(total, self.params, threads)


def holder_prepares(
    ring: Ring, keys: HolderKeys, rows: npt.NDArray[np.int8], probe: ScoringProbe, first: int, count: int, attempt: int
) -> Step[Prepared]:
    """The holder's part for `count` blocks from `first` of its rows, under the encrypted mask `probe`."""
    params = keys.params
    yield Phase("score")
    yield ScoreRows(rows, probe, first, count)
    scored = yield Scored()
    # Not optional: c1 alone is a linear function of the gallery.
    zeros = keys.zeros(f"rerandomise {first} {count} {attempt}", count, ring.threads)
    blinded = residues.add(scored, zeros, params, ring.threads)
    message = PreparedBlocks(as_bytes(blinded[:, 1]))
    for index in (Seat.REQUESTER, Seat.ROUTER):
        yield Send(ring.names[index], message)
    yield Phase("share")
    own = round_shares(keys.own_addend(blinded, ring.threads), params, ring.threads).reshape(-1)
    masks = ring.masks("mask", first, count, attempt)
    words = len(own) // 64
    x0, x1 = masks.own.words(SHARE_BITS, words), masks.following.words(SHARE_BITS, words)
    masked = own + from_planes(x0 ^ x1, ring.threads) & SHARE_MASK
    zero = np.zeros_like(x0)
    chunk = yield from _bits(ring, (zero, zero, zero), (x0, x1, zero), first, count, attempt)
    chunk.masked = _kept(masked)
    return chunk, _versions(message, count, attempt)


def key_owner_prepares(
    ring: Ring, params: Parameters, secret: Residues, first: int, count: int, attempt: int
) -> Step[Prepared]:
    """The part of requester and router. `secret`: s2."""
    message = yield from receive(ring.names[Seat.HOLDER], PreparedBlocks)
    yield Phase("share")
    c1 = residue_array(message.data, (count,), params, "prepared blocks")
    addend = ntt.inverse(residues.multiply(c1, secret, params, ring.threads), params, ring.threads)
    values = to_planes(round_shares(addend, params, ring.threads).reshape(-1), SHARE_BITS, ring.threads)
    masks = ring.masks("mask", first, count, attempt)
    stream = (masks.own if ring.seat == Seat.REQUESTER else masks.following).words(*values.shape)
    zero = np.zeros_like(values)
    mine = (stream, stream, zero)  # x_1 is the requester's, x_0 the router's
    chunk = yield from _bits(ring, (zero, zero, values), mine, first, count, attempt)
    return chunk, _versions(message, count, attempt)


def _bits(
    ring: Ring,
    value: tuple[Planes, Planes, Planes],
    masks: tuple[Planes, Planes, Planes],
    first: int,
    count: int,
    attempt: int,
) -> Step[Chunk]:
    """z = z' - m and its neighbour products, of components in the order x_0, x_1, x_2."""
    yield Phase("compare")
    x, y = masked_bits(ring, *value), masked_bits(ring, *masks)
    z = yield from evaluate(ring, ring.masks("subtract", first, count, attempt), subtract(x, y, ring.threads))
    pairs = yield from evaluate(ring, ring.masks("pairs", first, count, attempt), adjacent_products(z))
    return Chunk(first, count, _kept(z.parts), _kept(pairs.parts))


def _kept(array: Array) -> Array:
    """Moved to pages of its own; the old place is overwritten. Else it leaves holes among what is freed.

    0.5 GB at 3·10^7 rows.
    """
    moved = pages_apart(array.shape, array.dtype)
    moved[...] = array
    array.fill(0)
    return moved


def _versions(message: PreparedBlocks, count: int, attempt: int) -> list[Version]:
    size = len(message.data) // max(1, count)
    data = memoryview(message.data)
    return [Version(attempt, hashlib.sha256(data[size * k : size * (k + 1)]).digest()) for k in range(count)]


def chunks(blocks: int, params: Parameters) -> list[tuple[int, int]]:
    """(first block, number of blocks) of each chunk of a gallery: memory is bounded by the chunk."""
    size = CHUNK_ROWS // params.n
    return [(first, min(size, blocks - first)) for first in range(0, blocks, size)]
