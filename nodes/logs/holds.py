"""Holds: a supervisor's signed orders that stop erasure while monitoring runs (Article 40(3), Regulation 2024/982).

Orders are numbered from 0 and obeyed once each, so that an old order cannot be played again after it was lifted.
Whoever can write the disk can remove them from it; the supervisor keeps its own copy, and an erased entry under it
shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from nodes.logs.checkpoints import Index, Verifier
from nodes.logs.entries import Milliseconds
from nodes.logs.errors import OrderRefused
from pets.errors import MALFORMED, CryptoError
from pets.prf import encode_labels
from protocol.messages import Digest

SUPERVISOR_CONTEXT = "supervisor"

Signature = Annotated[bytes, msgspec.Meta(max_length=4096)]


class HoldOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hold"):
    """Keep entries `first` to `last` (included; None: and all that follow) until order `number` is lifted."""

    log: Digest
    number: Index
    first: Index
    last: Index | None
    time: Milliseconds
    signature: Signature = b""

    def signed(self) -> bytes:
        """The bytes under the supervisor's signature."""
        last = "" if self.last is None else self.last
        return encode_labels("blind-lineup/hold/v1", self.log, self.number, self.first, last, self.time)

    def covers(self, index: int) -> bool:
        """Whether entry `index` must be kept."""
        return self.first <= index and (self.last is None or index <= self.last)


class LiftOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="lift"):
    """Order `number` no longer holds."""

    log: Digest
    number: Index
    time: Milliseconds
    signature: Signature = b""

    def signed(self) -> bytes:
        """The bytes under the supervisor's signature."""
        return encode_labels("blind-lineup/lift/v1", self.log, self.number, self.time)


Order = HoldOrder | LiftOrder
_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def decode_order(data: bytes) -> Order:
    """An order from its MessagePack bytes. Raises `OrderRefused`."""
    try:
        return _decoder.decode(data)
    except MALFORMED as error:
        raise OrderRefused(f"not an order: {error}") from None


class Holds:
    """The orders in force on one log."""

    def __init__(self, log: bytes, supervisor: Verifier) -> None:
        self._log = log
        self._supervisor = supervisor
        self._next = 0
        self._active: dict[int, HoldOrder] = {}

    def obey(self, order: Order) -> None:
        """Put a hold into force or end one.

        Raises `OrderRefused`: another log, a signature that does not hold, a number out of turn, nothing to lift.
        """
        if order.log != self._log:
            raise OrderRefused("the order is for another log")
        try:
            self._supervisor(order.signature, order.signed())
        except CryptoError as error:
            raise OrderRefused(f"not signed by the supervisor: {error}") from None
        if isinstance(order, HoldOrder):
            if order.last is not None and order.last < order.first:
                raise OrderRefused(f"entries {order.first} to {order.last} do not exist")
            if order.number != self._next:
                raise OrderRefused(f"hold number {order.number}, expected {self._next}")
            self._active[order.number] = order
            self._next += 1
        elif self._active.pop(order.number, None) is None:
            raise OrderRefused(f"there is no hold number {order.number} to lift")

    def over(self, index: int) -> Iterator[HoldOrder]:
        """The orders that keep entry `index`."""
        return (order for order in self._active.values() if order.covers(index))
