"""Admission of a probe that is q = u + r: is it a quantised unit vector? (protocol/DESIGN.md, section 9)

The rows e_j were prepared like any others, so e + z of them holds 16·q_j within 2, e being published by the holder. The
requester, who knows what each lane must hold, looks before its first gate. On shares the parties check that
|q_j| <= 127 with clean guard bits, and that Σ q_j² <= floor((S + √d/2)²). One bit is opened to all, before anything
about hits. (That the mask is constant and clean was checked when it was prepared: `protocol.form`.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets import circuits
from pets.bits import Bits, Planes, concatenate
from pets.circuits import Circuit
from pets.params import SHARE_BITS, Parameters
from pets.planes import to_planes
from pets.product import public_sums
from pets.public_circuits import add_public
from protocol.admission import PROBE_BITS, SQUARES_BITS
from protocol.form import GUARD_BITS, SLACK, check_lanes
from protocol.messages import MaskedScores
from protocol.preparation import PreparedRing
from protocol.wire import array, as_bytes

Values = npt.NDArray[np.uint32]


def admission_scores(
    ring: PreparedRing, values: npt.NDArray[np.int32], params: Parameters
) -> tuple[Planes, MaskedScores]:
    """The holder's e of the identity rows, uint64 (24, words), and the message with it. `values`: u, int32 (d,)."""
    assert ring.known is not None
    padded = np.zeros(len(ring.known), np.uint32)
    padded[: len(values)] = values
    planes = to_planes(public_sums(ring.known, padded, -SLACK, params), SHARE_BITS)
    return planes, MaskedScores(as_bytes(planes))


def read_admission(ring: PreparedRing, message: MaskedScores, probe: npt.NDArray[np.int8] | None) -> Planes:
    """What requester and router received of the identity rows. The requester gives its probe and looks at every lane.

    Raises `WrongSize`, and `Disagreement` for values that do not belong to mask and probe.
    """
    words = ring.admission.shape[2]
    planes: Planes = array(message.data, (SHARE_BITS, words), np.uint64, "admission scores")
    if probe is not None:
        assert ring.known is not None
        due = np.zeros(64 * words, np.int64)
        due[: len(probe)] = 16 * probe.astype(np.int64)
        check_lanes(planes, ring.known, due, ring.holder)
    return planes


def admission_circuit(public: Planes, z: Bits, bound: int) -> Circuit[Bits]:
    """Lane 0: every lane of e + z is 16·q + 3 + e' with |q| <= 127 and |e'| <= 3, and Σ q² is at most `bound`."""
    total = yield from add_public(public, z)
    high = total[GUARD_BITS:]
    outside, too_long = yield from circuits.together(
        _out_of_range(total), circuits.squares_exceed(high[:PROBE_BITS], bound, SQUARES_BITS)
    )
    return (yield ~outside, ~too_long)


def _out_of_range(total: Bits) -> Circuit[Bits]:
    b0, b1, b2, b3 = (total[k : k + 1] for k in range(GUARD_BITS))
    two = yield b0, b1
    seven = yield two, b2
    high = total[GUARD_BITS:]
    sign = high[PROBE_BITS - 1 : PROBE_BITS]
    spread = [sign ^ high[k : k + 1] for k in range(PROBE_BITS, len(high))]
    # -128 has the sign and no other bit: q + 127 would be negative.
    magnitude = yield from circuits.any_plane(high[: PROBE_BITS - 1])
    lowest = yield sign, ~magnitude
    outside = yield from circuits.any_plane(concatenate([b3, seven, lowest, *spread]))
    return (yield from circuits.any_lane(outside))
