"""Release: exactly cap slots travel, whatever was found, so the size tells nothing (protocol/DESIGN.md, section 6)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

import msgspec

from protocol.errors import Disagreement
from protocol.messages import Release

REFERENCE_BYTES = 64
REFERENCE_PATTERN = re.compile(rb"[A-Za-z0-9._:/-]{1,64}")
EMPTY_SLOT = bytes(REFERENCE_BYTES + 1)
UNMARKED, CONTESTED = b"\0", b"\1"  # the last byte of a slot


class Released(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One hit as its holder releases it. `contested`: the person contests that the data are right (R 51(3))."""

    reference: str
    contested: bool = False


def pack_release(released: Sequence[Released], cap: int) -> Release:
    """Hits by rank, each with its mark, padded to `cap` slots, and a fresh salt."""
    slots = [
        one.reference.encode().ljust(REFERENCE_BYTES, b"\0") + (CONTESTED if one.contested else UNMARKED)
        for one in released
    ]
    return Release(tuple(slots + [EMPTY_SLOT] * (cap - len(slots))), secrets.token_bytes(32))


def unpack_release(message: Release, cap: int) -> tuple[Released, ...]:
    """Hits by rank. Raises `Disagreement` for another number of slots than agreed, one out of order, or malformed."""
    if len(message.slots) != cap:
        raise Disagreement(f"a release of {len(message.slots)} slots, agreed were {cap}")
    used = [slot for slot in message.slots if slot != EMPTY_SLOT]
    if tuple(used) != message.slots[: len(used)]:
        raise Disagreement("an empty slot stands before a used one in a release")
    return tuple(_read(slot) for slot in used)


def _read(slot: bytes) -> Released:
    """Closed alphabet: a reference must not carry control characters into somebody's terminal, or a name."""
    raw, mark = slot[:REFERENCE_BYTES].rstrip(b"\0"), slot[REFERENCE_BYTES:]
    if not REFERENCE_PATTERN.fullmatch(raw):
        raise Disagreement("a released reference number has characters other than letters, digits and -_.:/")
    if mark not in (UNMARKED, CONTESTED):
        raise Disagreement(f"a released reference has the mark {mark[0]}; there are 0, and 1 for contested")
    return Released(raw.decode("ascii"), mark == CONTESTED)
