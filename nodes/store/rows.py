"""The templates of a store: block files (`nodes.blocks`), a folder a model, and how the database keeps step with them.

The database knows a row by its number, and of every folder what it was when the database was last written: which
gallery, the `generation` of its manifest, the number after its last row. Every change of a folder is made under the
lock of the database, in this order:

- *enrolment*: the database notes that the folder will change, rows are appended, then the subjects are written;
- *deletion*: subjects are deleted and their rows noted as gone, then the rows are erased.

So a crash between the two leaves rows without a subject, or rows that are noted as gone. `settle` erases both. A folder
that is older than the database, another, or missing, is `StoreCorrupted`; so is one that is ahead without a note in the
database, or further than a crash can leave it: then the *database* is an older one.

After a restore the two may be of different moments, which `reconcile` settles: what is gone in either is gone in both.
Numbers that were given after the moment of the database may be given again, so a new *line* of numbers begins
(`nodes.blocks.manifest`), and a database that knows such numbers of an earlier line is refused.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from nodes.blocks import (
    BlockFiles,
    BlocksCorrupted,
    BlocksError,
    BlocksFull,
    BlocksLocked,
    BlocksRefusal,
    BlocksUnavailable,
    VersionReader,
)
from nodes.blocks.errors import typed_errors
from nodes.blocks.files import LOCK, MANIFEST, link_file, locked
from nodes.blocks.manifest import Manifest
from nodes.blocks.numbering import Numbering
from nodes.private_files import sync_folder
from nodes.store.errors import StoreCorrupted, StoreError, StoreFull, StoreLocked, StoreRefusal, StoreUnavailable
from nodes.store.tables import GoneRow, ModelRow, StoreRow, SubjectRow

log = logging.getLogger("lineup.store")
ASIDE = "lost-"  # begins the name of a folder of templates that were put aside

MAX_AHEAD = 4  # changes of a folder that a crash may keep the database from knowing of
FOLDER_BYTES = 8
COPYING = "-copying"  # ends the name of a folder that is being copied

Rows = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]


def aside_mark(file: Path | None = None) -> str:
    """What the names of databases and templates end with, or begin with, that are put aside now; of a `file`, so that
    none has that name yet."""
    seconds = int(time.time())
    while file is not None and Path(f"{file}.{ASIDE}{seconds}").exists():
        seconds += 1
    return f"{ASIDE}{seconds}"


def rows_beside(database: Path) -> Path:
    """The folder of the templates of an SQLite database, unless another is named."""
    return database.with_name(f"{database.name}.rows")


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Turn what block files raise into `StoreError`."""
    try:
        yield
    except BlocksFull as error:
        raise StoreFull(str(error)) from error
    except BlocksUnavailable as error:
        raise StoreUnavailable(str(error)) from error
    except BlocksLocked as error:
        raise StoreLocked(str(error)) from error
    except BlocksCorrupted as error:
        raise StoreCorrupted(str(error)) from error
    except BlocksRefusal as error:
        raise StoreRefusal(str(error)) from error
    except BlocksError as error:
        raise StoreError(str(error)) from error


