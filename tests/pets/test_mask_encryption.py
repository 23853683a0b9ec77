"""The public polynomials of an encrypted mask: what everybody expands from the preparation's id."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pets.mask_encryption import expand_public
from pets.params import N4096, N8192, Parameters
from pets.prf import labelled_hash

IDENTITY = bytes(range(32))


@pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)
def test_is_what_the_words_say(params: Parameters) -> None:
    """AES-256-CTR from zero, little-endian words, 30 bits, those below the prime, n + 64 drawn for each prime."""
    key = labelled_hash("mask-polynomials", params.digest_input(), IDENTITY)
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    expected = np.empty((8, 2, params.n), np.uint32)
    for j in range(8):
        for index, prime in enumerate(params.primes):
            drawn = np.frombuffer(encryptor.update(bytes(4 * (params.n + 64))), "<u4") & np.uint32(2**30 - 1)
            expected[j, index] = drawn[drawn < prime][: params.n]
    assert np.array_equal(expand_public(IDENTITY, 8, params), expected)


def test_is_uniform_below_each_prime() -> None:
    out = expand_public(IDENTITY, 512, N4096)
    for index, prime in enumerate(N4096.primes):
        values = out[:, index].ravel().astype(np.float64) / prime
        assert values.max() < 1
        counts = np.histogram(values, 64, (0, 1))[0]
        assert abs(counts - len(values) / 64).max() < 6 * (len(values) / 64) ** 0.5


def test_follows_the_id_and_not_the_threads() -> None:
    one = expand_public(IDENTITY, 24, N4096)
    assert np.array_equal(one, expand_public(IDENTITY, 24, N4096, 3))
    assert not np.array_equal(one, expand_public(bytes(32), 24, N4096))
