import numpy as np
import pytest

from pets import ntt, residues
from pets.errors import CryptoError, ResidueOutOfRange
from pets.params import N4096, N8192, Parameters
from tests.kit.ring import OTHER, RING

pytestmark = pytest.mark.ring

PRESETS = [N4096, N8192]


def schoolbook(a: np.ndarray, b: np.ndarray, p: int) -> list[int]:
    """a·b mod X^n + 1 mod p, one Python int at a time; `a` sparse."""
    n = len(b)
    out = [0] * n
    for i in np.flatnonzero(a):
        for j in range(n):
            sign, at = (1, i + j) if i + j < n else (-1, i + j - n)
            out[at] = (out[at] + sign * int(a[i]) * int(b[j])) % p
    return out


@pytest.mark.parametrize("params", PRESETS, ids=lambda p: p.preset)
def test_psi_is_the_smallest_primitive_root(params: Parameters) -> None:
    for p, root in zip(params.primes, ntt.psi(params), strict=True):
        assert pow(root, params.n, p) == p - 1
        assert all(pow(root, k, p) >= root for k in range(1, 2 * params.n, 2))


@pytest.mark.parametrize("params", PRESETS, ids=lambda p: p.preset)
def test_output_is_the_polynomial_at_odd_powers_of_psi_in_bit_reversed_order(params: Parameters) -> None:
    poly = np.random.default_rng(1).integers(-128, 128, (1, params.n)).astype(np.int8)
    out = ntt.forward(poly, params)
    bits = params.n.bit_length() - 1
    for prime, (p, root) in enumerate(zip(params.primes, ntt.psi(params), strict=True)):
        for k in (0, 1, 2, 77, params.n - 1):
            point = pow(root, 2 * int(f"{k:0{bits}b}"[::-1], 2) + 1, p)
            value = 0
            for c in reversed(poly[0].tolist()):
                value = (value * point + c) % p
            assert out[0, prime, k] == value


@pytest.mark.parametrize("params", PRESETS, ids=lambda p: p.preset)
@pytest.mark.parametrize(("count", "threads"), [(0, 1), (1, 1), (7, 1), (8, 2), (19, 2)])
def test_round_trip_gives_the_coefficients_back(params: Parameters, count: int, threads: int) -> None:
    limits = np.iinfo(np.int32)
    poly = np.random.default_rng(count).integers(limits.min, limits.max, (count, params.n), np.int32, endpoint=True)
    poly.reshape(-1)[:4] = [limits.min, limits.max, 0, -1][: poly.size]
    back = ntt.inverse(ntt.forward(poly, params, threads), params, threads)
    assert back.dtype == np.uint32
    expected = poly.astype(np.int64)[:, None, :] % np.array(params.primes)[None, :, None]
    assert np.array_equal(back, expected)


@pytest.mark.parametrize("params", PRESETS, ids=lambda p: p.preset)
def test_pointwise_product_is_the_negacyclic_product(params: Parameters) -> None:
    rng = np.random.default_rng(2)
    a = np.zeros((1, params.n), np.int8)
    a[0, [0, 1, 5, params.n // 2, params.n - 1]] = [3, -128, 127, -7, 1]
    b = rng.integers(-(2**31), 2**31, (1, params.n)).astype(np.int32)
    product = ntt.inverse(residues.multiply(ntt.forward(a, params), ntt.forward(b, params), params), params)
    for prime, p in enumerate(params.primes):
        assert product[0, prime].tolist() == schoolbook(a[0], b[0], p)


@pytest.mark.parametrize("params", PRESETS, ids=lambda p: p.preset)
def test_largest_residues_survive_the_inverse_and_come_out_reduced(params: Parameters) -> None:
    primes = np.array(params.primes, np.uint32)
    top = np.broadcast_to(primes[:, None] - 1, (3, 2, params.n))
    back = ntt.inverse(np.ascontiguousarray(top), params)
    # -1 at every point is the constant polynomial -1
    assert (back[:, :, 0] == primes - 1).all()
    assert not back[:, :, 1:].any()


def test_pointwise_arithmetic_equals_numpy_and_broadcasts() -> None:
    rng = np.random.default_rng(3)
    primes = np.array(RING.primes, np.uint64)[:, None]
    a = (rng.integers(0, 2**62, (5, 1, 2, RING.n)).astype(np.uint64) % primes).astype(np.uint32)
    b = (rng.integers(0, 2**62, (3, 2, RING.n)).astype(np.uint64) % primes).astype(np.uint32)
    a[0], b[0] = primes - 1, primes - 1
    a[1], b[1] = 0, primes - 1
    wide_a, wide_b = a.astype(np.uint64), b.astype(np.uint64)
    for threads in (1, 2):
        assert np.array_equal(residues.multiply(a, b, RING, threads), wide_a * wide_b % primes)
        assert np.array_equal(residues.add(a, b, RING, threads), (wide_a + wide_b) % primes)
        assert np.array_equal(residues.subtract(a, b, RING, threads), (wide_a + primes - wide_b) % primes)
    assert residues.add(a[0, 0], b[0], RING).shape == (2, RING.n)


def test_residue_at_its_prime_is_refused_by_name_place_and_value() -> None:
    array = np.zeros((4, 2, RING.n), np.uint32)
    array[:, 0] = RING.primes[0] - 1
    array[:, 1] = RING.primes[1] - 1
    residues.check_residues(array, RING, "probe")
    array[2, 1, 17] = RING.primes[1]
    with pytest.raises(ResidueOutOfRange, match=rf"probe\[2, 1, 17\] is {RING.primes[1]}.*{RING.primes[1]}"):
        residues.check_residues(array, RING, "probe")


def test_wrong_shapes_and_dtypes_are_refused() -> None:
    good = np.zeros((1, 2, RING.n), np.uint32)
    with pytest.raises(CryptoError, match="int32"):
        ntt.forward(np.zeros((1, RING.n), np.int64), RING)
    with pytest.raises(CryptoError, match="shape"):
        ntt.forward(np.zeros((1, RING.n - 1), np.int8), RING)
    with pytest.raises(CryptoError, match="uint32"):
        ntt.inverse(good.astype(np.int32), RING)  # type: ignore[arg-type]
    with pytest.raises(CryptoError, match="shape"):
        ntt.inverse(good, OTHER)
    with pytest.raises(CryptoError, match="broadcast"):
        residues.add(np.zeros((2, 2, RING.n), np.uint32), np.zeros((3, 2, RING.n), np.uint32), RING)
    with pytest.raises(CryptoError, match="shape"):
        residues.check_residues(good[..., :10], RING, "x")
    with pytest.raises(CryptoError, match="uint32"):
        residues.check_residues([1], RING, "x")  # type: ignore[arg-type]
