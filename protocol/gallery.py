"""A holder's gallery at home: templates in the clear, their NTT form, and a reference number for each row."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pets.errors import GalleryError
from pets.params import Parameters, norm_bound
from pets.prf import labelled_hash
from pets.scoring import EncodedGallery, encode_gallery
from protocol.terms import SYNTHETIC_MODEL

REFERENCE_BYTES = 64
REFERENCE_PATTERN = re.compile(rb"[A-Za-z0-9._:/-]{1,64}")


@dataclass(frozen=True)
class Gallery:
    """`templates`: int8 (rows, d). `references`: one a row, random and not identifying (R 19(2)). Never leaves home.

    Rows of one subject have the same reference: a release names it once.
    """

    templates: npt.NDArray[np.int8]
    encoded: EncodedGallery
    references: tuple[str, ...] | None = None
    model: bytes = SYNTHETIC_MODEL

    @classmethod
    def enrol(
        cls,
        templates: npt.NDArray[np.int8],
        params: Parameters,
        references: tuple[str, ...] | None = None,
        model: bytes = SYNTHETIC_MODEL,
        threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> Gallery:
        """Bring templates into NTT form. `progress` is told the number of rows done.

        Raises `GalleryError` for templates that are too long (a score could wrap) or references that do not fit.
        """
        bound = norm_bound(templates.shape[1])
        for start in range(0, len(templates), 65536):
            part = templates[start : start + 65536].astype(np.int32)
            norms = np.einsum("ij,ij->i", part, part)
            if len(norms) and int(norms.max()) > bound:
                row = int(norms.argmax())
                raise GalleryError(f"template {start + row} has squared norm {int(norms[row])}, the limit is {bound}")
        if references is not None:
            if len(references) != len(templates):
                raise GalleryError(f"{len(references)} reference numbers for {len(templates)} templates")
            for reference in references:
                if not REFERENCE_PATTERN.fullmatch(reference.encode()):
                    raise GalleryError(
                        f"a reference number must be 1 to {REFERENCE_BYTES} letters, digits and -_.:/ : {reference!r}"
                    )
        return cls(templates, encode_gallery(templates, params, threads, progress), references, model)

    @classmethod
    def plain(cls, templates: npt.NDArray[np.int8], params: Parameters, model: bytes = SYNTHETIC_MODEL) -> Gallery:
        """A gallery for the plaintext twin only: nothing is brought into NTT form."""
        none = np.empty((0, templates.shape[1]), np.int8)
        return cls(templates, encode_gallery(none, params), None, model)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over all templates: never sent, only salted."""
        return hashlib.sha256(np.ascontiguousarray(self.templates).data).digest()

    def commitment(self, salt: bytes, seed: bytes) -> bytes:
        """Salted commitment to the gallery as it is in this query and to the holder's seed, 32 bytes."""
        return gallery_commitment(salt, self.digest, seed)

    def reference(self, row: int) -> str:
        """The reference number of a row; a random one, made up for this release, where the gallery has none."""
        return self.references[row] if self.references is not None else secrets.token_hex(16)


def gallery_commitment(salt: bytes, digest: bytes, seed: bytes) -> bytes:
    """What a holder commits to before it has seen a ciphertext. `seed`: empty where it has none (OpenFHE)."""
    return labelled_hash("gallery", salt, digest, seed)
