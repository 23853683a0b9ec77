"""Where key shares and encryptions of zero come from: our own seeded sampling, or OpenFHE (`pets.openfhe_keys`).

Both give the same layout, so parties of one query may differ. Only the native source can be audited by recomputation.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from pets.errors import ParameterError
from pets.keys import JointKey, KeyShare, Residues, ZeroPool, sample_key_share
from pets.params import Parameters
from pets.prf import SECRET_BYTES, labelled_hash


class KeySource(Protocol):
    """One party's randomness for one query. `seed`: what an audit is shown, None where there is none."""

    seed: bytes | None

    def sample_share(self, params: Parameters, common: Residues, query_id: bytes) -> KeyShare:
        """A fresh key share for the common polynomial."""
        ...

    def make_zeros(self, joint: JointKey, purpose: str, count: int, threads: int = 1) -> ZeroPool:
        """Fresh encryptions of zero under the joint key."""
        ...


class NativeKeys:
    """Encryptions of zero expanded from one 32-byte seed; the key share from another secret that nobody is shown."""

    def __init__(self) -> None:
        self.seed: bytes | None = secrets.token_bytes(SECRET_BYTES)

    def sample_share(self, params: Parameters, common: Residues, query_id: bytes) -> KeyShare:
        """As `KeySource.sample_share`."""
        return sample_key_share(params, common, secrets.token_bytes(SECRET_BYTES), query_id)

    def make_zeros(self, joint: JointKey, purpose: str, count: int, threads: int = 1) -> ZeroPool:
        """As `KeySource.make_zeros`."""
        assert self.seed is not None
        return ZeroPool.make(joint, self.seed, purpose, count, threads)


def seed_digest(keys: KeySource) -> bytes | None:
    """The commitment to a seed that goes into the announcement, 32 bytes; None where no audit is possible."""
    return None if keys.seed is None else labelled_hash("probe-seed", keys.seed)


def key_source(name: str) -> Callable[[], KeySource]:
    """What makes a source for each query, by name: `native` or `openfhe`.

    Raises `ParameterError` for another name, and where OpenFHE cannot be used, saying why.
    """
    if name == "native":
        return NativeKeys
    if name == "openfhe":
        from pets import openfhe_keys

        reason = openfhe_keys.available()
        if reason is not None:
            raise ParameterError(reason)
        return openfhe_keys.OpenFheKeys
    raise ParameterError(f"unknown key source {name!r}; known: native, openfhe")
