"""`GalleryStore`: everything a holder keeps, behind one object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from nodes.blocks import BlockFiles
from nodes.store import answers, backup, content, enrolment, gallery, handling, moving, reconciling, records, rekey
from nodes.store.content import Content, Seen
from nodes.store.database import BUSY_SECONDS, Database
from nodes.store.errors import (
    PREPARATION,
    EnrolmentConflict,
    StoreCorrupted,
    StoreError,
    StoreRefusal,
    UnknownReference,
)
from nodes.store.gallery import Standing
from nodes.store.handling import Handled, Handler
from nodes.store.key_ring import KeyRing, open_keys
from nodes.store.keys import StorageKey
from nodes.store.migrations import upgrade
from nodes.store.references import open_reference_key
from nodes.store.rows import RowFiles, any_unmoved, rows_beside
from nodes.store.subjects import (
    DEFAULT_CATEGORIES,
    MAX_ROWS_OF_SUBJECT,
    BulkEnrolment,
    Category,
    ContestedEvent,
    DeletionReceipt,
    Particulars,
    Reconciled,
    Snapshot,
    Status,
    Subject,
    Templates,
    check_categories,
    check_state,
    check_templates,
    utc_day,
    utc_seconds,
)
from nodes.store.tables import SubjectRow

BATCH_ROWS = 65536  # in a transaction: 34 MB of templates at d = 512
log = logging.getLogger("lineup.store")

_TRIES = 8  # to read rows while somebody is forgotten


class GalleryStore:
    """The gallery of one member state, its quotas and the queries it has answered.

    `url`: see `Database`; a database that is new or of an earlier version is brought up to date. `key`: what records
    are encrypted under; `retired`: keys that older records still need. `rows`: the folder of the templates
    (`nodes.store.rows`); beside an SQLite file it is FILE.rows, unless another is named. `ahead`: the database was
    brought back by other means and may be older than that folder; `reconcile` it then. `look`: whether its templates
    are to be there; False to take over what it tells, before it is replaced.
    `state`: two capital letters. `categories`: the only ones enrolled and the only ones searched (Article 19(1));
    victims, missing persons and remains need a citation in `national_law` (Article 29). `lock_seconds`: how long to
    wait for others. `handler`: on whose behalf it is opened, for the log of who did what to whom; None is the node
    itself, or a program.

    Safe to use from many threads, and from several processes at once. Every method may raise `StoreError`:
    `StoreLocked`, `StoreFull`, `StoreUnavailable` mean that nothing was changed. Opening raises `WrongStorageKey`,
    `StoreVersionError`, `StoreRefusal`, `CategoryNotAllowed`.
    """

    def __init__(
        self,
        url: str,
        key: StorageKey,
        *,
        state: str,
        rows: Path | None = None,
        ahead: bool = False,
        look: bool = True,
        categories: Iterable[Category] = DEFAULT_CATEGORIES,
        national_law: Mapping[Category, str] | None = None,
        retired: Sequence[StorageKey] = (),
        lock_seconds: float = BUSY_SECONDS,
        handler: Handler | None = None,
    ) -> None:
        self.state = check_state(state)
        self._look = look
        self._handler = handler
        self.categories = check_categories(categories, national_law or {})
        self._database = Database(url, lock_seconds=lock_seconds)
        if rows is None and self._database.path is not None:
            rows = rows_beside(self._database.path)
        self._rows = RowFiles(rows, [each.blocks for each in (key, *retired)], BATCH_ROWS, ahead)
        try:
            upgrade(self._database)
            self._keys = self._attach(key, retired)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> GalleryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    # Enrolment

    def enrol(
        self,
        photo: bytes | None,
        template: npt.NDArray[np.int8],
        *,
        category: Category,
        status: Status,
        retain_until: date,
        model: bytes,
        quality: int | None = None,
    ) -> str:
        """Store one subject and give its new reference number.

        `photo`: the file's bytes, None for a template without one. `template`: int8 (d,). `retain_until`: the last day
        it is searched. `model`: digest of the model specification, 32 bytes. `quality`: 0 to 100.
        Raises `DuplicatePhoto`, `CategoryNotAllowed`, `StoreRefusal`, `TemplateError`, `ModelMismatch`.
        """
        return self.enrol_subject(
            () if photo is None else (photo,),
            np.asarray(template)[None],
            category=category,
            status=status,
            retain_until=retain_until,
            model=model,
            quality=quality,
        )

    def enrol_subject(
        self,
        photos: Sequence[bytes],
        templates: npt.NDArray[np.int8],
        *,
        category: Category,
        status: Status,
        retain_until: date,
        model: bytes,
        quality: int | None = None,
        names: Sequence[str] = (),
    ) -> str:
        """Store one subject with several photos: as one fused template, or as up to four rows, int8 (rows, d).

        `names`: what the photos' files are called, one each, or none at all. Gives the reference by which the subject
        goes, whichever row hits. Raises as `enrol`.
        """
        if not 1 <= len(templates) <= MAX_ROWS_OF_SUBJECT:
            raise StoreRefusal(f"a subject has 1 to {MAX_ROWS_OF_SUBJECT} rows, got {len(templates)}")
        particulars = self._particulars(templates, category, status, retain_until, model, quality)
        with self._enrolling(model, templates.shape[1]) as session:
            references = enrolment.enrol(
                session,
                self._keys,
                self._references,
                self._rows,
                self.state,
                templates,
                particulars,
                datetime.now(timezone.utc),
                photos,
                names,
                joined=True,
            )
            self._note(session, "enrol", references[:1])
        return references[0]

    def find_photo(self, photo: bytes) -> str | None:
        """The reference under which this photo is enrolled already: an interrupted folder skips it unread."""
        with self._database.reading() as session:
            return enrolment.find_photo(session, self._keys, photo)

    def enrol_many(
        self,
        templates: Templates,
        *,
        category: Category,
        status: Status,
        retain_until: date,
        model: bytes,
        quality: int | None = None,
        source: bytes | None = None,
        progress: Callable[[int], object] | None = None,
        tell: bool = True,
    ) -> BulkEnrolment:
        """Store many subjects without photos, int8 (rows, d), in transactions of 65,536 rows.

        `source`: digest of what is enrolled, 32 bytes; with it, an enrolment that was interrupted continues after the
        last stored row, and one that was completed adds nothing. `progress` is told the number of rows done. `tell`:
        the references, for which there must be room in memory.
        Raises as `enrol`, and `EnrolmentConflict` if the source was begun with other particulars.
        """
        array = templates if isinstance(templates, np.ndarray) else templates[:1]  # else checked as they are read
        particulars = self._particulars(array, category, status, retain_until, model, quality)
        references: list[str] = []
        done = skipped = self._rows_done(source, particulars, len(templates))
        while done < len(templates):
            part = templates[done : done + BATCH_ROWS]
            with self._enrolling(model, part.shape[1]) as session:
                if source is not None:
                    # again, under the lock: another process may be enrolling the same source
                    now_done = enrolment.rows_done(session, self._keys, source, particulars, len(templates))
                    if now_done != done:
                        raise EnrolmentConflict("the same source is being enrolled by another process")
                    enrolment.set_rows_done(session, self._keys, source, done + len(part))
                now = datetime.now(timezone.utc)
                added = enrolment.enrol(
                    session, self._keys, self._references, self._rows, self.state, part, particulars, now
                )
                self._note(session, "enrol", added)
            references += added if tell else ()
            done += len(part)
            if progress is not None:
                progress(done)
        return BulkEnrolment(tuple(references), skipped, done - skipped)

    # One subject

    def subject(self, reference: str) -> Subject:
        """What is known of a subject. Raises `UnknownReference`."""
        with self._database.reading() as session:
            return records.subject(session, self._references, reference)

    def subjects(self) -> list[Subject]:
        """What is known of all subjects, in the order of their enrolment."""
        with self._database.reading() as session:
            return list(records.subjects(session))

    def photo(self, reference: str) -> bytes | None:
        """The photo, for release after approval (Article 24(2)); None without one. Raises `UnknownReference`.

        Given until `delete_expired_subjects` has run, so that an answer begun before midnight can be completed.
        """
        with self._database.reading() as session:
            return records.photo(session, self._keys, self._references, reference)

    def photo_names(self, reference: str) -> tuple[str, ...]:
        """What the files of its photos were called, decrypted, where that is known. Raises `UnknownReference`."""
        with self._database.reading() as session:
            return records.photo_names(session, self._keys, self._references, reference)

    def flag_contested(self, reference: str, now: datetime) -> None:
        """Mark the accuracy of a subject's data as contested (Article 51(3)). Raises `UnknownReference`."""
        with self._database.writing() as session:
            gallery.change(session)
            records.flag_contested(session, self._references, reference, now)
            self._note(session, "contest", [reference], now)

    def clear_contested(self, reference: str, authority: str, now: datetime) -> None:
        """Take the mark off on the decision named by `authority`, which is recorded, encrypted (Article 51(3)).

        Raises `UnknownReference`, and `StoreRefusal` without an authority or for a subject that is not marked.
        """
        with self._database.writing() as session:
            gallery.change(session)
            records.clear_contested(session, self._keys, self._references, reference, authority, now)
            self._note(session, "clear", [reference], now)

    def contested(self, references: Sequence[str]) -> frozenset[str]:
        """Those of some references whose accuracy is contested; unknown ones are passed over."""
        with self._database.reading() as session:
            return records.contested(session, self._references, references)

    def contested_history(self, reference: str) -> tuple[ContestedEvent, ...]:
        """When the mark was set, when it was taken off and by whose decision. Raises `UnknownReference`."""
        with self._database.reading() as session:
            return records.contested_history(session, self._keys, self._references, reference)

    # Deletion

    def forget(self, reference: str, now: datetime) -> DeletionReceipt:
        """Delete a subject; the next snapshot is without it (Article 64(1)(m)). For one who was forgotten before, the
        receipt says when. Raises `UnknownReference`."""
        receipts = self.forget_all([reference], now)
        if not receipts:
            raise UnknownReference(f"no subject has reference {reference[:64]!r}")
        return receipts[0]

    def forget_all(self, references: Iterable[str], now: datetime) -> list[DeletionReceipt]:
        """Delete subjects, passing over references that do not exist: what `deletions` lists, after a restore.

        Who was forgotten before gets the receipt of then.
        """
        wanted = list(references)
        with self._database.writing() as session:
            current = gallery.change(session)
            receipts = self._forget(session, wanted, now, current)
            receipts += records.forgotten_before(session, wanted, receipts, current)
        self._erase()
        self._database.wipe_log()
        return receipts

    def _forget(
        self, session: Session, references: Iterable[str], now: datetime, current: int
    ) -> list[DeletionReceipt]:
        receipts = records.forget(session, self._references, references, now, current)
        if receipts:
            self._note(session, "forget", [receipt.reference for receipt in receipts], now)
        return receipts

    def delete_expired_subjects(self, now: datetime) -> list[DeletionReceipt]:
        """Delete the subjects whose retention date is past; call it daily. No snapshot holds them in the meantime.

        What the log of handling holds from more than three years ago goes too.
        """
        with self._database.writing() as session:
            handling.purge(session, utc_seconds(now - timedelta(days=handling.KEPT_YEARS * 366)))
            receipts: list[DeletionReceipt] = []
            if records.any_past(session, now):  # a gallery that did not change is not derived again
                receipts = records.delete_expired_subjects(session, now, gallery.change(session))
            if receipts:
                self._note(session, "expire", [receipt.reference for receipt in receipts], now)
        self._erase()
        self._database.wipe_log()
        return receipts

    def _erase(self) -> None:
        """Erase the rows of who was just deleted. Where that fails they are gone all the same, and it is done later."""
        try:
            self.settle()
        except StoreError as error:
            log.error("templates of deleted subjects are not erased yet", extra={"error": type(error).__name__})

    def settle(self) -> int:
        """Erase rows whose subjects were deleted, and rows that an interrupted enrolment left; gives how many.

        Part of every change; to be called at a start too, once the database is known to be the right one.
        """
        with self._database.writing() as session:
            gallery.lock(session)
            return self._rows.settle(session)

    def reconcile(self, now: datetime) -> Reconciled:
        """Let database and templates go on together after a restore (`nodes.store.reconciling`)."""
        with self._database.writing() as session:
            current = gallery.change(session)
            found = reconciling.reconcile(
                session, self._rows, lambda references: self._forget(session, references, now, current)
            )
        self._database.wipe_log()
        return found

    def deletions(self) -> dict[str, datetime]:
        """All references forgotten, with the time: keep this list apart from backups (README, "Restore")."""
        with self._database.reading() as session:
            return records.deletions(session)

    # Who handled whom

    def consulted(self, references: Iterable[str]) -> None:
        """Write down that subjects were looked up. Call it before anything is shown."""
        with self._database.writing() as session:
            self._note(session, "consult", references)

    def handled(self) -> list[Handled]:
        """Who enrolled, changed, deleted or looked up whom, the first entry first. Raises `StoreCorrupted`."""
        with self._database.reading() as session:
            return handling.entries(session, self._keys)

    def handling_contents(self) -> list[bytes]:
        """That log, for `add_handling` in a copy of this store. Raises `StoreCorrupted`."""
        with self._database.reading() as session:
            return handling.contents(session, self._keys)

    def add_handling(self, theirs: Iterable[bytes]) -> None:
        """Take over what another copy's log holds and this one's lacks, after a restore. Raises `StoreCorrupted`."""
        with self._database.writing() as session:
            handling.add_missing(session, self._keys, theirs)

    # The gallery

    @property
    def generation(self) -> int:
        """How many changes the gallery has seen: what was derived at another number is stale."""
        with self._database.reading() as session:
            return gallery.generation(session)

    @property
    def content(self) -> Content:
        """Which database this is, and what it says that it holds."""
        with self._database.reading() as session:
            return content.content(session)

    def verify(self, *, whole: bool = False, seen: Seen | None = None) -> Content:
        """Check the file (SQLite), every row's digest, and that all have a template; gives what it holds.

        Raises `StoreCorrupted`. Where templates may be ahead, only `reconcile` looks at them. `whole`: SQLite's
        integrity check in place of the quick one, and that every reference is tied to its template. `seen` is told who
        is held; it is to be believed only once this has returned.
        """
        with ThreadPoolExecutor(1) as beside:
            checked = beside.submit(self._database.check, whole)
            try:
                return self._verify(whole, seen)
            finally:
                checked.result()  # of two errors, that of the file says more

    def _verify(self, whole: bool, seen: Seen | None) -> Content:
        with self._database.reading() as session:
            for known in self._rows.models(session):
                self._rows.not_older(known)
            erased = [(model.id, self._rows.erased(model)) for model in self._rows.models(session)]
        with self._database.reading() as session:  # later: who was deleted is gone from the database first
            missing = sum(len(gallery.references(session, model, rows)) for model, rows in erased)
            if missing and not self._rows.ahead:
                raise StoreCorrupted(f"the database holds {missing} subjects whose templates were deleted: it is older")
            if whole:
                gallery.check_ties(session, self._keys, self._references)
            return content.verify(session, seen)

    def verify_templates(self) -> None:
        """Read every template on disk: of a backup, before it takes the place of anything. Raises `StoreCorrupted`."""
        with self._database.reading() as session:
            self._rows.check_rows(session)

    def count(self) -> int:
        """Subjects held."""
        with self._database.reading() as session:
            return gallery.count(session)

    def models(self) -> frozenset[bytes]:
        """Digests of the face models of all subjects held, those past their retention date included."""
        with self._database.reading() as session:
            return gallery.models(session)

    def snapshot(
        self, now: datetime, *, model: bytes | None = None, categories: Iterable[Category] | None = None
    ) -> Snapshot:
        """The gallery at one moment: rows of one model, of allowed categories, within retention.

        `categories`: fewer than the allowed ones (a search for missing persons looks at no suspects, Article 29).
        Raises `ModelMismatch` if there are several models and none is named, `EmptyStore`, `StoreCorrupted`,
        `CategoryNotAllowed`.
        """
        wanted = self.categories if categories is None else frozenset(categories)
        for category in sorted(wanted):
            enrolment.check_allowed(category, self.categories)
        for _ in range(_TRIES):
            with self._database.reading() as session:
                found = gallery.snapshot(session, self._rows, utc_day(now), wanted, model)
            if found is not None:
                return found
        raise StoreCorrupted(f"templates of subjects that are held are erased, in each of {_TRIES} readings")

    def row_files(self, categories: Iterable[Category], model: bytes | None = None) -> tuple[bytes, BlockFiles]:
        """A model, and its block files: the one named, or the only one of subjects of these categories.

        Raises as `snapshot`.
        """
        wanted = SubjectRow.category.in_([category.value for category in categories])
        with self._database.reading() as session:
            chosen = gallery.choose_model(session, wanted, model)
            self._rows.not_older(chosen)
            return chosen.digest, self._rows.of(chosen)

    def reference(self, model: bytes, row: int) -> str:
        """The reference of the subject whose row has a number. Raises `UnknownReference` if it was forgotten."""
        with self._database.reading() as session:
            found = gallery.reference(session, self._keys, self._references, model, row)
        if found is None:
            raise UnknownReference("the subject was forgotten meanwhile")
        return found

    def standing(self, model: bytes, after: int = 0) -> Standing:
        """Who is held, by row number: subjects of a model with a number above `after`, and rows that are gone."""
        with self._database.reading() as session:
            chosen = gallery.choose_model(session, SubjectRow.id > after, model)
            held = tuple(gallery.held_rows(session, chosen, after))
            gone = gallery.gone_rows(session, chosen)
            return Standing(gallery.generation(session), gallery.last_subject(session), held, gone)

    # Answers

    def take_quota(self, peer_state: str, kind: Status, day: date, limit: int) -> int:
        """Count a query against a state's daily capacity (Article 23(1)); gives the number used.

        Atomic among threads, processes and restarts. Raises `QuotaExceeded`.
        """
        with self._database.writing() as session:
            return answers.take_quota(session, peer_state, kind.value, day, limit)

    def quota_used(self, peer_state: str, kind: Status, day: date) -> int:
        """Queries granted to a state on a day."""
        with self._database.reading() as session:
            return answers.quota_used(session, peer_state, kind.value, day)

    def preparations_taken(self, peer_state: str, day: date) -> int:
        """Preparations that were begun with a state on a day."""
        with self._database.reading() as session:
            return answers.quota_used(session, peer_state, PREPARATION, day)

    def claim_query(self, query_id: bytes, digest: bytes, now: datetime, *, step: str = "query") -> None:
        """Take a step of a query to answer it, once and for all; call it before any work.

        `digest`: of the message to be answered. Raises `QueryReplayed` if the step was taken before, by any process,
        with the same message or another.
        """
        with self._database.writing() as session:
            answers.claim_query(session, query_id, digest, now, step)

    def has_claimed(self, query_id: bytes, step: str) -> bool:
        """Whether `claim_query` was called for this before."""
        with self._database.reading() as session:
            return answers.has_claimed(session, query_id, step)

    def admit_query(
        self, query_id: bytes, digest: bytes, peer_state: str, kind: Status, limit: int, now: datetime
    ) -> int:
        """`claim_query` and `take_quota` for the UTC day of `now`, both or neither; gives the quota used.

        So a replay uses up nobody's quota. Raises `QueryReplayed`, `QuotaExceeded`.
        """
        with self._database.writing() as session:
            answers.claim_query(session, query_id, digest, now, "query")
            return answers.take_quota(session, peer_state, kind.value, utc_day(now), limit)

    def admit_preparation(
        self, query_id: bytes, digest: bytes, peer_state: str, limit: int, now: datetime, *, step: str
    ) -> int:
        """`claim_query`, and count a preparation that is about to be made with a state, both or neither.

        Gives the number of the UTC day of `now`, this one included. Raises `QueryReplayed`, `QuotaExceeded`.
        """
        with self._database.writing() as session:
            answers.claim_query(session, query_id, digest, now, step)
            return answers.take_quota(session, peer_state, PREPARATION, utc_day(now), limit)

    def take_releases(self, peer_state: str, references: Iterable[str], day: date, days: int) -> int:
        """Count a release of each reference to a state, before anything leaves; no references: only look.

        Gives the count of the state's most released reference over `days` UTC days up to `day`. Atomic among threads,
        processes and restarts: whoever gets a count above its limit releases nothing.
        """
        with self._database.writing() as session:
            return answers.take_releases(session, peer_state, references, day, days)

    def shut_out(self, limit: int, day: date, days: int) -> dict[str, date]:
        """States at their limit of releases of one reference, and the first day on which they are served again."""
        with self._database.reading() as session:
            return answers.shut_out(session, limit, day, days)

    def purge_releases(self, before: date) -> int:
        """Delete counts of releases on UTC days before `before`."""
        with self._database.writing() as session:
            return answers.purge_releases(session, before)

    def purge_claims(self, before: datetime) -> int:
        """Delete claims older than `before`, which must be past the expiry of every warrant they stand for."""
        with self._database.writing() as session:
            return answers.purge_claims(session, before)

    def note_loss(self, now: datetime) -> None:
        """Note that claims may be lost, after a restore: `claims_lost_until` then gives `now`, or a later loss."""
        with self._database.writing() as session:
            answers.note_loss(session, now)

    @property
    def claims_lost_until(self) -> int | None:
        """Claims before this second since 1970 may be lost, so older queries must not be answered; None: none are."""
        with self._database.reading() as session:
            return answers.lost_until(session)

    # Maintenance

    def rekey(self, progress: Callable[[int], object] | None = None) -> int:
        """Encrypt everything anew under the current key and give up the retired ones; gives the number of subjects.

        If interrupted, open the store with the same keys and call it again. Raises `StoreCorrupted`.
        """
        with self._changing() as session:
            self._rows.rekey(session)
        total = rekey.rekey_records(self._database, self._keys, self._references, progress)
        self._keys = KeyRing(self._keys.current, {self._keys.current: self._keys.key})
        self._database.wipe_log()
        return total

    def backup(self, path: Path) -> None:
        """Copy one moment of a store while it is in use, encrypted as it is: an SQLite database to a new file, the
        templates to FILE.rows.

        A PostgreSQL database is copied by `pg_dump`, and before this: templates must not be older than their database.
        Raises `StoreRefusal` if a target exists.
        """
        backup.check_new(self._database, path)
        self.settle()
        backup.back_up(self._database, self._rows, path)

    def retire_versions(self, before: int) -> int:
        """Keep no version of the templates that was not in force after a second since 1970; gives how many rows that
        erased. No audit and no preparation needs one any more."""
        with self._changing(counted=False) as session:
            return self._rows.retire(session, before)

    def compact(self) -> int:
        """Leave out the places of erased rows in the block files; gives how many. What waits was prepared for other
        places, and is of no use any more; versions that are kept can still be audited. Others wait meanwhile."""
        with self._changing(counted=False) as session:
            return self._rows.compact(session)

    def drop_unnamed_rows(self) -> int:
        """Delete the folders that are not this database's, and gives how many: what a restore replaced, or left when it
        was interrupted. Call it once the database is known to be the right one."""
        with self._database.writing() as session:
            gallery.lock(session)  # a folder that another process is making is named when that is done
            return self._rows.drop_unnamed(session)

    def put_unnamed_rows_aside(self, mark: str) -> list[Path]:
        """Move those folders to where nothing deletes them, FOLDER.MARK; gives where they are. Raises `StoreError`."""
        with self._database.writing() as session:
            gallery.lock(session)
            return self._rows.put_unnamed_aside(session, mark)

    def unnamed_rows(self) -> list[Path]:
        """Folders among those of the templates that are not this database's."""
        with self._database.reading() as session:
            return self._rows.unnamed(session)

    def _attach(self, key: StorageKey, retired: Sequence[StorageKey]) -> KeyRing:
        with self._database.writing() as session:
            owner = gallery.owner(session, self.state)
            if owner != self.state:
                raise StoreRefusal(f"this store belongs to {owner}, not to {self.state}")
            keys = open_keys(session, key, retired)
            self._references = open_reference_key(session, keys)
            if self._look:
                self._rows.check(session)
            unmoved = any_unmoved(session)
            if not unmoved:
                content.settle(session)
        if unmoved:
            self._move(keys)
        return keys

    def _move(self, keys: KeyRing) -> None:
        """Move the templates of an earlier version into block files, then count what is held."""
        moved = 1
        while moved:
            with self._changing(counted=False, before=self._make_folders) as session:
                moved = moving.move_batch(session, keys, self._rows)
                if not moved:
                    content.settle(session)
        self._database.wipe_log()

    def _make_folders(self, session: Session) -> None:
        moving.make_folders(session, self._rows)

    def _enrolling(self, model: bytes, dim: int) -> AbstractContextManager[Session]:
        return self._changing(before=lambda session: enrolment.known_model(session, self._rows, model, dim))

    @contextmanager
    def _changing(
        self, counted: bool = True, before: Callable[[Session], object] = lambda session: None
    ) -> Iterator[Session]:
        """A change of the block files, noted before: else what a crash leaves would look like an older database.

        What was left half done is brought to an end before, and at once if it fails. `counted`: of the gallery.
        `before`: makes the folders that rows are going to be in. They are the database's before there are any: of one
        that it does not name, nobody would erase a row.
        """
        try:
            while True:
                with self._database.writing() as session:
                    gallery.lock(session)
                    self._rows.settle(session)
                    before(session)
                    self._rows.announce(session, True)
                with self._database.writing() as session:
                    gallery.lock(session)
                    if not self._rows.announced(session):  # another writer came between, and is done
                        continue
                    if counted:
                        gallery.change(session)
                    self._rows.settle(session)
                    yield session
                    self._rows.announce(session, False)
                    return
        except BaseException:
            with suppress(StoreError):
                self.settle()
            raise

    def _note(
        self, session: Session, act: handling.Act, references: Iterable[str], now: datetime | None = None
    ) -> None:
        moment = utc_seconds(now or datetime.now(timezone.utc))
        handling.note(session, self._keys, self._handler, act, references, moment)

    def _rows_done(self, source: bytes | None, particulars: Particulars, rows: int) -> int:
        if source is None:
            return 0
        with self._database.writing() as session:
            gallery.change(session)
            return enrolment.rows_done(session, self._keys, source, particulars, rows)

    def _particulars(
        self,
        templates: npt.NDArray[Any],
        category: Category,
        status: Status,
        retain_until: date,
        model: bytes,
        quality: int | None,
    ) -> Particulars:
        enrolment.check_allowed(category, self.categories)
        check_templates(templates)
        return Particulars(category, status, retain_until, model, quality)
