"""u = q - r modulo t on the wire: 20 bits each (protocol/DESIGN.md, section 6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pets.errors import ResidueOutOfRange
from pets.params import Parameters
from pets.prf import labelled_hash
from protocol.messages import Difference, DifferenceDigest
from protocol.wire import array

PublicValues = npt.NDArray[np.int32]


def difference(probe: npt.NDArray[np.int8], mask: npt.NDArray[np.uint32], params: Parameters) -> PublicValues:
    """u, int32 (d,) in [0, t): uniform, whatever the probe, where the mask is uniform and used once."""
    return ((probe.astype(np.int64) - mask) % params.t).astype(np.int32)


def pack_difference(values: PublicValues, params: Parameters, query_id: bytes) -> Difference:
    """The message. `values`: int32 (d,) in [0, t), d a multiple of 8. `query_id`: as the requester derived it."""
    bits = values[:, None] >> np.arange(params.t.bit_length()) & 1
    return Difference(query_id, np.packbits(bits.astype(np.uint8), bitorder="little").tobytes())


def unpack_difference(message: Difference, dim: int, params: Parameters) -> PublicValues:
    """u. Raises `WrongSize`, and `ResidueOutOfRange` for a value that is not below t."""
    width = params.t.bit_length()
    packed = array(message.data, (dim * width // 8,), np.uint8, "u")
    bits = np.unpackbits(packed, bitorder="little").reshape(dim, width).astype(np.int32)
    values: PublicValues = (bits << np.arange(width, dtype=np.int32)).sum(axis=1, dtype=np.int32)
    if (values >= params.t).any():
        place = int(np.argmax(values >= params.t))
        raise ResidueOutOfRange(f"u[{place}] is {int(values[place])}, which is not below t = {params.t}")
    return values


def difference_digest(message: Difference) -> DifferenceDigest:
    """Its hash, for the router. u is uniform over 2^20 to the d, so it needs no salt."""
    return DifferenceDigest(labelled_hash("difference", message.data))
