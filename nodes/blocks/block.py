"""What a block file holds: rows, a tag a row, and which rows are gone.

::

    rows     int8 (rows, d)        zeros where a row is gone
    tags     uint8 (rows, 32)      the salt of a row that is there, the salted leaf hash of one that is gone
    erased   bits, one a row       which are gone
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks.errors import BlocksCorrupted
from nodes.blocks.files import Bytes
from nodes.blocks.manifest import Block
from nodes.blocks.sealing import HEAD_BYTES, TAG_BYTES, seal_into, unseal_into
from pets.gallery_commitment import SALT_BYTES, Hashes, leaf_hashes

_KIND = "block"


@dataclass(frozen=True)
class Rows:
    """Some rows with what commits to them. `rows`: int8 (k, d). `tags`: uint8 (k, 32). `erased`: bool (k,)."""

    rows: npt.NDArray[np.int8] = field(repr=False)
    tags: Hashes = field(repr=False)
    erased: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: slice) -> Rows:
        return Rows(self.rows[place], self.tags[place], self.erased[place])

    def leaves(self) -> Hashes:
        """The salted leaf hashes, uint8 (k, 32): computed from the rows that are there, kept of those that are gone."""
        held = ~self.erased
        if held.all():
            return leaf_hashes(self.rows, self.tags)
        out = self.tags.copy()
        out[held] = leaf_hashes(self.rows[held], self.tags[held])
        return out

    def without(self, gone: npt.NDArray[np.bool_]) -> Rows:
        """The same with some rows erased: their bytes and salts leave, their leaves stay."""
        rows, tags = self.rows.copy(), self.tags.copy()
        new = gone & ~self.erased
        tags[new] = leaf_hashes(self.rows[new], self.tags[new])
        rows[new] = 0
        return Rows(rows, tags, self.erased | new)

    def kept(self) -> Rows:
        """A copy without the rows that are gone."""
        held = ~self.erased
        return Rows(self.rows[held], self.tags[held], self.erased[held])

    def copy(self) -> Rows:
        """The same in memory of its own."""
        return Rows(self.rows.copy(), self.tags.copy(), self.erased.copy())


def join(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.tags for part in parts]),
        np.concatenate([part.erased for part in parts]),
    )


def content_bytes(rows: int, dim: int) -> int:
    """Bytes of a block's content."""
    return rows * (dim + SALT_BYTES) + -(-rows // 8)


class BlockSealer:
    """Seals blocks in memory of its own, again and again; not for two threads at once."""

    def __init__(self, cipher: AESGCM, gallery: bytes, dim: int, block_rows: int) -> None:
        self._cipher, self._gallery, self._dim = cipher, gallery, dim
        self._content = np.empty(content_bytes(block_rows, dim), np.uint8)
        self._sealed = bytearray(len(self._content) + TAG_BYTES)

    def seal(self, block: Block, rows: Rows) -> list[Bytes]:
        """The pieces of a block's file, valid until the next is sealed."""
        count, dim = rows.rows.shape
        size, rows_end, tags_end = content_bytes(count, dim), count * dim, count * (dim + SALT_BYTES)
        content = self._content[:size]
        content[:rows_end] = rows.rows.view(np.uint8).reshape(-1)
        content[rows_end:tags_end] = rows.tags.reshape(-1)
        content[tags_end:] = np.packbits(rows.erased, bitorder="little")
        out = memoryview(self._sealed)[: size + TAG_BYTES]
        return [seal_into(self._cipher, content.data, out, *_what(self._gallery, block, dim)), out]


class BlockReader:
    """Opens blocks into memory of its own, again and again; not for two threads at once."""

    def __init__(self, folder: Path, cipher: AESGCM, gallery: bytes, dim: int, block_rows: int) -> None:
        self._folder, self._cipher, self._gallery, self._dim = folder, cipher, gallery, dim
        self._content = np.empty(content_bytes(block_rows, dim), np.uint8)
        self._sealed = bytearray(HEAD_BYTES + len(self._content) + TAG_BYTES)

    def read(self, block: Block, once: bool = False) -> Rows:
        """The rows of a block, valid until the next is read. Raises `BlocksCorrupted`, OSError.

        `once`: nobody reads the file again soon, so the system need not keep it in memory.
        """
        path = self._folder / block.name
        size = content_bytes(block.rows, self._dim)
        if size > len(self._content):
            raise BlocksCorrupted(f"{path} is said to hold {block.rows} rows, more than a block of this gallery")
        with path.open("rb", buffering=0) as stream:
            got, view = 0, memoryview(self._sealed)
            while count := stream.readinto(view[got:]):
                got += count
            if once and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        content = self._content[:size]
        unseal_into(self._cipher, view[:got], content.data, path, *_what(self._gallery, block, self._dim))
        count, rows_end = block.rows, block.rows * self._dim
        tags_end = rows_end + count * SALT_BYTES
        return Rows(
            content[:rows_end].view(np.int8).reshape(count, self._dim),
            content[rows_end:tags_end].reshape(count, SALT_BYTES),
            np.unpackbits(content[tags_end:], count=count, bitorder="little").astype(bool),
        )


def _what(gallery: bytes, block: Block, dim: int) -> tuple[str | bytes | int, ...]:
    return _KIND, gallery, block.number, block.generation, block.rows, dim, block.mark
