"""A requester that draws the gallery out of c1, of d queries or of its own choice; each attack with its control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import protocol.filter
import protocol.keyring
import protocol.requester
from pets import ntt, sampling
from pets.keys import JointKey, encrypt_constants
from pets.params import Parameters
from pets.sampling import common_polynomial
from protocol.keyring import QueryKey
from protocol.session import State
from protocol.steps import Step
from tests.kit.attacks import (
    SMALL,
    N,
    Residues,
    block_c1,
    centred,
    probe_ciphertexts,
    probes_and_gallery,
)
from tests.kit.galleries import Templates
from tests.kit.parties import Trio, enrol
from tests.kit.ring import RING

pytestmark = pytest.mark.ring


def no_rerandomiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.filter, "rerandomise", lambda scored, *_: scored)


def no_common_polynomial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody accepts a = 0."""
    for module in (sampling, protocol.keyring):
        monkeypatch.setattr(module, "common_polynomial", lambda params, _: np.zeros((2, params.n), np.uint32))


# --- the gallery out of c1 ---


def solve_pointwise(matrix: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64], p: int) -> npt.NDArray[np.uint64]:
    """x with matrix·x = right modulo p at every point. `matrix`: (points, d, d). `right`: (points, d)."""
    work = np.concatenate([matrix, right[:, :, None]], axis=2)
    dim = matrix.shape[1]
    for k in range(dim):
        for point in np.flatnonzero(work[:, k, k] == 0):  # rare: exchange with a row below
            other = k + int(np.flatnonzero(work[point, k:, k])[0])
            work[point, [k, other]] = work[point, [other, k]]
        inverse, base, exponent = np.ones(len(work), np.uint64), work[:, k, k].copy(), p - 2
        while exponent:
            if exponent & 1:
                inverse = inverse * base % p
            base, exponent = base * base % p, exponent >> 1
        work[:, k] = work[:, k] * inverse[:, None] % p
        for row in range(dim):
            if row != k:
                work[:, row] = (work[:, row] + (p - work[:, row, k : k + 1]) * work[:, k]) % p
    return work[:, :, dim]


def gallery_from_d_queries(templates: Templates, probes: Templates) -> npt.NDArray[np.int64]:
    """What a curious requester computes from its own ciphertexts and the c1 of d queries: (n, d), maybe nonsense."""
    gallery, seen = enrol(templates), []
    for probe in probes:
        trio = Trio(gallery, threshold="0.95", ladder="0").search(probe)
        assert not trio.failures
        seen.append((probe_ciphertexts(trio)[:, 1], block_c1(trio)))
    columns = np.empty((SMALL, 2, N), np.uint32)
    for index, p in enumerate(RING.primes):
        matrix = np.stack([own[:, index].T for own, _ in seen], axis=1).astype(np.uint64)
        right = np.stack([c1[index] for _, c1 in seen], axis=1).astype(np.uint64)
        columns[:, index] = solve_pointwise(matrix, right, p).T
    return centred(ntt.inverse(columns, RING)).T


def test_gallery_is_not_recovered_from_the_c1_of_d_queries() -> None:
    probes, templates = probes_and_gallery()
    recovered = gallery_from_d_queries(templates, probes)
    assert np.abs(recovered).min() > 1000, "templates have entries up to 127"
    assert not (recovered[: len(templates)] == templates).any()


def test_control_without_rerandomisation_every_row_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    no_rerandomiser(monkeypatch)
    probes, templates = probes_and_gallery()
    recovered = gallery_from_d_queries(templates, probes)
    assert np.array_equal(recovered[: len(templates)], templates)
    assert not recovered[len(templates) :].any()


# --- c1 chosen by the requester, and the common polynomial ---


def choose_c1(monkeypatch: pytest.MonkeyPatch, weights: dict[int, int]) -> None:
    """A requester whose ciphertexts are (Δ·q_j, w_j): they decrypt well enough, and c1 becomes Σ_j w_j·D[i][j]."""
    original = protocol.requester.probe_parts

    def chosen(ciphertexts: Residues, second: list[bytes], threads: int = 1) -> Any:
        ciphertexts[:, 1] = 0
        for j, weight in weights.items():
            ciphertexts[j, 1] = weight
        return original(ciphertexts, second)

    def without_mask(values: Any, zeros: Residues, params: Parameters) -> Residues:
        zeros[...] = 0
        return encrypt_constants(values, zeros, params)

    monkeypatch.setattr(protocol.requester, "probe_parts", chosen)
    monkeypatch.setattr(protocol.requester, "encrypt_constants", without_mask)


def gallery_from_chosen_c1(templates: Templates, probe: Templates) -> npt.NDArray[np.int64]:
    """Two coordinates of every row from each query, (rows, d): digits of base 2^8 above the noise of 2^6.

    A third would be noise of 2^22 beside each q_j, which admission refuses.
    """
    gallery, out = enrol(templates), np.zeros((len(templates), SMALL), np.int64)
    for first in range(0, SMALL, 2):
        wanted = range(first, first + 2)
        with pytest.MonkeyPatch.context() as patch:
            choose_c1(patch, {j: 2 ** (6 + 8 * k) for k, j in enumerate(wanted)})
            trio = Trio(gallery, threshold="0.95", ladder="0").search(probe)
        assert State.REFUSED not in trio.states.values(), "admission lets such a probe through: it is well formed"
        rest = (centred(ntt.inverse(block_c1(trio)[None], RING))[0, : len(templates)] + 32) >> 6
        for j in wanted:
            out[:, j] = (rest + 128) % 256 - 128
            rest = (rest - out[:, j]) >> 8
    return out


def test_gallery_is_not_read_off_by_chosen_c1() -> None:
    probes, templates = probes_and_gallery()
    read = gallery_from_chosen_c1(templates, probes[0])
    assert (read == templates).mean() < 0.05  # one in 256 by chance


@pytest.mark.parametrize("removed", [no_common_polynomial, no_rerandomiser])
def test_control_with_a_zero_or_without_rerandomisation_four_queries_read_all(
    removed: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    removed(monkeypatch)
    probes, templates = probes_and_gallery()
    assert np.array_equal(gallery_from_chosen_c1(templates, probes[0]), templates)


def test_requester_that_alone_uses_a_zero_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = protocol.requester.requester_key

    def own_choice(*args: Any) -> Step[QueryKey]:
        key = yield from original(*args)
        joint = JointKey(key.params, key.joint.query_id, key.joint.public, np.zeros_like(key.joint.common))
        return QueryKey(key.share, joint)

    monkeypatch.setattr(protocol.requester, "requester_key", own_choice)
    probes, templates = probes_and_gallery()
    assert (gallery_from_chosen_c1(templates, probes[0]) == templates).mean() < 0.05


def test_common_polynomial_depends_on_every_nonce() -> None:
    gallery = enrol(probes_and_gallery()[1])
    seen = []
    for _ in range(2):
        trio = Trio(gallery).offline()
        assert trio.requester._key is not None
        assert trio.router._key is not None
        seen.append(trio.requester._key.joint)
        assert seen[-1].query_id == trio.router._key.joint.query_id
        assert np.array_equal(seen[-1].common, common_polynomial(RING, seen[-1].query_id))
    assert seen[0].query_id != seen[1].query_id
    assert (seen[0].common == seen[1].common).mean() < 0.01
