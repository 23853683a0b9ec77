"""What the operator of a holder does with its gallery: enrol people, and mark one as contested."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np

from nodes.casework.exchange.files import photos_in
from nodes.casework.exchange.type10 import ExchangeError
from nodes.casework.quality import assess, overall
from nodes.config.storage import holder_store
from nodes.store import Category, DuplicatePhoto, GalleryStore, Status, Subject
from nodes.store.enrolment import check_allowed
from pets.errors import InputError, ModelMismatch, PhotoError
from pets.faces import FaceModel, Provider
from pets.photos import decode_photo, list_photos
from pets.templates import load_templates, quantise, quantise_rows, read_identity, sidecar_path
from protocol.terms import SYNTHETIC_MODEL

RETENTION_DAYS = 3 * 365
Progress = Callable[[int, int], object]


class Enrolled(msgspec.Struct, frozen=True):
    """What `lineup enroll` did. `references`: of the subjects added now; `photos`: of every photo, added or known."""

    added: int
    already_enrolled: int
    failed: dict[str, str]
    references: tuple[str, ...]
    photos: dict[str, str] = {}


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
    progress: Progress = lambda done, total: None,
) -> Enrolled:
    """Add photos (files, folders) or one .npy file of unit templates. What is enrolled already is passed over.

    So an interrupted enrolment is continued by giving the same command again. `progress` is told how many photos or
    templates are done, and of how many. Raises `InputError`, `StoreError`, `ModelMismatch` for another face model than
    the gallery's: the node could not serve it then.
    """
    today = datetime.now(timezone.utc).date()
    until = retain_until or today + timedelta(days=RETENTION_DAYS)
    if until < today:
        raise InputError(f"the last day searched, {until}, is over: it must be today ({today}) or later")
    templates = [source for source in sources if source.suffix == ".npy"]
    if templates and len(sources) > 1:
        raise InputError(f"{templates[0]} holds templates: enrol it by a command of its own, without photos")
    with holder_store(folder) as store:
        check_allowed(category, store.categories)
        if templates:
            return _enroll_templates(store, templates[0], category, status, until, progress)
        model = FaceModel.load(models, provider)
        _check_model(store, model.identity.digest(), f"the photos are embedded by {model.identity}")
        return _enroll_photos(store, sources, category, status, until, model, largest, progress)


def _check_model(store: GalleryStore, model: bytes, whose: str) -> None:
    held = store.models() - {model}
    if held:
        others = ", ".join(f"{digest.hex()[:12]}…" for digest in sorted(held))
        raise ModelMismatch(
            f"{whose}, which is model {model.hex()[:12]}…; the gallery holds templates of {others}, and faces of two "
            "models cannot be compared: nothing was enrolled"
        )


def _enroll_templates(
    store: GalleryStore, path: Path, category: Category, status: Status, until: date, progress: Progress
) -> Enrolled:
    unit = load_templates(path, what="templates")
    identity = read_identity(path)
    model = identity.digest() if identity is not None else SYNTHETIC_MODEL
    whose = f"{path} says {identity}" if identity is not None else f"no {sidecar_path(path)} names the model of {path}"
    _check_model(store, model, whose)
    templates = np.atleast_2d(quantise_rows(unit, name=str(path)))
    result = store.enrol_many(
        templates,
        category=category,
        status=status,
        retain_until=until,
        model=model,
        source=hashlib.sha256(np.ascontiguousarray(templates).data).digest(),
        progress=lambda done: progress(done, len(templates)),
    )
    return Enrolled(len(result.references), result.skipped, {}, result.references)


def _enroll_photos(
    store: GalleryStore,
    sources: Sequence[Path],
    category: Category,
    status: Status,
    until: date,
    model: FaceModel,
    largest: bool,
    progress: Progress,
) -> Enrolled:
    paths = list_photos(sources)
    digest = model.identity.digest()
    failed: dict[str, str] = {}
    references: list[str] = []
    photos: dict[str, str] = {}
    known = 0
    for done, path in enumerate(paths, start=1):
        try:
            for name, content in photos_in(path):
                if (reference := store.find_photo(content)) is not None:
                    known += 1
                else:
                    image = decode_photo(content, name)
                    face = model.embed(image, largest=largest, name=name)
                    reference = store.enrol(
                        content,
                        quantise(face.template, name=name),
                        category=category,
                        status=status,
                        retain_until=until,
                        model=digest,
                        quality=overall(assess(image, face)),
                    )
                    references.append(reference)
                photos[name] = reference
        except DuplicatePhoto as error:
            known += 1
            photos[str(path)] = error.reference
        except (PhotoError, ExchangeError, OSError) as error:
            failed[str(path)] = str(error)
        progress(done, len(paths))
    return Enrolled(len(references), known, failed, tuple(references), photos)


def contest(folder: Path, reference: str, authority: str | None) -> Subject:
    """Mark a subject's accuracy as contested, or clear the mark on a decision. Raises `StoreError`, `InputError`."""
    now = datetime.now(timezone.utc)
    with holder_store(folder) as store:
        if authority is None:
            store.flag_contested(reference, now)
        else:
            store.clear_contested(reference, authority, now)
        return store.subject(reference)
