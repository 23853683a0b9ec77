"""Who may be enrolled, what is known of a subject, and the results of storage operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nodes.store.errors import CategoryNotAllowed, StoreRefusal
from pets.errors import ParameterError, TemplateError
from pets.params import check_dim, norm_bound

MODEL_BYTES = 32
MAX_PHOTO_BYTES = 32 * 2**20
MIN_CITATION = 3
MAX_ROWS_OF_SUBJECT = 4  # photos decades apart; of others a fused template misses no more


class Category(str, Enum):
    """Why a person is in the gallery (Article 19(1), Article 29)."""

    SUSPECT = "suspect"
    CONVICTED = "convicted"
    UNIDENTIFIED = "unidentified"
    VICTIM = "victim"
    MISSING = "missing"
    REMAINS = "remains"


DEFAULT_CATEGORIES = frozenset({Category.SUSPECT, Category.CONVICTED, Category.UNIDENTIFIED})
NATIONAL_LAW_CATEGORIES = frozenset({Category.VICTIM, Category.MISSING, Category.REMAINS})


class Status(str, Enum):
    """Whether the holder knows who it is (Article 19(3)); quotas count the two apart (Article 23(1))."""

    IDENTIFIED = "identified"
    UNIDENTIFIED = "unidentified"


@dataclass(frozen=True)
class Subject:
    """What is known of a subject without opening photo or template. `retain_until`: the last day it is searched.

    `enrolled`: when, UTC; None for one that an earlier version enrolled.
    """

    reference: str
    category: Category
    status: Status
    retain_until: date
    contested: bool
    quality: int | None
    model: bytes
    has_photo: bool
    enrolled: datetime | None = None


@dataclass(frozen=True)
class ContestedEvent:
    """The contested-accuracy flag was raised (`authority` is None), or cleared on an authority's decision."""

    time: datetime
    authority: str | None


@dataclass(frozen=True)
class DeletionReceipt:
    """A subject, with its photo and template, was deleted; no snapshot from `generation` on holds it."""

    reference: str
    time: datetime
    generation: int
    reason: str  # "forgotten" or "expired"


@dataclass(frozen=True)
class Reconciled:
    """What a restored database and the templates beside it had to give up to be of one moment.

    `forgotten`: subjects that were forgotten since the backup. `lost`: templates that were enrolled since.
    """

    forgotten: tuple[DeletionReceipt, ...]
    lost: int


@dataclass(frozen=True)
class BulkEnrolment:
    """`references` of the rows enrolled now, in order, where they were to be told; `added`: how many there are.

    `skipped`: rows at the front that were enrolled before.
    """

    references: tuple[str, ...]
    skipped: int
    added: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The gallery at one moment.

    `templates`: int8 (rows, d). `references`: one a row, the same for all rows of one subject. `model`: 32 bytes.
    `generation`: of the store. `valid_through`: the last day on which no row is past its retention date; None if there
    are no rows.
    """

    templates: npt.NDArray[np.int8] = field(repr=False)
    references: tuple[str, ...]
    model: bytes
    generation: int
    valid_through: date | None


@dataclass(frozen=True)
class Particulars:
    """What is recorded beside a template. Raises `StoreRefusal` for values outside their range.

    `model`: digest of the model specification, 32 bytes. `quality`: 0 to 100 (ISO/IEC 29794-5), None if not measured.
    """

    category: Category
    status: Status
    retain_until: date
    model: bytes
    quality: int | None = None

    def __post_init__(self) -> None:
        if (self.category is Category.UNIDENTIFIED) and self.status is not Status.UNIDENTIFIED:
            raise StoreRefusal("a subject of category 'unidentified' must have status 'unidentified'")
        if type(self.retain_until) is not date:
            raise StoreRefusal("the retention date must be a date without a time")
        if len(self.model) != MODEL_BYTES:
            raise StoreRefusal(f"a model digest has {MODEL_BYTES} bytes, got {len(self.model)}")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise StoreRefusal(f"a quality must be from 0 to 100, got {self.quality}")

    def __str__(self) -> str:
        quality = "" if self.quality is None else f", quality {self.quality}"
        return f"{self.category.value}, {self.status.value}, until {self.retain_until}{quality}"


def check_categories(categories: Iterable[Category], national_law: Mapping[Category, str]) -> frozenset[Category]:
    """The allow-list of a node (Article 19(1), Article 29).

    `national_law` cites, for each of victims, missing persons and remains, the national law that permits it. Raises
    `CategoryNotAllowed` for one of them without a citation, or a name that is no category.
    """
    try:
        allowed = frozenset(Category(category) for category in categories)
    except ValueError as error:
        names = ", ".join(category.value for category in Category)
        raise CategoryNotAllowed(f"{error}; known categories: {names}") from None
    for category in sorted(allowed & NATIONAL_LAW_CATEGORIES):
        if len(national_law.get(category, "").strip()) < MIN_CITATION:
            raise CategoryNotAllowed(
                f"category {category.value!r} may be held only where national law permits it: cite that law"
            )
    return allowed


def check_state(state: str) -> str:
    """Return a member state's two-letter code. Raises `StoreRefusal`."""
    if not re.fullmatch(r"[A-Z]{2}", state):
        raise StoreRefusal(f"a state has a code of two capital letters, got {state[:20]!r}")
    return state


class Templates(Protocol):
    """Quantised templates, int8 (rows, d), that are read a slice at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> npt.NDArray[np.int8]: ...


def check_templates(templates: npt.NDArray[np.int8], first: int = 0) -> None:
    """Check quantised templates, int8 (rows, d). Raises `TemplateError`, which names a row (counted from `first`) but
    none of its values."""
    if templates.dtype != np.int8 or templates.ndim != 2:
        raise TemplateError(f"templates must be int8 (rows, d), got {templates.dtype} {templates.shape}")
    try:
        dim = check_dim(templates.shape[1])
    except ParameterError as error:
        raise TemplateError(str(error)) from error
    for start in range(0, len(templates), 65536):
        part = templates[start : start + 65536].astype(np.int32)
        norms = np.einsum("ij,ij->i", part, part)
        bad = (norms > norm_bound(dim)) | (norms == 0)
        if bad.any():
            row = int(bad.argmax())
            what = f"is longer than the norm bound {norm_bound(dim)} allows" if norms[row] else "is zero"
            raise TemplateError(f"template {first + start + row} {what}")


def utc_day(now: datetime) -> date:
    """The UTC day of a moment. Raises `StoreRefusal` for a time without a zone."""
    if now.tzinfo is None:
        raise StoreRefusal("a time must have a zone")
    return now.astimezone(timezone.utc).date()


def utc_seconds(now: datetime) -> int:
    """Seconds since 1970 of a moment. Raises `StoreRefusal` for a time without a zone."""
    utc_day(now)
    return int(now.timestamp())


def utc_time(seconds: int) -> datetime:
    """The inverse of `utc_seconds`."""
    return datetime.fromtimestamp(seconds, timezone.utc)
