"""A holder's gallery at home: templates in the clear, and a reference number for each row."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pets.errors import GalleryError
from pets.gallery_commitment import gallery_root as root_of
from pets.params import Parameters, check_dim, norm_bound
from pets.prf import SECRET_BYTES, derive_key
from pets.templates import Templates
from pets.threads import parallel_ranges
from protocol.release import REFERENCE_BYTES, REFERENCE_PATTERN
from protocol.terms import SYNTHETIC_MODEL


@dataclass(frozen=True)
class Gallery:
    """`templates`: int8 (rows, d). `references`: one a row, random and not identifying (R 19(2)). Never leaves home.

    `params`: they say how many rows make a block. Rows of one subject have the same reference: a release names it once.
    """

    templates: npt.NDArray[np.int8] = field(repr=False)
    params: Parameters
    references: Sequence[str] | None = None
    model: bytes = SYNTHETIC_MODEL
    salt_seed: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES), repr=False)

    @classmethod
    def of(
        cls,
        templates: npt.NDArray[np.int8],
        params: Parameters,
        references: Sequence[str] | None = None,
        model: bytes = SYNTHETIC_MODEL,
        salt_seed: bytes | None = None,
        threads: int = 1,
        root: bytes | None = None,
    ) -> Gallery:
        """A gallery as int8 rows, possibly memory-mapped: what preparations and searches with them need.

        `salt_seed`: 32 secret bytes behind the root; fresh if not given. `root`: what commits to the rows where they
        are kept and were checked when they came (`nodes.blocks`); rows are not read then. Raises
        `GalleryError` for rows that are not int8 (rows, d), are too long (a score could wrap) or do not fit their
        references, and `ParameterError` for a d that is not a multiple of 8 up to 1024.
        """
        if templates.dtype != np.int8 or templates.ndim != 2:
            raise GalleryError(f"templates must be int8 shaped (rows, d), got {templates.dtype} {templates.shape}")
        check_dim(templates.shape[1])
        if root is None:
            _check_templates(templates)
        if root is None or isinstance(references, tuple):  # else they are looked up when they are asked for
            _check_references(len(templates), references)
        gallery = cls(templates, params, references, model, salt_seed or secrets.token_bytes(SECRET_BYTES))
        gallery.__dict__["root"] = root or gallery_root(templates, gallery.salt_seed, params.n, threads)
        return gallery

    @classmethod
    def plain(cls, templates: npt.NDArray[np.int8], params: Parameters, model: bytes = SYNTHETIC_MODEL) -> Gallery:
        """A gallery for the plaintext twin only: nothing is checked or hashed."""
        return cls(templates, params, None, model)

    def forget_rows(self, rows: npt.ArrayLike) -> None:
        """Overwrite the templates of some rows, in place, for good. The root stays that of the rows as they were.

        They are not found any more only where searches are told so first (`protocol.live`): with what was prepared of a
        row, another template scores at random. Raises `GalleryError` for a row that there is not, and for templates
        that are read-only (mapped from a file: forget them where they are kept).
        """
        numbers = np.asarray(rows, np.int64)
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self.templates):
            raise GalleryError(f"rows {int(numbers.min())} to {int(numbers.max())} of {len(self.templates)}")
        if not self.templates.flags.writeable:
            raise GalleryError("the templates are read-only: they must be forgotten where they are kept")
        _ = self.root  # of the rows as they were
        self.templates[numbers] = 0

    def salted(self, salt_seed: bytes) -> Gallery:
        """The same rows under the root that another seed gives."""
        return replace(self, salt_seed=salt_seed)

    @property
    def blocks(self) -> int:
        """Blocks of n rows; the last one is filled up with zeros."""
        return -(-len(self.templates) // self.params.n)

    @cached_property
    def root(self) -> bytes:
        """Merkle root over the salted hashes of all blocks, 32 bytes: which rows, without saying what they are."""
        return gallery_root(self.templates, self.salt_seed, self.params.n)

    def reference(self, row: int) -> str:
        """The reference number of a row; a random one, made up for this release, where the gallery has none."""
        return self.references[row] if self.references is not None else secrets.token_hex(16)


def gallery_root(templates: Templates, salt_seed: bytes, n: int, threads: int = 1) -> bytes:
    """Root of the tree (`pets.merkle`) whose leaves are salted hashes of blocks of n rows, 32 bytes."""
    return root_of(block_hashes(templates, salt_seed, n, threads))


def block_hashes(templates: Templates, salt_seed: bytes, n: int, threads: int = 1) -> list[bytes]:
    """The salted hashes of blocks of n rows, 32 bytes each. Who has one can check its block by itself."""
    hashes = [b""] * -(-len(templates) // n)

    def work(start: int, stop: int) -> None:
        for block in range(start, stop):
            hashes[block] = block_hash(templates[block * n : (block + 1) * n], salt_seed, block)

    parallel_ranges(work, len(hashes), threads)
    return hashes


def block_hash(rows: Templates, salt_seed: bytes, block: int) -> bytes:
    """Of the rows of one block, int8 (up to n, d), under the salt of its number.

    One salt a block and no other memory than the rows, for galleries that are made of a database and gone with the
    process. Block files (`pets.gallery_commitment`) keep a salt a row instead, 32 bytes each, so that a version can
    still be shown when a row of it was forgotten: hence two kinds of block hash, under one kind of root.
    """
    hasher = hashlib.sha256(derive_key(salt_seed, "block-salt", block))
    hasher.update(np.ascontiguousarray(rows).data)
    return hasher.digest()


def _check_templates(templates: npt.NDArray[np.int8]) -> None:
    bound = norm_bound(templates.shape[1])
    for start in range(0, len(templates), 65536):
        part = templates[start : start + 65536].astype(np.int32)
        if part.size and int(part.min()) < -127:
            raise GalleryError(f"a template has the entry {int(part.min())}, the smallest allowed is -127")
        norms = np.einsum("ij,ij->i", part, part)
        if len(norms) and int(norms.max()) > bound:
            row = int(norms.argmax())
            raise GalleryError(f"template {start + row} has squared norm {int(norms[row])}, the limit is {bound}")


def _check_references(rows: int, references: Sequence[str] | None) -> None:
    if references is not None:
        if len(references) != rows:
            raise GalleryError(f"{len(references)} reference numbers for {rows} templates")
        for reference in references:
            if not REFERENCE_PATTERN.fullmatch(reference.encode()):
                raise GalleryError(
                    f"a reference number must be 1 to {REFERENCE_BYTES} letters, digits and -_.:/ : {reference!r}"
                )
