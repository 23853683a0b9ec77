"""One subject: looked up, contested, forgotten, expired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.orm import Session

from nodes.store.content import accounted
from nodes.store.errors import StoreCorrupted, StoreRefusal, UnknownReference
from nodes.store.key_ring import KeyRing
from nodes.store.references import ReferenceKey
from nodes.store.subjects import (
    Category,
    ContestedEvent,
    DeletionReceipt,
    Status,
    Subject,
    utc_day,
    utc_seconds,
    utc_time,
)
from nodes.store.tables import ContestedRow, DeletionRow, FurtherPhotoRow, GoneRow, ModelRow, PhotoRow, SubjectRow

AUTHORITY_LENGTH = (3, 200)


_SUBJECTS = select(SubjectRow, ModelRow.digest, PhotoRow.subject_id).join(ModelRow).outerjoin(PhotoRow)


def subject(session: Session, finding: ReferenceKey, reference: str) -> Subject:
    """What is known of a subject. Raises `UnknownReference`."""
    number = finding.find(session, reference)
    found = session.execute(_SUBJECTS.where(SubjectRow.id == number)).one_or_none()
    if found is None:
        raise _unknown(reference)
    return _subject(*found)


def subjects(session: Session) -> Iterator[Subject]:
    """All of them, in the order in which they were enrolled; rows of one subject are one, under its first reference."""
    chosen = _SUBJECTS.where(SubjectRow.subject.is_(None)).order_by(SubjectRow.id)
    for found in session.execute(chosen.execution_options(yield_per=1000)):
        yield _subject(*found)


def _subject(row: SubjectRow, digest: bytes, photo: int | None) -> Subject:
    reference = row.reference
    try:
        category, status = Category(row.category), Status(row.status)
    except ValueError:
        raise StoreCorrupted(f"{reference} has a category or status that was never written") from None
    enrolled = None if row.enrolled is None else utc_time(row.enrolled)
    has_photo = photo is not None
    return Subject(
        reference, category, status, row.retain_until, row.contested, row.quality, digest, has_photo, enrolled
    )


def photo(session: Session, keys: KeyRing, finding: ReferenceKey, reference: str) -> bytes | None:
    """The photo of a subject, None if it was enrolled without one. Raises `UnknownReference`, `StoreCorrupted`."""
    row = _row(session, finding, reference)
    sealed = session.scalar(select(PhotoRow.sealed).where(PhotoRow.subject_id == row.id))
    return None if sealed is None else keys[row.key_id].unseal(sealed, "photo", reference)


def photo_names(session: Session, keys: KeyRing, finding: ReferenceKey, reference: str) -> tuple[str, ...]:
    """What the files of a subject's photos were called, where that is known. Raises `UnknownReference`."""
    row = _row(session, finding, reference)
    first = select(PhotoRow.name).where(PhotoRow.subject_id == row.id)
    further = select(FurtherPhotoRow.name).where(FurtherPhotoRow.subject_id == row.id).order_by(FurtherPhotoRow.id)
    sealed = [name for name in (*session.scalars(first), *session.scalars(further)) if name is not None]
    return tuple(keys[row.key_id].unseal(name, "photo-name", reference).decode() for name in sealed)


def flag_contested(session: Session, finding: ReferenceKey, reference: str, now: datetime) -> None:
    """Mark a subject's data as contested (Article 51(3)); once more changes nothing. Raises `UnknownReference`."""
    row = _row(session, finding, reference)
    if not row.contested:
        row.contested = True
        session.add(ContestedRow(subject_id=row.id, time=utc_seconds(now), authority=None))


def clear_contested(
    session: Session, keys: KeyRing, finding: ReferenceKey, reference: str, authority: str, now: datetime
) -> None:
    """Take the mark off; `authority` names the decision that allows it, and is recorded (Article 51(3)).

    Raises `UnknownReference`, and `StoreRefusal` without an authority or if the subject is not marked.
    """
    shortest, longest = AUTHORITY_LENGTH
    if not shortest <= len(authority.strip()) <= longest:
        raise StoreRefusal(f"the decision that clears the flag must be named in {shortest} to {longest} characters")
    row = _row(session, finding, reference)
    if not row.contested:
        raise StoreRefusal(f"{reference} is not contested")
    row.contested = False
    sealed = keys[row.key_id].seal(authority.strip().encode(), "authority", reference)
    session.add(ContestedRow(subject_id=row.id, time=utc_seconds(now), authority=sealed))


