"""The rows that a holder searched, put together from those that it has now, block by block.

Who was forgotten since is gone, and everybody behind has moved up; who was enrolled since stands at the end. A block is
what it was if its salted hash is. Of a block that is not, nothing can be recomputed, and the audit says which it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.config.schema import Purpose, load_config
from nodes.config.storage import holder_store
from nodes.evidence.block_hashes import block_hash
from nodes.store import EmptyStore
from protocol.messages import Search

Templates = npt.NDArray[np.int8]
TRIES = 20_000  # hashes of a block, about a millisecond each at d = 512


@dataclass(frozen=True)
class Rows:
    """`templates`: int8 (rows, d), zero in the blocks that are `missing`."""

    templates: Templates = field(repr=False)
    missing: frozenset[int]

    def whole(self, first: int, count: int) -> bool:
        """Whether none of these blocks is missing."""
        return self.missing.isdisjoint(range(first, first + count))


def stored_rows(folder: Path, announce: Search) -> Iterator[Templates]:
    """What a node would search now: all that it holds, then what it holds for the purpose of the warrant.

    Raises `StoreError` and as the configuration does.
    """
    policy = load_config(folder).policy
    purpose = None if announce.warrant is None else Purpose(announce.warrant.purpose)
    choices = [None] if purpose is None else [None, policy.searched(purpose)]
    with holder_store(folder) as store:
        for categories in choices:
            try:
                yield store.snapshot(datetime.now(timezone.utc), categories=categories).templates
            except EmptyStore:
                yield np.empty((0, announce.dim), np.int8)


def as_searched(
    stored: Iterable[Templates], rows: int, dim: int, n: int, hashes: Sequence[bytes], salt_seed: bytes
) -> Rows:
    """The `rows` rows under these hashes, one for each block of n, as far as `stored` still has them."""
    best = Rows(np.zeros((rows, dim), np.int8), frozenset(range(len(hashes))))
    for templates in stored:
        if templates.shape[1] != dim:
            continue
        starts = _starts(templates, rows, n, hashes, salt_seed)
        missing = frozenset(block for block, start in enumerate(starts) if start is None)
        if not missing and len(templates) >= rows:
            return Rows(templates[:rows], missing)
        if len(missing) < len(best.missing):
            best = Rows(_gathered(templates, rows, n, starts), missing)
    return best


def _starts(
    templates: Templates, rows: int, n: int, hashes: Sequence[bytes], salt_seed: bytes
) -> list[int | None]:
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


def _gathered(templates: Templates, rows: int, n: int, starts: Sequence[int | None]) -> Templates:
    out = np.zeros((rows, templates.shape[1]), np.int8)
    for block, start in enumerate(starts):
        if start is not None:
            part = out[block * n : (block + 1) * n]
            part[:] = templates[start : start + len(part)]
    return out
