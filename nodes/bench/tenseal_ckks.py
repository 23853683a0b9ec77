"""TenSEAL, CKKS: two rows a slot, one in the real and one in the imaginary part; approximate."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows, at_least, padded
from nodes.bench.seal import N, Seal
from pets.params import scale

PROBE_SCALE, GALLERY_SCALE = 2.0**34, 2.0**22


class TensealCkks:
    """Plaintexts are kept encoded."""

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        self.tools = Seal("CKKS")
        self.encoder = self.tools.seal.CKKSEncoder(self.tools.context)
        self.unit = 1 / scale(dim)

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.rows, self.blocks = len(templates), []
        half = N // 2
        for start in range(0, self.rows, N):
            block: list[Any] = []
            for column in padded(templates[start : start + N], N).T * self.unit:
                plaintext = self.tools.seal.Plaintext()
                self.encoder.encode((column[:half] + 1j * column[half:]).tolist(), GALLERY_SCALE, plaintext)
                block.append(plaintext)
            self.blocks.append(block)

    def prepare(self, probes: int) -> None:
        """Nothing: keys are kept, and encryptions of zero cannot be made ahead through this interface."""

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`, one probe after the other."""
        return [self._find(probe, clock) for probe in probes]

    def _find(self, probe: Rows, clock: Clock) -> list[int]:
        tools, seal = self.tools, self.tools.seal
        encrypted: list[Any] = []
        with clock("encrypt probe"):
            for value in (probe * self.unit).tolist():
                plaintext = seal.Plaintext()
                self.encoder.encode(value, PROBE_SCALE, plaintext)
                encrypted.append(seal.Ciphertext())
                tools.encryptor.encrypt(plaintext, encrypted[-1])
        with clock("score"):
            totals = tools.sums(encrypted, self.blocks)
        with clock("decrypt"):
            scores = []
            for total in totals:
                plaintext = seal.Plaintext()
                tools.decryptor.decrypt(total, plaintext)
                slots = np.array(self.encoder.decode_complex(plaintext))
                scores.append(np.concatenate([slots.real, slots.imag]))
            return at_least(np.concatenate(scores), THRESHOLD, self.rows)
