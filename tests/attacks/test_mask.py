"""A mask that is not constant or carries noise, and a holder that lies about what it checked; with controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import protocol.blocks
import protocol.filtering
import protocol.form
import protocol.preparing
import protocol.searching
from pets.mask_encryption import draw_mask
from pets.params import SHARE_BITS
from pets.planes import from_planes
from protocol.errors import Disagreement, FalseRefusal, MaskRefused
from protocol.messages import (
    PreparedBlocks,
    Release,
)
from protocol.session import State
from protocol.steps import Step
from tests.kit.parties import HOLDER
from tests.kit.ring import RING
from tests.kit.scene import DIM, MALFORMED, faces, small_trio, spoiled
from tests.kit.trio import opened

pytestmark = pytest.mark.ring


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_mask_is_refused_before_a_row_is_scored(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ciphertexts, polynomial = MALFORMED[kind]
    spoiled(monkeypatch, ciphertexts, polynomial)
    search = small_trio().prepare()
    assert search.made is None
    assert search.preparing is not None
    assert any(isinstance(failure, FalseRefusal) for failure in search.failures)
    for machine in (search.preparing.router, search.preparing.holders[HOLDER]):
        assert isinstance(machine.sessions[HOLDER].failure, MaskRefused)
        assert machine.sessions[HOLDER].state is State.REFUSED
    assert not search.sent(PreparedBlocks)


def test_control_a_constant_more_is_another_mask_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more unit of r_j, exactly as it would be encrypted: nothing is wrong with it."""
    spoiled(monkeypatch, [9], {0: (RING.q + RING.t // 2) // RING.t})
    assert small_trio().prepare().made is not None


def test_control_without_the_check_a_row_scores_with_another_rows_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(*_: object) -> Step[None]:
        return
        yield

    monkeypatch.setattr(protocol.form, "_decide", accept)
    spoiled(monkeypatch, [9], {5: 100 * RING.delta})
    search = small_trio().prepare()
    assert search.made is not None
    requester = search.made.requester
    chunks = [p.rings[HOLDER].chunks[0] for p in (search.made.holders[HOLDER], requester, search.made.router)]
    total = from_planes(opened([chunk.z for chunk in chunks])).astype(np.int64) + chunks[0].masked
    rows = faces()[2].astype(np.int64)
    due = rows @ draw_mask(requester.seed, requester.preparation_id, DIM, RING).astype(np.int64)
    due[5:] += 100 * rows[:-5, 9]
    gap = (total[:200] - np.rint(due % RING.t * 2**SHARE_BITS / RING.t).astype(np.int64)) % 2**SHARE_BITS
    assert (np.minimum(gap, 2**SHARE_BITS - gap)[5:] <= 2).all()


@pytest.mark.parametrize("where", ["form", "admission"])
def test_a_holder_whose_numbers_do_not_belong_to_the_mask_is_found_before_the_first_gate(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input to a check, moved by a little in one lane, would turn the bit into an oracle for that lane."""
    module = protocol.form if where == "form" else protocol.admitting
    name = "form_values" if where == "form" else "public_sums"
    original = getattr(module, name)

    def lying(*given: Any) -> Any:
        values = original(*given)
        first = values[0] if where == "form" else values
        if where == "admission" or given[0].any():
            first[3] = (first[3] + 16 * 60) % 2**SHARE_BITS
        return values

    search = small_trio()
    if where == "admission":
        search.accept()
    calls: list[int] = []

    def holders_only(*given: Any) -> Any:
        calls.append(1)
        return lying(*given) if where == "admission" or len(calls) == 1 else original(*given)

    monkeypatch.setattr(module, name, holders_only)
    search.search(faces()[0])
    assert any(isinstance(f, Disagreement) and "published what does not belong" in str(f) for f in search.failures)
    assert not search.sent(Release)
