"""Admission: is the encrypted probe a quantised unit vector? (protocol/DESIGN.md, section 5, "Admission")

Before anything about hits is opened, the parties check on shares, and open as one bit to all:

1. range      |q_j| <= 127 and clean guard bits, from the identity gallery (rows e_j) scored like any other, and no
              noise beside q_j: times t, which takes Δ·q_j to nothing modulo Q, it is still zero;
2. norm       Σ q_j² <= `pets.params.norm_bound`;
3. constancy  40 random {0,1} sums of the ciphertexts are zero in every coefficient but the first. To keep it small,
              the parties add 40 random {0,1} subsets of coefficients 1 … n-1 of each sum, modulo Q and before rounding.
              Each must be zero as it is, and times 2^13, which brings out noise that the rounding would hide.

A value v that should be 16·x arrives as 16·x + e with |e| <= 2; with 3 added, its low four bits lie in 1 … 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pets import circuits, subsets
from pets.bits import Bits, concatenate, join_words
from pets.circuits import Circuit
from pets.params import SHARE_BITS, Parameters, norm_bound
from pets.planes import to_planes
from pets.prf import Keystream, derive_key
from pets.residues import prime_row
from pets.rounding import round_shares
from pets.scoring import EncodedGallery, ScoringProbe, encode_gallery
from protocol import wire
from protocol.compute import HOLDER, REQUESTER, ROUTER, Ring, evaluate, open_bit, share_inputs
from protocol.decryption import key_coefficients, own_coefficients
from protocol.errors import ProbeRefused
from protocol.form import GUARD_BITS, SLACK, coefficient_sums, times
from protocol.keyring import QueryKey
from protocol.messages import AdmissionBit, AdmissionBlock
from protocol.steps import Score, Send, Step, receive, score_block

Residues = npt.NDArray[np.uint32]

SUMS = wire.ADMISSION_POLYNOMIALS - 1  # random sums of ciphertexts
# An honest probe's own noise, amplified, must stay small beside the unit of a rounded share, 2^36, also at n = 8192 and
# d = 1024: its standard deviation is 2^19.4 in a subset of a sum, and 2^13.9 beside a q_j, which is amplified by t.
AMPLIFIED = 2**13
PROBE_BITS = 8
SQUARES_BITS = 26  # Σ q_j² < 1024·2^14 = 2^24, and a sign


@lru_cache(maxsize=4)
def identity_gallery(dim: int, params: Parameters) -> EncodedGallery:
    """Rows e_j: scoring them gives the probe's own coordinates."""
    return encode_gallery(np.eye(dim, dtype=np.int8), params)


def holder_admits(
    ring: Ring,
    params: Parameters,
    dim: int,
    ciphertexts: Residues,
    prepared: ScoringProbe,
    seed: bytes,
    beside: Sequence[Score] = (),
) -> Step[bool]:
    """The holder's part. `ciphertexts`: uint32 (d, 2, 2, n). Returns the bit that all three opened.

    `seed`: the holder's 32 secret bytes of this query, committed to before any ciphertext was seen. `beside`: what is
    scored while the rounds go on.
    """
    identity = yield from score_block(identity_gallery(dim, params), prepared)
    yield from beside
    block, message = admission_block(identity, ciphertexts, seed, ring.query_id, params, ring.threads)
    yield Send(ring.names[REQUESTER], message)
    yield Send(ring.names[ROUTER], message)
    coefficients = own_coefficients(block[:, 0], params, ring.threads)
    return (yield from _decide(ring, params, dim, coefficients, message.seed))


def admission_block(
    identity: Residues, ciphertexts: Residues, seed: bytes, query_id: bytes, params: Parameters, threads: int = 1
) -> tuple[Residues, AdmissionBlock]:
    """The scored identity block and the 40 sums, uint32 (41, 2, 2, n), and what is sent of them.

    Coins and subsets follow from the secret `seed`: nobody can foresee them, and an audit draws them again.
    """
    coins = Keystream(derive_key(seed, "admission-coins", query_id))
    block = np.concatenate([identity, random_sums(ciphertexts, coins, params, threads)])
    subsets_seed = derive_key(seed, "admission-subsets", query_id)
    return block, AdmissionBlock(subsets_seed, np.ascontiguousarray(block[:, 1]).tobytes())


def key_owner_admits(ring: Ring, key: QueryKey, dim: int) -> Step[bool]:
    """The part of requester and router. Returns the bit that all three opened."""
    params = key.params
    message = yield from receive(ring.names[HOLDER], AdmissionBlock)
    c1 = wire.residue_array(message.data, (wire.ADMISSION_POLYNOMIALS,), params, "admission block")
    coefficients = key_coefficients(c1, key.share, ring.threads)
    return (yield from _decide(ring, params, dim, coefficients, message.seed))


