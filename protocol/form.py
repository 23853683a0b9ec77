"""The form of an encrypted mask, checked before any row is scored with it (protocol/DESIGN.md, section 5).

1. constancy  40 random {0,1} sums of the ciphertexts are zero in every coefficient but the first. To keep it small,
              40 random {0,1} subsets of coefficients 1 … n-1 of each sum are added, modulo Q and before rounding. Each
              must be zero as it is, and times 2^18, which brings out noise that the rounding would hide.
2. noise      no noise beside r_j: times t, which takes round(Q·r_j/t) to nothing modulo Q, it is zero.

Second components are public, so nobody sends any: all draw the same coins from a seed that the holder shows once the
mask has come, and to which it is committed since before. The rows e_j are prepared along with it, for the admission.
In both, m is the stream of holder and requester alone: the requester knows what every lane must hold, and looks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pets import circuits, ntt, residues, subsets
from pets.bits import Bits, Planes, concatenate
from pets.circuits import Circuit
from pets.params import SHARE_BITS, Parameters
from pets.planes import from_planes, to_planes
from pets.prf import Keystream, derive_key, labelled_hash
from pets.public_circuits import add_public
from pets.public_sum import subtract
from pets.residues import Residues, Values, prime_row
from pets.rounding import round_shares
from protocol.compute import Ring, evaluate, masked_bits, open_bit, other
from protocol.errors import Disagreement, MaskRefused
from protocol.messages import Echo, FormBit, FormBlock
from protocol.roles import Seat
from protocol.steps import Send, Step, receive
from protocol.wire import array

SUMS = 40  # random sums of ciphertexts
SUBSETS = 40  # random subsets of coefficients of each sum; a deviation passes with 2·2^-40
# An honest mask's own noise must stay small beside the unit of a rounded share, 2^36, also at n = 8192, d = 1024: its
# standard deviation is 2^12.2 in a subset of a sum, and 2^6.7 beside an r_j, which is amplified by t. Noise that stays
# hidden after this factor moves no score by half a unit, whatever rows it was chosen for.
AMPLIFIED = 2**18
SLACK = 3  # how far a value may lie from where it should be
GUARD_BITS = 4
SHARE_MASK = np.uint32(2**SHARE_BITS - 1)


class UnitRows(NamedTuple):
    """The rows e_j, prepared: components of z, uint64 (2, 24, words), and what `PreparedRing.known` says."""

    z: Planes
    known: Values | None


def form_lanes(dim: int) -> int:
    """Lanes of zeros, padded to words of 64."""
    return -(-(2 * SUMS * SUBSETS + dim) // 64) * 64


def form_polynomials(polynomials: Residues, seed: bytes, params: Parameters, threads: int = 1) -> Residues:
    """Σ X^j·f_j and the 40 random sums of polynomials f_j, uint32 (d, 2, n), NTT form. Returns uint32 (41, 2, n)."""
    dim = len(polynomials)
    shifted = residues.multiply(polynomials, _monomials(dim, params), params, threads)
    moduli = prime_row(params).astype(np.uint64)[:, None]
    unit = (shifted.sum(axis=0, dtype=np.uint64) % moduli).astype(np.uint32)
    coins = np.unpackbits(Keystream(derive_key(seed, "form-coins")).bytes_array(SUMS, dim // 8), axis=1)
    columns = np.repeat(prime_row(params), params.n)
    sums = subsets.subset_sums(polynomials.reshape(dim, -1), coins, columns, threads)
    return np.concatenate([unit[None], sums.reshape(SUMS, 2, params.n)])


@lru_cache(maxsize=2)
def _monomials(dim: int, params: Parameters) -> Residues:
    return ntt.forward(np.eye(dim, params.n, dtype=np.int8), params)


def form_values(coefficients: Residues, dim: int, seed: bytes, params: Parameters) -> tuple[Values, Values]:
    """One party's rounded addends, of coefficients uint32 (41, 2, n): lanes of zeros, lanes of r_j, both padded."""
    probe = coefficients[:1, :, :dim]
    sums = coefficient_sums(coefficients[1:], derive_key(seed, "form-subsets"), params)
    # Amplified alone would not do: multiples of Q/2^18, or of Q/t, vanish there.
    lanes = np.concatenate([sums, times(sums, AMPLIFIED, params), times(probe, params.t, params)], axis=2)
    zeros, known = np.zeros(form_lanes(dim), np.uint32), np.zeros(-(-dim // 64) * 64, np.uint32)
    zeros[: lanes.shape[2]] = round_shares(lanes, params)[0]
    known[:dim] = round_shares(probe, params)[0]
    return zeros, known


def coefficient_sums(coefficients: Residues, seed: bytes, params: Parameters) -> Residues:
    """40 random subsets of coefficients 1 … n-1 of each polynomial, added modulo each prime.

    `coefficients`: uint32 (count, 2, n). Returns uint32 (1, 2, 40·count).
    """
    stream = Keystream(labelled_hash("coefficient-subsets", seed))
    coins = np.unpackbits(stream.bytes_array(SUBSETS, params.n // 8), axis=1)
    coins[:, 0] = 0
    by_coefficient = np.ascontiguousarray(coefficients.transpose(2, 1, 0).reshape(params.n, -1))
    sums = subsets.subset_sums(by_coefficient, coins, np.repeat(prime_row(params), len(coefficients)))
    return np.ascontiguousarray(sums.reshape(SUBSETS, 2, -1).transpose(1, 2, 0).reshape(1, 2, -1))


def times(coefficients: Residues, factor: int, params: Parameters) -> Residues:
    """Coefficients, uint32 (count, 2, m), times a public factor below 2^32, modulo each prime."""
    product = coefficients.astype(np.uint64) * np.uint64(factor) % prime_row(params)[:, None]
    return product.astype(np.uint32)


def holder_checks_form(
    ring: Ring, params: Parameters, mask: Residues, public: Residues, secret: Residues, seed: bytes
) -> Step[UnitRows]:
    """The holder's part. `mask`, `public`: both components, uint32 (d, 2, n). `secret`: s1. `seed`: to be shown.

    Raises `MaskRefused`.
    """
    own = residues.add(mask, residues.multiply(public, secret, params, ring.threads), params, ring.threads)
    polynomials = form_polynomials(own, seed, params, ring.threads)
    zeros, probe = form_values(ntt.inverse(polynomials, params, ring.threads), len(mask), seed, params)
    masks = _masks(ring, len(mask))
    lanes = from_planes(masks)
    message = FormBlock(
        seed, to_planes(zeros + lanes[: len(zeros)] + np.uint32(SLACK) & SHARE_MASK, SHARE_BITS).tobytes()
    )
    for index in (Seat.REQUESTER, Seat.ROUTER):
        yield Send(ring.names[index], message)
    z = yield from _shared(ring, np.zeros_like(masks), masks)
    yield from _decide(ring, array(message.data, (SHARE_BITS, len(zeros) // 64), np.uint64, "form"), z)
    known = probe + lanes[len(zeros) :] & SHARE_MASK
    return UnitRows(z.words(len(zeros) // 64, masks.shape[1]).parts.copy(), known)


def key_owner_checks_form(ring: Ring, params: Parameters, public: Residues, secret: Residues) -> Step[UnitRows]:
    """The part of requester and router. `public`: a_j, uint32 (d, 2, n). `secret`: s2. Raises `MaskRefused`."""
    dim = len(public)
    message = yield from receive(ring.names[Seat.HOLDER], FormBlock)
    words = form_lanes(dim) // 64
    stated = array(message.data, (SHARE_BITS, words), np.uint64, "form")
    yield from same_from_holder(ring, labelled_hash("form", message.seed, message.data))
    polynomials = form_polynomials(public, message.seed, params, ring.threads)
    shares = ntt.inverse(residues.multiply(polynomials, secret, params, ring.threads), params, ring.threads)
    values = np.concatenate(form_values(shares, dim, message.seed, params))
    known = None
    masks: Planes = np.zeros((SHARE_BITS, len(values) // 64), np.uint64)
    if ring.seat == Seat.REQUESTER:
        masks = _masks(ring, dim)
        difference = values - from_planes(masks) & SHARE_MASK
        known = difference[64 * words :].copy()
        check_lanes(stated, difference[: 64 * words], np.full(64 * words, SLACK, np.int64), ring.names[Seat.HOLDER])
    else:
        ring.masks("form mask")
    z = yield from _shared(ring, to_planes(values, SHARE_BITS), masks)
    yield from _decide(ring, stated, z)
    return UnitRows(z.words(words, masks.shape[1]).parts.copy(), known)


def check_lanes(stated: Planes, known: Values, due: npt.NDArray[np.int64], holder: str) -> None:
    """The requester's look at what a holder published: e + z' - m must lie within 3 of what is due.

    `stated`: e. `known`: z' - m. `due`: int64 (lanes,). Raises `Disagreement`.
    """
    gap = (from_planes(stated).astype(np.int64) + known - due + SLACK) % 2**SHARE_BITS
    if (gap > 2 * SLACK).any():
        raise Disagreement(f"{holder} published what does not belong to the mask and the probe it was given")


def same_from_holder(ring: Ring, digest: bytes) -> Step[None]:
    """Requester and router compare the hash of what the holder sent to both, in this query. Raises `Disagreement`."""
    peer, bound = ring.names[other(ring.seat)], labelled_hash("echo", ring.query_id, ring.names[Seat.HOLDER], digest)
    yield Send(peer, Echo(bound))
    theirs = yield from receive(peer, Echo)
    if theirs.digest != bound:
        raise Disagreement(f"{ring.names[Seat.HOLDER]} did not send the same to requester and router")


def _masks(ring: Ring, dim: int) -> Planes:
    """m of all lanes, uint64 (24, words): the stream of holder and requester."""
    masks = ring.masks("form mask")
    stream = masks.following if ring.seat == Seat.HOLDER else masks.own
    return stream.words(SHARE_BITS, form_lanes(dim) // 64 + -(-dim // 64)).copy()


def _shared(ring: Ring, values: Planes, masks: Planes) -> Step[Bits]:
    """Shares of z = z' - m. `values`: z' at requester and router. `masks`: m at holder and requester."""
    zero = np.zeros_like(masks)
    x = masked_bits(ring, zero, zero, values)
    y = masked_bits(ring, zero, masks, zero)
    return (yield from evaluate(ring, ring.masks("form subtract"), subtract(x, y)))


def _decide(ring: Ring, public: Planes, z: Bits) -> Step[None]:
    zeros = z.words(0, public.shape[1])
    fits = yield from evaluate(ring, ring.masks("form"), _in_place(public, zeros))
    if not (yield from open_bit(ring, fits, FormBit)):
        raise MaskRefused(
            "the form check refused the mask: it is not constants encrypted with the noise they must have"
        )


def _in_place(public: Planes, z: Bits) -> Circuit[Bits]:
    """Lane 0: every lane of e + z lies in 0 … 6."""
    total = yield from add_public(public, z)
    b0, b1, b2 = (total[k : k + 1] for k in range(GUARD_BITS - 1))
    two = yield b0, b1
    seven = yield two, b2
    outside = yield from circuits.any_plane(concatenate([seven, total[GUARD_BITS - 1 :]]))
    anywhere = yield from circuits.any_lane(outside)
    return ~anywhere
