"""How units (a channel's hello, then its sealed frames) travel in one request: length-prefixed, counted, limited.

`offset` says which unit of this direction the first one is. A sender that got no answer sends the same units again;
the receiver takes each once, in order, so a repeated request changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from protocol.errors import FrameTooLarge, MalformedFrame
from protocol.wire import FRAME_LIMIT

UNIT_LIMIT = FRAME_LIMIT + 16  # a sealed frame
BATCH_UNITS = 64
BATCH_BYTES = 16 * 2**20
BODY_LIMIT = BATCH_BYTES + UNIT_LIMIT

_LENGTH = struct.Struct(">I")


def pack_units(units: Sequence[bytes]) -> bytes:
    """Units as one body."""
    return b"".join(part for unit in units for part in (_LENGTH.pack(len(unit)), unit))


def unpack_units(body: bytes) -> list[bytes]:
    """The units of a body. Raises `FrameTooLarge` or `MalformedFrame`."""
    if len(body) > BODY_LIMIT:
        raise FrameTooLarge(f"a body of {len(body)} bytes, the limit is {BODY_LIMIT}")
    units: list[bytes] = []
    position = 0
    while position < len(body):
        if position + _LENGTH.size > len(body):
            raise MalformedFrame(f"{len(body) - position} bytes left over behind unit {len(units)}")
        (length,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size
        if length > UNIT_LIMIT:
            raise FrameTooLarge(f"a unit of {length} bytes, the limit is {UNIT_LIMIT}")
        if position + length > len(body):
            raise MalformedFrame(f"unit {len(units)} is cut off after {len(body) - position} of {length} bytes")
        units.append(body[position : position + length])
        position += length
        if len(units) > BATCH_UNITS:
            raise FrameTooLarge(f"more than {BATCH_UNITS} units in one body")
    return units


def take_batch(units: list[bytes]) -> list[bytes]:
    """As many of the first units as fit one body; at least one."""
    size = 0
    for index, unit in enumerate(units):
        size += len(unit)
        if index and (index >= BATCH_UNITS or size > BATCH_BYTES):
            return units[:index]
    return units[:]
