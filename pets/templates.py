"""Templates: unit vectors of a face model, their validation, their int8 form, and the files they travel in.

::

    FILE.npy             float32 or float64 unit vectors, (n, d), or (d,) for one
    FILE.npy.model.json  the model they come from and the photos, in row order

A file without the second part has an unknown model.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pets.errors import MALFORMED, GalleryError, ModelError, ModelMismatch, ParameterError, TemplateError
from pets.params import check_dim, norm_bound, scale

NORM_TOLERANCE = 1e-3  # float32 rounding moves a norm by less than 1e-6; a file that was never normalised is far off
MAX_ENTRY = 127
CHUNK_ROWS = 8192  # 64 MiB of float64 at the largest dimension

Templates = NDArray[np.int8]  # quantised (rows, d), or one of them (d,)
FloatArray = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class ModelSpec:
    """What must be equal for two templates to be comparable.

    `detector_sha256`, `embedder_sha256`: 64 lower-case hex digits of the ONNX files. `alignment`: version of the code
    between the two. `dim`: entries of a template. `scale`: S of the quantisation. `centre_sha256`: of the file with
    the centre that is subtracted (`pets.centre`), empty if none is. Raises `ModelError`.
    """

    detector_sha256: str
    embedder_sha256: str
    alignment: str
    dim: int
    scale: int
    centre_sha256: str = ""

    def __post_init__(self) -> None:
        for value in (self.detector_sha256, self.embedder_sha256, self.centre_sha256 or "0" * 64):
            if not re.fullmatch(r"[0-9a-f]{64}", value):
                raise ModelError(f"a model's SHA-256 has 64 lower-case hex digits, got {value[:80]!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.alignment):
            raise ModelError(f"an alignment version has 1 to 64 of A-Z a-z 0-9 . _ -, got {self.alignment[:80]!r}")
        try:
            limit = scale(self.dim)
        except ParameterError as error:
            raise ModelError(str(error)) from error
        if self.scale != limit:
            raise ModelError(f"scale at dimension {self.dim} is {limit}, got {self.scale}")

    def digest(self) -> bytes:
        """SHA-256 over all fields, 32 bytes."""
        fields = [self.detector_sha256, self.embedder_sha256, self.alignment, self.dim, self.scale]
        if self.centre_sha256:
            fields.append(self.centre_sha256)
        return hashlib.sha256("|".join(["lineup model identity 1", *map(str, fields)]).encode()).digest()

    def to_json(self) -> str:
        """One JSON object with the field names as keys."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """The inverse of `to_json`. Raises `ModelError`."""
        try:
            return msgspec.json.decode(text, type=cls)
        except MALFORMED as error:  # covers a wrong type and a missing field too
            raise ModelError(f"not a model specification: {error}") from error

    def __str__(self) -> str:
        short = f"detector {self.detector_sha256[:12]}…, embedder {self.embedder_sha256[:12]}…"
        centre = f", centre {self.centre_sha256[:12]}…" if self.centre_sha256 else ""
        return f"{short}, alignment {self.alignment}, d = {self.dim}, S = {self.scale}{centre}"


def check_same_model(
    a: ModelSpec | None, b: ModelSpec | None, *, names: tuple[str, str] = ("the probe", "the gallery")
) -> None:
    """Raise `ModelMismatch`, which names both models, if both are known and differ. `None` is an unknown model."""
    if a is not None and b is not None and a != b:
        raise ModelMismatch(
            f"templates of two models cannot be compared: {names[0]} comes from ({a}), {names[1]} from ({b})"
        )


def unit_templates(array: NDArray[Any], *, name: str) -> FloatArray:
    """Return `array` if it holds unit templates, (d,) or (n, d), float32 or float64; copies nothing.

    `name` stands for the array in messages. Raises `TemplateError` for a wrong type or shape, a dimension that is not a
    multiple of 8 from 8 to 1024, NaN or infinity, a zero vector, or a norm outside 1 ± 0.001.
    """
    checked = _check_form(array, name)
    for start, rows in _chunks(checked):
        _check_rows(rows, start, name)
    return checked


def quantise(unit: NDArray[Any], *, name: str = "template") -> NDArray[np.int8]:
    """round(S·x), int8, in the shape of `unit`: (d,) or (n, d). See `quantise_rows`."""
    return quantise_rows(unit, name=name).reshape(unit.shape)


def quantise_rows(
    array: NDArray[Any],
    *,
    name: str = "templates",
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> NDArray[np.int8]:
    """Validate like `unit_templates` and return round(S·x), (n, d) int8, in one pass over `array`.

        D[i][j] = clip(round_half_to_even(S·x[i][j]), -127, 127)        S = scale(d), S·x in float64

    A row is not normalised again afterwards. `array` may be memory-mapped: beyond the result, 8192 rows are held at a
    time. `progress(rows)` is called after each such step with the number of rows just done. `first`: what messages
    count rows from.
    Raises `TemplateError` as `unit_templates` does.
    """
    checked = _check_form(array, name)
    dim = checked.shape[-1]
    result = np.empty((1 if checked.ndim == 1 else len(checked), dim), np.int8)
    for start, rows in _chunks(checked):
        scaled = _check_rows(rows, first + start, name)
        scaled *= scale(dim)
        np.rint(scaled, out=scaled)
        np.clip(scaled, -MAX_ENTRY, MAX_ENTRY, out=scaled)
        _check_bound(scaled, first + start, dim, name)
        result[start : start + len(rows)] = scaled
        if progress is not None:
            progress(len(rows))
    return result


def _check_form(array: NDArray[Any], name: str, *, quantised: bool = False) -> FloatArray:
    if array.dtype not in (np.float32, np.float64, *([np.int8] if quantised else [])):
        kinds = "float32, float64, or int8 if quantised," if quantised else "float32 or float64,"
        raise TemplateError(f"{name} must be {kinds} got {array.dtype}")
    if array.ndim not in (1, 2):
        raise TemplateError(f"{name} must have shape (d,) or (n, d), got {array.shape}")
    try:
        check_dim(array.shape[-1])
    except ParameterError as error:
        raise TemplateError(f"{name} has shape {array.shape}: {error}") from error
    return array


def _chunks(array: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    rows = array.reshape(1, -1) if array.ndim == 1 else array
    for start in range(0, len(rows), CHUNK_ROWS):
        yield start, rows[start : start + CHUNK_ROWS]


def _check_rows(rows: FloatArray, start: int, name: str) -> NDArray[np.float64]:
    """The rows as a new float64 array, once their norms are known to be 1."""
    exact = rows.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        bad = ~(np.abs(norms - 1) <= NORM_TOLERANCE)  # written so that NaN is bad
    if bad.any():
        row = int(np.argmax(bad))
        where = f"row {start + row} of {name}"
        column = int(np.argmin(np.isfinite(exact[row])))
        if not np.isfinite(exact[row, column]):
            raise TemplateError(f"{where} has {exact[row, column]} at entry {column}, every entry must be finite")
        if not exact[row].any():
            raise TemplateError(f"{where} is the zero vector, its norm must be 1 ± {NORM_TOLERANCE}")
        raise TemplateError(f"{where} has norm {norms[row]:.6g}, it must be 1 ± {NORM_TOLERANCE}")
    return exact


def _check_bound(scaled: NDArray[np.float64], start: int, dim: int, name: str) -> None:
    """Refuse a row that rounding made longer than the norm bound, which the range of scores rests on.

    A face model's vectors come that far in fewer than one of 10^15 (`norm_bound`); one that uses up the norm
    tolerance, or most of whose entries sit just above one half after scaling, can.
    """
    squared = np.einsum("ij,ij->i", scaled, scaled)  # exact: integers far below 2^53
    row = int(np.argmax(squared))
    if squared[row] > norm_bound(dim):
        raise TemplateError(
            f"row {start + row} of {name} has squared norm {int(squared[row])} after rounding, "
            f"the limit is {norm_bound(dim)}; normalise it to 1 exactly, or take another photo"
        )


def load_templates(path: Path, *, what: str, quantised: bool = False) -> FloatArray:
    """Open a .npy file as a read-only memory map, (d,) or (n, d), float32 or float64; int8 too where `quantised`.

    `what` stands for the file in messages, as in "gallery". Only the header is checked here; `quantise_rows` checks
    the values. Raises `GalleryError` for a file that is missing or not a plain .npy array, `TemplateError` for a wrong
    dtype or shape.
    """
    if not path.is_file():
        raise GalleryError(f"{what} {path} " + ("is not a file" if path.exists() else "does not exist"))
    try:
        # never unpickles: an array of objects is refused by its header
        array = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GalleryError(f"{what} {path} is not a .npy file of numbers: {reason}") from error
    return _check_form(array, f"{what} {path}", quantised=quantised)


@dataclass(frozen=True)
class _Sidecar:
    model: ModelSpec
    photos: list[str]


def sidecar_path(path: Path) -> Path:
    """FILE.npy -> FILE.npy.model.json."""
    return path.with_name(path.name + ".model.json")


def save_templates(path: Path, templates: NDArray[np.float32], spec: ModelSpec, photos: Sequence[str]) -> None:
    """Write (n, d) unit templates and, beside them, their model and the n photo names in row order.

    Each file appears whole or not at all. Raises `TemplateError`, or `GalleryError` if the files cannot be written.
    """
    unit_templates(templates, name=path.name)
    if templates.ndim != 2 or templates.shape != (len(photos), spec.dim):
        raise TemplateError(f"{path.name} must have shape {(len(photos), spec.dim)}, got {templates.shape}")
    sidecar = msgspec.json.format(msgspec.json.encode(_Sidecar(spec, list(photos))), indent=2) + b"\n"
    try:
        # in this order a crash leaves templates without a model, never with another's
        sidecar_path(path).unlink(missing_ok=True)
        _write_atomically(path, lambda stream: np.save(stream, templates, allow_pickle=False))
        _write_atomically(sidecar_path(path), lambda stream: stream.write(sidecar))
    except OSError as error:
        raise GalleryError(f"{path} cannot be written: {error}") from error


def read_model_spec(path: Path) -> ModelSpec | None:
    """The model of a template file, or None if no sidecar lies beside it.

    Raises `ModelError` for a sidecar that cannot be read, or that was written for another number of rows or dimension.
    """
    parsed = _read_sidecar(path)
    return None if parsed is None else parsed.model


def read_photo_names(path: Path) -> tuple[str, ...]:
    """The photo of each row of a template file, or nothing if it has no sidecar. Raises as `read_model_spec`."""
    parsed = _read_sidecar(path)
    return () if parsed is None else tuple(parsed.photos)


def _read_sidecar(path: Path) -> _Sidecar | None:
    sidecar = sidecar_path(path)
    try:
        parsed = msgspec.json.decode(sidecar.read_bytes(), type=_Sidecar)
    except FileNotFoundError:
        return None
    except (OSError, *MALFORMED, ModelError) as error:
        raise ModelError(f"{sidecar} cannot be read: {error}") from error
    shape = load_templates(path, what="template file", quantised=True).shape
    expected = (len(parsed.photos), parsed.model.dim)
    if shape != expected and (1, *shape) != expected:
        raise ModelError(f"{sidecar} was written for templates of shape {expected}, {path.name} has {shape}")
    return parsed


def _write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
