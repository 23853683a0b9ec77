"""Sending the probe: d ciphertexts to each holder, their hash to the router (protocol/DESIGN.md, 5, "Probe")."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pets.params import Parameters
from protocol.machine import Send, Step, receive
from protocol.messages import ProbeDigest, ProbePart
from protocol.wire import PROBE_PART, residue_array

Residues = npt.NDArray[np.uint32]


def probe_parts(ciphertexts: Residues) -> tuple[list[ProbePart], bytes]:
    """The messages that carry uint32 (d, 2, 2, n), and the SHA-256 over all ciphertexts."""
    parts = [
        ProbePart(ciphertexts[first : first + PROBE_PART].tobytes()) for first in range(0, len(ciphertexts), PROBE_PART)
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.data)
    return parts, digest.digest()


def send_probe(holder: str, router: str, parts: Sequence[ProbePart], digest: bytes) -> Step[None]:
    """The requester's part."""
    for part in parts:
        yield Send(holder, part)
    yield Send(router, ProbeDigest(digest))


def receive_probe(requester: str, dim: int, params: Parameters) -> Step[Residues]:
    """The holder's part: all ciphertexts, uint32 (d, 2, 2, n), every residue checked."""
    ciphertexts = np.empty((dim, 2, 2, params.n), np.uint32)
    for first in range(0, dim, PROBE_PART):
        count = min(PROBE_PART, dim - first)
        message = yield from receive(requester, ProbePart)
        ciphertexts[first : first + count] = residue_array(message.data, (count, 2), params, "probe")
    return ciphertexts
