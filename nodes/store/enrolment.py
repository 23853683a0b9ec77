"""Enrolling: one subject with a photo, or many templates from an array, continued where an interruption left them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.store.content import accounted
from nodes.store.database import is_postgresql
from nodes.store.errors import CategoryNotAllowed, DuplicatePhoto, EnrolmentConflict, StoreRefusal
from nodes.store.keys import KeyRing
from nodes.store.rows import RowFiles
from nodes.store.subjects import MAX_PHOTO_BYTES, Category, Particulars, utc_seconds
from nodes.store.tables import FurtherPhotoRow, ModelRow, PhotoRow, RunRow, SubjectRow
from pets.errors import ModelMismatch


def check_allowed(category: Category, allowed: frozenset[Category]) -> None:
    """Raise `CategoryNotAllowed` for a category outside the allow-list (Article 19(1))."""
    if category not in allowed:
        names = ", ".join(sorted(item.value for item in allowed))
        raise CategoryNotAllowed(f"category {category.value!r} is not allowed at this node; allowed: {names}")


def new_references(state: str, count: int) -> list[str]:
    """Random reference numbers of 128 bits: ES-…; they tell nothing about the persons (Article 19(2))."""
    drawn = secrets.token_hex(16 * count)
    return [f"{state}-{drawn[place : place + 32]}" for place in range(0, 32 * count, 32)]


def find_photo(session: Session, keys: KeyRing, photo: bytes) -> str | None:
    """The reference under which the same photo, byte for byte, is enrolled."""
    macs = keys.macs("photo", photo)
    first = select(SubjectRow.reference).join(PhotoRow).where(PhotoRow.mac.in_(macs))
    further = select(SubjectRow.reference).join(FurtherPhotoRow).where(FurtherPhotoRow.mac.in_(macs))
    return session.scalar(first) or session.scalar(further)


def enrol(
    session: Session,
    keys: KeyRing,
    files: RowFiles,
    state: str,
    templates: npt.NDArray[np.int8],
    particulars: Particulars,
    now: datetime,
    photos: Sequence[bytes] = (),
    names: Sequence[str] = (),
    joined: bool = False,
) -> list[str]:
    """Store checked templates (rows first), and the photos of the first one; gives the new references in order.

    `names`: of the photos' files, one each, or none at all. `joined`: all these rows are one subject, which goes by the
    first reference.

    Raises `DuplicatePhoto`, `ModelMismatch` if the model had another dimension before, `StoreRefusal` for a photo
    that is too large.
    """
    references, key = new_references(state, len(templates)), keys.key
    _check_photos(session, keys, photos, references[0] if references else "")
    model = known_model(session, files, particulars.model, templates.shape[1])
    numbers = files.append(model, templates)
    shared = _shared(session, particulars, model.id, keys.current) | {"enrolled": utc_seconds(now)}
    with accounted(session):
        rows = []
        for place, (reference, number) in enumerate(zip(references, numbers, strict=True)):
            subject = references[0] if joined and place else None
            rows.append((reference, number, subject, key.tie(model.digest, number, reference, subject)))
        _insert(session, rows, shared)
    for index, photo in enumerate(photos):
        number = session.execute(select(SubjectRow.id).where(SubjectRow.reference == references[0])).scalar_one()
        table = FurtherPhotoRow if index else PhotoRow
        sealed_photo = key.seal(photo, "photo", references[0])
        name = key.seal(names[index].encode(), "photo-name", references[0]) if names else None
        session.add(table(subject_id=number, mac=key.mac("photo", photo), sealed=sealed_photo, name=name))
    return references


def _check_photos(session: Session, keys: KeyRing, photos: Sequence[bytes], reference: str) -> None:
    """Refuse photos before anything is written: too large, enrolled already, or the same one twice."""
    seen = set()
    for photo in photos:
        if not 0 < len(photo) <= MAX_PHOTO_BYTES:
            raise StoreRefusal(f"a photo has 1 to {MAX_PHOTO_BYTES} bytes, got {len(photo)}")
        same = reference if photo in seen else find_photo(session, keys, photo)
        if same is not None:
            raise DuplicatePhoto(same)
        seen.add(photo)


def _shared(session: Session, particulars: Particulars, model_id: int, key_id: int) -> dict[str, object]:
    until = particulars.retain_until
    return {
        "category": particulars.category.value,
        "status": particulars.status.value,
        "retain_until": until if is_postgresql(session.connection()) else until.isoformat(),
        "quality": particulars.quality,
        "model_id": model_id,
        "key_id": key_id,
        "contested": False,
    }


def _insert(session: Session, rows: Sequence[tuple[str, int, str | None, bytes]], shared: dict[str, object]) -> None:
    """Insert subjects past SQLAlchemy's conversion of each value, which would take as long as all the rest."""
    shared = shared | {"template": b""}
    columns = ("reference", '"row"', "subject", "tie", *shared)
    mark = "%s" if is_postgresql(session.connection()) else "?"
    statement = f"INSERT INTO subject ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"  # noqa: S608
    values = tuple(shared.values())
    parameters = [(*row, *values) for row in rows]
    if parameters:
        session.connection().exec_driver_sql(statement, parameters)


def rows_done(session: Session, keys: KeyRing, source: bytes, particulars: Particulars, rows: int) -> int:
    """How many rows of a source are enrolled; a source that was not seen before is noted with none.

    Raises `EnrolmentConflict` if it was begun with other particulars or another number of rows.
    """
    run = _run(session, keys, source)
    if run is None:
        key = keys.key
        run = RunRow(
            mac=key.mac("source", source),
            source=key.seal(source, "source", "run"),
            key_id=keys.current,
            particulars=str(particulars),
            rows=rows,
            done=0,
        )
        session.add(run)
    if (run.particulars, run.rows) != (str(particulars), rows):
        raise EnrolmentConflict(
            f"this enrolment was begun as {run.rows} rows ({run.particulars}), not {rows} rows ({particulars})"
        )
    return run.done


def set_rows_done(session: Session, keys: KeyRing, source: bytes, done: int) -> None:
    """Note how far the enrolment of a source came."""
    run = _run(session, keys, source)
    if run is not None:
        run.done = done


def _run(session: Session, keys: KeyRing, source: bytes) -> RunRow | None:
    return session.scalar(select(RunRow).where(RunRow.mac.in_(keys.macs("source", source))))


def known_model(session: Session, files: RowFiles, digest: bytes, dim: int) -> ModelRow:
    """The model with a digest; a new one gets a row and a folder. Raises `ModelMismatch` for another dimension."""
    row = session.scalar(select(ModelRow).where(ModelRow.digest == digest))
    if row is None:
        row = ModelRow(digest=digest, dim=dim)
        session.add(row)
    if row.dim != dim:
        raise ModelMismatch(f"this model's templates have dimension {row.dim}, got {dim}")
    if row.folder is None:
        files.create(row)
    session.flush()
    return row
