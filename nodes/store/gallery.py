"""The gallery as a whole: its generation, and the snapshot that a query is answered from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

import numpy as np
from sqlalchemy import ColumnElement, Row, func, select, update
from sqlalchemy.orm import Session

from nodes.store.database import insert_into
from nodes.store.errors import EmptyStore, StoreCorrupted
from nodes.store.keys import KeyRing
from nodes.store.subjects import Category, Snapshot
from nodes.store.tables import ModelRow, StoreRow, SubjectRow
from pets.errors import ModelMismatch

READ_ROWS = 4096


def owner(session: Session, state: str) -> str:
    """The state a store belongs to: a new one to `state`. Others that open it wait until the transaction ends."""
    new = insert_into(session, StoreRow).values(id=1, state=state, generation=0)
    session.execute(new.on_conflict_do_nothing(index_elements=["id"]))
    return session.execute(select(StoreRow.state).where(StoreRow.id == 1).with_for_update()).scalar_one()


def change(session: Session) -> int:
    """Begin to change the gallery: raises its generation, and makes other writers wait until this one ends."""
    statement = update(StoreRow).where(StoreRow.id == 1).values(generation=StoreRow.generation + 1)
    return session.execute(statement.returning(StoreRow.generation)).scalar_one()


def generation(session: Session) -> int:
    """How many changes the gallery has seen."""
    return session.execute(select(StoreRow.generation)).scalar_one()


def count(session: Session) -> int:
    """Subjects held, those past their retention date included; several rows of one person are one."""
    return session.scalar(select(func.count()).select_from(SubjectRow).where(SubjectRow.subject.is_(None))) or 0


def models(session: Session) -> frozenset[bytes]:
    """Digests of the models of all subjects held."""
    held = select(SubjectRow.model_id).distinct()
    return frozenset(session.scalars(select(ModelRow.digest).where(ModelRow.id.in_(held))))


def snapshot(
    session: Session, keys: KeyRing, day: date, categories: frozenset[Category], model: bytes | None
) -> Snapshot:
    """The rows of one model and of some categories that are within retention on a day, in order of enrolment.

    Raises `ModelMismatch` if `model` is not given and there are rows of several, `EmptyStore` if nothing was ever
    enrolled, `StoreCorrupted`.
    """
    wanted = (SubjectRow.retain_until >= day) & SubjectRow.category.in_([category.value for category in categories])
    chosen = _choose_model(session, wanted, model)
    wanted &= SubjectRow.model_id == chosen.id
    rows, valid_through = session.execute(
        select(func.count(SubjectRow.id), func.min(SubjectRow.retain_until)).where(wanted)
    ).one()
    templates = np.empty((rows, chosen.dim), np.int8)
    references: list[str] = []
    statement = (
        select(SubjectRow.reference, SubjectRow.key_id, SubjectRow.template, SubjectRow.subject)
        .where(wanted)
        .order_by(SubjectRow.id)
        .execution_options(yield_per=READ_ROWS)
    )
    for part in session.execute(statement).partitions():
        plain = b"".join(_open_templates(part, keys, chosen))
        start = len(references)
        templates[start : start + len(part)] = np.frombuffer(plain, np.int8).reshape(len(part), chosen.dim)
        references.extend(row[3] or row[0] for row in part)
    templates.flags.writeable = False
    return Snapshot(templates, tuple(references), chosen.digest, generation(session), valid_through)


def standing(session: Session, day: date, categories: frozenset[Category]) -> tuple[int, frozenset[str]]:
    """The generation, and the references that are searched for on a day in some categories, of all models."""
    wanted = (SubjectRow.retain_until >= day) & SubjectRow.category.in_([category.value for category in categories])
    found = session.execute(select(SubjectRow.reference, SubjectRow.subject).where(wanted))
    return generation(session), frozenset(first or reference for reference, first in found)


def _open_templates(
    rows: Iterable[Row[tuple[str, int, bytes, str | None]]], keys: KeyRing, model: ModelRow
) -> Iterator[bytes]:
    for reference, key_id, sealed, _ in rows:
        template = keys[key_id].unseal(sealed, "template", reference, model.digest)
        if len(template) != model.dim:
            raise StoreCorrupted(f"the template of {reference} has {len(template)} entries, its model {model.dim}")
        yield template


def _choose_model(session: Session, wanted: ColumnElement[bool], model: bytes | None) -> ModelRow:
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
