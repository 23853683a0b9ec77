"""Noise as large as predicted: not more, or scores break; not less, or the encryption hides nothing.

Of an encryption of zero, with E = e_Q + e_R and s = s_Q + s_R:

    c0 + c1·s = E·u + e0 + e1·s            variance σ²·(2n·2/3 + 1 + 2n·2/3) = σ²·(8n/3 + 1) a coefficient

and of a scored block, Σ_j p_j·N_j, that times the sum of the squares of all entries of the block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.filter
from pets import ntt, residues, sampling
from pets.params import ERROR_SIGMA, MAX_DIM, N8192, SHARE_BITS, Parameters
from pets.prf import Keystream
from protocol.admission import AMPLIFIED
from protocol.messages import ProbePart
from tests.kit.galleries import scores, unit_rows
from tests.kit.parties import Trio, enrol, total_of_secrets
from tests.kit.ring import RING

pytestmark = pytest.mark.ring

DIM = 64
ERROR_VARIANCE = ERROR_SIGMA**2 + 1 / 12  # rounding adds the variance of a uniform number
LOW, HIGH = 0.8, 1.25

Residues = npt.NDArray[np.uint32]
Noise = npt.NDArray[np.int64]


def fresh_sd(params: Parameters) -> float:
    return math.sqrt(ERROR_VARIANCE * (8 * params.n / 3 + 1))


def assert_as_predicted(noise: Noise, sd: float) -> None:
    measured = float(np.sqrt(np.mean(noise.astype(np.float64) ** 2)))
    assert LOW < measured / sd < HIGH, f"noise of {measured:.4g}, predicted {sd:.4g}"


def decrypt(ciphertexts: Residues, secret: Residues, plain: npt.NDArray[np.int64], params: Parameters) -> Noise:
    """c0 + c1·s - Δ·m modulo Q, centred. `ciphertexts`: uint32 (count, 2, 2, n). `plain`: (count, n)."""
    masked = residues.multiply(np.ascontiguousarray(ciphertexts[:, 1]), secret, params)
    both = ntt.inverse(residues.add(np.ascontiguousarray(ciphertexts[:, 0]), masked, params), params).astype(np.int64)
    p0, p1 = params.primes
    lifted = both[:, 0] + p0 * ((both[:, 1] - both[:, 0]) * pow(p0, -1, p1) % p1)
    noise = (lifted - params.delta * plain) % params.q
    return noise - params.q * (noise > params.q // 2)


@dataclass(frozen=True)
class Run:
    """The ciphertexts of one query and the noise in them, measured with both key shares."""

    probe: Noise
    scored: Noise
    rerandomised: Noise
    added: Noise
    empty: Noise
    squares: tuple[float, float]
    params: Parameters


def errors_of_zero(_: Keystream, count: int, n: int, threads: int = 1) -> npt.NDArray[np.int8]:
    return np.zeros((count, n), np.int8)


def errors_doubled(stream: Keystream, count: int, n: int, threads: int = 1) -> npt.NDArray[np.int8]:
    return ORIGINAL(stream, count, n, threads) * np.int8(2)


ORIGINAL = sampling.gaussian


@lru_cache(maxsize=8)
def measure(params: Parameters, gaussian: Any) -> Run:
    """One query over two blocks and a third whose rows are all zero."""
    rng = np.random.default_rng(1)
    n = params.n
    probe = unit_rows(rng, 1, DIM)[0]
    rows = np.zeros((2 * n + 1, DIM), np.int8)
    rows[: 2 * n] = unit_rows(rng, 2 * n, DIM)
    taken: list[tuple[Residues, Residues]] = []
    original = protocol.filter.rerandomise

    def watched(scored: Residues, *rest: Any) -> Residues:
        blinded = original(scored, *rest)
        taken.append((scored.copy(), blinded.copy()))
        return blinded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.filter, "rerandomise", watched)
        patch.setattr(sampling, "gaussian", gaussian)
        trio = Trio(enrol(rows, params), threshold="0.9").offline()
        secret = total_of_secrets(trio)
        trio.online(probe)
    assert not trio.failures
    ((scored, blinded),) = taken
    parts = [np.frombuffer(part.message.data, "<u4") for part in trio.sent(ProbePart)]  # type: ignore[union-attr]
    ciphertexts = np.concatenate(parts).reshape(DIM, 2, 2, n)
    constants = np.zeros((DIM, n), np.int64)
    constants[:, 0] = probe
    exact = np.zeros((3, n), np.int64)
    exact.reshape(-1)[: len(rows)] = scores(rows, probe)
    squares = [float((block.astype(np.int64) ** 2).sum()) for block in (rows[:n], rows[n : 2 * n])]
    return Run(
        decrypt(ciphertexts, secret, constants, params),
        decrypt(scored, secret, exact, params)[:2],
        decrypt(blinded, secret, exact, params)[:2],
        decrypt(residues.subtract(blinded, scored, params), secret, exact * 0, params),
        decrypt(blinded, secret, exact, params)[2],
        (squares[0], squares[1]),
        params,
    )


def check_probe(run: Run) -> None:
    assert_as_predicted(run.probe, fresh_sd(run.params))


def check_every_ciphertext_of_the_probe(run: Run) -> None:
    for noise in run.probe:
        assert_as_predicted(noise, fresh_sd(run.params))


def check_scored_blocks(run: Run) -> None:
    for noise, squares in zip(run.scored, run.squares, strict=True):
        assert_as_predicted(noise, math.sqrt(squares) * fresh_sd(run.params))


def check_rerandomised_blocks(run: Run) -> None:
    for noise, squares in zip(run.rerandomised, run.squares, strict=True):
        assert_as_predicted(noise, math.sqrt(squares + 1) * fresh_sd(run.params))


def check_what_the_rerandomiser_adds(run: Run) -> None:
    """Far below the noise of the scores, so it is measured as the difference of the blocks before and after."""
    for noise in run.added:
        assert_as_predicted(noise, fresh_sd(run.params))


def check_block_of_zeros(run: Run) -> None:
    """Nothing scored: the noise of the re-randomiser is all there is, and it must be there."""
    assert_as_predicted(run.empty, fresh_sd(run.params))


CHECKS = [
    check_probe,
    check_every_ciphertext_of_the_probe,
    check_scored_blocks,
    check_rerandomised_blocks,
    check_what_the_rerandomiser_adds,
    check_block_of_zeros,
]


@pytest.mark.parametrize("params", [RING, N8192], ids=lambda p: p.preset)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_noise_is_as_predicted(check: Any, params: Parameters) -> None:
    check(measure(params, ORIGINAL))


@pytest.mark.parametrize("gaussian", [errors_of_zero, errors_doubled], ids=lambda g: g.__name__)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_control_missing_or_doubled_errors_are_noticed(check: Any, gaussian: Any) -> None:
    with pytest.raises(AssertionError, match="predicted"):
        check(measure(RING, gaussian))


def test_score_noise_stays_far_below_half_of_delta() -> None:
    run = measure(RING, ORIGINAL)
    # the largest gallery entries (d = 1024, S = 500) give 500·√n·fresh; rounding to shares moves by 2^36 anyway
    assert np.abs(run.rerandomised).max() < 2**25 * RING.n // 4096
    assert 500 * math.sqrt(RING.n) * fresh_sd(RING) * 8 < RING.q >> (SHARE_BITS + 8)


@pytest.mark.parametrize("params", [RING, N8192], ids=lambda p: p.preset)
def test_amplified_noise_of_an_honest_probe_is_small_beside_a_unit_of_a_share(params: Parameters) -> None:
    """Admission's lanes of zeros pass up to 3 units, so up to 2.5 and whatever three roundings make of it."""
    noise, n = measure(params, ORIGINAL).probe, params.n
    wrapped = np.concatenate([-noise, noise], axis=1)  # modulo X^n + 1
    beside = np.array([sum(wrapped[k, n + j - k] for k in range(DIM)) for j in range(DIM)])
    # The deviation of DIM values, to within five times its own.
    assert abs(beside.std() / (fresh_sd(params) * math.sqrt(DIM)) - 1) < 5 / math.sqrt(2 * DIM)
    rng = np.random.default_rng(2)
    sums = rng.integers(0, 2, (40, DIM)) @ noise @ rng.integers(0, 2, (n, 40))
    assert np.abs(sums).max() < 8 * fresh_sd(params) * math.sqrt(DIM * n / 4)
    room = 2.5 * params.q / 2**SHARE_BITS
    assert 10 * fresh_sd(params) * math.sqrt(MAX_DIM) * params.t < room
    assert 10 * fresh_sd(params) * math.sqrt(MAX_DIM * n / 4) * AMPLIFIED < room


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
