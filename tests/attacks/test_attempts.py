"""Streams drawn again for another attempt at a block, with the control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import protocol.blocks
import protocol.filtering
import protocol.form
import protocol.preparing
import protocol.searching
from pets import ntt, residues
from pets.errors import StreamReused
from pets.mask_encryption import expand_public
from pets.residues import Residues
from pets.templates import Templates
from tests.kit.parties import HOLDER
from tests.kit.ring import RING
from tests.kit.scene import DIM, N, faces, small_trio

pytestmark = pytest.mark.ring


def c1_of_a_changed_block(attempt: int) -> tuple[Residues, Residues, Templates]:
    """c1 of a block, and of the same block prepared again with one row changed; what it changed by."""
    _, _, templates = faces()
    changed = templates.copy()
    changed[5, :8] += 3
    keys: list[Any] = []
    original = protocol.preparing.holder_keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.preparing, "holder_keys", lambda *given: keys.append(original(*given)) or keys[-1])
        search = small_trio().prepare()
    assert search.made is not None
    made = search.made.holders[HOLDER]
    out = []
    for rows, name in ((templates, "rerandomise 0 1 0"), (changed, f"rerandomise 0 1 {attempt}")):
        zeros = replace(keys[0], _used=set()).zeros(name, 1, 1)
        scored = protocol.work.perform([protocol.steps.ScoreRows(rows, made.scoring_probe(), 0, 1)], 1)[0]
        out.append(residues.add(scored, zeros, RING)[0, 1])
    return *out, changed.astype(int) - templates, made.preparation_id  # type: ignore[return-value]


def solved_row(first: Residues, second: Residues, preparation_id: bytes) -> list[int] | None:
    """δ with Σ_j δ_j·X^5·a_j = c1' - c1, from d of the NTT points modulo the first prime."""
    p = RING.primes[0]
    public = expand_public(preparation_id, DIM, RING)
    unit = np.zeros((1, N), np.int8)
    unit[0, 5] = 1
    columns = residues.multiply(public, ntt.forward(unit, RING), RING)[:, 0, :DIM].astype(object).T
    gap = residues.subtract(second, first, RING)[0, :DIM].astype(object)
    rows = [[int(v) for v in row] + [int(g)] for row, g in zip(columns, gap, strict=True)]
    for k in range(DIM):
        pivot = next(i for i in range(k, DIM) if rows[i][k] % p)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        inverse = pow(rows[k][k], -1, p)
        rows[k] = [v * inverse % p for v in rows[k]]
        for i in range(DIM):
            if i != k and rows[i][k]:
                factor = rows[i][k]
                rows[i] = [(v - factor * w) % p for v, w in zip(rows[i], rows[k], strict=True)]
    return [row[-1] - p if row[-1] > p // 2 else row[-1] for row in rows]


def test_a_block_prepared_again_in_another_attempt_shows_nothing_of_the_row_that_changed() -> None:
    first, second, change, preparation_id = c1_of_a_changed_block(1)  # type: ignore[misc]
    assert solved_row(first, second, preparation_id) != change[5].tolist()


def test_control_with_streams_that_follow_the_block_alone_the_change_of_a_row_falls_out() -> None:
    first, second, change, preparation_id = c1_of_a_changed_block(0)  # type: ignore[misc]
    assert solved_row(first, second, preparation_id) == change[5].tolist()


def test_streams_are_drawn_once_for_an_attempt() -> None:
    search = small_trio().prepare()
    assert search.preparing is not None
    keys: list[Any] = []
    original = protocol.preparing.holder_keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol.preparing, "holder_keys", lambda *given: keys.append(original(*given)) or keys[-1])
        small_trio().prepare()
    with pytest.raises(StreamReused):
        keys[0].zeros("rerandomise 0 1 0", 1, 1)
    assert keys[0].zeros("rerandomise 0 1 1", 1, 1).any()
