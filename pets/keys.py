"""Key shares, the joint key, and encryptions of zero made ahead of time (protocol/DESIGN.md, sections 3 and 5).

Ring elements are residues in NTT form, uint32 (2, n), unless said otherwise. A ciphertext is uint32 (2, 2, n):
component, prime, point. b = -a·s + e; the joint key is (b_Q + b_R, a); an encryption of zero is (b·u + e0, a·u + e1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pets import ntt, residues, sampling
from pets.errors import CommitmentMismatch, CryptoError, StreamReused
from pets.jit import kernel
from pets.params import Parameters
from pets.prf import Keystream, derive_key, labelled_hash

Residues = npt.NDArray[np.uint32]

BATCH = 64  # encryptions of zero made at a time, to bound working memory


@dataclass
class KeyShare:
    """One party's share of the query's key. `secret`: residues (2, n). Lives for one query; `erase` ends its life."""

    params: Parameters
    secret: Residues = field(repr=False)
    public: Residues
    erased: bool = False

    def multiply(self, c1: Residues, threads: int = 1) -> Residues:
        """This party's share of the decryption, c1·s: uint32 (count, 2, n) in and out, NTT form.

        Raises `CryptoError` after `erase`.
        """
        if self.erased:
            raise CryptoError("the key share of this query was erased")
        return residues.multiply(c1, self.secret, self.params, threads)

    def erase(self) -> None:
        """Overwrite the secret. (Copies that Python or numpy made elsewhere are out of reach: see threat_model.)"""
        self.secret[...] = 0
        self.erased = True


@contextmanager
def erased_on_failure(share: KeyShare) -> Iterator[None]:
    """Erase a key share if what is done with it fails or is given up."""
    try:
        yield
    except BaseException:
        share.erase()
        raise


def sample_key_share(params: Parameters, common: Residues, seed: bytes, query_id: bytes) -> KeyShare:
    """A fresh ternary secret s and b = -a·s + e. `common`: a, uint32 (2, n). `seed`: 32 secret bytes."""
    stream = _key_stream(params, seed, query_id)
    secret = ntt.forward(sampling.ternary(stream, 1, params.n), params)[0]
    error = ntt.forward(sampling.gaussian(stream, 1, params.n), params)[0]
    public = residues.subtract(error, residues.multiply(common, secret, params), params)
    return KeyShare(params, secret, public)


def expand_secret(params: Parameters, seed: bytes, query_id: bytes) -> Residues:
    """The secret of `sample_key_share` alone, uint32 (2, n), for who needs no public share."""
    secret: Residues = ntt.forward(sampling.ternary(_key_stream(params, seed, query_id), 1, params.n), params)[0]
    return secret


def _key_stream(params: Parameters, seed: bytes, query_id: bytes) -> Keystream:
    return Keystream(derive_key(seed, "key-share", params.digest_input(), query_id))


def reduced_key(params: Parameters, preparation: bytes, public: Residues, own: Residues) -> JointKey:
    """The key that a holder re-randomises with, of b = -a·s2 + e2 and its own part s1: (b - a·s1, a), for s1 + s2."""
    common = sampling.common_polynomial(params, preparation)
    combined = residues.subtract(public, residues.multiply(common, own, params), params)
    return JointKey(params, preparation, combined, common)


def commit_public(public: Residues, query_id: bytes, owner: str) -> bytes:
    """Commitment to b, 32 bytes. b carries over 4096 bits of entropy, so no salt is needed to hide it."""
    return labelled_hash("public-share", query_id, owner, public.tobytes())


def check_commitment(commitment: bytes, public: Residues, query_id: bytes, owner: str) -> None:
    """Raise `CommitmentMismatch` unless `public` opens `commitment`."""
    if commit_public(public, query_id, owner) != commitment:
        raise CommitmentMismatch(f"{owner} opened another public share than the one it committed to")


@dataclass(frozen=True)
class JointKey:
    """(b_Q + b_R, a) of one query. Both uint32 (2, n), NTT form."""

    params: Parameters
    query_id: bytes
    public: Residues
    common: Residues

    @classmethod
    def combine(cls, params: Parameters, query_id: bytes, shares: tuple[Residues, Residues]) -> JointKey:
        """Add the public shares; `a` is recomputed from the query id by whoever calls."""
        public = residues.add(shares[0], shares[1], params)
        return cls(params, query_id, public, sampling.common_polynomial(params, query_id))


class ZeroPool:
    """Encryptions of zero, each of which is given out once.

    All randomness is expanded from `seed` (32 bytes) under `purpose` and the query id, in order, so whoever is shown
    the seed can recompute every one of them (design 2.8).
    """

    def __init__(self, ciphertexts: Residues) -> None:
        self._ciphertexts = ciphertexts
        self._next = 0

    @classmethod
    def make(
        cls,
        key: JointKey,
        seed: bytes,
        purpose: str,
        count: int,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> ZeroPool:
        """Make `count` encryptions of zero; memory count·16·n bytes. `progress` is told the number made so far."""
        params = key.params
        stream = Keystream(derive_key(seed, "zero-pool", purpose, params.digest_input(), key.query_id))
        out = np.empty((count, 2, 2, params.n), np.uint32)
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            blinding = ntt.forward(sampling.ternary(stream, size, params.n), params, threads)
            errors = ntt.forward(sampling.gaussian(stream, 2 * size, params.n, threads), params, threads)
            for component, element in enumerate((key.public, key.common)):
                masked = residues.multiply(blinding, element, params, threads)
                out[start : start + size, component] = residues.add(masked, errors[component::2], params, threads)
            if progress is not None:
                progress(start + size)
        return cls(out)

    @property
    def left(self) -> int:
        """How many have not been used yet."""
        return len(self._ciphertexts) - self._next

    def take(self, count: int) -> Residues:
        """The next `count` ciphertexts, uint32 (count, 2, 2, n), writable, never given again.

        Raises `StreamReused` when fewer are left: using one twice would cancel it.
        """
        if count > self.left:
            raise StreamReused(f"asked for {count} encryptions of zero, {self.left} unused ones are left")
        taken = self._ciphertexts[self._next : self._next + count]
        self._next += count
        return taken


def encrypt_constants(values: npt.NDArray[np.int8], zeros: Residues, params: Parameters) -> Residues:
    """Enc(q_j) for each value: Δ·q_j is added to every point of the first component, in place.

    `values`: int8 (d,). `zeros`: uint32 (d, 2, 2, n), consumed. A constant polynomial is the same at every NTT point.
    """
    scaled = np.array(
        [[params.delta_residues[i] * int(v) % p for i, p in enumerate(params.primes)] for v in values], np.uint32
    )
    _add_constants(zeros, scaled, residues.prime_row(params))
    return zeros


@kernel
def _add_constants(ciphertexts: Residues, constants: npt.NDArray[np.uint32], primes: npt.NDArray[np.uint32]) -> None:
    for row in range(ciphertexts.shape[0]):
        for index in range(2):
            p, constant = primes[index], constants[row, index]
            for k in range(ciphertexts.shape[3]):
                total = np.uint32(ciphertexts[row, 0, index, k] + constant)
                # Below 2p < 2^31; the smaller of total and total - p (modulo 2^32) is the residue, without a branch.
                ciphertexts[row, 0, index, k] = min(total, np.uint32(total - p))
