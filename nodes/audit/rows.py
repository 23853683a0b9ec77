"""The rows that a holder searched, put together from those that it has now, block by block.

Who was forgotten since is gone, and everybody behind has moved up; who was enrolled since stands at the end. A block is
what it was if its salted hash is. Of a block that is not, nothing can be recomputed, and the audit says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.config.names import Purpose
from nodes.config.schema import load_config
from nodes.config.storage import holder_store
from nodes.store import EmptyStore
from pets.templates import Templates
from protocol.gallery import block_hash
from protocol.messages import Search

TRIES = 20_000  # hashes of a block, about a millisecond each at d = 512


@dataclass(frozen=True)
class Stored:
    """What a node holds now. `templates`: int8 (rows, d). `found`: bool (rows,), who may be found for this purpose."""

    templates: Templates = field(repr=False)
    found: npt.NDArray[np.bool_] = field(repr=False)


@dataclass(frozen=True)
class Rows:
    """`templates`: int8 (rows, d), zero in the blocks that are `missing`. `found`: as in `Stored`."""

    templates: Templates = field(repr=False)
    found: npt.NDArray[np.bool_] = field(repr=False)
    missing: frozenset[int]

    def whole(self, first: int, count: int) -> bool:
        """Whether none of these blocks is missing."""
        return self.missing.isdisjoint(range(first, first + count))


def stored_rows(folder: Path, announce: Search) -> Stored:
    """The gallery of a holder's folder. Raises `StoreError` and as the configuration does."""
    policy, now = load_config(folder).policy, datetime.now(timezone.utc)
    with holder_store(folder) as store:
        searched = store.categories if announce.warrant is None else policy.searched(Purpose(announce.warrant.purpose))
        try:
            snapshot = store.snapshot(now)
        except EmptyStore:
            return Stored(np.empty((0, announce.dim), np.int8), np.empty(0, np.bool_))
        _, references = store.standing(now, searched)
    found = np.fromiter((reference in references for reference in snapshot.references), np.bool_)
    return Stored(snapshot.templates, found)


def as_searched(stored: Stored, rows: int, n: int, hashes: Sequence[bytes], salt_seed: bytes) -> Rows:
    """The `rows` rows under these hashes, one for each block of n, as far as `stored` still has them."""
    starts = _starts(stored.templates, rows, n, hashes, salt_seed)
    missing = frozenset(block for block, start in enumerate(starts) if start is None)
    if not missing:
        return Rows(stored.templates[:rows], stored.found[:rows], missing)
    templates = np.zeros((rows, stored.templates.shape[1]), np.int8)
    found = np.zeros(rows, np.bool_)
    for block, start in enumerate(starts):
        if start is not None:
            stop = min((block + 1) * n, rows)
            templates[block * n : stop] = stored.templates[start : start + stop - block * n]
            found[block * n : stop] = stored.found[start : start + stop - block * n]
    return Rows(templates, found, missing)


def _starts(templates: Templates, rows: int, n: int, hashes: Sequence[bytes], salt_seed: bytes) -> list[int | None]:
    """Where each block begins now, None if it is not there as it was."""
    found: list[int | None] = []
    shift, reach, tries = 0, 0, TRIES  # rows known to be gone before a block, and how many more may be
    for block, wanted in enumerate(hashes):
        begin, size = block * n, min(n, rows - block * n)
        start = None
        for gone in range(shift, min(shift + reach, begin) + 1):
            place = templates[begin - gone : begin - gone + size]
            if len(place) == size and block_hash(place, salt_seed, block) == wanted:
                start, shift, reach = begin - gone, gone, 0
                break
            tries -= 1
            if tries <= 0:
                break
        if start is None:
            reach = reach + n if tries > 0 else 0
        found.append(start)
    return found
