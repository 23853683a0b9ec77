"""What the operator of a holder does with its gallery: enrol people, delete them, and mark one as contested."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from nodes.casework.exchange.files import photos_in
from nodes.casework.exchange.type10 import ExchangeError
from nodes.casework.quality import assess, overall
from nodes.config.schema import Role, load_config
from nodes.config.storage import holder_store
from nodes.operator.acting import ROLES, acting
from nodes.store import Category, DeletionReceipt, DuplicatePhoto, Status, StoreRefusal, Subject
from nodes.store.enrolment import check_allowed
from nodes.store.handling import Handler
from nodes.store.store import GalleryStore
from nodes.store.subjects import check_templates
from pets.errors import InputError, ModelMismatch, OddPhoto, PhotoError
from pets.faces import FaceModel, Provider
from pets.fusion import fuse
from pets.templates import load_templates, quantise_rows, read_model_spec, sidecar_path
from protocol.approval import PersonRole
from protocol.terms import SYNTHETIC_MODEL

RETENTION_DAYS = 3 * 365
STEP_ROWS = 65536
Progress = Callable[[int, int], object]
Unit = npt.NDArray[np.float32]


class Grouping(str, Enum):
    """Which photos show one person: each its own, all that are given, or those in one folder."""

    PHOTO = "photo"
    ALL = "all"
    FOLDER = "folder"


class Enrolled(msgspec.Struct, frozen=True):
    """What `lineup enroll` did. `references`: of the subjects added now; `photos`: of every photo, added or known.

    `skipped`: files in the folders that are no photos. `several`: faces on each photo that had more than one.
    """

    added: int
    already_enrolled: int
    failed: dict[str, str]
    references: tuple[str, ...]
    photos: dict[str, str] = {}
    skipped: tuple[str, ...] = ()
    several: dict[str, int] = {}


def enroll(
    folder: Path,
    sources: Sequence[Path],
    *,
    category: Category,
    status: Status,
    retain_until: date | None,
    models: Path | None,
    provider: Provider,
    largest: bool,
    grouping: Grouping = Grouping.PHOTO,
    apart: bool = False,
    table: Path | None = None,
    progress: Progress = lambda done, total: None,
    key: Path | None = None,
    reason: str = "",
    tell: bool = True,
) -> Enrolled:
    """Add photos (files, folders) or one .npy file of templates, unit vectors or int8; not what is enrolled already.

    Photos of one person, by `grouping` or by the column `subject` of `table` (CSV: photo, subject), are fused into one
    template; `apart`: each stays a row of its own, at most four, not compared with the others, and the person still is
    one subject. So an interrupted enrolment is continued by giving the same command again. `progress` is told how many
    photos or templates are done, and of how many. `key`, `reason`: who does it, and why (`nodes.operator.acting`).
    `tell`: the references of templates, of which there may be millions. Raises `InputError`, `StoreError`,
    `ModelMismatch` for another face model than the gallery's: the node could not serve it then.
    """
    today = datetime.now(timezone.utc).date()
    until = retain_until or today + timedelta(days=RETENTION_DAYS)
    if until < today:
        raise InputError(f"the last day they are searched, {until}, has passed: it must be today ({today}) or later")
    templates = [source for source in sources if source.suffix == ".npy"]
    if templates and (table is not None or apart or grouping is not Grouping.PHOTO):
        raise InputError(f"{templates[0]} holds templates: who they show can only be given for photos")
    if templates and len(sources) > 1:
        raise InputError(f"{templates[0]} holds templates: enrol it with a separate command, without photos")
    with holder_store(folder, handler_at(folder, key, reason)) as store:
        check_allowed(category, store.categories)
        if templates:
            return _enroll_templates(store, templates[0], category, status, until, progress, tell)
        from pets.photos import skipped_files  # needs the extra faces, which templates do not

        model = FaceModel.load(models, provider)
        _check_model(store, model.spec.digest(), f"the photos are embedded by {model.spec}")
        groups = table_groups(table) if table is not None else photo_groups(sources, grouping)
        details = _Details(category, status, until, model.spec.digest())
        result = _Enrolment(store, model, details, largest, apart).run(groups, progress)
        return msgspec.structs.replace(result, skipped=tuple(str(path) for path in skipped_files(sources)))


def _check_model(store: GalleryStore, model: bytes, whose: str) -> None:
    held = store.models() - {model}
    if held:
        others = ", ".join(f"{digest.hex()[:12]}…" for digest in sorted(held))
        raise ModelMismatch(
            f"{whose}, which is model {model.hex()[:12]}…; the gallery holds templates of {others}, and faces of two "
            "models cannot be compared: nothing was enrolled"
        )


def _enroll_templates(
    store: GalleryStore, path: Path, category: Category, status: Status, until: date, progress: Progress, tell: bool
) -> Enrolled:
    templates = NpyTemplates(path)
    spec = read_model_spec(path)
    model = spec.digest() if spec is not None else SYNTHETIC_MODEL
    whose = f"{path} says {spec}" if spec is not None else f"no {sidecar_path(path)} names the model of {path}"
    _check_model(store, model, whose)
    result = store.enrol_many(
        templates,
        category=category,
        status=status,
        retain_until=until,
        model=model,
        source=templates.digest(),
        progress=lambda done: progress(done, len(templates)),
        tell=tell,
    )
    return Enrolled(result.added, result.skipped, {}, result.references)


class NpyTemplates:
    """The rows of a .npy file, float or int8, as int8: a slice in memory at a time. Raises as `load_templates`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = np.atleast_2d(load_templates(path, what="templates", quantised=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> npt.NDArray[np.int8]:
        rows = self._rows[part]
        if rows.dtype == np.int8:
            return np.array(rows)
        return np.atleast_2d(quantise_rows(rows, name=str(self._path), first=part.indices(len(self))[0]))

    def digest(self) -> bytes:
        """SHA-256 of all rows. So every row is looked at before one is stored. Raises `TemplateError` for a bad one."""
        digest = hashlib.sha256()
        for start in range(0, len(self), STEP_ROWS):
            part = self[start : start + STEP_ROWS]
            check_templates(part, start)
            digest.update(part.data)
        return digest.digest()


def photo_groups(sources: Sequence[Path], grouping: Grouping) -> list[list[Path]]:
    """Photos by person. Raises `InputError`."""
    from pets.photos import list_photos  # needs the extra faces, which templates do not

    paths = list_photos(sources)
    if grouping is Grouping.ALL:
        return [paths]
    if grouping is Grouping.PHOTO:
        return [[path] for path in paths]
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    return list(by_folder.values())


def table_groups(table: Path) -> list[list[Path]]:
    """Photos by person, from a CSV file with the columns `photo` (beside the file, or absolute) and `subject`.

    Raises `InputError`.
    """
    by_subject: dict[str, list[Path]] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if not {"photo", "subject"} <= set(rows.fieldnames or ()):
                raise InputError(f"{table} must have the columns photo and subject, it has {rows.fieldnames}")
            for row in rows:
                if not row["photo"] or not row["subject"]:
                    raise InputError(f"{table}, line {rows.line_num}: a photo and a subject are needed")
                by_subject.setdefault(row["subject"], []).append(table.parent / row["photo"])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read: {error}") from None
    if not by_subject:
        raise InputError(f"{table} names no photo")
    return list(by_subject.values())


@dataclass(frozen=True)
class _Details:
    """What is recorded of every subject of this enrolment."""

    category: Category
    status: Status
    retain_until: date
    model: bytes


@dataclass(frozen=True)
class _Face:
    """One face of a subject: the photo's name and bytes, the unit template, quality 0 to 100."""

    name: str
    content: bytes = field(repr=False)
    unit: Unit = field(repr=False)
    quality: int


class _Enrolment:
    """One `lineup enroll` of photos: subject by subject, each stored whole or not at all."""

    def __init__(self, store: GalleryStore, model: FaceModel, details: _Details, largest: bool, apart: bool) -> None:
        self._store, self._model, self._details = store, model, details
        self._largest, self._apart = largest, apart
        self._failed: dict[str, str] = {}
        self._several: dict[str, int] = {}
        self._references: list[str] = []
        self._photos: dict[str, str] = {}
        self._known = 0

    def run(self, groups: Sequence[Sequence[Path]], progress: Progress) -> Enrolled:
        """Enrol people. What fails is kept by photo, and the others go on."""
        total, done = sum(map(len, groups)), 0
        for group in groups:
            self._subject(group)
            done += len(group)
            progress(done, total)
        return Enrolled(
            len(self._references),
            self._known,
            self._failed,
            tuple(self._references),
            self._photos,
            several=self._several,
        )

    def _subject(self, paths: Sequence[Path]) -> None:
        read: list[tuple[str, bytes]] = []
        for path in paths:
            try:
                read += photos_in(path)
            except (ExchangeError, OSError) as error:
                self._failed[str(path)] = str(error)
        found = {name: self._store.find_photo(content) for name, content in read}
        known = {name: reference for name, reference in found.items() if reference is not None}
        self._known += len(known)
        self._photos |= known
        if known:
            held = next(iter(known.values()))
            for name in found.keys() - known.keys():
                self._failed[name] = f"{name}: {held} is enrolled without it; forget it, then enroll all photos"
            return
        faces = [face for name, content in read if (face := self._embed(name, content)) is not None]
        while faces:
            try:
                self._store_subject(faces)
                break
            except OddPhoto as error:
                for place in sorted(error.places, reverse=True):
                    self._failed[faces.pop(place).name] = str(error)

    def _embed(self, name: str, content: bytes) -> _Face | None:
        from pets.photos import decode_photo

        try:
            image = decode_photo(content, name)
            face = self._model.embed(image, largest=self._largest, name=name)
            if face.faces > 1:
                self._several[name] = face.faces
            return _Face(name, content, face.template, overall(assess(image, face)))
        except PhotoError as error:
            self._failed[name] = str(error)
            return None

    def _store_subject(self, faces: Sequence[_Face]) -> None:
        names, units = [face.name for face in faces], np.stack([face.unit for face in faces])
        rows = units if self._apart else fuse(units, names)[None]
        try:
            reference = self._store.enrol_subject(
                [face.content for face in faces],
                np.atleast_2d(quantise_rows(rows, name=names[0])),
                category=self._details.category,
                status=self._details.status,
                retain_until=self._details.retain_until,
                model=self._details.model,
                quality=min(face.quality for face in faces),
                names=[Path(name).name for name in names],
            )
        except StoreRefusal as error:
            if isinstance(error, DuplicatePhoto) and len(names) == 1:  # another process was faster
                self._known += 1
                self._photos[names[0]] = error.reference
            else:  # the same photo twice, or too many rows
                self._failed |= {name: f"{name}: {error}" for name in names}
            return
        self._references.append(reference)
        self._photos |= dict.fromkeys(names, reference)


def contest(
    folder: Path, reference: str, authority: str | None, *, key: Path | None = None, reason: str = ""
) -> Subject:
    """Mark a subject's accuracy as contested, or clear the mark on a decision. Raises `StoreError`, `InputError`."""
    now = datetime.now(timezone.utc)
    with holder_store(folder, handler_at(folder, key, reason or authority or "")) as store:
        if authority is None:
            store.flag_contested(reference, now)
        else:
            store.clear_contested(reference, authority, now)
        return store.subject(reference)


def forget(
    folder: Path, references: Sequence[str], *, key: Path | None = None, reason: str = ""
) -> list[DeletionReceipt]:
    """Delete subjects, passing over references that do not exist. Raises `StoreError`, `InputError`."""
    with holder_store(folder, handler_at(folder, key, reason)) as store:
        return store.forget_all(references, datetime.now(timezone.utc))


def handler_at(folder: Path, key: Path | None, reason: str, roles: tuple[PersonRole, ...] = ROLES) -> Handler | None:
    """Who works on a gallery; None at another role's node, which has none and says so when it is opened."""
    return acting(folder, key, reason, roles) if load_config(folder).role is Role.HOLDER else None
