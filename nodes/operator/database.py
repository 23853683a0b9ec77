"""Maintain a node's database from its folder: backup, restore, change of key, expiry.

What is in PostgreSQL is dumped and brought back by its own tools, first; all else that belongs to it is done here.

A restore brings back people who were forgotten, and forgets which queries were answered. So it takes from the store
that it replaces what happened since the backup: deletions, contested flags, claims, quotas, counts of releases, who
handled whom. Where that store is lost, it asks first, and the node then answers no query whose warrant is older than
the restore.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from nodes import pool
from nodes.casework import desk, vault
from nodes.config.schema import ConfigError, NodeConfig, Role, load_config
from nodes.config.storage import open_store, rows_folder
from nodes.config.storage_key import storage_key
from nodes.evidence import sealed, under_way
from nodes.evidence.archive import Archive
from nodes.evidence.ledger import EXPECTED, Ledger, expect, expect_no_more, expected
from nodes.identity.identity import load_identity
from nodes.logs.errors import LogInUse
from nodes.logs.frames import lock_folder
from nodes.logs.of_node import has_entries, open_log
from nodes.operator import beside
from nodes.private_files import sync_folder
from nodes.service.expiry import Expired
from nodes.service.expiry import delete_expired as delete_expired_now
from nodes.store import StorageKey, StoreCorrupted, StoreError, StoreUnavailable
from nodes.store.backup import (
    CarriedOver,
    adopt_rows,
    bring_rows,
    carry_over,
    copy_database,
    keep_aside,
    remove_database,
    replace_database,
    restoring,
)
from nodes.store.database import is_empty
from nodes.store.reconciling import added_since
from nodes.store.rows import aside_mark, rows_beside
from nodes.store.store import GalleryStore
from pets.errors import InputError


class LossRefused(InputError):
    """A restore that would lose something, and nobody said yes."""


class Restored(msgspec.Struct, frozen=True):
    """What a restore gave.

    `forgotten_again`: subjects in the backup that were forgotten since. `lost`: what is lost, in words.
    `refuses_until`: warrants up to this time are refused, as queries answered before may be lost; None if none are.
    `aside`: files and folders that were put aside, as they are damaged or nobody knows what they belong to.
    """

    subjects: int
    forgotten_again: int
    expired: int
    lost: tuple[str, ...]
    refuses_until: datetime | None
    aside: tuple[str, ...] = ()


class Rekeyed(msgspec.Struct, frozen=True):
    """What a change of key did. `old_key`: where the previous key is kept for older backups, if it was in a file."""

    subjects: int
    sealed_files: int
    old_key: str | None


def backup(folder: Path, target: Path) -> list[Path]:
    """Copy what belongs to a node's databases while it runs: gallery, templates, casework, console; gives the copies.

    Not a database that is in PostgreSQL (`in_postgresql`). Raises `StoreError`, `StoreCorrupted` where the gallery's is
    gone; then there are no copies.
    """
    config, rows = load_config(folder), rows_beside(target)
    _check_not_lost(config)
    own = [] if config.storage.file is None else [target]
    beside.check_free(config, target)
    with open_store(config) as store:
        store.backup(target)
    try:
        return [*own, *([rows] if rows.is_dir() else []), *beside.copy_beside(folder, config, target)]
    except BaseException:
        for path in own:
            path.unlink(missing_ok=True)
        shutil.rmtree(rows, ignore_errors=True)
        raise


def _check_not_lost(config: NodeConfig) -> None:
    """A copy of one begun anew would be restored as if nothing had been lost: what was answered would be again."""
    file = config.storage.file
    if file is not None and not desk.has_content(file) and has_entries(config.paths.logs):
        raise StoreCorrupted(
            f"{file} is {'empty' if file.exists() else 'gone'}: there is nothing to copy. Put a backup in its place "
            "with `lineup store restore`; or, if it is lost for good, start once with `lineup node serve --accept-loss`"
        )


def in_postgresql(folder: Path) -> tuple[str, ...]:
    """Which of a node's databases are in PostgreSQL, for `pg_dump` to copy before `backup`."""
    config = load_config(folder)
    urls = {"gallery": config.storage.url, "casework": config.casework.url}
    return tuple(name for name, url in urls.items() if url is not None)


