"""Backup and restore of `casework.db` and `console.db`, which lie beside the gallery: as FILE.casework, FILE.console.

A present database that can be read stays: nothing in it is lost, and what was deleted since the backup does not come
back. Only one that is missing or damaged is taken from the backup, and then catches up with the node's evidence.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from nodes.casework import desk, restored, vault
from nodes.casework.desk import CaseDesk
from nodes.config import console
from nodes.config.schema import NodeConfig
from nodes.config.storage_key import storage_key
from nodes.evidence import followed_up
from nodes.store import StorageKey, StoreCorrupted, StoreRefusal, WrongStorageKey
from nodes.store.backup import copy_database, keep_aside, of_sqlite, remove_database, replace_database, restoring
from nodes.store.database import is_empty
from nodes.store.rows import aside_mark, rows_beside
from protocol.follow_up import Statement

LOST = {
    desk.FILE: "what persons decided, noted and looked at in casework since the backup",
    console.FILE: "changes of accounts, passwords and keys of the console since the backup",
}


def copies(config: NodeConfig, target: Path) -> dict[str, Path]:
    """Where the copies of a backup `target` lie, by database."""
    files = [console.FILE] if config.casework.url else [desk.FILE, console.FILE]
    return {file: target.with_name(f"{target.name}.{Path(file).stem}") for file in files}


def copy_beside(folder: Path, config: NodeConfig, target: Path) -> list[Path]:
    """Copy the databases there are. Call it after the gallery was copied: what was disclosed is noted first, here.

    Raises `StoreError`; then nothing was copied.
    """
    made: list[Path] = []
    try:
        for file, copy in copies(config, target).items():
            if desk.has_content(folder / file):
                copy_database(folder / file, copy)
                made.append(copy)
    except BaseException:
        for copy in made:
            copy.unlink(missing_ok=True)
        raise
    return made


def check_free(config: NodeConfig, target: Path) -> None:
    """Raise `StoreRefusal` if a copy would overwrite something."""
    own = [] if config.storage.file is None else [target]  # there, PostgreSQL's dump may lie
    for copy in (*own, *copies(config, target).values()):
        if copy.exists():
            raise StoreRefusal(f"{copy} exists already; a copy never overwrites a file")


def found(config: NodeConfig, source: Path) -> list[Path]:
    """What there is of a backup besides the gallery's database."""
    return [copy for copy in (rows_beside(source), *copies(config, source).values()) if copy.exists()]


def missing(folder: Path, config: NodeConfig) -> list[str]:
    """Which of the databases are not there, or are damaged. Raises `StoreError` for one that is only in use."""
    return [file for file in copies(config, folder / "backup") if not _readable(folder / file, config)]


def losses(folder: Path, config: NodeConfig, source: Path, absent: Sequence[str]) -> tuple[str, ...]:
    """What a restore loses of those that are `missing`, in words."""
    told = []
    for file in absent:
        if copies(config, source)[file].is_file():
            told.append(LOST[file])
        elif (folder / file).exists() or (file == desk.FILE and desk.was_begun(config, folder)):
            told.append(f"{file}, of which the backup has no copy")
    return tuple(told)


def restore_beside(
    folder: Path, config: NodeConfig, source: Path, absent: Sequence[str], old_keys: Sequence[StorageKey]
) -> list[Path]:
    """Put copies in the place of those that were `missing`: what is lost of them was agreed to. What lies there is put
    aside, as FILE.lost-SECONDS; gives those. Raises `StoreError`; what was in place before then stays."""
    aside: list[Path] = []
    for file in absent:
        copy, place = copies(config, source)[file], folder / file
        fresh = restoring(place)
        try:
            remove_database(fresh)
            if copy.is_file():
                copy_database(copy, fresh)
                _make_ours(fresh, config, old_keys) if file == desk.FILE else _sign_out(fresh)
                kept = keep_aside(place, aside_mark(place))
                try:
                    replace_database(place, fresh)
                except BaseException:
                    for part in kept if fresh.exists() else ():  # else it is in place already
                        part.unlink()
                    raise
                aside += kept
            elif place.exists():
                aside += keep_aside(place, aside_mark(place))
                remove_database(place)
        finally:
            remove_database(fresh)
        if file == desk.FILE and (place.exists() or desk.was_begun(config, folder)):
            catch_up(folder, config)
    return aside


def catch_up(folder: Path, config: NodeConfig) -> None:
    """Have the casework know what the node's evidence tells; where there is no database it is begun anew, which was
    agreed to. Raises `StoreError`."""
    vault.Vault(desk.database_url(config, folder), storage_key(config)).close()
    with CaseDesk.open(folder) as opened:
        with opened.office.vault.writing() as session:
            restored.catch_up(opened.office, session, _stated(folder))
        opened.delete_expired_case_data()


def cases_gone(folder: Path, config: NodeConfig) -> bool:
    """Whether the casework's database is gone or empty, though the node had one. Raises as `desk.is_there`."""
    return desk.was_begun(config, folder) and not desk.is_there(config, folder)


def _readable(place: Path, config: NodeConfig) -> bool:
    if not desk.has_content(place):
        return False
    try:
        with closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            sound = bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as error:
        if not isinstance(found := of_sqlite(error, place), StoreCorrupted):
            raise found from None
        return False
    if not sound or is_empty(f"sqlite:///{place.absolute()}"):
        return False
    if place.name != desk.FILE:
        return True
    try:
        vault.Vault(f"sqlite:///{place.absolute()}", storage_key(config)).close()
    except (StoreCorrupted, WrongStorageKey):
        return False
    return True


def _make_ours(copy: Path, config: NodeConfig, old_keys: Sequence[StorageKey]) -> None:
    url, key = f"sqlite:///{copy.absolute()}", storage_key(config)
    for old in old_keys:
        try:
            vault.rekey(url, old, key)
        except StoreCorrupted:  # it is under the present key already; opening says if it is not
            continue
    vault.Vault(url, key).close()


def _sign_out(copy: Path) -> None:
    """Nobody is signed in by a session that may have ended since."""
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("DELETE FROM session")
        connection.commit()


def _stated(folder: Path) -> Iterator[tuple[str, int, Statement]]:
    """Every statement of the node's evidence."""
    files = folder / followed_up.FOLDER
    for path in sorted(files.glob("[0-9a-f]*")) if files.is_dir() else ():
        for kept in followed_up.read(path):
            yield kept.direction, kept.time, kept.statement
