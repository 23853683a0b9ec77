"""SEAL through TenSEAL's `sealapi`: what its two schemes share. One coordinate of the probe a ciphertext."""

from __future__ import annotations

import importlib
from typing import Any

from pets.params import N4096

N = N4096.n


class Seal:
    """Context and tools at ring dimension 4096 with one 60-bit prime, which is enough for one product."""

    def __init__(self, scheme: str, plain_modulus: int = 0) -> None:
        seal = self.seal = importlib.import_module("tenseal.sealapi")
        parameters = seal.EncryptionParameters(getattr(seal.SCHEME_TYPE, scheme))
        parameters.set_poly_modulus_degree(N)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(N, [60]))
        if plain_modulus:
            parameters.set_plain_modulus(plain_modulus)
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise RuntimeError(f"SEAL refused the parameters: {self.context.parameters_error_message()}")
        keys, public = seal.KeyGenerator(self.context), seal.PublicKey()
        keys.create_public_key(public)
        self.encryptor = seal.Encryptor(self.context, public)
        self.decryptor = seal.Decryptor(self.context, keys.secret_key())
        self.evaluator = seal.Evaluator(self.context)

    def sums(self, probe: list[Any], blocks: list[list[Any]]) -> list[Any]:
        """Σ_j p_j·ct_j for every block, everything in NTT form."""
        evaluator, product, results = self.evaluator, self.seal.Ciphertext(), []
        for plaintexts in blocks:
            total = self.seal.Ciphertext()
            evaluator.multiply_plain(probe[0], plaintexts[0], total)
            for ciphertext, plaintext in zip(probe[1:], plaintexts[1:], strict=True):
                evaluator.multiply_plain(ciphertext, plaintext, product)
                evaluator.add_inplace(total, product)
            results.append(total)
        return results
