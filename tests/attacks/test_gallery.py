"""A requester that draws the gallery out of the c1 of d preparations, with its control; and whose choice a is."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from pets import ntt
from pets.mask_encryption import expand_public
from pets.sampling import common_polynomial
from pets.templates import Templates
from protocol.announcing import derive_id
from protocol.blocks import HolderKeys
from protocol.messages import JoinedPreparation, Prepare, PreparedBlocks
from tests.kit.attacks import SMALL, N, centred, payload, probes_and_gallery
from tests.kit.parties import HOLDER, REQUESTER, ROUTER
from tests.kit.ring import RING
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring


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


def gallery_from_d_preparations(templates: Templates) -> npt.NDArray[np.int64]:
    """What who only looks computes from the public a_j and the c1 of d preparations: (n, d), maybe nonsense."""
    gallery, seen = hold(templates), []
    for _ in range(SMALL):
        trio = Trio(gallery).prepare()
        assert trio.made is not None
        public = expand_public(trio.made.requester.preparation_id, SMALL, RING)
        seen.append((public, payload(trio, PreparedBlocks, REQUESTER)[0].reshape(2, N)))
    columns = np.empty((SMALL, 2, N), np.uint32)
    for index, p in enumerate(RING.primes):
        matrix = np.stack([public[:, index].T for public, _ in seen], axis=1).astype(np.uint64)
        right = np.stack([c1[index] for _, c1 in seen], axis=1).astype(np.uint64)
        columns[:, index] = solve_pointwise(matrix, right, p).T
    return centred(ntt.inverse(columns, RING)).T


def test_gallery_is_not_recovered_from_the_c1_of_d_preparations() -> None:
    _, templates = probes_and_gallery()
    recovered = gallery_from_d_preparations(templates)
    assert np.abs(recovered).min() > 1000, "templates have entries up to 127"
    assert not (recovered[: len(templates)] == templates).any()


def test_control_without_rerandomisation_every_row_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.zeros((1, 2, 2, N), np.uint32)
    monkeypatch.setattr(HolderKeys, "zeros", lambda *_: nothing)
    _, templates = probes_and_gallery()
    recovered = gallery_from_d_preparations(templates)
    assert np.array_equal(recovered[: len(templates)], templates)
    assert not recovered[len(templates) :].any()


def test_every_public_polynomial_depends_on_every_nonce() -> None:
    """Nobody chooses a, nor a second component: all follow from an id to which each party adds a nonce of its own."""
    trio = Trio(hold(probes_and_gallery()[1])).prepare()
    announce = trio.sent(Prepare)[0].message
    joined = {name: next(d.message for d in trio.sent(JoinedPreparation, sender=name)) for name in (ROUTER, HOLDER)}
    assert isinstance(announce, Prepare)
    assert trio.made is not None
    preparation_ids = {derive_id(announce, joined)}  # type: ignore[arg-type]
    assert preparation_ids == {trio.made.requester.preparation_id}
    preparation_ids.add(derive_id(msgspec.structs.replace(announce, nonce=bytes(32)), joined))  # type: ignore[arg-type]
    for name, message in joined.items():
        other = {**joined, name: msgspec.structs.replace(message, nonce=bytes(32))}
        preparation_ids.add(derive_id(announce, other))  # type: ignore[arg-type]
    assert len(preparation_ids) == 4
    drawn = [np.concatenate([common_polynomial(RING, i)[None], expand_public(i, SMALL, RING)]) for i in preparation_ids]
    for index, polynomials in enumerate(drawn):
        assert all((polynomials == others).mean() < 0.01 for others in drawn[:index])
