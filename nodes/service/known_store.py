"""Opening the database of a node that is to run: it must be the one that the node had (`nodes.evidence.ledger`)."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from pathlib import Path

from nodes.casework import desk
from nodes.config import console
from nodes.config.schema import NodeConfig, Role
from nodes.config.storage import open_store
from nodes.evidence.archive import Archive
from nodes.evidence.ledger import expected, lost
from nodes.identity.identity import NodeIdentity
from nodes.query.gate import REFERENCE_STEP, reference_claim
from nodes.store import StoreCorrupted, StoreLost
from nodes.store.backup import remove_database, restoring
from nodes.store.content import Content
from nodes.store.opening import verify_and_read
from nodes.store.resident import Resident
from nodes.store.rows import aside_mark
from nodes.store.store import GalleryStore
from pets.errors import InputError
from pets.threads import default_threads

log = logging.getLogger("lineup.node")

CHECKED_QUERIES = 16  # the last ones: an older copy lacks the last ones first


def open_known_store(identity: NodeIdentity, archive: Archive, accept_loss: bool) -> Resident:
    """The node's database, every row of it checked, and the templates of a holder, which are read meanwhile.

    `accept_loss`: go on with what is there, and sign that.

    What cannot be read is then put aside, beside the database. Queries that may have been answered before the loss are
    answered no more (warrants older than now). Raises `StoreLost`, `StoreError`, and `InputError` for a loss that is to
    be accepted where nothing is lost.
    """
    if not accept_loss:
        desk.check_there(identity.config, archive.folder)
    desk.begin(identity.config, archive.folder)  # before the log's first entry, which says that it was
    try:
        resident = _open(identity, archive)
    except StoreLost as error:
        if not accept_loss:
            raise
        store = _open_what_is_left(identity, archive, error)
    else:
        if not accept_loss:
            return resident
        resident.stop()
        resident.store.close()
        raise InputError("--accept-loss: the database has lost nothing; start without it")
    try:
        _note_accepted(store, archive)
        desk.check_there(identity.config, archive.folder)  # only now: what brings it back needs the database
    except BaseException:
        store.close()
        raise
    return _resident(identity.config, store)


def _resident(config: NodeConfig, store: GalleryStore) -> Resident:
    return Resident(store, threads=config.limits.threads or default_threads())


def _verify(config: NodeConfig, resident: Resident) -> Content:
    """Check the database. Nothing that is read beside it is used before it, and all that follows it, was done."""
    if config.role is Role.HOLDER and config.policy.purposes and not config.cluster.used:
        return verify_and_read(resident, config.policy.findable)
    return resident.store.verify(seen=resident.see)


def _note_accepted(store: GalleryStore, archive: Archive) -> None:
    store.note_loss(datetime.now(timezone.utc))
    archive.ledger.note(store.content, "accepted-loss")


def _open(identity: NodeIdentity, archive: Archive) -> Resident:
    ledger = archive.ledger
    file = identity.config.storage.file
    if file is not None and ledger.last is not None and (not file.exists() or not file.stat().st_size):
        raise lost(identity, f"{file} is " + ("empty" if file.exists() else "gone"))
    try:
        store = open_store(identity.config)
        resident = _resident(identity.config, store)
        try:
            content = _verify(identity.config, resident)
            _check_claims(identity, store, archive)
            ledger.check(content)
            if ledger.last is not None and ledger.last.reason == "accepted-loss" and store.unnamed_rows():
                _bring_together(store)  # the start that accepted it came to no end
                content = store.content
            if aside := expected(identity.config.paths.logs, content):
                store.put_unnamed_rows_aside(aside)  # a restore of what was lost was killed
            ledger.meet(content)
            store.settle()  # what a crash left half done; not before it is known to be the right database
            store.drop_unnamed_rows()
            for place in (file, archive.folder / desk.FILE, archive.folder / console.FILE):
                if place is not None:
                    remove_database(restoring(place))  # a restore that was killed leaves all of a backup
        except BaseException:
            resident.stop()  # whoever goes on, with the loss accepted, reads what is left then
            store.close()
            raise
    except StoreCorrupted as error:
        raise lost(identity, str(error)) from None
    return resident


def _check_claims(identity: NodeIdentity, store: GalleryStore, archive: Archive) -> None:
    """Raise `StoreLost` for an older copy, of the same people even, that forgot which queries and warrants it answered.

    Each query of which there is evidence was claimed before, unless a loss of claims was noted since.
    """
    if identity.config.role is Role.REQUESTER:
        return  # it answers nobody
    since = store.claims_lost_until or 0
    for query, written in archive.newest(CHECKED_QUERIES):
        if written > since + 1 and not store.has_claimed(reference_claim(query), REFERENCE_STEP):
            raise lost(identity, f"it does not know query {query.hex()}, of which there is evidence")


def _open_what_is_left(identity: NodeIdentity, archive: Archive, error: StoreLost) -> GalleryStore:
    file = identity.config.storage.file
    try:
        store = open_store(identity.config, ahead=True, anew=True)
        try:
            store.verify()
            _note_accepted(store, archive)  # first: killed after a change, it would pass for a later state of what was
            _bring_together(store)  # killed before this, the next start does it
        except BaseException:
            store.close()
            raise
    except StoreCorrupted:
        if file is None:
            raise error from None  # a PostgreSQL database is mended with its own tools
        aside = aside_mark(file)
        for suffix in ("", "-wal", "-shm"):
            part = Path(f"{file}{suffix}")
            if part.exists():
                part.rename(Path(f"{file}.{aside}{suffix}"))
        store = open_store(identity.config, anew=True)
        try:
            store.put_unnamed_rows_aside(aside)
        except BaseException:
            store.close()
            raise
    return store


def _bring_together(store: GalleryStore) -> None:
    """What is left goes on with its templates; those of the database that was lost are put aside, and never deleted."""
    found = store.reconcile(datetime.now(timezone.utc))
    told = {"forgotten": len(found.forgotten), "templates": found.lost}
    log.warning("accepted: what was forgotten since, and templates of nobody, are erased", extra=told)
    store.put_unnamed_rows_aside(aside_mark())
