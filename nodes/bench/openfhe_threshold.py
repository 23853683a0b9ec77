"""OpenFHE, CKKS: a threshold over scores that are encrypted under the joint key of three parties, jointly decrypted.

The scoring is not in it: the scores start out encrypted. What comes out is graded, not a bit: near the threshold the
value follows the score.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from nodes.bench.engine import THRESHOLD, Clock, Rows
from pets.params import scale
from protocol.engine import plain_scores

SLOTS = 16384
DEGREE, DEPTH = 247, 9  # of the series, and multiplicative
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
        """As `Engine`."""
        self.gallery = templates

    def prepare(self) -> None:
        """The keys are kept."""

    def search(self, probe: Rows, clock: Clock) -> list[int]:
        """As `Engine`; the scores are made in the clear and encrypted, off the clock."""
        scores = np.clip(plain_scores(self.gallery, probe) / self.squared, -1, 1)
        context, values = self.context, np.zeros(SLOTS)
        values[: len(scores)] = scores
        encrypted = context.Encrypt(self.pairs[-1].publicKey, context.MakeCKKSPackedPlaintext(values.tolist()))
        with clock("threshold"):
            graded = context.EvalChebyshevFunction(lambda x: float(x >= THRESHOLD), encrypted, -1, 1, DEGREE)
        with clock("joint decryption"):
            parts = context.MultipartyDecryptLead([graded], self.pairs[0].secretKey)
            for pair in self.pairs[1:]:
                parts += context.MultipartyDecryptMain([graded], pair.secretKey)
            plaintext = context.MultipartyDecryptFusion(parts)
            plaintext.SetLength(SLOTS)
            decided = np.array(plaintext.GetRealPackedValue())
        return [int(row) for row in np.flatnonzero(decided[: len(scores)] >= 0.5)]


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
