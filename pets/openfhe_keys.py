"""Key shares and encryptions of zero by OpenFHE, word for word in our own layout: what ours are compared with.

Nothing is converted. A BFV context of two 30-bit primes has exactly our primes, OpenFHE takes the smallest primitive
2n-th root of unity and bit-reversed order as `pets.ntt` does, and its public key is (b, a) with b = -a·s + e. All of
that is checked when a context is made. OpenFHE has no call for raw residues, so they are read from and written
into its binary serialisation, in which every polynomial and prime is a block

    <u64 n> <n residues, u64 each> <u64 prime>

Three things differ from our own keys:

- OpenFHE's generator cannot be seeded, so what was encrypted with it cannot be recomputed in an audit. That is why
  nodes and engines do not use it.
- Copies of the secret stay in OpenFHE's memory until it reuses it; `KeyShare.erase` reaches only ours.
- A forked process repeats its parent's randomness, key for key. Use in one is refused.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from pets import ntt, residues
from pets.errors import CryptoError, ParameterError, ResidueOutOfRange
from pets.keys import JointKey, KeyShare, ZeroPool
from pets.params import ERROR_SIGMA, Parameters
from pets.residues import Residues, check_residues, check_shape
from pets.threads import check_threads, parallel_ranges

WHEELS = {(3, 10): ("1.6.1.0.22.4", "2.34"), (3, 12): ("1.6.1.0.24.4", "2.38")}  # Python: version, glibc it needs

_registry = threading.RLock()  # OpenFHE's list of contexts is read and grown without one
_owner: int | None = None  # the process that has drawn from OpenFHE's generator


def available() -> str | None:
    """None if OpenFHE can be imported here, otherwise one sentence that says why not. Never raises."""
    try:
        _load()
    except Exception as error:  # whatever a broken wheel does
        return _reason(error)
    return None


def _load() -> ModuleType:
    """Import OpenFHE, told to use one thread a call unless OMP_NUM_THREADS is set.

    Its OpenMP reads that variable once, when it is loaded. Threads of ours that encrypt one ciphertext each gain more,
    and with both kinds at once one encryption took up to ten times as long.
    """
    with _registry:
        given = os.environ.get("OMP_NUM_THREADS")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            return importlib.import_module("openfhe")
        finally:
            if given is None:
                del os.environ["OMP_NUM_THREADS"]


def _reason(error: Exception) -> str:
    here = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    wheel = WHEELS.get(sys.version_info[:2])
    usual = (sys.platform, platform.machine(), platform.python_implementation()) == ("linux", "x86_64", "CPython")
    if wheel is None or not usual:
        return f"OpenFHE has wheels for CPython 3.10 and 3.12 on Linux x86_64 only; this is {here}"
    version, glibc = wheel
    if isinstance(error, ModuleNotFoundError) and error.name == "openfhe":
        return f"OpenFHE is not installed: pip install openfhe=={version}"
    return (
        f"OpenFHE is installed but cannot be loaded ({error}); {here} needs openfhe=={version} and glibc {glibc}, "
        f"the C library here is {' '.join(platform.libc_ver()) or 'unknown'}"
    )


class OpenFheKeys:
    """Secrets, errors and blinding polynomials drawn by OpenFHE.

    Shares and ciphertexts can be mixed freely with our own. Raises `ParameterError` where OpenFHE cannot be used
    (`available`).
    """

    def __init__(self) -> None:
        reason = available()
        if reason is not None:
            raise ParameterError(reason)

    def sample_share(self, params: Parameters, common: Residues, query_id: bytes) -> KeyShare:
        """A fresh ternary secret s and b = -a·s + e, by `MultipartyKeyGen` from a public key that holds our `a`.

        `common`: a, uint32 (2, n), NTT form. `query_id` is not used: nothing is derived. Raises `CryptoError` for
        another shape, in a forked process, or if OpenFHE used another `a`; `ResidueOutOfRange` for bad residues.
        """
        check_shape(common, (2, params.n), "the common polynomial")
        scheme = _scheme(params)
        # fresh=True: b of this party alone, not added to the (here zero) b of the key it is given.
        pair = scheme.context.MultipartyKeyGen(scheme.public_key(np.zeros_like(common), common), False, True)
        public, used = scheme.read(pair.publicKey)
        if not np.array_equal(used, common):
            raise CryptoError("OpenFHE made a key share for another common polynomial than it was given")
        return KeyShare(params, scheme.read(pair.secretKey)[0], public)

    def make_zeros(self, joint: JointKey, purpose: str, count: int, threads: int = 1) -> ZeroPool:
        """`count` encryptions of zero by OpenFHE's `Encrypt`; memory count·16·n bytes.

        `purpose` is not used: nothing is derived. Raises `CryptoError` for a joint key of another shape or in a
        forked process, `ResidueOutOfRange` for one with bad residues.
        """
        check_threads(threads)
        scheme = _scheme(joint.params)
        key = scheme.public_key(joint.public, joint.common)
        zero = scheme.context.MakeCoefPackedPlaintext([0])
        out = np.empty((count, 2, 2, joint.params.n), np.uint32)

        def work(start: int, stop: int) -> None:  # OpenFHE releases the GIL while it encrypts
            for i in range(start, stop):
                out[i] = scheme.read(scheme.context.Encrypt(key, zero))

        parallel_ranges(work, count, threads)
        return ZeroPool(out)


def read_residues(serialised: bytes, params: Parameters) -> Residues:
    """All polynomials of a key or ciphertext in OpenFHE's binary form.

    Returns uint32 (polynomials, 2, n), NTT form: (b, a) of a public key, s of a secret key, (c0, c1) of a ciphertext.
    Raises `CryptoError` if no such polynomials are found, `ResidueOutOfRange` for a value not below its prime.
    """
    blocks = [np.frombuffer(serialised, "<u8", params.n, at) for at in _offsets(serialised, params)]
    for block, prime in zip(blocks, params.primes * (len(blocks) // 2), strict=True):
        if block.max() >= prime:
            raise ResidueOutOfRange(f"OpenFHE's {block.max()} is not below its prime {prime}")
    return np.stack(blocks).astype(np.uint32).reshape(-1, 2, params.n)


def write_residues(serialised: bytes, elements: Residues, params: Parameters) -> bytes:
    """The same key or ciphertext with other polynomials: uint32 (polynomials, 2, n), as `read_residues` returns.

    Raises `CryptoError` for another shape and `ResidueOutOfRange` for a value not below its prime, which OpenFHE
    itself would take in silence.
    """
    offsets = _offsets(serialised, params)
    check_shape(elements, (len(offsets) // 2, 2, params.n), "residues")
    check_residues(elements, params, "residues")
    out = bytearray(serialised)
    for at, row in zip(offsets, elements.reshape(-1, params.n), strict=True):
        out[at : at + 8 * params.n] = row.astype("<u8").tobytes()
    return bytes(out)


def bfv_context(params: Parameters) -> Any:
    """The OpenFHE context of a preset. Made once per preset.

    Raises `ParameterError` if OpenFHE is not available, `CryptoError` if it refuses the preset or chooses other primes
    or roots of unity than `pets.ntt`.
    """
    return _scheme(params).context


def _offsets(serialised: bytes, params: Parameters) -> list[int]:
    """Where the residues of each block begin, the two primes taking turns. No room for a block may be left over."""
    length = 8 * params.n
    found: list[int] = []
    at = 0
    while (at := serialised.find(params.n.to_bytes(8, "little"), at)) >= 0:
        end = at + 8 + length
        if serialised[end : end + 8] == params.primes[len(found) % 2].to_bytes(8, "little"):
            found.append(at + 8)
            at = end + 8
        else:
            at += 1
    rest = len(serialised) - len(found) * (length + 16)
    if not found or len(found) % 2 or rest >= length:
        raise CryptoError(
            f"{len(found)} blocks of residues below {params.primes} in {len(serialised)} bytes from OpenFHE, "
            f"which leaves {rest}: not a key or ciphertext of {params.preset}"
        )
    return found


@dataclass(frozen=True)
class _Scheme:
    """A context with a serialised public key as template for others."""

    params: Parameters
    openfhe: ModuleType
    context: Any
    template: bytes

    def read(self, thing: Any) -> Residues:
        return read_residues(self.openfhe.Serialize(thing, self.openfhe.BINARY), self.params)

    def public_key(self, public: Residues, common: Residues) -> Any:
        for array in (public, common):
            check_shape(array, (2, self.params.n), "half of a public key")
        raw = write_residues(self.template, np.stack([public, common]), self.params)
        with _registry:
            return self.openfhe.DeserializePublicKeyString(raw, self.openfhe.BINARY)


def _scheme(params: Parameters) -> _Scheme:
    global _owner
    if _owner is None:
        _owner = os.getpid()
    if _owner != os.getpid():
        raise CryptoError("OpenFHE was used before this process was forked and would repeat its parent's randomness")
    with _registry:
        return _make_scheme(params)


@lru_cache(maxsize=8)
def _make_scheme(params: Parameters) -> _Scheme:
    reason = available()
    if reason is not None:
        raise ParameterError(reason)
    openfhe = _load()
    wanted = openfhe.CCParamsBFVRNS()
    wanted.SetSecurityLevel(openfhe.HEStd_128_quantum)
    wanted.SetRingDim(params.n)
    wanted.SetPlaintextModulus(params.t)
    wanted.SetScalingModSize(30)
    wanted.SetMultiplicativeDepth(0)
    wanted.SetSecretKeyDist(openfhe.UNIFORM_TERNARY)
    wanted.SetStandardDeviation(ERROR_SIGMA)
    try:
        context = openfhe.GenCryptoContext(wanted)
    except RuntimeError as error:
        raise CryptoError(f"OpenFHE refuses {params.preset}: {error}") from error
    for feature in (openfhe.PKE, openfhe.KEYSWITCH, openfhe.LEVELEDSHE, openfhe.MULTIPARTY):
        context.Enable(feature)
    pair = context.KeyGen()  # also builds OpenFHE's tables of roots, before threads share them
    template = openfhe.Serialize(pair.publicKey, openfhe.BINARY)
    scheme = _Scheme(params, openfhe, context, template)
    _check_conventions(scheme, pair)
    return scheme


def _check_conventions(scheme: _Scheme, pair: Any) -> None:
    """A key pair of OpenFHE, read as ours, must have a ternary secret and b + a·s small.

    It has not with another root of unity, order of points or sign.
    """
    params = scheme.params
    secret, (public, common) = scheme.read(pair.secretKey)[0], scheme.read(pair.publicKey)
    error = residues.add(public, residues.multiply(common, secret, params), params)
    primes = np.array([params.primes], np.int64).T
    values = ntt.inverse(np.stack([secret, error]), params).astype(np.int64)
    values -= np.where(values > primes // 2, primes, 0)
    limits = np.array([1, 12 * ERROR_SIGMA])
    if (abs(values).max((1, 2)) > limits).any() or not np.array_equal(values[:, 0], values[:, 1]):
        raise CryptoError("OpenFHE's keys are not of the form that pets.ntt and pets.keys work with")
