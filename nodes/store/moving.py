"""Moving templates out of the database of an earlier version, into block files; once, and it may be interrupted."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nodes.store.errors import StoreCorrupted
from nodes.store.gallery import change, lock
from nodes.store.key_ring import KeyRing
from nodes.store.rows import RowFiles
from nodes.store.tables import ModelRow, SubjectRow

BATCH_ROWS = 8192


def move_batch(session: Session, keys: KeyRing, files: RowFiles) -> int:
    """Move the templates of some subjects of one model; gives how many, 0 when none is left.

    Rows first, then the subjects, as in an enrolment. Raises `StoreCorrupted` for a template that does not decrypt.
    """
    lock(session)  # others wait
    files.settle(session)
    first = session.scalar(select(SubjectRow.model_id).where(SubjectRow.row.is_(None)).limit(1))
    if first is None:
        return 0
    model = session.get_one(ModelRow, first)
    unmoved = (SubjectRow.model_id == model.id) & SubjectRow.row.is_(None)
    columns = SubjectRow.id, SubjectRow.reference, SubjectRow.key_id, SubjectRow.template, SubjectRow.subject
    found = session.execute(select(*columns).where(unmoved).order_by(SubjectRow.id).limit(BATCH_ROWS)).all()
    change(session)
    plain = []
    for _, reference, key, sealed, _ in found:
        template = keys[key].unseal(sealed, "template", reference, model.digest)
        if len(template) != model.dim:
            raise StoreCorrupted(f"the template of {reference} has {len(template)} entries, its model {model.dim}")
        plain.append(template)
    numbers = files.append(model, np.frombuffer(b"".join(plain), np.int8).reshape(len(found), model.dim))
    session.flush()
    moved = []
    for (number, reference, key, _, subject), row in zip(found, numbers, strict=True):
        tie = keys[key].tie(model.digest, row, reference, subject)
        moved.append({"id": number, "row": row, "tie": tie, "template": b""})
    session.execute(update(SubjectRow), moved)
    return len(found)


def make_folders(session: Session, files: RowFiles) -> None:
    """Make the folder of each model that has none, in a transaction before the one that moves templates there."""
    for model in session.scalars(select(ModelRow).where(ModelRow.folder.is_(None))):
        files.create(model)
