"""The templates of a store: block files (`nodes.blocks`), a folder a model, and how the database keeps step with them.

The database knows a row by its number, and of every folder what it was when the database was last written: which
gallery, the `generation` of its manifest, the number after its last row. Every change of a folder is made under the
lock of the database, in this order:

- *enrolment*: rows are appended, then the subjects are written;
- *deletion*: subjects are deleted and their rows noted as gone, then the rows are erased.

So a crash between the two leaves rows without a subject, or rows that are noted as gone. `settle` erases both. A folder
that is older than the database, another, or missing, is `StoreCorrupted`; so is one that is further ahead than a crash
can leave it: then the *database* is an older one.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, func, select
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
from nodes.blocks.files import LOCK, MANIFEST, link_file, sync_folder
from nodes.blocks.manifest import Manifest
from nodes.blocks.numbering import Numbering
from nodes.store.errors import StoreCorrupted, StoreError, StoreFull, StoreLocked, StoreRefusal, StoreUnavailable
from nodes.store.tables import GoneRow, ModelRow, SubjectRow

MAX_AHEAD = 4  # changes of a folder that a crash may keep the database from knowing of
FOLDER_BYTES = 8

Rows = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]


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

    `most`: rows that are appended at once. `reconcile`: the folders may be ahead of the database, which was brought
    back by other means; then nobody is held whose row is erased.
    Methods that are given a session are called under the database's lock, and
    raise `StoreError`.
    """

    def __init__(self, place: Path | None, ciphers: Sequence[AESGCM], most: int, reconcile: bool = False) -> None:
        self._place, self._ciphers, self._most, self._reconcile = place, tuple(ciphers), most, reconcile
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
        model.gallery, model.generation, model.next_row = manifest.gallery, manifest.generation, manifest.next_row

    def append(self, model: ModelRow, rows: Rows) -> range:
        """Add rows, int8 (rows, d); gives their numbers."""
        with as_store_errors():
            files = self.of(model)
            numbers = files.append(rows)
            self.remember(model, files.manifest())
            return numbers

    def check(self, session: Session) -> None:
        """Compare every folder with what the database knows of it. Raises `StoreCorrupted`."""
        for model in _with_folder(session):
            self._check(model)

    def _check(self, model: ModelRow) -> Manifest:
        with as_store_errors():
            files = self.of(model)
            manifest = files.manifest()
        assert model.generation is not None
        assert model.next_row is not None
        if manifest.gallery != model.gallery:
            raise StoreCorrupted(f"{files.folder} holds the templates of another database")
        if manifest.generation < model.generation or manifest.next_row < model.next_row:
            raise StoreCorrupted(
                f"{files.folder} is an older state of the templates: {manifest.next_row} were enrolled, in "
                f"{manifest.generation} changes; the database knows {model.next_row}, and {model.generation} changes"
            )
        ahead = manifest.generation > model.generation + MAX_AHEAD or manifest.next_row > model.next_row + self._most
        if ahead and not self._reconcile:
            raise StoreCorrupted(
                f"the database is an older one than the templates in {files.folder}: it knows {model.next_row} of "
                f"{manifest.next_row}, and {model.generation} of {manifest.generation} changes"
            )
        return manifest

    def settle(self, session: Session) -> int:
        """Erase rows without a subject, and those that are noted as gone; gives how many were there."""
        erased = 0
        for model in _with_folder(session):
            manifest = self._check(model)
            gone = session.scalars(select(GoneRow.row).where(GoneRow.model_id == model.id)).all()
            assert model.next_row is not None
            if gone or manifest.generation != model.generation:
                with as_store_errors():
                    files = self.of(model)
                    erased += files.forget([*gone, *range(model.next_row, manifest.next_row)])
                    self.remember(model, files.manifest())
                session.execute(delete(GoneRow).where(GoneRow.model_id == model.id))
        return erased

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

    def read(self, model: ModelRow, numbers: Numbers) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Rows by number, which must rise, int8 (rows, d); and which of them are erased (zeros), bool (rows,)."""
        with as_store_errors():
            files = self.of(model)
            manifest, numbering = files.state()
            return read_rows(files, manifest, numbering, numbers)

    def rekey(self, session: Session) -> None:
        """Seal every folder under the current cipher that is under another."""
        for model in _with_folder(session):
            self._check(model)
            with as_store_errors():
                files = self.of(model)
                assert model.folder is not None
                if self._opened[model.folder][1] is not self._ciphers[0]:
                    files.rekey(self._ciphers[0])
                    self._opened[model.folder] = files, self._ciphers[0]
                    self.remember(model, files.manifest())

    def erased(self, session: Session) -> list[tuple[int, Numbers]]:
        """Models by number in the database, and the numbers of their rows that are erased."""
        found = []
        for model in _with_folder(session):
            with as_store_errors():
                manifest, numbering = self.of(model).state()
            dead = [row for row, state in manifest.dead.items() if state.forgotten]
            found.append((model.id, np.concatenate([np.array(dead, np.int64), numbering.gone(manifest.current.epoch)])))
        return found

    def copy_to(self, session: Session, target: Path) -> None:
        """Copies of all folders, in a new folder; no bytes on the same file system."""
        with as_store_errors(), typed_errors(str(target)):
            target.mkdir(mode=0o700, parents=True)
            for model in _with_folder(session):
                assert model.folder is not None
                self.of(model).copy_to(target / model.folder)

    def unnamed(self, session: Session) -> list[Path]:
        """Folders that the database does not name: what a restore replaced, or left when it was interrupted."""
        named = {model.folder for model in _with_folder(session)}
        if self._place is None or not self._place.is_dir():
            return []
        return sorted(folder for folder in self._place.iterdir() if folder.name not in named)


def copy_folder(source: Path, target: Path) -> None:
    """A copy of a folder of block files that nobody changes, which appears whole or not at all. Raises `StoreError`."""
    fresh = target.with_name(f".{target.name}-copying")
    with as_store_errors(), typed_errors(str(target)):
        shutil.rmtree(fresh, ignore_errors=True)  # of a copy that was interrupted
        fresh.mkdir(mode=0o700, parents=True)
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


def _with_folder(session: Session) -> Sequence[ModelRow]:
    return session.scalars(select(ModelRow).where(ModelRow.folder.is_not(None)).order_by(ModelRow.id)).all()


def any_unmoved(session: Session) -> bool:
    """Whether templates still lie in the database."""
    return session.scalar(select(func.min(SubjectRow.id)).where(SubjectRow.row.is_(None))) is not None
