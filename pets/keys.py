"""Key shares, the joint key, and encryptions of zero (protocol/DESIGN.md, sections 3 and 9).

Ring elements are residues in NTT form, uint32 (2, n), unless said otherwise. A ciphertext is uint32 (2, 2, n):
component, prime, point. b = -a·s + e. An encryption of zero under (b, a) is (b·u + e0, a·u + e1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pets import ntt, residues, sampling
from pets.errors import StreamReused
from pets.params import Parameters
from pets.prf import Keystream, derive_key
from pets.residues import Residues

BATCH = 64  # encryptions of zero made at a time, to bound working memory


@dataclass
class KeyShare:
    """One part of a preparation's key. `secret`: residues (2, n). `erase` ends its life."""

    params: Parameters
    secret: Residues = field(repr=False)
    public: Residues

    def erase(self) -> None:
        """Overwrite the secret. (Copies that Python or numpy made elsewhere are out of reach: see threat_model.)"""
        self.secret[...] = 0


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


@dataclass(frozen=True)
class JointKey:
    """(b, a), the public key of the whole secret s1 + s2. Both uint32 (2, n), NTT form.

    `query_id`: of the preparation that it belongs to.
    """

    params: Parameters
    query_id: bytes
    public: Residues
    common: Residues


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
            small = sampling.ternary(stream, size, params.n), sampling.gaussian(stream, 2 * size, params.n, threads)
            transformed = ntt.forward(np.concatenate(small), params, threads)  # one takes as long as sixteen
            blinding, errors = transformed[:size], transformed[size:]
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
