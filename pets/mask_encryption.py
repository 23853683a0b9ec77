"""The encrypted mask of a preparation: r uniform in Z_t^d, one ciphertext a coordinate (protocol/DESIGN.md, section 5).

    ct_j = (-a_j·s + e_j + round(Q·r_j/t), a_j)

Whoever encrypts knows s, so this is symmetric: a_j is public, expanded from the preparation's id by everybody, and only
the first components travel. The constant is the exact fraction round(Q·r_j/t) and not Δ·r_j: a row's product with r
wraps modulo t thousands of times, and only then does every wrap vanish modulo Q.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pets import ntt, residues, sampling
from pets.allocator import pages_apart
from pets.errors import CryptoError
from pets.jit import kernel
from pets.params import Parameters
from pets.prf import Keystream, derive_key, labelled_hash
from pets.residues import Residues, Values, prime_row
from pets.threads import parallel_ranges

_SPARE = 64  # numbers drawn beyond those needed; a share of 2^-13 (a_j) or 2^-18 (r_j) is rejected


def draw_mask(seed: bytes, preparation: bytes, dim: int, params: Parameters) -> Values:
    """r, uint32 (d,), uniform in [0, t), from a 32-byte seed. Raises `CryptoError` for a seed of another length."""
    stream = Keystream(derive_key(seed, "mask", preparation))
    bits = params.t.bit_length()
    drawn = stream.words(dim + _SPARE).astype(np.uint64) >> np.uint64(64 - bits)
    accepted = drawn[drawn < params.t]
    assert len(accepted) >= dim, "2^-18 of the numbers are rejected, 64 of them never"
    return accepted[:dim].astype(np.uint32)


def expand_public(preparation: bytes, dim: int, params: Parameters, threads: int = 1) -> Residues:
    """a_j for j < d, uint32 (d, 2, n), NTT form: an AES-CTR stream whose key follows from the preparation's id.

    Uniform by rejection, from n + 64 numbers of 30 bits for each prime of each j. The key is public, but nobody's
    choice: FrodoKEM makes its matrix like this ("FrodoKEM", 2021, section 2.2.6; AES as an ideal cipher).
    """
    stream = Keystream(labelled_hash("mask-polynomials", params.digest_input(), preparation))
    drawn = stream.words(dim, 2, (params.n + _SPARE) // 2).view("<u4")
    out = pages_apart((dim, 2, params.n), np.uint32)
    enough = np.ones(dim, np.bool_)
    primes = prime_row(params)
    parallel_ranges(lambda start, stop: _accept(drawn, primes, start, stop, out, enough), dim, threads)
    assert enough.all(), "2^-13 of the numbers are rejected, 64 of 4,096 never"
    return out


@kernel
def _accept(drawn: Any, primes: Any, start: Any, stop: Any, out: Any, enough: Any) -> None:
    """The first n numbers below the prime of each row, in order."""
    n = out.shape[2]
    for j in range(start, stop):
        for index in range(2):
            taken, prime = 0, primes[index]
            for k in range(drawn.shape[2]):
                value = np.uint32(drawn[j, index, k] & np.uint32(2**30 - 1))
                if value < prime and taken < n:
                    out[j, index, taken] = value
                    taken += 1
            enough[j] &= taken == n


def constants(values: Values, params: Parameters) -> Residues:
    """round(Q·v/t) modulo each prime for v in [0, t): uint32 (count, 2)."""
    exact = [(2 * params.q * int(value) + params.t) // (2 * params.t) for value in values]
    return np.array([[c % p for p in params.primes] for c in exact], np.uint32).reshape(-1, 2)


def encrypt_mask(
    values: Values,
    public: Residues,
    secrets: Sequence[Residues],
    seed: bytes,
    preparation: bytes,
    params: Parameters,
    threads: int = 1,
) -> Residues:
    """The first components, uint32 (d, 2, n), NTT form.

    `values`: r, uint32 (d,). `public`: a_j, uint32 (d, 2, n). `secrets`: the parts of s, uint32 (2, n) each. The errors
    come from `seed`. Raises `CryptoError` where values and polynomials are not equally many.
    """
    if len(values) != len(public):
        raise CryptoError(f"{len(values)} values for {len(public)} public polynomials")
    secret = secrets[0]
    for part in secrets[1:]:
        secret = residues.add(secret, part, params)
    stream = Keystream(derive_key(seed, "mask-errors", preparation))
    errors = ntt.forward(sampling.gaussian(stream, len(values), params.n, threads), params, threads)
    # A constant polynomial is the same at every NTT point.
    fixed = np.broadcast_to(constants(values, params)[:, :, None], errors.shape)
    message = residues.add(errors, fixed, params, threads)
    return residues.subtract(message, residues.multiply(public, secret, params, threads), params, threads)