def restore(
    folder: Path, source: Path | None, now: datetime, *, old_key: Path | None = None, yes: bool = False
) -> Restored:
    """Put a backup in the place of a stopped node's database. `old_key`: what it is encrypted under, if no longer ours.

    On PostgreSQL `pg_restore` has put the database there, and what remains is done here. `source` then names what
    `backup` copied beside the dump; None where templates, casework and console were not lost.
    Raises `LossRefused` unless `yes`, `InputError` for a node that runs, `StoreError`; then nothing was changed.
    """
    config = load_config(folder)
    with stopped(config):
        if source is None and config.storage.file is not None:
            raise InputError("name the backup to restore")
        _finish_killed(folder, config)
        absent = [] if source is None else beside.missing(folder, config)
        lost = () if source is None else beside.losses(folder, config, source, absent)
        in_postgresql = config.casework.url is not None  # else a backup is looked into for it
        if begin_cases := (in_postgresql or source is None) and beside.cases_gone(folder, config):
            back = "pg_restore brings a dump of it back" if in_postgresql else "a backup that is named brings it back"
            lost += (f"casework, whose database is gone or empty: {back}",)
        if config.storage.file is None:
            result = _after_pg_restore(config, source, now, yes, lost)
        else:
            assert source is not None
            if lost and not yes:
                raise LossRefused(f"restoring {source} loses {'; '.join(lost)}: give --yes if it must be")
            result = _restore(config, config.storage.file, source, now, old_key, yes)
        if source is not None:
            old_keys = [] if old_key is None else [StorageKey.from_file(old_key)]
            kept = beside.restore_beside(folder, config, source, absent, old_keys)
            result = msgspec.structs.replace(result, aside=result.aside + tuple(map(str, kept)))
        if begin_cases:
            beside.catch_up(folder, config)
        _note_restored(folder)
        return msgspec.structs.replace(result, lost=result.lost + lost)


def _finish_killed(folder: Path, config: NodeConfig) -> None:
    """A restore that was killed once the backup was in place: note it, and put aside what it left of a database that
    was lost, as it would have. Another one deletes that. Raises `StoreUnavailable`.

    Not on PostgreSQL: there another one deletes nothing, and what lies there now may have been brought back since,
    which nobody has agreed to.
    """
    file = config.storage.file
    if file is None or restoring(file).exists() or not file.is_file():
        return  # it was killed before
    try:
        if not (config.paths.logs / EXPECTED).exists() or is_empty(config.storage.database_url):
            return
        with open_store(config) as store:
            aside = expected(config.paths.logs, store.content)
            if aside is None:
                return
            if aside:
                store.put_unnamed_rows_aside(aside)
            _note_restored(folder)
    except StoreUnavailable:
        raise  # in use, or no space: later it can be done
    except StoreError:
        return  # damaged since: it is put aside with all templates


def _note_restored(folder: Path) -> None:
    """Tell the node's gallery log that what it finds next is meant to be there."""
    identity = load_identity(folder)
    desk.begin(identity.config, folder)  # where the log is begun now
    with open_log(identity, folder, "gallery") as log, open_store(identity.config) as store:
        Ledger(identity, log, nullcontext()).note(store.content, "restored")


def _restore(config: NodeConfig, place: Path, source: Path, now: datetime, old_key: Path | None, yes: bool) -> Restored:
    copy, rows, mark = restoring(place), rows_folder(config), aside_mark(place)
    retired = [] if old_key is None else [StorageKey.from_file(old_key)]
    adopted: list[Path] = []
    kept: list[Path] = []
    try:
        remove_database(copy)  # of a restore that was interrupted
        expect_no_more(config.paths.logs)  # before it changed anything: `_finish_killed`
        copy_database(source, copy)
        adopt_rows(copy, rows_beside(source), rows, adopted)
        with open_store(config, url=f"sqlite:///{copy}", retired=retired) as fresh:
            fresh.rekey()  # nothing to do unless its key is an old one
            theirs = fresh.content.database_id
        carried, lost, strange = _carry_over(config, place, copy, now, theirs)
        if lost and not yes:
            raise LossRefused(f"restoring {source} loses {'; '.join(lost)}: give --yes if it must be")
        with open_store(config, url=f"sqlite:///{copy}") as fresh:
            fresh.verify_templates()  # the present ones may be sound, and go once the backup is in their place
            if strange:
                fresh.note_loss(now)
            result = _restored(config, fresh, now, 0 if carried is None else carried.forgotten, lost)
            expect(config.paths.logs, fresh.content, mark if strange else "")
        kept += keep_aside(place, mark) if strange else []
        replace_database(place, copy, None if carried is None else carried.state)
    except BaseException:
        if copy.exists():  # else it is in place already, with the templates that were made for it
            expect_no_more(config.paths.logs)
            for file in kept:
                file.unlink()
            for made in adopted:
                shutil.rmtree(made, ignore_errors=True)
        raise
    finally:
        remove_database(copy)
    with open_store(config) as restored:
        if strange:
            kept += _folders(restored.put_unnamed_rows_aside(mark))
        else:
            restored.drop_unnamed_rows()
    return msgspec.structs.replace(result, aside=tuple(map(str, kept)))


