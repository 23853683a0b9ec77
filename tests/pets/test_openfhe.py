import importlib
import os
import platform
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pets import keys, ntt, openfhe_keys, residues, sampling
from pets.errors import CryptoError, ParameterError, ResidueOutOfRange
from pets.keys import JointKey, KeyShare, ZeroPool
from pets.mask_encryption import draw_mask, encrypt_mask, expand_public
from pets.openfhe_keys import OpenFheKeys, bfv_context, read_residues, write_residues
from pets.params import ERROR_SIGMA, N4096, N8192, SHARE_BITS, Parameters
from pets.residues import Residues
from pets.rounding import round_shares
from pets.scoring import prepare_probe, score_rows
from tests.kit.ring import OTHER, RING

QUERY = b"openfhe test query"
REASON = openfhe_keys.available()
needs_openfhe = pytest.mark.skipif(REASON is not None, reason=REASON or "")
both_presets = pytest.mark.parametrize("params", [N4096, N8192], ids=lambda p: p.preset)


class NativeKeys:
    """The same verbs over our own sampling, each instance with its own seed."""

    def __init__(self) -> None:
        self.seed = os.urandom(32)

    def sample_share(self, params: Parameters, common: Residues, query_id: bytes) -> KeyShare:
        return keys.sample_key_share(params, common, self.seed, query_id)

    def make_zeros(self, joint: JointKey, purpose: str, count: int, threads: int = 1) -> ZeroPool:
        return ZeroPool.make(joint, self.seed, purpose, count, threads)


SOURCES: dict[str, Callable[[], Any]] = {"native": NativeKeys, "openfhe": OpenFheKeys}


def split_key(params: Parameters, first: str, second: str) -> tuple[Residues, KeyShare, JointKey]:
    """s1, the share of s2, and the key that a holder re-randomises with, for s1 + s2."""
    common = sampling.common_polynomial(params, QUERY)
    own = SOURCES[first]().sample_share(params, common, QUERY).secret
    share = SOURCES[second]().sample_share(params, common, QUERY)
    return own, share, keys.reduced_key(params, QUERY, share.public, own)


def encrypted_mask(values: np.ndarray, parts: tuple[Residues, Residues], params: Parameters) -> Residues:
    """Both components of an encrypted mask, uint32 (d, 2, 2, n)."""
    public = expand_public(QUERY, len(values), params)
    return np.stack([encrypt_mask(values, public, parts, bytes(32), QUERY, params), public], axis=1)


def scored(rows: np.ndarray, ciphertexts: Residues, params: Parameters) -> Residues:
    return score_rows(rows, [prepare_probe(ciphertexts, params)], params)[0]


