"""How units (a channel's hello, then its sealed frames) travel: a body of length-prefixed units, written as they come.

A sender keeps its request open while it has units to say, so that a round of the comparison costs no request of its
own. `offset` says which unit of this direction the first one is. A sender whose request fails sends the same units
again; the receiver takes each once, in order, so a repeated request changes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence

from protocol.errors import FrameTooLarge, MalformedFrame
from protocol.wire import FRAME_LIMIT

UNIT_LIMIT = FRAME_LIMIT + 16  # a sealed frame
BODY_UNITS = 1024
BODY_BYTES = 64 * 2**20  # a sender keeps as much until it is acknowledged, and then begins a new body
BODY_LIMIT = BODY_BYTES + UNIT_LIMIT

Units = AsyncIterator[list[bytes]]  # units in order, those that are there together side by side

_LENGTH = struct.Struct(">I")


def pack_units(units: Sequence[bytes]) -> bytes:
    """Units as a piece of a body."""
    return b"".join(part for unit in units for part in (_LENGTH.pack(len(unit)), unit))


class UnitReader:
    """Cuts a body that arrives in pieces into units. Keeps at most one unit that is not complete."""

    def __init__(self) -> None:
        self.units = 0
        self._size = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The units that are complete now. Raises `FrameTooLarge` for a unit, a body or a number beyond its limit."""
        self._size += len(data)
        if self._size > BODY_LIMIT:
            raise FrameTooLarge(f"a body of more than {BODY_LIMIT} bytes")
        rest = self._rest
        rest += data
        units: list[bytes] = []
        position = 0
        while len(rest) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(rest, position)
            if length > UNIT_LIMIT:
                raise FrameTooLarge(f"a unit of {length} bytes, the limit is {UNIT_LIMIT}")
            start, end = position + _LENGTH.size, position + _LENGTH.size + length
            if end > len(rest):
                break
            with memoryview(rest) as view:
                units.append(bytes(view[start:end]))
            position = end
        del rest[:position]
        self.units += len(units)
        if self.units > BODY_UNITS:
            raise FrameTooLarge(f"more than {BODY_UNITS} units in one body")
        return units

    def end(self) -> None:
        """The body has ended. Raises `MalformedFrame` unless its last unit is complete."""
        if self._rest:
            raise MalformedFrame(f"unit {self.units} is cut off: {len(self._rest)} bytes of it are there")