def _folders(moved: Sequence[Path]) -> list[Path]:
    """Where templates were put aside, a folder once."""
    return sorted({path.parent for path in moved})


def _carry_over(
    config: NodeConfig, place: Path, copy: Path, now: datetime, theirs: bytes
) -> tuple[CarriedOver | None, tuple[str, ...], bool]:
    """Take over from the store at `place`, and say what is lost; None if there is none, or it is damaged or not ours.

    And whether it is not the database that the backup is of, which is `theirs`: then queries may have been answered of
    which it does not tell, and it is put aside.
    Raises `StoreUnavailable` for one that cannot be read just now, `StoreCorrupted` for a backup that is damaged.
    """
    try:
        if not place.is_file():
            raise InputError("there is none")
        # whether its key and state are ours; brings it to this version. Its templates may be what is to be replaced
        with open_store(config, look=False) as present:
            ours = present.content.database_id
        carried = carry_over(place, copy, now)
        with open_store(config, look=False) as present:  # later: an entry that came in between ends the restore
            handled = _handled(present)
    except StoreUnavailable:
        raise  # in use, or no space: it may be sound
    except (StoreError, InputError) as error:
        why = f"the present store is unusable ({error})"
        return None, (f"what was forgotten and answered since the backup, for {why}",), True
    lost: tuple[str, ...] = ()
    if handled:
        with open_store(config, url=f"sqlite:///{copy}") as fresh:
            fresh.add_handling(handled)
    elif handled is None:
        lost += ("who handled whom since the backup, for the log of that is damaged",)
    if carried.lost:
        lost += (f"{carried.lost} subjects enrolled since the backup",)
    if ours != theirs:
        lost += ("what was forgotten and answered since the backup, for the present store is another database",)
    elif carried.unknown:
        what = (
            f"whether {carried.unknown} subjects of the backup, of whom the present store knows nothing, were forgotten"
        )
        lost += (what,)
    return carried, lost, ours != theirs


def _handled(present: GalleryStore) -> list[bytes] | None:
    try:
        return present.handling_contents()
    except StoreCorrupted:
        return None


def _after_pg_restore(
    config: NodeConfig, source: Path | None, now: datetime, yes: bool, beside_it: tuple[str, ...]
) -> Restored:
    lost = ("what was forgotten and answered since the dump",)
    if source is not None and not beside.found(config, source):
        raise InputError(
            f"nothing that `lineup store backup` makes lies at {source}.*; a dump is restored with pg_restore, into an "
            "empty database that node.toml then names"
        )
    if not yes:
        told = "; ".join(lost + beside_it + _enrolled_since(config))
        raise LossRefused(f"after pg_restore the store has lost {told}: give --yes to go on")
    with suppress(StoreUnavailable):  # it is opened, and named, below
        if is_empty(config.storage.database_url):
            raise InputError("the database that node.toml names is empty: bring the dump back with pg_restore first")
    made = [] if source is None else bring_rows(rows_beside(source), rows_folder(config))
    try:
        with open_store(config, ahead=True) as store:
            if store.unnamed_rows() and not store.count():
                raise InputError(
                    f"the database holds nobody, and {rows_folder(config)} holds templates: bring the dump back with "
                    "pg_restore first, into an empty database that node.toml then names"
                )
            if made:
                store.verify_templates()
            store.note_loss(now)
            expect(config.paths.logs, store.content, mark := aside_mark())
            made = []  # from here on the database knows what becomes of them: without them it could not be opened again
            result = _restored(config, store, now, 0, lost)
            kept = _folders(store.put_unnamed_rows_aside(mark))  # of models that the dump does not know
            return msgspec.structs.replace(result, aside=tuple(map(str, kept)))
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _enrolled_since(config: NodeConfig) -> tuple[str, ...]:
    """Whose templates would be erased, as the database that was brought back does not know them."""
    try:
        added = added_since(config.storage.database_url, storage_key(config), rows_folder(config))
    except StoreError:  # templates are gone too, say, or the database is of an earlier version
        return ("who was enrolled since the dump",)
    return (f"{added} templates that were enrolled since the dump",) if added else ()


