"""The sign of a sum of a public and a shared number, and what is prepared for it, against plain integers."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pets import circuits, public_sum
from pets.bits import PARTIES, Bits, party_bits
from pets.errors import CryptoError
from pets.planes import from_planes, to_planes, unpack_bits
from pets.prf import Keystream
from pets.replicated import Masks, and_local
from tests.kit import plain_circuits
from tests.kit.planes import planes_of

WAYS = [plain_circuits, public_sum]


def sign_of_difference(
    way: ModuleType, e: np.ndarray, z: np.ndarray, m: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """z - m and the top bit of e + z - m, from the circuits."""
    shared = circuits.evaluate_plain(way.subtract(planes_of(z, width), planes_of(m, width)))
    products = circuits.evaluate_plain(circuits.adjacent_products(shared))
    public = to_planes(e.astype(np.uint32), width)
    sign = circuits.evaluate_plain(way.sign_of_public_sum(public, shared, products))
    return from_planes(shared.parts[0]), unpack_bits(sign.parts[0][0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [2, 3, 4, 5, 6])
def test_all_small_numbers(way: ModuleType, width: int) -> None:
    e, z, m = (v.reshape(-1) for v in np.meshgrid(*[np.arange(2**width)] * 3))
    shared, sign = sign_of_difference(way, e, z, m, width)
    assert np.array_equal(shared, (z - m) % 2**width)
    assert np.array_equal(sign, ((e + z - m) % 2**width) >> (width - 1))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([6, 7, 13, 23, 24, 25, 32]), st.sampled_from([64, 192]))
def test_random_numbers(way: ModuleType, seed: int, width: int, lanes: int) -> None:
    e, z, m = np.random.default_rng(seed).integers(0, 2**width, (3, lanes))
    # A third of the lanes lies within 3 of where the sign changes.
    edge = np.random.default_rng(seed + 1).integers(-3, 4, lanes)
    e = np.where(np.arange(lanes) % 3 == 0, (m - z + edge) % 2**width, e)
    e = np.where(np.arange(lanes) % 3 == 1, (m - z + 2 ** (width - 1) + edge) % 2**width, e)
    shared, sign = sign_of_difference(way, e, z, m, width)
    assert np.array_equal(shared, (z - m) % 2**width)
    assert np.array_equal(sign, ((e + z - m) % 2**width) >> (width - 1))


def gates(circuit: circuits.Circuit[circuits.T]) -> tuple[int, int]:
    """Rounds and planes of ANDs."""
    rounds, planes = 0, 0
    try:
        pair = next(circuit)
        while True:
            rounds, planes = rounds + 1, planes + len(pair[0])
            pair = circuit.send(circuits.plain_bits(pair[0].parts[0] & pair[1].parts[0]))
    except StopIteration:
        return rounds, planes


def test_rounds_and_gates_at_24_bits() -> None:
    z, e = planes_of(np.arange(64), 24), to_planes(np.arange(64, dtype=np.uint32), 24)
    products = circuits.evaluate_plain(circuits.adjacent_products(z))
    assert gates(circuits.adjacent_products(z)) == (1, 11)
    for way in WAYS:
        assert gates(way.subtract(z, z)) == (23, 23)
        assert gates(way.sign_of_public_sum(e, z, products)) == (4, 18)


def run_parties(running: list[circuits.Circuit[Bits]], masks: list[Masks], threads: int) -> list[Bits]:
    """Three parties run a circuit: and_local, then what each got from the one that follows it."""
    pairs = [next(circuit) for circuit in running]
    while True:
        products = [and_local(masks[i], *pairs[i], threads) for i in range(PARTIES)]
        results = []
        for i, circuit in enumerate(running):
            products[i].parts[1] = products[(i + 1) % PARTIES].parts[0]
            try:
                pairs[i] = circuit.send(products[i])
            except StopIteration as end:
                results.append(end.value)
        if results:
            return results


def streams() -> list[Masks]:
    keys = [bytes([k]) * 32 for k in range(PARTIES)]
    return [Masks(i, Keystream(keys[i]), Keystream(keys[(i + 1) % PARTIES])) for i in range(PARTIES)]


def opened(shares: list[Bits]) -> np.ndarray:
    """The value, after a look at whether the two holders of each component have the same."""
    for i in range(PARTIES):
        assert np.array_equal(shares[i].parts[1], shares[(i + 1) % PARTIES].parts[0])
    return np.bitwise_xor.reduce([share.parts[0] for share in shares])


@pytest.mark.parametrize("words", [1, 5, 4096])
@pytest.mark.parametrize("threads", [1, 2])
def test_on_shares_of_three_parties_both_ways_are_the_same(words: int, threads: int) -> None:
    """z' is component 2, known to the requester and the router; m is the XOR of components 0 and 1."""
    rng = np.random.default_rng(words)
    e, z = rng.integers(0, 2**24, (2, 64 * words)).astype(np.uint32)
    m_0, m_1 = rng.integers(0, 2**64, (2, 24, words), np.uint64)
    m = from_planes(m_0 ^ m_1)
    e[: 32 * words] = (m - z + rng.integers(-3, 4, 64 * words))[: 32 * words] % 2**24
    zero, public, planes = np.zeros_like(m_0), to_planes(e, 24), to_planes(z, 24)
    x = [party_bits(0, zero, zero), party_bits(1, zero, planes), party_bits(2, planes, zero)]
    y = [party_bits(0, m_0, m_1), party_bits(1, m_1, zero), party_bits(2, zero, m_0)]
    results = []
    for subtract, sign_of_sum in (
        (plain_circuits.subtract, plain_circuits.sign_of_public_sum),
        (partial(public_sum.subtract, threads=threads), partial(public_sum.sign_of_public_sum, threads=threads)),
    ):
        masks = streams()
        shared = run_parties([subtract(x[i], y[i]) for i in range(PARTIES)], masks, threads)
        products = run_parties([circuits.adjacent_products(z) for z in shared], masks, threads)
        signs = run_parties([sign_of_sum(public, *pair) for pair in zip(shared, products, strict=True)], masks, threads)
        assert np.array_equal(from_planes(opened(shared)), (z - m) % 2**24)
        assert np.array_equal(unpack_bits(opened(signs)[0]), (e + z - m) % 2**24 >> 23)
        results.append([share.parts for share in (*shared, *products, *signs)])
    # Every share, so all operands and their order were the same: else other masks would have met other gates.
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_planes_that_do_not_belong_together_are_refused() -> None:
    z, e = planes_of(np.arange(64), 24), to_planes(np.arange(64, dtype=np.uint32), 24)
    products = circuits.evaluate_plain(circuits.adjacent_products(z))
    for bad in ((e[1:], z, products), (e.astype(np.int64), z, products), (e, z, products[1:]), (e, z[1:], products)):
        with pytest.raises(CryptoError, match="do not fit"):
            next(public_sum.sign_of_public_sum(*bad))
