"""What a change of the gallery checks before anything is written: rows, their numbers, enrolments that go on."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from nodes.blocks.block import Rows
from nodes.blocks.errors import RunConflict, UnknownRow
from nodes.blocks.manifest import Manifest, Run
from pets.errors import TemplateError
from pets.gallery_commitment import new_salts
from pets.params import norm_bound

_CHECK_ROWS = 1024  # whose squares stay in the cache


def check_rows(rows: npt.NDArray[np.int8], dim: int, first: int = 0) -> None:
    """Check templates, int8 (rows, d). Raises `TemplateError` naming row (counted from `first`), value and limit."""
    if rows.dtype != np.int8 or rows.ndim != 2 or rows.shape[1] != dim:
        raise TemplateError(f"rows must be int8 (rows, {dim}), got {rows.dtype} {rows.shape}")
    bound = norm_bound(dim)
    for start in range(0, len(rows), _CHECK_ROWS):
        part = rows[start : start + _CHECK_ROWS].astype(np.int32)
        norms = np.einsum("ij,ij->i", part, part)
        bad = (norms > bound) | (norms == 0)
        if bad.any():
            place = int(bad.argmax())
            raise TemplateError(
                f"row {first + start + place} has squared norm {int(norms[place])}, it must lie from 1 to {bound}"
            )


def salted(rows: npt.NDArray[np.int8], block_rows: int) -> Iterator[Rows]:
    """The rows with fresh salts, a block at a time."""
    for start in range(0, len(rows), block_rows):
        part = rows[start : start + block_rows]
        yield Rows(part, new_salts(len(part)), np.zeros(len(part), bool))


def note_run(manifest: Manifest, run: Run, before: int) -> None:
    """Keep how far an enrolment came. Raises `RunConflict` unless `before` rows of it were there."""
    known = manifest.run(run.source) or Run(run.source, run.rows, first=manifest.next_row)
    if (known.rows, known.done) != (run.rows, before):
        raise RunConflict(
            f"this enrolment has {known.done} of {known.rows} rows; it was to go on at {before} of {run.rows}"
        )
    manifest.runs = [other for other in manifest.runs if other.source != run.source]
    manifest.runs.append(msgspec.structs.replace(run, first=known.first))


def check_known(manifest: Manifest, row: int) -> None:
    """Raise `UnknownRow` for a number that was never given."""
    if not 0 <= row < manifest.next_row:
        raise UnknownRow(f"there is no row {row}; rows have numbers from 0 to {manifest.next_row - 1}")


def with_predecessors(manifest: Manifest, rows: list[int]) -> list[int]:
    """The rows and all that they replaced, one after the other."""
    replaced: dict[int, list[int]] = {}
    for row, state in manifest.dead.items():
        if state.successor is not None:
            replaced.setdefault(state.successor, []).append(row)
    found, waiting = set(rows), list(rows)
    while waiting:
        for row in replaced.get(waiting.pop(), ()):
            if row not in found:
                found.add(row)
                waiting.append(row)
    return sorted(found)
