"""Enrolling: one subject with a photo, or many templates from an array, continued where an interruption left them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
from sqlalchemy import TextClause, select, text
from sqlalchemy.orm import Session

from nodes.store import content
from nodes.store.database import is_postgresql
from nodes.store.errors import CategoryNotAllowed, DuplicatePhoto, EnrolmentConflict, StoreRefusal
from nodes.store.key_ring import KeyRing
from nodes.store.lines import line
from nodes.store.references import ReferenceKey, written
from nodes.store.rows import RowFiles
from nodes.store.subjects import MAX_PHOTO_BYTES, Category, Particulars, utc_seconds
from nodes.store.tables import FurtherPhotoRow, ModelRow, PhotoRow, RunRow, SubjectRow
from pets.errors import ModelMismatch


def check_allowed(category: Category, allowed: frozenset[Category]) -> None:
    """Raise `CategoryNotAllowed` for a category outside the allow-list (Article 19(1))."""
    if category not in allowed:
        names = ", ".join(sorted(item.value for item in allowed))
        raise CategoryNotAllowed(f"category {category.value!r} is not allowed at this node; allowed: {names}")


def find_photo(session: Session, keys: KeyRing, photo: bytes) -> str | None:
    """The reference under which the same photo, byte for byte, is enrolled."""
    macs = keys.macs("photo", photo)
    first = select(SubjectRow.reference).join(PhotoRow).where(PhotoRow.mac.in_(macs))
    further = select(SubjectRow.reference).join(FurtherPhotoRow).where(FurtherPhotoRow.mac.in_(macs))
    return session.scalar(first) or session.scalar(further)


def enrol(
    session: Session,
    keys: KeyRing,
    drawing: ReferenceKey,
    files: RowFiles,
    state: str,
    templates: npt.NDArray[np.int8],
    particulars: Particulars,
    now: datetime,
    photos: Sequence[bytes] = (),
    names: Sequence[str] = (),
    joined: bool = False,
) -> list[str]:
    """Store checked templates (rows first, at least one), and the photos of the first; gives the references in order.

    `names`: of the photos' files, one each, or none at all. `joined`: all these rows are one subject, which goes by the
    first reference.

    Raises `DuplicatePhoto`, `ModelMismatch` if the model had another dimension before, `StoreRefusal` for a photo
    that is too large.
    """
    count, key = len(templates), keys.key
    first = _take_numbers(session, count)
    drawn = drawing.draw(first, count)
    references = written(state, drawn)
    subject = references[0] if joined else None
    _check_photos(session, keys, photos, references[0] if references else "")
    model = known_model(session, files, particulars.model, templates.shape[1])
    rows = files.append(model, templates)
    subjects = [None, *[subject] * (count - 1)]
    ties = b"".join(key.ties(model.digest, zip(rows, references, subjects, strict=True)))
    values = _values(session, particulars) | {"model": model.id, "key": keys.current, "enrolled": utc_seconds(now)}
    numbers = {"first": first, "row": rows.start, "count": count}
    _insert(session, values | numbers | {"drawn": drawn, "ties": ties, "state": f"{state}-", "subject": subject})
    shared = particulars.category.value, particulars.status.value, particulars.retain_until.isoformat()
    texts = [line(reference, *shared, row) for reference, row in zip(references, rows, strict=True)]
    content.account_added(session, model, first, texts)
    for index, photo in enumerate(photos):
        table = FurtherPhotoRow if index else PhotoRow
        sealed_photo = key.seal(photo, "photo", references[0])
        name = key.seal(names[index].encode(), "photo-name", references[0]) if names else None
        session.add(table(subject_id=first, mac=key.mac("photo", photo), sealed=sealed_photo, name=name))
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


def _take_numbers(session: Session, count: int) -> int:
    """The first of as many numbers of subjects, which are never given again. Under the store's lock."""
    if is_postgresql(session.connection()):
        return int(session.execute(_TAKE_POSTGRESQL, {"count": count}).scalar_one())
    return int(session.execute(_TAKE_SQLITE).scalar_one())


_TAKE_SQLITE = text(
    "SELECT 1 + max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'subject'), 0), "
    "coalesce((SELECT max(id) FROM subject), 0))"
)
_TAKE_POSTGRESQL = text(
    "SELECT setval(name, nextval(name) + :count - 1) - :count + 1 "
    "FROM CAST(pg_get_serial_sequence('subject', 'id') AS regclass) AS name"
)


def _values(session: Session, particulars: Particulars) -> dict[str, object]:
    until = particulars.retain_until
    return {
        "category": particulars.category.value,
        "status": particulars.status.value,
        "until": until if is_postgresql(session.connection()) else until.isoformat(),
        "quality": particulars.quality,
    }


def _insert(session: Session, values: dict[str, object]) -> None:
    """Insert subjects, in one statement: a row of its own for each, from Python, would take ten times as long."""
    session.execute(_POSTGRESQL if is_postgresql(session.connection()) else _SQLITE, values)


def _statement(hexadecimal: str) -> TextClause:
    """`first`, `row`: numbers of the first of `count` subjects, and of its row. `drawn`, `ties`: 16 bytes of each."""
    drawn, tie = (f"substr(:{name}, 1 + 16 * i, 16)" for name in ("drawn", "ties"))
    columns = {
        "id": ":first + i",
        "reference": f":state || {hexadecimal.format(drawn)}",
        "numbered": "true",
        '"row"': ":row + i",
        "tie": tie,
        "subject": "CASE WHEN i > 0 THEN CAST(:subject AS VARCHAR(64)) END",
        "category": ":category",
        "status": ":status",
        "retain_until": ":until",
        "quality": "CAST(:quality AS SMALLINT)",
        "model_id": ":model",
        "key_id": ":key",
        "enrolled": ":enrolled",
        "template": "substr(:ties, 1, 0)",  # empty
        "contested": "false",
    }
    numbers = "WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :count)"
    insert = f"INSERT INTO subject ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM numbers"  # noqa: S608
    return text(f"{numbers} {insert}")


_SQLITE, _POSTGRESQL = _statement("lower(hex({}))"), _statement("encode({}, 'hex')")


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
