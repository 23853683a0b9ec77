"""The rows of an earlier gallery, found again among those of now."""

from __future__ import annotations

import numpy as np
import pytest

from nodes.audit import rows as audited
from nodes.audit.rows import Rows, Stored, as_searched
from nodes.evidence.block_hashes import block_hashes
from pets.templates import Templates
from protocol.gallery import Gallery, block_hash, root_of
from tests.kit.galleries import unit_rows
from tests.kit.ring import RING

N, DIM, ROWS, SEED = 16, 8, 150, bytes(32)  # ten blocks, the last of six rows
BLOCKS = -(-ROWS // N)


@pytest.fixture
def before() -> Templates:
    return unit_rows(np.random.default_rng(3), ROWS, DIM)


def found_again(before: Templates, now: Templates) -> Rows:
    hashes = [block_hash(before[b * N : (b + 1) * N], SEED, b) for b in range(BLOCKS)]
    return as_searched(Stored(now, np.ones(len(now), np.bool_)), ROWS, N, hashes, SEED)


def agrees(rows: Rows, before: Templates) -> None:
    """All that is said to be there is what it was, and nothing else is shown."""
    for block in range(BLOCKS):
        part = slice(block * N, (block + 1) * N)
        held = block not in rows.missing
        assert np.array_equal(rows.templates[part], before[part]) if held else not rows.templates[part].any()
        assert (rows.found[part] == held).all()


def test_an_unchanged_gallery_is_whole_also_with_new_rows_behind(before: Templates) -> None:
    more = unit_rows(np.random.default_rng(4), 40, DIM)
    for now in (before, np.concatenate([before, more])):
        rows = found_again(before, now)
        assert not rows.missing
        agrees(rows, before)


@pytest.mark.parametrize("gone", [[0], [17], [15, 16], [3, 4, 5, 149], [0, 30, 31, 60, 100], list(range(16, 48))])
def test_only_the_blocks_of_rows_that_are_gone_are_missing(before: Templates, gone: list[int]) -> None:
    rows = found_again(before, np.delete(before, gone, axis=0))
    assert rows.missing == {row // N for row in gone}
    agrees(rows, before)


def test_a_corrected_row_costs_its_block(before: Templates) -> None:
    now = before.copy()
    now[20] = now[20][::-1]
    rows = found_again(before, now)
    assert rows.missing == {1}
    agrees(rows, before)


def test_rows_in_another_order_are_not_the_gallery(before: Templates) -> None:
    assert len(found_again(before, before[::-1].copy()).missing) == BLOCKS
    assert len(found_again(before, before[:0]).missing) == BLOCKS


def test_the_search_for_them_ends(before: Templates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is missing rather than looked for for ever: who has other rows could keep an audit busy with them."""
    monkeypatch.setattr(audited, "TRIES", 5)
    rows = found_again(before, np.delete(before, range(12), axis=0))
    assert len(rows.missing) == BLOCKS


def test_hashes_are_those_of_the_root_and_none_once_a_row_is_gone() -> None:
    templates = unit_rows(np.random.default_rng(5), RING.n + 10, DIM)
    gallery = Gallery.of(templates, RING)
    assert len(block_hashes(gallery)) == 2
    assert root_of(block_hashes(gallery)) == gallery.root
    other = Gallery.of(templates, RING)
    other.forget_rows([3])
    assert block_hashes(other) == ()
    gallery.forget_rows([3])
    assert len(block_hashes(gallery)) == 2, "as they were, once they were asked for"
