"""OpenFHE, BFV: 4096 rows a polynomial as ours; exact with three primes (with two, some scores come out wrong)."""

from __future__ import annotations

import importlib

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows, at_least, padded
from pets.params import N4096, scale

N = N4096.n
THIRD_PRIME = 2**32 - 2  # a number of sums from which on OpenFHE takes three primes


class OpenfheBfv:
    """Plaintexts are kept; a first search leaves them in NTT form."""

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        openfhe = importlib.import_module("openfhe")
        wanted = openfhe.CCParamsBFVRNS()
        wanted.SetRingDim(N)
        wanted.SetPlaintextModulus(N4096.t)
        wanted.SetScalingModSize(30)
        wanted.SetMultiplicativeDepth(0)
        wanted.SetEvalAddCount(THIRD_PRIME)
        self.context = openfhe.GenCryptoContext(wanted)
        for feature in (openfhe.PKE, openfhe.KEYSWITCH, openfhe.LEVELEDSHE):
            self.context.Enable(feature)
        self.pair = self.context.KeyGen()
        self.least = THRESHOLD * scale(dim) ** 2

    def enrol(self, templates: Rows) -> None:
        """As `Engine`."""
        self.rows = len(templates)
        self.blocks = [
            [
                self.context.MakeCoefPackedPlaintext(column.tolist())
                for column in padded(templates[start : start + N], N).T
            ]
            for start in range(0, self.rows, N)
        ]

    def prepare(self, probes: int) -> None:
        """Nothing: keys are kept, and encryptions of zero cannot be made ahead through this interface."""

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`, one probe after the other."""
        return [self._find(probe, clock) for probe in probes]

    def _find(self, probe: Rows, clock: Clock) -> list[int]:
        context = self.context
        with clock("encrypt probe"):
            encrypted = [
                context.Encrypt(self.pair.publicKey, context.MakeCoefPackedPlaintext([int(value)])) for value in probe
            ]
        totals = []
        with clock("score"):
            for columns in self.blocks:
                total = context.EvalMult(encrypted[0], columns[0])
                for ciphertext, column in zip(encrypted[1:], columns[1:], strict=True):
                    context.EvalAddInPlace(total, context.EvalMult(ciphertext, column))
                totals.append(total)
        with clock("decrypt"):
            scores = []
            for total in totals:
                plaintext = context.Decrypt(self.pair.secretKey, total)
                plaintext.SetLength(N)
                scores.append(np.array(plaintext.GetCoefPackedValue()))
            return at_least(np.concatenate(scores), self.least, self.rows)