def contested(session: Session, finding: ReferenceKey, references: Sequence[str]) -> frozenset[str]:
    """Those of some references, at most a few hundred, whose accuracy is contested; unknown ones are passed over."""
    numbers = [number for one in references if (number := finding.find(session, one)) is not None]
    chosen = SubjectRow.id.in_(numbers) & SubjectRow.contested
    return frozenset(session.scalars(select(SubjectRow.reference).where(chosen)))


def contested_history(
    session: Session, keys: KeyRing, finding: ReferenceKey, reference: str
) -> tuple[ContestedEvent, ...]:
    """When the flag was raised, and when and on whose authority cleared. Raises `UnknownReference`."""
    row = _row(session, finding, reference)
    events = session.scalars(select(ContestedRow).where(ContestedRow.subject_id == row.id).order_by(ContestedRow.id))
    key = keys[row.key_id]
    return tuple(
        ContestedEvent(
            utc_time(event.time),
            None if event.authority is None else key.unseal(event.authority, "authority", reference).decode(),
        )
        for event in events
    )


def _row(session: Session, finding: ReferenceKey, reference: str) -> SubjectRow:
    number = finding.find(session, reference)
    row = None if number is None else session.get(SubjectRow, number)
    if row is None:
        raise _unknown(reference)
    return row


def _unknown(reference: str) -> UnknownReference:
    return UnknownReference(f"no subject has reference {reference[:64]!r}")


def forget(
    session: Session, finding: ReferenceKey, references: Iterable[str], now: datetime, current: int
) -> list[DeletionReceipt]:
    """Delete subjects with photo and template (Article 64(1)(m)); references that do not exist are passed over."""
    receipts = []
    for reference in references:
        number = finding.find(session, reference)
        if number is not None and _delete(session, (SubjectRow.id == number) | (SubjectRow.subject == reference)):
            session.merge(DeletionRow(reference=reference, time=utc_seconds(now)))
            receipts.append(DeletionReceipt(reference, now, current, "forgotten"))
    return receipts


def forgotten_before(
    session: Session, references: Sequence[str], now: Sequence[DeletionReceipt], current: int
) -> list[DeletionReceipt]:
    """The receipts of subjects among these that were deleted earlier, and not `now`."""
    new, receipts = {receipt.reference for receipt in now}, []
    for reference in dict.fromkeys(references):
        known = None if reference in new else session.get(DeletionRow, reference)
        if known is not None:
            receipts.append(DeletionReceipt(reference, utc_time(known.time), current, "forgotten"))
    return receipts


def any_past(session: Session, now: datetime) -> bool:
    """Whether there is a subject whose retention date is past."""
    past = select(SubjectRow.id).where(SubjectRow.retain_until < utc_day(now)).limit(1)
    return session.scalar(past) is not None


def delete_expired_subjects(session: Session, now: datetime, current: int) -> list[DeletionReceipt]:
    """Delete the subjects whose retention date is past."""
    gone = _delete(session, SubjectRow.retain_until < utc_day(now))
    return [DeletionReceipt(reference, now, current, "expired") for reference, first in gone if first is None]


def _delete(session: Session, wanted: ColumnElement[bool]) -> list[tuple[str, str | None]]:
    """Delete subjects and note their rows as gone; gives each row's reference, and that of the first where further."""
    columns = SubjectRow.reference, SubjectRow.subject, SubjectRow.model_id, SubjectRow.row
    with accounted(session, wanted):
        gone = session.execute(delete(SubjectRow).where(wanted).returning(*columns)).all()
    if gone:
        session.execute(insert(GoneRow), [{"model_id": model, "row": row} for _, _, model, row in gone])
    return [(reference, first) for reference, first, _, _ in gone]


def deletions(session: Session) -> dict[str, datetime]:
    """References forgotten so far, with the time."""
    return {row.reference: utc_time(row.time) for row in session.scalars(select(DeletionRow))}
