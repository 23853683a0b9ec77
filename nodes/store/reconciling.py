"""Database and templates of different moments brought together after a restore: gone in either is gone in both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from nodes.store import gallery
from nodes.store.database import Database
from nodes.store.keys import StorageKey
from nodes.store.rows import RowFiles
from nodes.store.subjects import DeletionReceipt, Reconciled


def reconcile(session: Session, rows: RowFiles, forget: Callable[[Iterable[str]], list[DeletionReceipt]]) -> Reconciled:
    """Let both go on together (`nodes.store.rows`), whichever is older. `forget`: deletes subjects by reference.

    Who is held but has no template any more was forgotten since, and is forgotten again; so is who has none in the
    folder that a restored one replaces. Templates that nobody has are erased: of who was enrolled since. Raises
    `StoreCorrupted`.
    """
    again: list[DeletionReceipt] = []
    lost = 0
    for model in rows.models(session):
        erased = np.union1d(rows.erased(model), rows.erased_beside(session, model))
        again += forget(gallery.references(session, model.id, erased))
        parts = [part.rows for part in gallery.held_rows(session, model, 0)]
        lost += rows.reconcile(session, model, np.concatenate([*parts, np.empty(0, np.int64)]))
    rows.announce(session, False)
    return Reconciled(tuple(again), lost)


def added_since(url: str, key: StorageKey, place: Path) -> int:
    """How many templates in a folder are from after the moment of a database that was brought back, and would be lost
    with it. Changes nothing, so the database must be of this version. Raises `StoreError`."""
    database, files = Database(url), RowFiles(place, [key.blocks], 0, ahead=True)
    try:
        with database.reading() as session:
            known = sum(files.added_since(session, model) for model in files.models(session))
            return known + files.rows_unnamed(session)  # of models that it does not know
    finally:
        database.close()
