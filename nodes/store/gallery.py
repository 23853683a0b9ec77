"""The gallery as a whole: its generation, and the snapshot that a query is answered from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from nodes.store.database import insert_into
from nodes.store.errors import EmptyStore
from nodes.store.key_ring import KeyRing
from nodes.store.lines import Held, held, read_lines
from nodes.store.references import ReferenceKey
from nodes.store.rows import RowFiles
from nodes.store.subjects import Category, Snapshot
from nodes.store.tables import GoneRow, ModelRow, StoreRow, SubjectRow
from pets.errors import ModelMismatch

READ_ROWS = 16384
_FURTHER = SubjectRow.subject.is_not(None)  # rows of a person that has another


@dataclass(frozen=True)
class Standing:
    """Who is held at one moment. `last`: the highest number of a subject. `gone`: numbers of rows, int64."""

    generation: int
    last: int
    held: tuple[Held, ...]
    gone: npt.NDArray[np.int64] = field(repr=False)


def owner(session: Session, state: str) -> str:
    """The state a store belongs to: a new one to `state`. Others that open it wait until the transaction ends."""
    owners = select(StoreRow.state).where(StoreRow.id == 1).with_for_update()
    owned = session.execute(owners).scalar_one_or_none()
    if owned is None:
        new = insert_into(session, StoreRow).values(id=1, state=state, generation=0)
        session.execute(new.on_conflict_do_nothing(index_elements=["id"]))
        owned = session.execute(owners).scalar_one()
    return owned


def change(session: Session) -> int:
    """Begin to change the gallery: raises its generation, and makes other writers wait until this one ends."""
    statement = update(StoreRow).where(StoreRow.id == 1).values(generation=StoreRow.generation + 1)
    return session.execute(statement.returning(StoreRow.generation)).scalar_one()


def lock(session: Session) -> None:
    """Make other writers wait until this one ends, without a change of the gallery."""
    session.execute(select(StoreRow.id).where(StoreRow.id == 1).with_for_update())


def generation(session: Session) -> int:
    """How many changes the gallery has seen."""
    return session.execute(select(StoreRow.generation)).scalar_one()


def count(session: Session) -> int:
    """Subjects held, those past their retention date included; several rows of one person are one."""
    rows, further = (select(func.count()).select_from(SubjectRow).where(*what) for what in ((), (_FURTHER,)))
    return (session.scalar(rows) or 0) - (session.scalar(further) or 0)  # an index has the further ones alone


def models(session: Session) -> frozenset[bytes]:
    """Digests of the models of all subjects held."""
    held = select(SubjectRow.id).where(SubjectRow.model_id == ModelRow.id).exists()
    return frozenset(session.scalars(select(ModelRow.digest).where(held)))


def snapshot(
    session: Session, files: RowFiles, day: date, categories: frozenset[Category], model: bytes | None
) -> Snapshot | None:
    """The rows of one model and of some categories that are within retention on a day, in order of enrolment.

    None if somebody was forgotten while the rows were read. Raises `ModelMismatch` if `model` is not given and there
    are rows of several, `EmptyStore` if nothing was ever enrolled, `StoreCorrupted`.
    """
    wanted = (SubjectRow.retain_until >= day) & SubjectRow.category.in_([category.value for category in categories])
    chosen = choose_model(session, wanted, model)
    wanted &= SubjectRow.model_id == chosen.id
    valid_through = session.scalar(select(func.min(SubjectRow.retain_until)).where(wanted))
    columns = SubjectRow.row, SubjectRow.reference, SubjectRow.subject
    found = session.execute(select(*columns).where(wanted).order_by(SubjectRow.row)).all()
    templates, erased = files.read(chosen, np.array([row for row, _, _ in found], np.int64))
    if erased.any():
        return None
    templates.flags.writeable = False
    references = tuple(first or reference for _, reference, first in found)
    return Snapshot(templates, references, chosen.digest, generation(session), valid_through)


def reference(session: Session, keys: KeyRing, drawing: ReferenceKey, model: bytes, row: int) -> str | None:
    """The reference of the subject whose row has this number; None if there is none. Raises `StoreCorrupted` for a
    row that is not tied to it, and for a reference by which the subject is not found."""
    chosen = (SubjectRow.model_id == select(ModelRow.id).where(ModelRow.digest == model).scalar_subquery()) & (
        SubjectRow.row == row
    )
    columns = SubjectRow.reference, SubjectRow.subject, SubjectRow.key_id, SubjectRow.tie
    found = session.execute(select(*columns).where(chosen)).all()
    if not found:
        return None
    for name, first, key, tie in found:  # of two, one was put there
        keys[key].check_tie(tie, model, row, name, first)
    goes_by: str = found[0][1] or found[0][0]
    drawing.check_found(session, goes_by)
    return goes_by


def check_ties(session: Session, keys: KeyRing, drawing: ReferenceKey) -> None:
    """Look at the tie of every row that is held, and whether its reference leads to it. Raises `StoreCorrupted`."""
    digests = {model.id: model.digest for model in session.scalars(select(ModelRow))}
    columns = (SubjectRow.key_id, SubjectRow.tie, SubjectRow.model_id, SubjectRow.row)
    names = (SubjectRow.reference, SubjectRow.subject, SubjectRow.id, SubjectRow.numbered)
    for first in range(0, last_subject(session), READ_ROWS):
        part = (SubjectRow.id > first) & (SubjectRow.id <= first + READ_ROWS)
        drawn: list[tuple[str, int]] = []
        for key, tie, model, row, name, subject, number, numbered in session.execute(
            select(*columns, *names).where(part)
        ):
            keys[key].check_tie(tie, digests[model], row, name, subject)
            if numbered:
                drawn.append((name, number))
        drawing.check_leads([name for name, _ in drawn], [number for _, number in drawn])


def references(session: Session, model: int, rows: npt.NDArray[np.int64]) -> list[str]:
    """The references of the subjects that have one of some rows of a model, by its number in the database."""
    found: list[str] = []
    for start in range(0, len(rows), READ_ROWS):
        chosen = (SubjectRow.model_id == model) & SubjectRow.row.in_(rows[start : start + READ_ROWS].tolist())
        found += [
            first or name
            for name, first in session.execute(select(SubjectRow.reference, SubjectRow.subject).where(chosen))
        ]
    return list(dict.fromkeys(found))


def held_rows(session: Session, model: ModelRow, after: int) -> Iterator[Held]:
    """Number, category and last day searched of each row of subjects with a number above `after`, in pieces."""
    assert model.next_row is not None
    for start in range(after + 1, last_subject(session) + 1, READ_ROWS):
        count, text = read_lines(session, start, start + READ_ROWS, model.id)
        if count:
            yield held(text, count, model.next_row)


def gone_rows(session: Session, model: ModelRow) -> npt.NDArray[np.int64]:
    """Numbers of rows whose subjects were deleted, and that may not be erased yet."""
    return np.array(session.scalars(select(GoneRow.row).where(GoneRow.model_id == model.id)).all(), np.int64)


def last_subject(session: Session) -> int:
    """The highest number of a subject."""
    return session.scalar(select(func.max(SubjectRow.id))) or 0


def choose_model(session: Session, wanted: ColumnElement[bool], model: bytes | None) -> ModelRow:
    """The model named, or the only one there is among those wanted. Raises as `snapshot`."""
    models = session.scalars(select(ModelRow).order_by(ModelRow.id)).all()
    if model is not None:
        models = [row for row in models if row.digest == model]
    if not models:
        raise EmptyStore("nothing was ever enrolled" if model is None else "nothing was enrolled with this model")
    if len(models) > 1:
        held = set(session.scalars(select(SubjectRow.model_id).where(wanted).distinct()))
        models = [row for row in models if row.id in held] or models[-1:]
    if len(models) > 1:
        digests = ", ".join(row.digest.hex()[:12] + "…" for row in models)
        raise ModelMismatch(f"the gallery holds templates of {len(models)} models ({digests}): name one")
    return models[0]