class RowFiles:
    """The folders of a store, in the folder `place`. `ciphers`: what they may be sealed under, the current one first.

    `most`: rows that are appended at once. `ahead`: the folders may be ahead of the database, until `reconcile`.
    Methods that are given a session are called under the database's lock, and raise `StoreError`.
    """

    def __init__(self, place: Path | None, ciphers: Sequence[AESGCM], most: int, ahead: bool = False) -> None:
        self._place, self._ciphers, self._most, self.ahead = place, tuple(ciphers), most, ahead
        self._opened: dict[str, tuple[BlockFiles, AESGCM]] = {}

    @property
    def place(self) -> Path:
        """The folder of the folders. Raises `StoreRefusal` where none was named."""
        if self._place is None:
            raise StoreRefusal("templates lie in a folder beside a PostgreSQL database: name it in storage.rows")
        return self._place

    def of(self, model: ModelRow) -> BlockFiles:
        """The block files of a model."""
        assert model.folder is not None
        found = self._opened.get(model.folder)
        if found is None:
            found = self._opened[model.folder] = self._open(self.place / model.folder)
        return found[0]

    def _open(self, folder: Path) -> tuple[BlockFiles, AESGCM]:
        if not (folder / MANIFEST).is_file():
            raise StoreCorrupted(f"{folder} is gone: the templates lay there")
        for cipher in self._ciphers[:-1]:
            try:
                return BlockFiles(folder, cipher), cipher
            except BlocksCorrupted:
                continue
        with as_store_errors():
            return BlockFiles(folder, self._ciphers[-1]), self._ciphers[-1]

    def create(self, model: ModelRow) -> None:
        """Make the folder of a model that has none."""
        name = secrets.token_hex(FOLDER_BYTES)
        with as_store_errors():
            files = BlockFiles.create(self.place / name, self._ciphers[0], dim=model.dim, model=model.digest)
            self._opened[name] = files, self._ciphers[0]
            model.folder = name
            self.remember(model, files.manifest())

    def remember(self, model: ModelRow, manifest: Manifest) -> None:
        """Note in the database what a folder is now."""
        model.line, model.generation, model.next_row = manifest.lines[-1].name, manifest.generation, manifest.next_row

    def append(self, model: ModelRow, rows: Rows) -> range:
        """Add rows, int8 (rows, d); gives their numbers."""
        with as_store_errors():
            files = self.of(model)
            numbers = files.append(rows)
            self.remember(model, files.manifest())
            return numbers

    def announce(self, session: Session, changing: bool) -> None:
        """Note that folders are about to be changed, in a transaction before the one that changes them; or no more."""
        session.execute(update(StoreRow).values(changing=changing))

    def announced(self, session: Session) -> bool:
        """Whether that is noted."""
        return bool(session.scalar(select(StoreRow.changing)))

    def models(self, session: Session) -> Sequence[ModelRow]:
        """The models that have a folder."""
        return _with_folder(session)

    def check(self, session: Session) -> None:
        """Compare every folder with what the database knows of it. Raises `StoreCorrupted`."""
        for model in _with_folder(session):
            self._check(session, model)

    def _beside(self, model: ModelRow) -> tuple[BlockFiles, Manifest, int | None, bool]:
        """A folder and its manifest; the rows it had when the database's line ended, None for a line that it does not
        know; whether that line is its newest."""
        with as_store_errors():
            files = self.of(model)
            manifest = files.manifest()
        assert model.line is not None
        return files, manifest, manifest.end_of(model.line), model.line == manifest.lines[-1].name

    def _check(self, session: Session, model: ModelRow) -> Manifest:
        files, manifest, end, same = self._beside(model)
        assert model.generation is not None
        assert model.next_row is not None
        if end is None:
            raise StoreCorrupted(f"{files.folder} holds the templates of another database")
        if end < model.next_row or (same and manifest.generation < model.generation):
            raise StoreCorrupted(
                f"{files.folder} is an older state of the templates, or goes on from an older one: it has {end} of the "
                f"{model.next_row} rows that the database knows, {manifest.generation} changes of {model.generation}"
            )
        if same and manifest.generation == model.generation:
            return manifest
        erasing = manifest.next_row == model.next_row and bool(_gone(session, model, 1))  # which adds no rows
        noted = same and (self.announced(session) or erasing)
        far = manifest.generation > model.generation + MAX_AHEAD or manifest.next_row > model.next_row + self._most
        if (far or not noted) and not self.ahead:
            raise StoreCorrupted(
                f"the database is an older one than the templates in {files.folder}: it knows {model.next_row} of "
                f"{manifest.next_row}, and {model.generation} of {manifest.generation} changes"
            )
        return manifest

    def check_rows(self, session: Session) -> None:
        """Read every row of every folder: what the manifest names must be there, and be what it commits to.
        Raises `StoreCorrupted`."""
        for model in _with_folder(session):
            with as_store_errors():
                files = self.of(model)
                version = files.manifest().current
                if VersionReader(files, version.number).recompute().root != version.root:
                    raise StoreCorrupted(f"{files.folder} holds other rows than were written there")

    def not_older(self, model: ModelRow) -> None:
        """Whether a folder is at least what the database said, read before it; so nobody's change is in the way.
        Raises `StoreCorrupted`."""
        files, manifest, end, same = self._beside(model)
        assert model.generation is not None
        assert model.next_row is not None
        if end is None or end < model.next_row or (same and manifest.generation < model.generation):
            raise StoreCorrupted(f"{files.folder} was exchanged: it is older than the database, or another")

    def settle(self, session: Session) -> int:
        """Erase rows without a subject, and those that are noted as gone; gives how many were there."""
        erased = 0
        for model in _with_folder(session):
            manifest = self._check(session, model)
            gone = _gone(session, model)
            assert model.next_row is not None
            if gone or manifest.generation != model.generation:
                erased += self._erase(session, model, [*gone, *range(model.next_row, manifest.next_row)])
        self.announce(session, False)
        self._drop_staged()
        return erased

    def _erase(self, session: Session, model: ModelRow, rows: Sequence[int]) -> int:
        """Erase rows; what was noted as gone is gone."""
        with as_store_errors():
            files = self.of(model)
            erased = files.forget(rows)
            self.remember(model, files.manifest())
        session.execute(delete(GoneRow).where(GoneRow.model_id == model.id))
        return erased

    def added_since(self, session: Session, model: ModelRow) -> int:
        """How many rows a folder has from after the moment of the database, without those that were deleted again."""
        manifest = self._check(session, model)
        assert model.next_row is not None
        deleted = np.concatenate([np.array(list(manifest.dead), np.int64), self.erased(model)])
        return len(np.setdiff1d(np.arange(model.next_row, manifest.next_row), deleted))

    def reconcile(self, session: Session, model: ModelRow, held: Numbers) -> int:
        """Let a folder go on from the moment of the database: all rows but those `held` are erased, and what was
        noted as gone, and a new line begins; gives how many rows were erased that nobody had deleted."""
        lost = self.added_since(session, model)
        manifest = self._check(session, model)
        assert model.next_row is not None
        first, known = model.next_row, np.concatenate([held, self.erased(model)])
        self._erase(session, model, np.setdiff1d(np.arange(manifest.next_row), known).tolist())
        with as_store_errors():
            files = self.of(model)
            files.branch(first)
            self.remember(model, files.manifest())
        return lost

    def retire(self, session: Session, before: int) -> int:
        """Give up versions that were superseded before a second since 1970; gives how many rows were erased."""
        erased = 0
        for model in _with_folder(session):
            with as_store_errors():
                files = self.of(model)
                versions = files.manifest().versions
                oldest = max((found.number for found in versions if found.time <= before), default=versions[0].number)
                if oldest != versions[0].number:
                    erased += files.retire(oldest)
                    self.remember(model, files.manifest())
        return erased

    def compact(self, session: Session) -> int:
        """Leave out the places of rows that are erased, in every folder; gives how many."""
        left_out = 0
        for model in _with_folder(session):
            with as_store_errors():
                files = self.of(model)
                left_out += files.compact()
                self.remember(model, files.manifest())
        return left_out

    def read(self, model: ModelRow, numbers: Numbers) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Rows by number, which must rise, int8 (rows, d); and which of them are erased (zeros), bool (rows,)."""
        with as_store_errors():
            files = self.of(model)
            manifest, numbering = files.state()
            return read_rows(files, manifest, numbering, numbers)

    def rekey(self, session: Session) -> None:
        """Seal every folder under the current cipher that is under another."""
        for model in _with_folder(session):
            self._check(session, model)
            with as_store_errors():
                files = self.of(model)
                assert model.folder is not None
                if self._opened[model.folder][1] is not self._ciphers[0]:
                    files.rekey(self._ciphers[0])
                    self._opened[model.folder] = files, self._ciphers[0]
                    self.remember(model, files.manifest())

    def erased(self, model: ModelRow) -> Numbers:
        """The numbers of a model's rows that are erased."""
        with as_store_errors():
            return _erased(self.of(model))

    def erased_beside(self, session: Session, model: ModelRow) -> Numbers:
        """Numbers of rows of a model that are erased in another folder of the same history, which is not named: that of
        the database that a restore replaces. One that cannot be read tells nothing."""
        with as_store_errors():
            own = self.of(model).manifest()
        found: list[Numbers] = [np.empty(0, np.int64)]
        for folder in self.unnamed(session):
            try:
                files, _ = self._open(folder)
                shared, rows = own.shared(files.manifest()), _erased(files)
            except (StoreError, BlocksError):
                continue
            found.append(rows[rows < shared])
        return np.unique(np.concatenate(found))

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder beside that of the templates, for a backup. Raises `StoreLocked` while there is another."""
        with as_store_errors(), typed_errors(str(self.place)):
            staged = _staged(self.place)
            staged.mkdir(mode=0o700, exist_ok=True)
            with locked(staged, 0):
                try:
                    yield staged
                finally:
                    shutil.rmtree(staged, ignore_errors=True)

    def _drop_staged(self) -> None:
        """Delete what a backup that was killed left: it holds who is forgotten since. One under way keeps its own."""
        if self._place is None or not (staged := _staged(self._place)).is_dir():
            return
        with suppress(StoreLocked), as_store_errors(), suppress(FileNotFoundError), locked(staged, 0):
            shutil.rmtree(staged, ignore_errors=True)  # or it is gone: a backup ended while this looked

    def copy_to(self, session: Session, target: Path) -> list[Path]:
        """Copies of all folders, in a folder, no bytes on the same file system; gives the copies."""
        with as_store_errors():
            copies = []
            for model in _with_folder(session):
                assert model.folder is not None
                copies.append(target / model.folder)
                self.of(model).copy_to(copies[-1])
            return copies

    def unnamed(self, session: Session) -> list[Path]:
        """Folders of templates that the database does not name: what a restore replaced, or left when it was
        interrupted. Others are not ours."""
        named = {model.folder for model in _with_folder(session)}
        if self._place is None or not self._place.is_dir():
            return []
        ours = re.compile(rf"\.?[0-9a-f]{{{2 * FOLDER_BYTES}}}({COPYING})?")
        return sorted(one for one in self._place.iterdir() if ours.fullmatch(one.name) and one.name not in named)

    def rows_unnamed(self, session: Session) -> int:
        """How many templates lie in them, as far as they can be read."""
        rows = 0
        for folder in self.unnamed(session):
            with suppress(StoreError, BlocksError):
                files, _ = self._open(folder)
                rows += files.manifest().next_row - len(_erased(files))
        return rows

    def drop_unnamed(self, session: Session) -> int:
        """Delete them; gives how many."""
        folders = self.unnamed(session)
        for folder in folders:
            with as_store_errors(), typed_errors(str(folder)):
                shutil.rmtree(folder)
        return len(folders)

    def put_unnamed_aside(self, session: Session, mark: str) -> list[Path]:
        """Move them to PLACE.MARK; gives where they are. Nothing here deletes them any more.

        Where that is another file system, or may not be written to, to a folder MARK among those of the templates.
        """
        moved = []
        for folder in self.unnamed(session):
            with as_store_errors(), typed_errors(str(folder)):
                try:
                    moved.append(_move_into(folder, self.place.with_name(f"{self.place.name}.{mark}")))
                except OSError as error:
                    log.warning("templates are put aside inside their folder", extra={"error": error.strerror})
                    moved.append(_move_into(folder, self.place / mark))
        return moved


def _move_into(folder: Path, away: Path) -> Path:
    away.mkdir(mode=0o700, exist_ok=True)
    try:
        folder.rename(away / folder.name)
    except OSError:
        with suppress(OSError):
            away.rmdir()  # not if something lies in it
        raise
    sync_folder(away)
    sync_folder(folder.parent)
    return away / folder.name


def copy_folder(source: Path, target: Path) -> None:
    """A copy of a folder of block files that nobody changes, which appears whole or not at all. Raises `StoreError`."""
    fresh = target.with_name(f".{target.name}{COPYING}")
    with as_store_errors(), typed_errors(str(target)):
        shutil.rmtree(fresh, ignore_errors=True)  # of a copy that was interrupted
        fresh.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.mkdir(mode=0o700)
        for path in sorted(source.iterdir()):
            if path.name != LOCK:
                link_file(path, fresh / path.name)
        sync_folder(fresh)
        fresh.replace(target)
        sync_folder(target.parent)


def read_rows(
    files: BlockFiles, manifest: Manifest, numbering: Numbering, numbers: Numbers
) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """As `RowFiles.read`."""
    out, erased = np.zeros((len(numbers), manifest.dim), np.int8), np.ones(len(numbers), np.bool_)
    slots = numbering.slots(numbers, manifest.current.epoch)
    places = np.flatnonzero(slots >= 0)
    held = slots[places]
    reader, size = VersionReader(files, manifest.current.number), manifest.block_rows
    for block in np.unique(held // size).tolist():
        first, last = np.searchsorted(held, [block * size, (block + 1) * size])
        rows = reader.read(block * size, min((block + 1) * size, manifest.current.rows))
        inside = held[first:last] - block * size
        out[places[first:last]], erased[places[first:last]] = rows.rows[inside], rows.erased[inside]
    return out, erased


def _staged(place: Path) -> Path:
    return place.with_name(f".{place.name}-backup")


def _erased(files: BlockFiles) -> Numbers:
    manifest, numbering = files.state()
    dead = [row for row, state in manifest.dead.items() if state.erased]
    return np.concatenate([np.array(dead, np.int64), numbering.gone(manifest.current.epoch)])


def _gone(session: Session, model: ModelRow, most: int | None = None) -> Sequence[int]:
    return session.scalars(select(GoneRow.row).where(GoneRow.model_id == model.id).limit(most)).all()


def _with_folder(session: Session) -> Sequence[ModelRow]:
    return session.scalars(select(ModelRow).where(ModelRow.folder.is_not(None)).order_by(ModelRow.id)).all()


def any_unmoved(session: Session) -> bool:
    """Whether templates still lie in the database."""
    unmoved = select(SubjectRow.id).where(SubjectRow.model_id == ModelRow.id, SubjectRow.row.is_(None)).exists()
    return session.scalar(select(ModelRow.id).where(unmoved).limit(1)) is not None  # by the index over models
