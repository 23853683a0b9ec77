"""Sending the encrypted mask to a holder, and its hashes to the router (protocol/DESIGN.md, section 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pets.allocator import pages_apart
from pets.params import Parameters
from pets.prf import labelled_hash
from pets.residues import Residues
from protocol.messages import MaskDigest, MaskPart
from protocol.steps import Send, Step, receive
from protocol.wire import MASK_PART, as_bytes, residue_array


def mask_parts(mask: Residues) -> list[MaskPart]:
    """The messages that carry uint32 (d, 2, n)."""
    return [MaskPart(as_bytes(mask[first : first + MASK_PART])) for first in range(0, len(mask), MASK_PART)]


def mask_digest(holder_seed: bytes, parts: Sequence[MaskPart]) -> MaskDigest:
    """Hashes of the seed of s1 and of all parts."""
    hashes = [hashlib.sha256(part.data).digest() for part in parts]
    return MaskDigest(labelled_hash("holder-key", holder_seed), labelled_hash("mask", *hashes))


def receive_mask(requester: str, router: str, holder_seed: bytes, dim: int, params: Parameters) -> Step[Residues]:
    """The holder's part: uint32 (d, 2, n), every residue checked. It tells the router what it got."""
    mask = pages_apart((dim, 2, params.n), np.uint32)
    parts = []
    for first in range(0, dim, MASK_PART):
        count = min(MASK_PART, dim - first)
        message = yield from receive(requester, MaskPart)
        mask[first : first + count] = residue_array(message.data, (count,), params, "mask")
        parts.append(message)
    yield Send(router, mask_digest(holder_seed, parts))
    return mask
