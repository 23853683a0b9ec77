"""Moving all records from retired storage keys to the current one, a batch at a time; it may be interrupted."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from nodes.store import handling, references
from nodes.store.database import Database
from nodes.store.gallery import change
from nodes.store.key_ring import KeyRing
from nodes.store.keys import StorageKey
from nodes.store.references import ReferenceKey
from nodes.store.tables import ContestedRow, FurtherPhotoRow, KeyRow, ModelRow, PhotoRow, RunRow, StoreRow, SubjectRow

BATCH_ROWS = 500


def rekey_records(
    database: Database, keys: KeyRing, drawing: ReferenceKey, progress: Callable[[int], object] | None
) -> int:
    """Encrypt every record anew under the current key and give up the retired ones; gives the number of subjects.

    `progress` is told how many are done. If interrupted, call it again. Raises `StoreCorrupted`, also for a subject
    that is not found by its reference.
    """
    after = total = 0
    while True:
        with database.writing() as session:
            result = rekey_batch(session, keys, drawing, after)
            if result is None:
                retire_keys(session, keys)
                return total
        after, rows = result
        total += rows
        if progress is not None:
            progress(total)


def rekey_batch(session: Session, keys: KeyRing, drawing: ReferenceKey, after: int) -> tuple[int, int] | None:
    """Encrypt anew some subjects whose number is above `after`; gives the last number and how many, None when done.

    Raises `StoreCorrupted`; the batch then stays as it was.
    """
    # holds off enrolments on PostgreSQL, so that a photo cannot come in under both keys; SQLite has one writer
    session.execute(select(StoreRow).where(StoreRow.id == 1).with_for_update())
    statement = (
        select(SubjectRow)
        .where(SubjectRow.id > after, SubjectRow.key_id != keys.current)
        .order_by(SubjectRow.id)
        .limit(BATCH_ROWS)
    )
    found = session.scalars(statement).all()
    if found:
        change(session)
    numbered = [row for row in found if row.numbered]
    drawing.check_leads([row.reference for row in numbered], [row.id for row in numbered])
    models = {model.id: model.digest for model in session.scalars(select(ModelRow))}
    for row in found:
        old, new, reference = keys[row.key_id], keys.key, row.reference
        photo = session.get(PhotoRow, row.id)
        if photo is not None:
            plain = old.unseal(photo.sealed, "photo", reference)
            photo.sealed = new.seal(plain, "photo", reference)
            photo.mac = new.mac("photo", plain)
            photo.name = _name(photo, old, new, reference)
        for further in session.scalars(select(FurtherPhotoRow).where(FurtherPhotoRow.subject_id == row.id)):
            plain = old.unseal(further.sealed, "photo", reference)
            further.sealed = new.seal(plain, "photo", reference)
            further.mac = new.mac("photo", plain)
            further.name = _name(further, old, new, reference)
        for event in session.scalars(select(ContestedRow).where(ContestedRow.subject_id == row.id)):
            if event.authority is not None:
                plain = old.unseal(event.authority, "authority", reference)
                event.authority = new.seal(plain, "authority", reference)
        if row.row is not None:
            what = models[row.model_id], row.row, reference, row.subject
            old.check_tie(row.tie, *what)
            row.tie = new.tie(*what)
        row.key_id = keys.current
    if not found:
        return None
    return found[-1].id, len(found)


def _name(photo: PhotoRow | FurtherPhotoRow, old: StorageKey, new: StorageKey, reference: str) -> bytes | None:
    if photo.name is None:
        return None
    return new.seal(old.unseal(photo.name, "photo-name", reference), "photo-name", reference)


def retire_keys(session: Session, keys: KeyRing) -> None:
    """Encrypt anew the notes of enrolments, the log of handling and the reference key, and take the retired keys out of
    the database."""
    for run in session.scalars(select(RunRow).where(RunRow.key_id != keys.current)):
        source = keys[run.key_id].unseal(run.source, "source", "run")
        run.source = keys.key.seal(source, "source", "run")
        run.mac = keys.key.mac("source", source)
        run.key_id = keys.current
    handling.rekey(session, keys)
    references.rekey(session, keys)
    session.flush()
    session.execute(delete(KeyRow).where(KeyRow.id != keys.current))
