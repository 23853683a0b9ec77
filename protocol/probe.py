"""Sending the probe: d ciphertexts to each holder, their hash to the router (protocol/DESIGN.md, 5, "Probe")."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pets.params import Parameters
from pets.prf import labelled_hash
from pets.threads import parallel_ranges
from protocol.messages import ProbeDigest, ProbePart
from protocol.steps import Send, Step, receive
from protocol.wire import PROBE_PART, array

Residues = npt.NDArray[np.uint32]


def component_digests(ciphertexts: Residues, component: int, threads: int = 1) -> list[bytes]:
    """Hashes over one component (0 or 1) of uint32 (d, 2, 2, n), one a part. The second depends on no probe."""
    digests = [b""] * -(-len(ciphertexts) // PROBE_PART)

    def work(begin: int, end: int) -> None:
        for index in range(begin, end):
            part = ciphertexts[index * PROBE_PART : (index + 1) * PROBE_PART, component]
            digests[index] = hashlib.sha256(np.ascontiguousarray(part).data).digest()

    parallel_ranges(work, len(digests), threads)
    return digests


def probe_parts(ciphertexts: Residues, second: Sequence[bytes], threads: int = 1) -> tuple[list[ProbePart], bytes]:
    """The messages that carry uint32 (d, 2, 2, n), and the hash over all `component_digests`.

    `second`: those of component 1, made before there was a probe.
    """
    # Views, not copies: nobody changes the ciphertexts any more.
    parts = [
        ProbePart(np.ascontiguousarray(ciphertexts[first : first + PROBE_PART]).data.cast("B"))
        for first in range(0, len(ciphertexts), PROBE_PART)
    ]
    return parts, labelled_hash("probe", *component_digests(ciphertexts, 0, threads), *second)


def send_probe(holder: str, router: str, parts: Sequence[ProbePart], digest: bytes) -> Step[None]:
    """The requester's part."""
    for part in parts:
        yield Send(holder, part)
    yield Send(router, ProbeDigest(digest))


def receive_probe(requester: str, dim: int, params: Parameters) -> Step[Residues]:
    """The holder's part: all ciphertexts, uint32 (d, 2, 2, n). `pets.scoring.prepare_probe` checks every residue."""
    ciphertexts = np.empty((dim, 2, 2, params.n), np.uint32)
    for first in range(0, dim, PROBE_PART):
        count = min(PROBE_PART, dim - first)
        message = yield from receive(requester, ProbePart)
        ciphertexts[first : first + count] = array(message.data, (count, 2, 2, params.n), np.uint32, "probe")
    return ciphertexts
