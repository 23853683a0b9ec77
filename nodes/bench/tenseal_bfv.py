"""TenSEAL, BFV: 4096 rows a polynomial as ours; exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows, at_least, padded
from nodes.bench.seal import N, Seal
from pets.params import scale

T = 1032193  # prime, 1 modulo 8192


class TensealBfv:
    """Plaintexts are kept in NTT form."""

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        self.tools = Seal("BFV", T)
        self.least = THRESHOLD * scale(dim) ** 2

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.rows, self.blocks = len(templates), []
        tools, seal = self.tools, self.tools.seal
        for start in range(0, self.rows, N):
            block: list[Any] = []
            for column in padded(templates[start : start + N], N).T.tolist():
                terms = [f"{value % T:X}x^{power}" for power, value in enumerate(column) if value]
                # SEAL refuses to multiply by zero: a column without numbers gets one in the last row
                plaintext = seal.Plaintext(" + ".join(reversed(terms)) or f"1x^{N - 1}")
                tools.evaluator.transform_to_ntt_inplace(plaintext, tools.context.first_parms_id())
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
            for value in probe:
                encrypted.append(seal.Ciphertext())
                tools.encryptor.encrypt(seal.Plaintext(f"{int(value) % T:X}"), encrypted[-1])
                tools.evaluator.transform_to_ntt_inplace(encrypted[-1])
        with clock("score"):
            totals = tools.sums(encrypted, self.blocks)
            for total in totals:
                tools.evaluator.transform_from_ntt_inplace(total)
        with clock("decrypt"):
            scores = np.zeros((len(totals), N), np.int64)
            for block, total in enumerate(totals):
                plaintext = seal.Plaintext()
                tools.decryptor.decrypt(total, plaintext)
                scores[block, : plaintext.coeff_count()] = [plaintext[i] for i in range(plaintext.coeff_count())]
            signed = np.where(scores > T // 2, scores - T, scores).reshape(-1)
            return at_least(signed, self.least, self.rows)
