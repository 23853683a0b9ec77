"""Admission of a probe that is q = u + r: is it a quantised unit vector? (protocol/DESIGN.md, section 6)

The rows e_j were prepared like any others, so e + z of them holds 16·q_j within 2, e being published by the holder. The
requester, who knows what each lane must hold, looks before its first gate. On shares the parties check that
|q_j| <= 127 with clean guard bits, and that Σ q_j² <= floor((S + √d/2)²), in as few rounds as they can:

- what must be zero is added up in 40 random parities, with coins that the holder shows once it has u: a soiled lane
  passes with 2^-40;
- q_j² is a sum of its bits and of products of two of them, each with a weight. The holder holds a bit up to the
  component that both others have, so that a weighted sum of bits takes one message (as in `protocol.cap`);
- a parity that is not zero weighs more than any norm: one comparison with the bound decides both.

One bit is opened to all, before anything about hits. (That the mask is constant and clean was checked when it was
prepared: `protocol.form`.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pets.bits import Bits, Planes, concatenate
from pets.circuits import Circuit, sign_of_sum
from pets.params import SHARE_BITS, Parameters, norm_bound
from pets.planes import to_planes, unpack_bits
from pets.prf import Keystream, derive_key
from pets.product import public_sums
from pets.public_circuits import add_public
from protocol.compute import Ring, evaluate, own_bits, share_inputs
from protocol.form import GUARD_BITS, check_lanes
from protocol.messages import AdmissionCount, AdmissionGates, AdmissionInput, AdmissionScores
from protocol.opening import holders_component, lacking_component
from protocol.preparation import PreparedRing
from protocol.roles import Seat
from protocol.steps import Send, Step, receive
from protocol.wire import array, as_bytes

KINDS = (AdmissionGates, AdmissionCount, AdmissionInput)  # what is said in admission, beside the filter

SLACK = 4  # with it added, an honest lane ends in 2 … 6 of 16, and what may pass in 0 … 7
PROBE_BITS = 8
PARITIES = 40
SUM_BITS = 32
PARITY_WEIGHT = 2**25  # above every norm bound and every Σ q² of 8-bit numbers; 40 of them stay below 2^31
_PAIRS = [(i, j) for i in range(PROBE_BITS) for j in range(i + 1, PROBE_BITS)]


def admission_scores(
    ring: PreparedRing, values: npt.NDArray[np.int32], params: Parameters, seed: bytes
) -> tuple[Planes, AdmissionScores]:
    """The holder's e of the unit rows, uint64 (24, words), and the message with it.

    `values`: u, int32 (d,). `seed`: of the coins, shown now.
    """
    assert ring.known is not None
    padded = np.zeros(len(ring.known), np.uint32)
    padded[: len(values)] = values
    planes = to_planes(public_sums(ring.known, padded, -SLACK, params), SHARE_BITS)
    return planes, AdmissionScores(seed, planes.astype("<u8").tobytes())


def read_admission(ring: PreparedRing, message: AdmissionScores, probe: npt.NDArray[np.int8] | None) -> Planes:
    """What requester and router received of the unit rows. The requester gives its probe and looks at every lane.

    Raises `WrongSize`, and `Disagreement` for values that do not belong to mask and probe.
    """
    words = ring.admission.shape[2]
    planes: Planes = array(message.data, (SHARE_BITS, words), np.uint64, "admission scores")
    if probe is not None:
        assert ring.known is not None
        due = np.zeros(64 * words, np.int64)
        due[: len(probe)] = 16 * probe.astype(np.int64)
        check_lanes(planes, ring.known, due + SLACK, ring.holder)
    return planes


def admits(ring: Ring, prepared: PreparedRing, public: Planes, seed: bytes, dim: int) -> Step[Bits]:
    """Lane 0: whether the probe is admitted. `public`: e of the unit rows. `seed`: of the coins."""
    masks = ring.masks("admission")
    z = own_bits(ring, prepared.admission)
    total = yield from evaluate(ring, masks, add_public(public, z), AdmissionGates)
    probe = total[GUARD_BITS : GUARD_BITS + PROBE_BITS]
    products, lowest = yield from evaluate(ring, masks, _products(probe), AdmissionGates)
    sign = probe[PROBE_BITS - 1 :]
    spread = [sign ^ total[k : k + 1] for k in range(GUARD_BITS + PROBE_BITS, SHARE_BITS)]
    soiled = concatenate([total[GUARD_BITS - 1 : GUARD_BITS], lowest, *spread])
    bits = _joined([concatenate([probe, products]).as_row(), _parities(soiled, seed)])
    share = yield from _weighted_sum(ring, bits, _weights(z.shape[1]))
    lanes = np.zeros(64, np.uint32)
    lanes[0] = ((norm_bound(dim) if ring.seat == Seat.HOLDER else 0) - share) % 2**SUM_BITS
    compared = ring.masks("admission bound")
    x, y, w = yield from share_inputs(ring, compared, to_planes(lanes, SUM_BITS), AdmissionInput)
    exceeds = yield from evaluate(ring, compared, sign_of_sum(x, y, w), AdmissionGates)
    return ~exceeds


def _products(x: Bits) -> Circuit[tuple[Bits, Bits]]:
    """x_i·x_j of all i < j, and whether a lane is -128, which is not allowed. Three rounds."""
    none = ~x
    left = [x[i : i + 1] for i, _ in _PAIRS] + [x[7:], none[5:6], none[3:4], none[1:2]]
    right = [x[j : j + 1] for _, j in _PAIRS] + [none[6:7], none[4:5], none[2:3], none[0:1]]
    both = yield concatenate(left), concatenate(right)
    count = len(_PAIRS)
    four = yield both[count : count + 2], both[count + 2 :]
    lowest = yield four[:1], four[1:]
    return both[:count], lowest


def _parities(soiled: Bits, seed: bytes) -> Bits:
    """40 parities of random subsets of the bits, in lanes 0 … 39 of one word: local, for parities are linear."""
    planes, words = soiled.shape
    coins = Keystream(derive_key(seed, "parities")).words(PARITIES, planes * words)
    out = np.zeros((len(soiled.parts), 1, 1), np.uint64)
    for part, row in zip(out, soiled.as_row().parts, strict=True):
        folded = np.bitwise_xor.reduce(row & coins, axis=1)
        for shift in (32, 16, 8, 4, 2, 1):
            folded ^= folded >> np.uint64(shift)
        part[0, 0] = np.bitwise_or.reduce((folded & np.uint64(1)) << np.arange(PARITIES, dtype=np.uint64))
    return Bits(out, soiled.ones)


def _joined(rows: list[Bits]) -> Bits:
    return Bits(np.concatenate([row.parts for row in rows], axis=2), rows[0].ones)


@lru_cache(maxsize=32)
def _weights(words: int) -> npt.NDArray[np.uint32]:
    """Of the bits, the products and the parities of `words` words of lanes each: what they add to the sum."""
    # x = -2^7·x_7 + Σ 2^i·x_i, so x² = Σ 4^i·x_i + Σ_{i<j} ± 2^(i+j+1)·x_i·x_j, minus where j = 7.
    bits = [4**i for i in range(PROBE_BITS)]
    products = [(-1 if j == PROBE_BITS - 1 else 1) * 2 ** (i + j + 1) for i, j in _PAIRS]
    lanes = np.repeat(np.array([w % 2**SUM_BITS for w in bits + products], np.uint32), 64 * words)
    parities = np.zeros(64, np.uint32)
    parities[:PARITIES] = PARITY_WEIGHT
    out = np.concatenate([lanes, parities])
    out.setflags(write=False)
    return out


def _weighted_sum(ring: Ring, bits: Bits, weights: npt.NDArray[np.uint32]) -> Step[int]:
    """This party's share of Σ weight·bit modulo 2^32. `bits`: one plane. See `protocol.cap` for why they add up."""
    if ring.seat == Seat.HOLDER:
        own = unpack_bits(np.ascontiguousarray(holders_component(bits))).astype(np.uint32)
        stream = _stream(ring.masks("admission sum").following, len(own))
        yield Send(ring.names[Seat.ROUTER], AdmissionCount(as_bytes(own - stream)))
        return _sum(own * weights)
    others = unpack_bits(np.ascontiguousarray(lacking_component(ring, bits))).astype(np.uint32) * weights
    if ring.seat == Seat.REQUESTER:
        stream = _stream(ring.masks("admission sum").own, len(others))
        return _sum(others) - 2 * _sum(others * stream)
    message = yield from receive(ring.names[Seat.HOLDER], AdmissionCount)
    return -2 * _sum(others * array(message.data, others.shape, np.uint32, "admission count"))


def _sum(values: npt.NDArray[np.uint32]) -> int:
    return int(values.sum(dtype=np.uint32))


def _stream(keystream: Keystream, lanes: int) -> npt.NDArray[np.uint32]:
    return keystream.words(lanes // 2).view("<u4")
