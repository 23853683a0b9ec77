"""The salted hashes of a gallery's blocks, which its root is made of (`protocol.gallery.gallery_root`).

Who has them can check a block by itself, when another was changed since: so a holder seals them for audits. Written a
second time here, and compared with the root, as an audit does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pets.merkle import MerkleTree, hash_leaf
from pets.prf import derive_key
from pets.templates import Templates
from pets.threads import default_threads, parallel_ranges
from protocol.gallery import Gallery


def block_hashes(gallery: Gallery) -> tuple[bytes, ...]:
    """One a block, 32 bytes each; none where they do not give the gallery's root.

    That is so once a row was forgotten, whose template goes at once. Reads every row the first time, and keeps them
    with the gallery: asked for at each preparation, they are there when a search needs them.
    """
    kept: tuple[bytes, ...] | None = gallery.__dict__.get("_block_hashes")
    if kept is None:
        n, rows = gallery.params.n, gallery.templates
        found = [b""] * gallery.blocks

        def work(start: int, stop: int) -> None:
            for block in range(start, stop):
                found[block] = block_hash(rows[block * n : (block + 1) * n], gallery.salt_seed, block)

        parallel_ranges(work, len(found), default_threads())
        kept = tuple(found) if root_of(found) == gallery.root else ()
        gallery.__dict__["_block_hashes"] = kept
    return kept


def block_hash(rows: Templates, salt_seed: bytes, block: int) -> bytes:
    """Of the rows of one block, int8 (up to n, d), under the salt of its number."""
    hasher = hashlib.sha256(derive_key(salt_seed, "block-salt", block))
    hasher.update(np.ascontiguousarray(rows).data)
    return hasher.digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The Merkle root over them, 32 bytes."""
    tree = MerkleTree()
    for each in hashes:
        tree.append(hash_leaf(each))
    return tree.root()
