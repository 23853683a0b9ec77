"""The commitment to a gallery: its formula, what it binds, and what it keeps when a row is forgotten."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pets.errors import GalleryError
from pets.gallery_commitment import SALT_BYTES, block_hash, commit_rows, gallery_root, leaf_hashes, new_salts
from pets.merkle import EMPTY_ROOT, MerkleTree, hash_leaf

BLOCK = 8


def gallery(rows: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(rows).integers(-127, 128, (rows, dim), np.int8), new_salts(rows)


def test_formula_step_by_step() -> None:
    rows, salts = gallery(2 * BLOCK + 3)
    tree = MerkleTree()
    for start in range(0, len(rows), BLOCK):
        digest = hashlib.sha256(b"blind-lineup/v1/gallery block")
        for row, salt in zip(rows[start : start + BLOCK], salts[start : start + BLOCK], strict=True):
            digest.update(hashlib.sha256(b"\0" + salt.tobytes() + row.tobytes()).digest())
        tree.append(hash_leaf(digest.digest()))
    assert commit_rows(rows, salts, BLOCK) == tree.root()


@pytest.mark.parametrize("rows", [1023, 1024, 1025, 2500])
def test_pieces_make_no_difference(rows: int) -> None:
    values, salts = gallery(rows)
    leaves = leaf_hashes(values, salts)
    for row in (0, rows // 2, rows - 1):
        assert (leaves[row] == leaf_hashes(values[row : row + 1], salts[row : row + 1])[0]).all()


def test_any_change_of_a_row_or_salt_changes_the_root() -> None:
    rows, salts = gallery(2 * BLOCK + 3)
    root = commit_rows(rows, salts, BLOCK)
    assert commit_rows(rows.copy(), salts.copy(), BLOCK) == root  # the control
    for array in (rows, salts.copy()):
        changed = array.copy()
        changed[-1, 0] ^= 1
        pair = (changed, salts) if array is rows else (rows, changed)
        assert commit_rows(*pair, BLOCK) != root
    assert commit_rows(rows[::-1], salts[::-1], BLOCK) != root
    assert commit_rows(rows[:-1], salts[:-1], BLOCK) != root


def test_a_forgotten_row_leaves_what_its_root_needs() -> None:
    rows, salts = gallery(BLOCK)
    leaves = leaf_hashes(rows, salts)
    kept = leaf_hashes(np.delete(rows, 3, axis=0), np.delete(salts, 3, axis=0))
    again = np.insert(kept, 3, leaves[3], axis=0)
    assert gallery_root([block_hash(again)]) == commit_rows(rows, salts, BLOCK)


def test_a_guessed_row_is_not_confirmed_without_its_salt() -> None:
    rows, salts = gallery(1)
    assert (leaf_hashes(rows, salts) == leaf_hashes(rows, salts)).all()  # the control: with the salt it is
    assert (leaf_hashes(rows, new_salts(1)) != leaf_hashes(rows, salts)).any()


def test_nothing_enrolled() -> None:
    assert commit_rows(*gallery(0), BLOCK) == EMPTY_ROOT


@pytest.mark.parametrize(
    ("rows", "salts"),
    [
        (np.zeros((2, 16), np.uint8), np.zeros((2, SALT_BYTES), np.uint8)),
        (np.zeros(16, np.int8), np.zeros((1, SALT_BYTES), np.uint8)),
        (np.zeros((2, 16), np.int8), np.zeros((1, SALT_BYTES), np.uint8)),
        (np.zeros((2, 16), np.int8), np.zeros((2, 16), np.uint8)),
    ],
)
def test_shapes_that_do_not_fit_are_named(rows: np.ndarray, salts: np.ndarray) -> None:
    with pytest.raises(GalleryError, match="got "):
        leaf_hashes(rows, salts)
    with pytest.raises(GalleryError, match="got uint8"):
        block_hash(np.zeros((2, 31), np.uint8))
