"""Does the gallery that queries are answered from find somebody who is in it? A plain product, at home, once a day."""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from nodes.store.derived import DerivedGallery
from pets.errors import LineupError
from pets.templates import quantise
from protocol.engine import plain_scores

CHUNK_ROWS = 65536
BESIDE_ROWS = 4096  # a block file of the usual size
MARGIN = 0.9  # of the score of the planted subject with itself; a random row comes nowhere near


class SelfTestFailed(LineupError):
    """The gallery in memory is not the stored one, or does not find a subject that was planted in it."""


def self_test(derived: DerivedGallery) -> None:
    """Plant a synthetic subject among the rows in memory, and look for it. Raises `SelfTestFailed`, `StoreError`.

    And read the block files again: their rows must be those in memory, in every copy.
    """
    with derived.beside_files() as (copies, stored):
        for templates in copies:
            for start in range(0, len(templates), BESIDE_ROWS):
                here = templates[start : start + BESIDE_ROWS]  # first: who is erased meanwhile is known to be then
                there = stored.read(start, start + len(here))
                if not np.array_equal(here[~there.erased], there.rows[~there.erased]):
                    raise SelfTestFailed("the gallery in memory is not the one in the block files")
            planted, place = synthetic(templates.shape[1]), secrets.randbelow(len(templates) + 1)
            found = found_rows(templates, planted, place)
            if found != [place]:
                raise SelfTestFailed(f"a planted subject should be found once, and {len(found)} rows were")


def synthetic(dim: int) -> npt.NDArray[np.int8]:
    """A template of nobody, int8 (d,)."""
    drawn = np.frombuffer(secrets.token_bytes(dim), np.uint8).astype(np.float64) - 127.5
    return quantise(drawn / np.linalg.norm(drawn))


def found_rows(templates: npt.NDArray[np.int8], planted: npt.NDArray[np.int8], place: int) -> list[int]:
    """Rows that hit, where `planted` is inserted at `place`: scored chunk by chunk, as the plaintext twin does."""
    least = MARGIN * float(planted.astype(np.int64) @ planted.astype(np.int64))
    found: list[int] = []
    for start in range(0, len(templates) + 1, CHUNK_ROWS):
        rows = templates[start : start + CHUNK_ROWS]
        if start <= place < start + CHUNK_ROWS:
            rows = np.insert(rows, place - start, planted, axis=0)
        hits = np.flatnonzero(plain_scores(rows, planted) >= least)
        found += [start + int(row) for row in hits]
    return found
