"""Enrolling a .npy file, float or int8, of any size: a chunk in memory at a time, continued after an interruption.

A file is known by its shape, its type and its first rows. With every chunk of rows a digest of all rows so far is
kept. Given again, the rows that were enrolled are read again and compared with it: only a file that goes on as it
began is continued, and one that is enrolled already adds nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from nodes.blocks.errors import RunConflict
from nodes.blocks.gallery import BlockFiles
from nodes.blocks.manifest import Run
from pets.errors import GalleryError, TemplateError
from pets.templates import CHUNK_ROWS, quantise_rows

STEP_ROWS = 131072  # 67 MB at d = 512: what an interruption loses
_FIRST_ROWS = 64
_TYPES = (np.int8, np.float32, np.float64)


@dataclass(frozen=True)
class NpyEnrolment:
    """`first`: number of the file's first row. `added`: rows now; `skipped`: rows that were enrolled before."""

    first: int
    added: int
    skipped: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows added a second."""
        return self.added / self.seconds if self.seconds else 0.0


class NpyRows:
    """The rows of a .npy file, read in pieces; not mapped, so that what was read takes no memory.

    Raises `GalleryError` for a file that is missing or not a plain .npy array, `TemplateError` for a type that is not
    int8, float32 or float64, or for another shape than (rows, `dim`).
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim = path, dim
        try:
            with path.open("rb") as stream:
                shape, column_major, dtype = _header(stream)
                self._start = stream.tell()
        except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GalleryError(f"{path} is not a .npy file of numbers: {reason}") from error
        if dtype not in _TYPES or not dtype.isnative:
            raise TemplateError(f"{path} must hold int8, float32 or float64, got {dtype.str}")
        if len(shape) != 2 or shape[1] != dim or column_major:
            order = " in column order" if column_major else ""
            raise TemplateError(f"{path} must have shape (rows, {dim}), got {shape}{order}")
        self.rows, self.dtype = shape[0], dtype
        size = self._start + self.rows * dim * dtype.itemsize
        if path.stat().st_size != size:
            raise GalleryError(f"{path} has {path.stat().st_size} bytes, its header says {size}")

    def read(self, stream: BinaryIO, start: int, stop: int) -> npt.NDArray[np.int8]:
        """Rows as int8; floats are checked and quantised. Raises `TemplateError` naming row, value and limit."""
        out = np.empty((stop - start, self.dim), np.int8)
        stream.seek(self._start + start * self.dim * self.dtype.itemsize)
        if self.dtype == np.int8:
            _fill(stream, out, self.path)
            return out
        piece = np.empty((min(CHUNK_ROWS, stop - start), self.dim), self.dtype)
        for row in range(start, stop, CHUNK_ROWS):
            part = piece[: min(CHUNK_ROWS, stop - row)]
            _fill(stream, part, self.path)
            out[row - start : row - start + len(part)] = quantise_rows(part, name=str(self.path), first=row)
        return out


def enrol_npy(
    files: BlockFiles,
    path: Path,
    *,
    progress: Callable[[int, int], object] = lambda done, total: None,
    step_rows: int = STEP_ROWS,
) -> NpyEnrolment:
    """Append the rows of a file. `progress` is told how many rows are done, and of how many.

    Killed, it goes on after the last whole step when called again. Raises as `NpyRows` and `BlockFiles.append`, and
    `RunConflict` if the file is not the one that was begun.
    """
    started = time.perf_counter()
    source = NpyRows(path, files.manifest().dim)
    steps = _steps(source, step_rows)
    run: Run | None = None
    first = files.manifest().next_row
    skipped = done = 0
    for part, digest in steps:
        if run is None:
            name = _known_by(source, part)
            run = files.manifest().run(name) or Run(name, source.rows)
            first, skipped = (run.first, run.done) if run.done else (first, 0)
        done += len(part)
        if done <= skipped:
            if done == skipped and digest != run.digest:
                raise RunConflict(
                    f"{path} begins like a file of which {skipped} of {run.rows} rows are enrolled, but is another"
                )
        elif done - len(part) < skipped:
            raise RunConflict(f"{path} was begun in steps of other than {step_rows} rows")
        else:
            files.append(part, run=Run(run.source, source.rows, done, first, digest))
        progress(done, source.rows)
    return NpyEnrolment(first, source.rows - skipped, skipped, time.perf_counter() - started)


def _steps(source: NpyRows, step_rows: int) -> Iterator[tuple[npt.NDArray[np.int8], bytes]]:
    """The rows step by step with the digest of all up to there; the next step is read while one is used."""
    with source.path.open("rb", buffering=0) as stream, ThreadPoolExecutor(1) as reader:
        digest = hashlib.sha256()

        def step(start: int) -> tuple[npt.NDArray[np.int8], bytes]:
            part = source.read(stream, start, min(start + step_rows, source.rows))
            digest.update(part.data)
            return part, digest.digest()

        ahead = reader.submit(step, 0) if source.rows else None
        for start in range(step_rows, source.rows + step_rows, step_rows):
            assert ahead is not None
            ready = ahead.result()
            if start < source.rows:
                ahead = reader.submit(step, start)
            yield ready


def _known_by(source: NpyRows, part: npt.NDArray[np.int8]) -> bytes:
    about = f"{source.rows}|{source.dim}|{source.dtype.str}|".encode()
    return hashlib.sha256(about + part[:_FIRST_ROWS].tobytes()).digest()


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    form: Any = np.lib.format
    version = form.read_magic(stream)
    read = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
    shape, column_major, dtype = read(stream)
    return shape, column_major, dtype


def _fill(stream: BinaryIO, out: npt.NDArray[Any], path: Path) -> None:
    view = out.reshape(-1).view(np.uint8).data
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise GalleryError(f"{path} became shorter while it was read")
        view = view[count:]
