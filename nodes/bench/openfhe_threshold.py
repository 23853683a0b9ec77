"""OpenFHE, CKKS: scores under the joint key of three parties, a threshold over them, and a joint decryption.

What comes out is graded, not a bit: near the threshold the value follows the score.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows, padded
from pets.params import scale

SLOTS = 16384
DEGREE, DEPTH = 247, 10  # of the series, and multiplicative: nine for the series, one for the scores
PARTIES = 3


class OpenfheThreshold:
    """One ciphertext of 16,384 scores."""

    def __init__(self, dim: int, threads: int, preset: str) -> None:
        openfhe = importlib.import_module("openfhe")
        wanted = openfhe.CCParamsCKKSRNS()
        wanted.SetRingDim(2 * SLOTS)
        wanted.SetScalingModSize(50)
        wanted.SetFirstModSize(60)
        wanted.SetMultiplicativeDepth(DEPTH)
        wanted.SetScalingTechnique(openfhe.FLEXIBLEAUTO)
        self.context = openfhe.GenCryptoContext(wanted)
        features = ("PKE", "KEYSWITCH", "LEVELEDSHE", "ADVANCEDSHE", "MULTIPARTY")
        for feature in features:
            self.context.Enable(getattr(openfhe, feature))
        self.pairs = joint_keys(self.context)
        self.squared = scale(dim) ** 2

    def enrol(self, templates: Rows) -> None:
        """As `Engine`; at most `SLOTS` rows. Plaintexts are kept: a coordinate of all rows each."""
        self.rows = len(templates)
        columns = padded(templates, SLOTS).T / self.squared**0.5
        self.columns = [self.context.MakeCKKSPackedPlaintext(column.tolist()) for column in columns]

    def prepare(self, probes: int) -> None:
        """The keys are kept."""

    def search(self, probes: Rows, clock: Clock) -> list[list[int]]:
        """As `Engine`, one probe after the other."""
        return [self._find(probe, clock) for probe in probes]

    def _find(self, probe: Rows, clock: Clock) -> list[int]:
        context, total = self.context, None
        for value, column in zip(probe / self.squared**0.5, self.columns, strict=True):
            with clock("encrypt probe"):
                plaintext = context.MakeCKKSPackedPlaintext([float(value)] * SLOTS)
                encrypted = context.Encrypt(self.pairs[-1].publicKey, plaintext)
            with clock("score"):
                product = context.EvalMult(encrypted, column)
                total = product if total is None else context.EvalAdd(total, product)
        with clock("threshold"):
            graded = context.EvalChebyshevFunction(lambda x: float(x >= THRESHOLD), total, -1, 1, DEGREE)
        with clock("joint decryption"):
            parts = context.MultipartyDecryptLead([graded], self.pairs[0].secretKey)
            for pair in self.pairs[1:]:
                parts += context.MultipartyDecryptMain([graded], pair.secretKey)
            plaintext = context.MultipartyDecryptFusion(parts)
            plaintext.SetLength(SLOTS)
            decided = np.array(plaintext.GetRealPackedValue())
        return [int(row) for row in np.flatnonzero(decided[: self.rows] >= 0.5)]


def joint_keys(context: Any) -> list[Any]:
    """Key pairs in a chain, the last public key being the joint one; the joint evaluation key goes to `context`."""
    pairs = [context.KeyGen()]
    for _ in range(1, PARTIES):
        pairs.append(context.MultipartyKeyGen(pairs[-1].publicKey))
    tag = pairs[-1].publicKey.GetKeyTag()
    first = context.KeySwitchGen(pairs[0].secretKey, pairs[0].secretKey)
    total = first
    for pair in pairs[1:]:
        part = context.MultiKeySwitchGen(pair.secretKey, pair.secretKey, first)
        total = context.MultiAddEvalKeys(total, part, pair.publicKey.GetKeyTag())
    products = [context.MultiMultEvalKey(pair.secretKey, total, tag) for pair in pairs]
    joint = products[0]
    for part in products[1:]:
        joint = context.MultiAddEvalMultKeys(joint, part, tag)
    context.InsertEvalMultKey([joint])
    return pairs
