"""The supervisor's side of holds: a key of its own, and signed orders for a node to lodge (`nodes.logs.holds`).

A node obeys the supervisor whose public key lies in its folder as `supervisor.pem` when it starts.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from nodes.logs.holds import SUPERVISOR_CONTEXT, HoldOrder, LiftOrder, Order
from nodes.private_files import read_private, write_private, write_public
from pets.errors import CryptoError, InputError
from pets.signatures import SigningKey


def new_key(path: Path) -> Path:
    """Make a signing key in a new private file; gives the file with its public half, beside it, ending in `.pem`.

    Raises `InputError` rather than overwrite either.
    """
    public, key = path.with_name(f"{path.name}.pem"), SigningKey.generate()
    try:
        write_private(path, key.to_pem().encode())
        write_public(public, key.verify_key.to_pem().encode(), overwrite=False)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}") from None
    return public


def parse_log(text: str) -> bytes:
    """A log's ID, 32 bytes, from 64 hexadecimal digits. Raises `InputError`."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise InputError(
            f"log {text!r:.70}: must be 64 lower-case hexadecimal digits, as `lineup node status` shows them"
        )
    return bytes.fromhex(text)


def sign_order(order: Order, key: Path) -> bytes:
    """An order with the signature of the supervisor's key file, as bytes. Raises `InputError`."""
    try:
        signing = SigningKey.from_pem(read_private(key).decode("ascii", "replace"))
    except CryptoError as error:
        raise InputError(f"{key} is not a signing key: {error}") from None
    signed = msgspec.structs.replace(order, signature=signing.sign(order.signed(), SUPERVISOR_CONTEXT))
    return msgspec.msgpack.encode(signed)


def make_order(log: bytes, number: int, first: int, last: int | None, lift: bool, now: int) -> Order:
    """A hold of entries `first` to `last` (None: all that follow), or the lift of one. `now`: milliseconds.

    Raises `InputError` for numbers that no order has.
    """
    if last is not None and last < first:
        raise InputError(f"not an order: the last entry, {last}, comes before the first, {first}")
    made: Order = LiftOrder(log, number, now) if lift else HoldOrder(log, number, first, last, now)
    try:
        return msgspec.convert(msgspec.to_builtins(made), type(made))
    except msgspec.ValidationError as error:
        raise InputError(f"not an order: {error}") from None
