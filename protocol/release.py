"""Release: exactly cap slots travel, whatever was found, so the size tells nothing (protocol/DESIGN.md, section 6)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from protocol.errors import Disagreement
from protocol.gallery import REFERENCE_BYTES, REFERENCE_PATTERN
from protocol.messages import Release

EMPTY_SLOT = bytes(REFERENCE_BYTES)


def pack_release(references: Sequence[str], cap: int) -> Release:
    """Reference numbers by rank, padded to `cap` slots, and a fresh salt."""
    slots = [reference.encode().ljust(REFERENCE_BYTES, b"\0") for reference in references]
    return Release(tuple(slots + [EMPTY_SLOT] * (cap - len(slots))), secrets.token_bytes(32))


def unpack_release(message: Release, cap: int) -> tuple[str, ...]:
    """Reference numbers by rank. Raises `Disagreement` for another number of slots than agreed, or one out of order."""
    if len(message.slots) != cap:
        raise Disagreement(f"a release of {len(message.slots)} slots, agreed were {cap}")
    used = [slot for slot in message.slots if slot != EMPTY_SLOT]
    if tuple(used) != message.slots[: len(used)]:
        raise Disagreement("an empty slot stands before a used one in a release")
    return tuple(_reference(slot) for slot in used)


def _reference(slot: bytes) -> str:
    """Closed alphabet: a reference must not carry control characters into somebody's terminal, or a name."""
    raw = slot.rstrip(b"\0")
    if not REFERENCE_PATTERN.fullmatch(raw):
        raise Disagreement("a released reference number has characters other than letters, digits and -_.:/")
    return raw.decode("ascii")