def _restored(
    config: NodeConfig, store: GalleryStore, now: datetime, forgotten: int, lost: tuple[str, ...]
) -> Restored:
    found = store.reconcile(now)
    expired, until = len(store.delete_expired_subjects(now)), store.claims_lost_until
    lost += (f"{found.lost} templates that were enrolled since the backup",) if found.lost else ()
    skew = config.policy.clock_skew_seconds  # by so much a warrant may be dated ahead
    moment = None if until is None else datetime.fromtimestamp(until + skew, now.tzinfo)
    return Restored(store.count(), forgotten + len(found.forgotten), expired, lost, moment)


def rekey(folder: Path, *, old_key: Path | None = None, progress: Callable[[int], object] | None = None) -> Rekeyed:
    """Encrypt a stopped node's database and sealed files under a new key. If interrupted, call it again.

    With a key file: makes a new key, and in the end puts it in the file's place; the previous key stays beside it.
    With a key in the environment, or a file that holds the new one already: `old_key` holds the previous key.
    Raises `InputError` for a node that runs, `ConfigError`, `StoreError`.
    """
    config = load_config(folder)
    file = config.storage.key_file
    with stopped(config):
        if old_key is not None:
            return Rekeyed(*_rekey(config, folder, storage_key(config), StorageKey.from_file(old_key), progress), None)
        if file is None:
            limit = "put the new key there, the previous key into a file, and name that file with --old-key"
            raise ConfigError("storage.key_env", config.storage.key_env, limit)
        old, waiting = StorageKey.from_file(file), file.with_name(f"{file.name}.new")
        new = StorageKey.from_file(waiting) if waiting.exists() else StorageKey.create(waiting)
        sync_folder(file.parent)  # a database under a key that a power cut took could not be read again
        done = _rekey(config, folder, new, old, progress)
        kept = file.with_name(f"{file.name}.{old.fingerprint}")
        with suppress(FileExistsError):
            os.link(file, kept)
        waiting.replace(file)
        sync_folder(file.parent)
        return Rekeyed(*done, str(kept))


def _rekey(
    config: NodeConfig, folder: Path, new: StorageKey, old: StorageKey, progress: Callable[[int], object] | None
) -> tuple[int, int]:
    with open_store(config, key=new, retired=[old]) as store:
        subjects = store.rekey(progress)
    cases = desk.database_url(config, folder)
    if desk.is_there(config, folder):
        vault.rekey(cases, old, new)
    pool.reseal(folder / pool.FOLDER, old, new)
    under_way.reseal(folder, old, new)
    return subjects, sealed.reseal(folder / "sealed", old, new)


@contextmanager
def stopped(config: NodeConfig) -> Iterator[None]:
    """Keep a node from starting meanwhile. Raises `InputError` if it runs."""
    place = config.paths.logs / "transcript"
    if not place.is_dir():  # it has never run
        yield
        return
    try:
        handle = lock_folder(place)
    except LogInUse:
        raise InputError(f"{config.name} is running, or another command uses its logs: stop it first") from None
    try:
        yield
    finally:
        os.close(handle)


def compact(folder: Path) -> int:
    """Leave out the places of rows that are erased, also while the node runs; gives how many. Raises `StoreError`."""
    with open_store(load_config(folder)) as store:
        return store.compact()


def delete_expired(folder: Path) -> Expired:
    """Delete what is past its time, at a node that is stopped. Raises `InputError` for one that runs."""
    identity = load_identity(folder)
    with open_store(identity.config) as store:
        try:
            archive = Archive(identity, folder)
        except LogInUse:
            raise InputError(f"{identity.config.name} is running: it does this itself, daily") from None
        try:
            done = delete_expired_now(store, archive, identity.config, datetime.now(timezone.utc))
            if identity.config.role is not Role.ROUTER:
                with desk.CaseDesk.open(folder) as cases:
                    cases.delete_expired_case_data()
            return done
        finally:
            archive.close()
