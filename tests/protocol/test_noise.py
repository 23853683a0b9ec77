"""Noise of a preparation as large as predicted: not more, or scores break; not less, or the encryption hides nothing.

Of an encrypted number of the mask the error alone, of variance σ². Of an encryption of zero under (b2 - a·s1, a), with
s = s1 + s2:

    c0 + c1·s = e2·u + e0 + e1·s           variance σ²·(2n/3 + 1 + 4n/3) = σ²·(2n + 1) a coefficient

and of a scored block σ² times the sum of the squares of all its entries, and what the re-randomiser adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pets import ntt, residues, sampling
from pets.keys import sample_key_share
from pets.mask_encryption import constants, draw_mask, expand_public
from pets.params import ERROR_SIGMA, MAX_DIM, SHARE_BITS, Parameters
from pets.planes import from_planes
from pets.prf import Keystream
from pets.residues import Residues
from pets.sampling import common_polynomial
from protocol.blocks import HolderKeys
from protocol.form import AMPLIFIED
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold, opened

pytestmark = pytest.mark.ring

DIM = 64
ERROR_VARIANCE = ERROR_SIGMA**2 + 1 / 12  # rounding adds the variance of a uniform number
LOW, HIGH = 0.8, 1.25

Noise = npt.NDArray[np.float64]


def zero_sd(params: Parameters) -> float:
    return math.sqrt(ERROR_VARIANCE * (2 * params.n + 1))


def assert_as_predicted(noise: Noise, sd: float) -> None:
    measured = float(np.sqrt(np.mean(noise**2)))
    assert LOW < measured / sd < HIGH, f"noise of {measured:.4g}, predicted {sd:.4g}"


def noise_of(ciphertexts: Residues, secret: Residues, plain: Residues, params: Parameters) -> Noise:
    """c0 + c1·s - plain modulo Q, centred. `ciphertexts`: uint32 (count, 2, 2, n). `plain`: (count, 2, n), residues."""
    masked = residues.multiply(np.ascontiguousarray(ciphertexts[:, 1]), secret, params)
    both = ntt.inverse(residues.add(np.ascontiguousarray(ciphertexts[:, 0]), masked, params), params)
    gap = residues.subtract(both, plain, params).astype(np.int64)
    p0, p1 = params.primes
    lifted = gap[:, 0] + p0 * ((gap[:, 1] - gap[:, 0]) * pow(p0, -1, p1) % p1)
    return (lifted - params.q * (lifted > params.q // 2)).astype(np.float64)


@dataclass(frozen=True)
class Run:
    """The ciphertexts of one preparation and the noise in them, measured with both parts of the key."""

    mask: Noise
    rerandomised: Noise
    added: Noise
    empty: Noise
    rounded: Noise
    squares: tuple[float, float]
    params: Parameters


ORIGINAL = sampling.gaussian


def errors_of_zero(_: Keystream, count: int, n: int, threads: int = 1) -> npt.NDArray[np.int8]:
    return np.zeros((count, n), np.int8)


def errors_doubled(stream: Keystream, count: int, n: int, threads: int = 1) -> npt.NDArray[np.int8]:
    return ORIGINAL(stream, count, n, threads) * np.int8(2)


@lru_cache(maxsize=8)
def measure(params: Parameters, gaussian: Any) -> Run:
    """One preparation of two blocks and a third whose rows are all zero."""
    rng = np.random.default_rng(1)
    n = params.n
    rows = np.zeros((2 * n + 1, DIM), np.int8)
    rows[: 2 * n] = unit_rows(rng, 2 * n, DIM)
    zeros: list[Residues] = []
    blinded: list[Residues] = []
    make, decrypt = HolderKeys.zeros, HolderKeys.own_addend

    def keep_zeros(self: HolderKeys, *given: Any) -> Residues:
        zeros.append(make(self, *given))
        return zeros[-1].copy()

    def keep_blinded(self: HolderKeys, ciphertexts: Residues, threads: int) -> Residues:
        blinded.append(ciphertexts.copy())
        return decrypt(self, ciphertexts, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HolderKeys, "zeros", keep_zeros)
        patch.setattr(HolderKeys, "own_addend", keep_blinded)
        patch.setattr(sampling, "gaussian", gaussian)
        trio = Trio(hold(rows, params)).prepare()
    assert not trio.failures
    assert trio.made is not None
    requester, holder = trio.made.requester, trio.made.holders[HOLDER]
    common = common_polynomial(params, requester.preparation_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "gaussian", gaussian)
        parts = [
            sample_key_share(params, common, seed, requester.preparation_id).secret
            for seed in (requester.holder_seed, requester.router_seed)
        ]
    secret = residues.add(*parts, params)
    mask = draw_mask(requester.seed, requester.preparation_id, DIM, params)
    ciphertexts = np.stack([holder.mask, expand_public(requester.preparation_id, DIM, params)], axis=1)
    due = np.zeros((DIM, 2, n), np.uint32)
    due[:, :, 0] = constants(mask, params)
    exact = np.zeros(3 * n, np.int64)
    exact[: len(rows)] = rows.astype(np.int64) @ mask.astype(np.int64) % params.t
    plain = np.ascontiguousarray(constants(exact.astype(np.uint32), params).reshape(3, n, 2).transpose(0, 2, 1))
    scored = noise_of(blinded[0], secret, plain, params)
    chunks = [part.rings[HOLDER].chunks[0] for part in (holder, requester, trio.made.router)]
    total = from_planes(opened([chunk.z for chunk in chunks])).astype(np.int64) + chunks[0].masked
    gap = (total - exact * 2**SHARE_BITS / params.t) % 2**SHARE_BITS
    squares = [float((block.astype(np.int64) ** 2).sum()) for block in (rows[:n], rows[n : 2 * n])]
    return Run(
        noise_of(ciphertexts, secret, due, params),
        scored[:2],
        noise_of(zeros[0], secret, np.zeros((3, 2, n), np.uint32), params),
        scored[2],
        np.where(gap > 2 ** (SHARE_BITS - 1), gap - 2**SHARE_BITS, gap)[: 2 * n],
        (squares[0], squares[1]),
        params,
    )


def check_mask(run: Run) -> None:
    for noise in run.mask:
        assert_as_predicted(noise, math.sqrt(ERROR_VARIANCE))


def check_rerandomised_blocks(run: Run) -> None:
    for noise, squares in zip(run.rerandomised, run.squares, strict=True):
        assert_as_predicted(noise, math.sqrt(squares * ERROR_VARIANCE + zero_sd(run.params) ** 2))


def check_what_the_rerandomiser_adds(run: Run) -> None:
    assert_as_predicted(run.added, zero_sd(run.params))


def check_block_of_zeros(run: Run) -> None:
    """Nothing scored: the noise of the re-randomiser is all there is, and it must be there."""
    assert_as_predicted(run.empty, zero_sd(run.params))


CHECKS = [check_mask, check_rerandomised_blocks, check_what_the_rerandomiser_adds, check_block_of_zeros]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_noise_is_as_predicted(check: Any) -> None:
    check(measure(RING, ORIGINAL))


@pytest.mark.parametrize("gaussian", [errors_of_zero, errors_doubled], ids=lambda g: g.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_control_missing_or_doubled_errors_are_noticed(check: Any, gaussian: Any) -> None:
    with pytest.raises(AssertionError, match="predicted"):
        check(measure(RING, gaussian))


def test_two_roundings_are_all_that_moves_a_prepared_score() -> None:
    """Two uniform halves of a unit: variance 1/6, never more than one unit (and 2^-8 of fractions)."""
    rounded = measure(RING, ORIGINAL).rounded
    assert abs(rounded.std() / math.sqrt(1 / 6) - 1) < 0.05
    assert abs(rounded.mean()) < 0.03
    assert np.abs(rounded).max() < 1.01


def test_score_noise_stays_far_below_a_unit_of_a_share() -> None:
    unit = RING.q / 2**SHARE_BITS
    assert 10 * math.sqrt(RING.n) * 500 * math.sqrt(ERROR_VARIANCE) < unit / 2**8
    # a row of the confirmation is up to 1024 times as long
    assert 10 * math.sqrt(6 * 99 * ERROR_VARIANCE) * 500 * 1024 < unit / 2**6
    assert np.abs(measure(RING, ORIGINAL).rerandomised).max() < 2**20 * RING.n // 4096


def test_amplified_noise_of_an_honest_mask_is_small_beside_a_unit_of_a_share() -> None:
    """The form check passes up to 3 units, so up to 2 and whatever two roundings make of it."""
    noise, n = measure(RING, ORIGINAL).mask, RING.n
    rng = np.random.default_rng(2)
    sums = rng.integers(0, 2, (40, DIM)) @ noise @ rng.integers(0, 2, (n, 40))
    # Subsets overlap, so the sums are not independent of each other: no sharper than this.
    sd = math.sqrt(ERROR_VARIANCE * DIM / 2 * n / 2)
    assert sd / 4 < float(np.sqrt(np.mean(sums**2))) < 4 * sd
    assert np.abs(sums).max() < 8 * sd
    room = RING.q / 2**SHARE_BITS
    assert 10 * math.sqrt(ERROR_VARIANCE * MAX_DIM) * RING.t < room
    assert 10 * math.sqrt(ERROR_VARIANCE * MAX_DIM / 2 * n / 2) * AMPLIFIED < room


# --- the samplers themselves ---


def test_errors_have_the_stated_deviation_and_are_symmetric() -> None:
    drawn = sampling.gaussian(Keystream(bytes(32)), 64, RING.n).astype(np.float64)
    assert abs(drawn.mean()) < 0.04
    assert 0.99 < drawn.var() / ERROR_VARIANCE < 1.01
    assert 4 * ERROR_SIGMA < np.abs(drawn).max() < 8 * ERROR_SIGMA
    for value in range(7):
        upper, lower = (math.erf((abs(value) + side) / ERROR_SIGMA / math.sqrt(2)) / 2 for side in (0.5, -0.5))
        for signed in (value, -value):
            assert abs((drawn == signed).mean() - (upper - lower)) < 0.004


def test_secrets_are_uniform_in_minus_one_zero_and_one() -> None:
    drawn = sampling.ternary(Keystream(bytes(32)), 64, RING.n)
    shares = [(drawn == value).mean() for value in (-1, 0, 1)]
    assert sum(shares) == pytest.approx(1)
    assert all(abs(share - 1 / 3) < 0.004 for share in shares)


def test_common_polynomial_is_spread_over_all_residues() -> None:
    drawn = sampling.common_polynomial(RING, bytes(32)).astype(np.float64) / np.array(RING.primes)[:, None]
    assert np.histogram(drawn, 16, (0, 1))[0] / drawn.size == pytest.approx(np.full(16, 1 / 16), abs=0.015)
    assert drawn.max() < 1
