"""What a holder commits to its gallery by: salted rows, hashed in blocks, blocks in a Merkle tree.

::

    leaf(row)   = SHA-256(0x00 || salt || row)                   salt: 32 random bytes a row, row: d int8
    block hash  = SHA-256("blind-lineup/v1/gallery block" || leaves of the block, end to end)
    root        = root of the RFC 9162 tree whose leaves are the block hashes   (pets.merkle)

The salt of a row is as secret as the row. Without it a leaf tells nothing of a row that somebody could guess; with
salt and row gone, as after a deletion, the leaf alone still gives every root that the row was ever under. Only the
last block of a gallery may be short, so a root and a number of rows mean one sequence of rows: the rows of a block
all have a leaf of the same length, and the tree separates leaves from nodes.

An appended row changes the hash of the last block only. The root over the block hashes is then computed again: 7,325
hashes for 30 million rows in blocks of 4,096, some tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pets.errors import GalleryError
from pets.merkle import HASH_BYTES, MerkleTree, hash_leaf

SALT_BYTES = 32

_LEAF = 0x00
_BLOCK = b"blind-lineup/v1/gallery block"
_PIECE = 1024  # rows whose bytes stay in a core's own cache

Hashes = npt.NDArray[np.uint8]


def new_salts(rows: int) -> Hashes:
    """Fresh salts, uint8 (rows, 32)."""
    return np.frombuffer(secrets.token_bytes(SALT_BYTES * rows), np.uint8).reshape(rows, SALT_BYTES)


def leaf_hashes(rows: npt.NDArray[np.int8], salts: Hashes) -> Hashes:
    """The salted leaves of some rows, uint8 (rows, 32).

    `rows`: int8 (rows, d). `salts`: uint8 (rows, 32), one a row. Raises `GalleryError` for other shapes.
    """
    if rows.dtype != np.int8 or rows.ndim != 2:
        raise GalleryError(f"rows must be int8 (rows, d), got {rows.dtype} {rows.shape}")
    if salts.dtype != np.uint8 or salts.shape != (len(rows), SALT_BYTES):
        raise GalleryError(
            f"salts must be uint8 ({len(rows)}, {SALT_BYTES}) for {len(rows)} rows, got {salts.dtype} {salts.shape}"
        )
    width = 1 + SALT_BYTES + rows.shape[1]
    scratch = np.empty((min(_PIECE, len(rows)), width), np.uint8)
    scratch[:, 0] = _LEAF
    view = scratch.reshape(-1).data
    sha256 = hashlib.sha256
    digests: list[bytes] = []
    for start in range(0, len(rows), _PIECE):
        part = rows[start : start + _PIECE]
        scratch[: len(part), 1 : 1 + SALT_BYTES] = salts[start : start + _PIECE]
        scratch[: len(part), 1 + SALT_BYTES :] = part.view(np.uint8)
        digests += [sha256(view[place : place + width]).digest() for place in range(0, width * len(part), width)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(rows), HASH_BYTES)


def block_hash(leaves: Hashes) -> bytes:
    """The hash of a block of rows from its leaves, uint8 (rows, 32). Raises `GalleryError` for another shape."""
    if leaves.dtype != np.uint8 or leaves.ndim != 2 or leaves.shape[1] != HASH_BYTES:
        raise GalleryError(f"leaves must be uint8 (rows, {HASH_BYTES}), got {leaves.dtype} {leaves.shape}")
    digest = hashlib.sha256(_BLOCK)
    digest.update(np.ascontiguousarray(leaves).data)
    return digest.digest()


def gallery_root(block_hashes: Iterable[bytes]) -> bytes:
    """The root over the hashes of all blocks in order, 32 bytes; that of the empty tree for a gallery without rows."""
    tree = MerkleTree()
    for value in block_hashes:
        tree.append(hash_leaf(value))
    return tree.root()


def commit_rows(rows: npt.NDArray[np.int8], salts: Hashes, block_rows: int) -> bytes:
    """The root of a whole gallery at once: int8 (rows, d), uint8 (rows, 32). For galleries kept in memory only."""
    return gallery_root(
        block_hash(leaf_hashes(rows[start : start + block_rows], salts[start : start + block_rows]))
        for start in range(0, len(rows), block_rows)
    )