def random_sums(ciphertexts: Residues, stream: Keystream, params: Parameters, threads: int = 1) -> Residues:
    """40 sums of the ciphertexts with coefficients in {0,1} from a secret stream: uint32 (40, 2, 2, n)."""
    dim = len(ciphertexts)
    coins = np.unpackbits(stream.bytes_array(SUMS, dim // 8), axis=1)
    moduli = np.tile(np.repeat(prime_row(params), params.n), 2)
    return subsets.subset_sums(ciphertexts.reshape(dim, -1), coins, moduli, threads).reshape(SUMS, 2, 2, params.n)


def _decide(ring: Ring, params: Parameters, dim: int, coefficients: Residues, seed: bytes) -> Step[bool]:
    """Round, share and check this party's addends of the 41 polynomials; open one bit."""
    values = admission_values(ring.index, coefficients, dim, seed, params)
    masks = ring.masks("admission")
    x, y, z = yield from share_inputs(ring, masks, to_planes(values, SHARE_BITS))
    probe_words = -(-dim // 64)
    admitted = yield from evaluate(ring, masks, admission_circuit(x, y, z, probe_words, norm_bound(dim)))
    return (yield from open_bit(ring, admitted, AdmissionBit))


def admission_values(
    index: int, coefficients: Residues, dim: int, seed: bytes, params: Parameters
) -> npt.NDArray[np.uint32]:
    """What party `index` puts in, of `coefficients` uint32 (41, 2, n): lanes for q_j, then for zeros, padded."""
    probe = coefficients[:1, :, :dim]
    sums = coefficient_sums(coefficients[1:], seed, params)
    # Amplified alone would not do: multiples of Q/2^13, or of Q/t, vanish there.
    zeros = np.concatenate([sums, times(sums, AMPLIFIED, params), times(probe, params.t, params)], axis=2)
    probe_lanes, zero_lanes = (-(-part.shape[2] // 64) * 64 for part in (probe, zeros))
    values = np.zeros(probe_lanes + zero_lanes, np.uint32)
    values[:dim] = round_shares(probe, params)[0]
    values[probe_lanes : probe_lanes + zeros.shape[2]] = round_shares(zeros, params)[0]
    if index == HOLDER:
        values += np.uint32(SLACK)
        values &= np.uint32(2**SHARE_BITS - 1)
    return values


def refuse_unless(admitted: bool) -> None:
    """Raise `ProbeRefused` where the bit says no. Called after the phase was signed: a refusal is signed too."""
    if not admitted:
        raise ProbeRefused("admission refused the probe: it is not a quantised unit vector encrypted as constants")


def admission_circuit(x: Bits, y: Bits, z: Bits, probe_words: int, bound: int) -> Circuit[Bits]:
    """One bit in lane 0: every lane is in range, and the squares of the probe's lanes add up to at most `bound`.

    Lanes of the first `probe_words` words hold 16·q_j + 3 + e, all others 0 + 3 + e.
    """
    total = yield from circuits.add_three(x, y, z)
    high = total[GUARD_BITS:]
    probe_high = high.words(0, probe_words)
    outside, too_long = yield from circuits.together(
        _out_of_range(total, probe_words), circuits.squares_exceed(probe_high[:PROBE_BITS], bound, SQUARES_BITS)
    )
    return (yield ~outside, ~too_long)


def _out_of_range(total: Bits, probe_words: int) -> Circuit[Bits]:
    """Lane 0: whether any lane has soiled guard bits or, above them, more than it may."""
    b0, b1, b2, b3 = (total[k : k + 1] for k in range(GUARD_BITS))
    two = yield b0, b1
    seven = yield two, b2
    # Lanes of zeros: every bit above the guard bits is zero. Probe lanes: they all equal the sign from bit 7 on.
    high = total[GUARD_BITS:]
    probe_high = high.words(0, probe_words)
    sign = probe_high[PROBE_BITS - 1 : PROBE_BITS]
    spread = concatenate([sign ^ probe_high[k : k + 1] for k in range(len(high))])
    in_probe = concatenate([spread.constant(0, PROBE_BITS - 1), spread[PROBE_BITS - 1 :]])
    violations = [b3, seven, join_words([in_probe, high.words(probe_words, high.shape[1])])]
    # -128 has the sign and no other bit: q + 127 would be negative.
    magnitude = yield from circuits.any_plane(probe_high[: PROBE_BITS - 1])
    lowest = yield sign, ~magnitude
    violations.append(lowest.pad_words(high.shape[1]))
    outside = yield from circuits.any_plane(concatenate(violations))
    return (yield from circuits.any_lane(outside))