def lift(elements: Residues, params: Parameters) -> np.ndarray:
    """Coefficients modulo Q, centred, as Python integers: (count, n) from NTT form."""
    low, high = np.moveaxis(ntt.inverse(elements, params).astype(object), 1, 0)
    p0, p1 = params.primes
    value = low + p0 * ((high - low) * pow(p0, -1, p1) % p1)
    return np.where(value > params.q // 2, value - params.q, value)


def phase(ciphertexts: Residues, secret: Residues, params: Parameters) -> np.ndarray:
    """c0 + c1·s: (count, n) of Δ·m + noise."""
    product = residues.multiply(ciphertexts[:, 1], secret, params)
    return lift(residues.add(ciphertexts[:, 0], product, params), params)


def decrypt(ciphertexts: Residues, secret: Residues, params: Parameters) -> np.ndarray:
    return ((2 * params.t * phase(ciphertexts, secret, params) + params.q) // (2 * params.q)).astype(np.int64)


class Bfv:
    """One key pair of OpenFHE's own, and the two directions in which ciphertexts cross."""

    def __init__(self, params: Parameters) -> None:
        self.params = params
        self.openfhe = importlib.import_module("openfhe")
        self.context = bfv_context(params)
        self.pair = self.context.KeyGen()
        self.secret = self.raw(self.pair.secretKey)[0]

    def raw(self, thing: Any) -> Residues:
        return read_residues(self.openfhe.Serialize(thing, self.openfhe.BINARY), self.params)

    def encrypt(self, values: list[int]) -> Any:
        return self.context.Encrypt(self.pair.publicKey, self.context.MakeCoefPackedPlaintext(values))

    def inject(self, ciphertext: Residues) -> Any:
        template = self.openfhe.Serialize(self.encrypt([0]), self.openfhe.BINARY)
        changed = write_residues(template, ciphertext, self.params)
        return self.openfhe.DeserializeCiphertextString(changed, self.openfhe.BINARY)

    def decrypt(self, ciphertext: Any, secret: Residues | None = None) -> np.ndarray:
        key = self.pair.secretKey
        if secret is not None:
            raw = write_residues(self.openfhe.Serialize(key, self.openfhe.BINARY), secret[None], self.params)
            key = self.openfhe.DeserializePrivateKeyString(raw, self.openfhe.BINARY)
        plaintext = self.context.Decrypt(key, ciphertext)
        plaintext.SetLength(self.params.n)
        return np.array(plaintext.GetCoefPackedValue(), np.int64)

    def products(self, ciphertexts: list[Any], columns: np.ndarray) -> Any:
        """Σ_j column_j · ct_j with OpenFHE's own calls."""
        total = None
        for ciphertext, column in zip(ciphertexts, columns.T.tolist(), strict=True):
            product = self.context.EvalMult(ciphertext, self.context.MakeCoefPackedPlaintext(column))
            total = product if total is None else self.context.EvalAdd(total, product)
        return total


def scores_case(params: Parameters, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.integers(-127, 128, (params.n, dim)).astype(np.int8), rng.integers(-127, 128, dim).astype(np.int8)


@needs_openfhe
@both_presets
def test_products_are_word_for_word_those_of_our_transform(params: Parameters) -> None:
    bfv = Bfv(params)
    values = np.random.default_rng(1).integers(-(2**18), 2**18, params.n).astype(np.int32)
    ciphertext = bfv.encrypt([5, -7])
    theirs = bfv.raw(bfv.context.EvalMult(ciphertext, bfv.context.MakeCoefPackedPlaintext(values.tolist())))
    # OpenFHE lifts a plaintext to [0, t), not to (-t/2, t/2).
    ours = residues.multiply(bfv.raw(ciphertext), ntt.forward((values % params.t)[None], params), params)
    assert np.array_equal(theirs, ours)


@needs_openfhe
@both_presets
def test_ciphertexts_of_openfhe_decrypt_to_the_same_integers_here(params: Parameters) -> None:
    bfv = Bfv(params)
    limit = params.t // 2
    values = np.random.default_rng(2).integers(-limit, limit, params.n, endpoint=True)
    values[:3] = [-limit, limit, 0]
    ciphertext = bfv.encrypt(values.tolist())
    assert np.array_equal(decrypt(bfv.raw(ciphertext)[None], bfv.secret, params)[0], values)
    assert np.array_equal(bfv.decrypt(ciphertext), values)


@needs_openfhe
@both_presets
def test_our_ciphertexts_decrypt_to_the_same_integers_in_openfhe(params: Parameters) -> None:
    bfv = Bfv(params)
    first, second, _ = split_key(params, "native", "native")
    rows, _ = scores_case(params)
    mask = draw_mask(bytes(32), QUERY, 16, params)
    ciphertexts = encrypted_mask(mask, (first, second.secret), params)
    secret = residues.add(first, second.secret, params)
    opened = bfv.decrypt(bfv.inject(ciphertexts[3]), secret) % params.t
    assert opened.tolist() == [mask[3], *[0] * (params.n - 1)]
    # products with the mask wrap modulo t thousands of times, and every wrap vanishes
    expected = rows.astype(np.int64) @ mask.astype(np.int64)
    assert np.array_equal(
        bfv.decrypt(bfv.inject(scored(rows, ciphertexts, params)[0]), secret) % params.t, expected % params.t
    )


@needs_openfhe
@both_presets
def test_a_scored_block_agrees_with_the_products_of_openfhe(params: Parameters) -> None:
    bfv = Bfv(params)
    gallery, probe = scores_case(params)
    expected = gallery.astype(np.int64) @ probe.astype(np.int64)
    ciphertexts = [bfv.encrypt([int(v)]) for v in probe]
    raw = np.stack([bfv.raw(c) for c in ciphertexts])
    theirs = bfv.products(ciphertexts, gallery)
    assert np.array_equal(bfv.decrypt(theirs), expected)
    # Given the same lift to [0, t), our kernel gives the very residues of OpenFHE …
    lifted = (gallery.astype(np.int32) % params.t).astype(np.int32)
    assert np.array_equal(scored(lifted, raw, params)[0], bfv.raw(theirs))
    # … and with our centred lift the same scores with far less noise.
    ours = scored(gallery, raw, params)
    assert np.array_equal(decrypt(ours, bfv.secret, params)[0], expected)
    assert np.array_equal(bfv.decrypt(bfv.inject(ours[0])), expected)
    message = np.array([params.q * int(v) // params.t for v in expected], object)
    noise = [
        float(np.std((phase(c, bfv.secret, params)[0] - message).astype(float))) for c in (ours, bfv.raw(theirs)[None])
    ]
    assert noise[0] < 2**24 < 2**33 < noise[1]


@needs_openfhe
@both_presets
@pytest.mark.parametrize(
    ("first", "second", "zeros"),
    [("openfhe", "native", "native"), ("native", "openfhe", "openfhe"), ("openfhe", "openfhe", "native")],
)
def test_keys_of_both_kinds_mixed_give_exact_shares(params: Parameters, first: str, second: str, zeros: str) -> None:
    own, share, joint = split_key(params, first, second)
    rows, _ = scores_case(params)
    mask = draw_mask(bytes(32), QUERY, 16, params)
    blinded = scored(rows, encrypted_mask(mask, (own, share.secret), params), params)
    blinded = residues.add(blinded, SOURCES[zeros]().make_zeros(joint, "rerandomise", 1).take(1), params)
    expected = rows.astype(np.int64) @ mask.astype(np.int64) % params.t
    secret = residues.add(own, share.secret, params)
    assert np.array_equal(decrypt(blinded, secret, params)[0] % params.t, expected)
    c1 = np.ascontiguousarray(blinded[:, 1])
    parts = [
        residues.add(np.ascontiguousarray(blinded[:, 0]), residues.multiply(c1, own, params), params),
        residues.multiply(c1, share.secret, params),
    ]
    total = sum(round_shares(ntt.inverse(part, params), params).astype(np.int64) for part in parts)
    error = (total - np.round(expected * 2**SHARE_BITS / params.t).astype(np.int64)) % 2**SHARE_BITS
    assert np.isin(error, [-1 % 2**SHARE_BITS, 0, 1]).all()


@needs_openfhe
@both_presets
def test_key_shares_have_ternary_secrets_and_errors_of_our_width(params: Parameters) -> None:
    common = sampling.common_polynomial(params, QUERY)
    shares = [OpenFheKeys().sample_share(params, common, QUERY) for _ in range(4)]
    secrets = lift(np.stack([s.secret for s in shares]), params).astype(int)
    counts = np.bincount(secrets.reshape(-1) + 1, minlength=3)
    assert len(counts) == 3
    assert abs(counts / secrets.size - 1 / 3).max() < 0.03
    errors = lift(
        np.stack([residues.add(s.public, residues.multiply(common, s.secret, params), params) for s in shares]), params
    )
    assert abs(np.std(errors.astype(float)) / ERROR_SIGMA - 1) < 0.05
    assert abs(errors).max() < 30
    assert len({s.public.tobytes() for s in shares}) == 4
    shares[0].erase()
    assert not shares[0].secret.any()


@needs_openfhe
@both_presets
def test_noise_of_openfhe_equals_that_of_our_own_encryptions(params: Parameters) -> None:
    first, second, joint = split_key(params, "openfhe", "native")
    secret = residues.add(first, second.secret, params)
    # e·u + e0 + e1·s with s the sum of two parts: N·σ²·(2/3 + 4/3) + σ²
    expected = ERROR_SIGMA * np.sqrt(params.n * 2 + 1)
    for name in SOURCES:
        zeros = SOURCES[name]().make_zeros(joint, "noise", 24, 2).take(24)
        noise = phase(zeros, secret, params).astype(float)
        assert abs(np.std(noise) / expected - 1) < 0.06, name
        assert abs(noise).max() < 8 * expected, name
        assert abs(noise.mean()) < expected / 10, name
        assert len({z.tobytes() for z in zeros[:, 1]}) == 24


@pytest.mark.ring
@needs_openfhe
def test_zeros_differ_between_threads_and_calls() -> None:
    _, _, joint = split_key(RING, "openfhe", "openfhe")
    made = [OpenFheKeys().make_zeros(joint, "same purpose", 8, threads).take(8) for threads in (1, 2, 2)]
    assert len({z.tobytes() for part in made for z in part[:, 1]}) == 24
    assert OpenFheKeys().make_zeros(joint, "none", 0).left == 0


@pytest.mark.ring
@needs_openfhe
def test_residues_out_of_range_are_refused_in_both_directions() -> None:
    params, source = RING, OpenFheKeys()
    common = sampling.common_polynomial(params, QUERY)
    bad = common.copy()
    bad[1, 77] = params.primes[1]
    with pytest.raises(ResidueOutOfRange, match=rf"1, 77\] is {RING.primes[1]}"):
        source.sample_share(params, bad, QUERY)
    for public, a in ((bad, common), (common, bad)):
        with pytest.raises(ResidueOutOfRange):
            source.make_zeros(JointKey(params, QUERY, public, a), "probe", 1)
    bfv = Bfv(params)
    raw = bytearray(bfv.openfhe.Serialize(bfv.pair.publicKey, bfv.openfhe.BINARY))
    at = raw.find(int(bfv.raw(bfv.pair.publicKey)[0, 0, 9]).to_bytes(8, "little"))
    raw[at : at + 8] = params.primes[0].to_bytes(8, "little")
    with pytest.raises(ResidueOutOfRange, match=f"{RING.primes[0]} is not below"):
        read_residues(bytes(raw), params)


@needs_openfhe
def test_other_shapes_and_foreign_bytes_are_refused() -> None:
    params, source = RING, OpenFheKeys()
    common = sampling.common_polynomial(params, QUERY)
    with pytest.raises(CryptoError, match="shape"):
        source.sample_share(params, common[:, :-1], QUERY)
    with pytest.raises(CryptoError, match="uint32"):
        source.sample_share(params, common.astype(np.int64), QUERY)  # type: ignore[arg-type]
    bfv, foreign = Bfv(params), Bfv(OTHER)
    public = bfv.openfhe.Serialize(bfv.pair.publicKey, bfv.openfhe.BINARY)
    with pytest.raises(CryptoError, match="shape"):
        write_residues(public, common[None], params)
    for raw in (b"", b"no polynomials", public[: len(public) * 3 // 4]):
        with pytest.raises(CryptoError, match="blocks of residues"):
            read_residues(raw, params)
    with pytest.raises(CryptoError, match="not a key or ciphertext"):
        read_residues(foreign.openfhe.Serialize(foreign.pair.publicKey, foreign.openfhe.BINARY), params)


@needs_openfhe
def test_another_choice_of_primes_is_refused() -> None:
    other = Parameters("other", RING.n, (1073479681, 1073430529))
    with pytest.raises(CryptoError, match="not a key or ciphertext of other"):
        bfv_context(other)


@needs_openfhe
def test_use_after_a_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    params = RING
    bfv_context(params)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(CryptoError, match="forked"):
        OpenFheKeys().sample_share(params, sampling.common_polynomial(params, QUERY), QUERY)


def pretend(
    patch: pytest.MonkeyPatch,
    error: Exception,
    version: tuple[int, int],
    system: str = "linux",
    machine: str = "x86_64",
) -> None:
    def load(_name: str) -> Any:
        raise error

    patch.setattr(openfhe_keys, "importlib", SimpleNamespace(import_module=load))
    patch.setattr(openfhe_keys, "sys", SimpleNamespace(version_info=(*version, 1), platform=system))
    patch.setattr(platform, "machine", lambda: machine)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModuleNotFoundError("No module named 'openfhe'", name="openfhe"), "pip install openfhe==1.6.1"),
        (ModuleNotFoundError("No module named 'openfhe.openfhe'", name="openfhe.openfhe"), "cannot be loaded"),
        (ImportError("/lib/libm.so.6: version `GLIBC_2.38' not found"), "GLIBC_2.38"),
        (OSError("invalid ELF header"), "invalid ELF header"),
    ],
)
@pytest.mark.parametrize("version", [(3, 10), (3, 12)])
def test_a_broken_import_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str, version: tuple[int, int]
) -> None:
    pretend(monkeypatch, error, version)
    assert expected in (openfhe_keys.available() or "")
    with pytest.raises(ParameterError, match="OpenFHE is"):
        OpenFheKeys()


@pytest.mark.parametrize(
    ("version", "system", "machine"),
    [((3, 11), "linux", "x86_64"), ((3, 10), "darwin", "x86_64"), ((3, 12), "linux", "aarch64")],
)
def test_platforms_without_a_wheel_are_named(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], system: str, machine: str
) -> None:
    pretend(monkeypatch, ModuleNotFoundError("openfhe", name="openfhe"), version, system, machine)
    assert "has wheels for CPython 3.10 and 3.12 on Linux x86_64 only; this is " in (openfhe_keys.available() or "")
