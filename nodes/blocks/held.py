"""`HeldGallery`: a gallery whose rows are at hand, in this process or in others, and its versions, kept up to date.

Manifest, numbering, liveness and what reads a version are here; where the rows lie is a subclass's:
`nodes.blocks.resident` has them in an array, `nodes.cluster.gallery` on other machines.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
import numpy.typing as npt

from nodes.blocks.errors import BlocksCorrupted, BlocksUnavailable, UnknownVersion, typed_errors
from nodes.blocks.gallery import ATTEMPTS, BlockFiles
from nodes.blocks.manifest import Version
from nodes.blocks.numbering import live_slots

Rows = npt.NDArray[np.int8]


@dataclass(eq=False)
class Snapshot:
    """One version, for as long as it is open; a context manager.

    `rows`: int8 (slots, d), a view of what the gallery holds, which stays as it is until `close`; zeros where a row
    was erased before. `version`: number, root, rows.
    """

    gallery: HeldGallery
    version: Version
    rows: Rows = field(repr=False)
    _open: bool = field(default=True, repr=False)

    def live(self) -> npt.NDArray[np.bool_]:
        """Which rows a query may find *now*, bool (slots,): nobody who was forgotten until this moment."""
        return self.gallery.live(self.version)

    def numbers(self, slots: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The row numbers of some slots: what `BlockFiles` and references know a row by."""
        return self.gallery.numbers(slots, self.version)

    def close(self) -> None:
        """Give the version back. What was erased since it was taken leaves memory when no snapshot is open."""
        if self._open:
            self._open = False
            self.rows = self.rows[:0]
            self.gallery.release()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HeldGallery(ABC):
    """The rows of `files`, for many readers at once. Every method may raise `BlocksError`.

    `overwritten`: rows that were erased where they are held so far, those among them that were erased before they were
    read. A subclass calls `_settle` once it is made.
    """

    def __init__(self, files: BlockFiles) -> None:
        self.files = files
        self.overwritten = 0
        self._lock = threading.RLock()
        self._held = 0  # snapshots that are open
        self._closing = False
        self._watcher: Callable[[], object] | None = None
        self._owed = False  # rows could not be overwritten: once more, soon
        self._settled = -1  # generation of the manifest that is held
        self._stamp = files.stamp()
        self._manifest, self._numbering = files.state()
        self._epoch, self._loaded = self._manifest.current.epoch, 0
        self._erased: npt.NDArray[np.int64] = np.empty(0, np.int64)

    @abstractmethod
    def _view(self, rows: int) -> Rows:
        """The first rows of the epoch that is held."""

    @abstractmethod
    def _load(self, progress: Callable[[int], object] | None) -> None:
        """Hold the rows up to the present version, or as many as there are by now.

        Raises FileNotFoundError if a block was replaced meanwhile.
        """

    @abstractmethod
    def _move(self) -> None:
        """Go over to the present epoch: `_epoch`, and how many rows of it are held, `_loaded`."""

    @abstractmethod
    def _overwrite(self, slots: npt.NDArray[np.int64]) -> bool:
        """Zero some rows; False: not all of them, so ask again later."""

    @abstractmethod
    def _end(self) -> None:
        """Nobody reads the rows any more."""

    def further(self, rows: int) -> list[Rows]:
        """The first rows as further copies have them, where there are any."""
        del rows
        return []

    def watch(self, told: Callable[[], object]) -> None:
        """Have `told` called before rows are used that may have been erased under an open snapshot.

        In the memory of this process no row ever is, so it is not called there.
        """
        self._watcher = told

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The present version, or an earlier one of the same epoch that is kept.

        Raises `UnknownVersion` for one before the last compaction.
        """
        self.refresh()
        return self.lend(version)

    def lend(self, version: int | None = None) -> Snapshot:
        """As `snapshot`, of what is held: without a look at the files, and without waiting."""
        with self._lock:
            found = self._newest() if version is None else self._manifest.version(version)
            if found.epoch != self._epoch or found.rows > self._loaded:
                raise UnknownVersion(f"version {found.number} lies on the other side of a compaction, or is being read")
            rows = self._view(found.rows)
            self._held += 1
            return Snapshot(self, found, rows)

    def lend_of(self, root: bytes) -> Snapshot:
        """The newest version with a root that is kept and held. Raises `UnknownVersion`."""
        with self._lock:
            self._look()
            for version in reversed(self._manifest.versions):
                if version.root == root and version.epoch == self._epoch and version.rows <= self._loaded:
                    return self.lend(version.number)
        raise UnknownVersion("no version with this root is in memory")

    def refresh(self) -> bool:
        """Take over what changed in the files, in this process or another; gives whether anything did.

        After a compaction the rows move, for which no snapshot may be open: until then the old version is served,
        without those that were forgotten.
        """
        with self._lock:
            self._look()
            if self._settled == self._manifest.generation or (self._held and self._moved):
                if self._owed:
                    self._wipe()
                return False
            self._settle()
            return True

    def live(self, version: Version) -> npt.NDArray[np.bool_]:
        """As `Snapshot.live`. Reads no rows."""
        with self._lock:
            self._look()
            return live_slots(self._manifest, self._numbering, version)

    def renumbered(self, version: Version) -> bool:
        """Whether a compaction came before a version, so that numbers of rows are not their slots."""
        with self._lock:
            return len(self._numbering.gone(version.epoch)) > 0

    def numbers(self, slots: npt.ArrayLike, version: Version) -> npt.NDArray[np.int64]:
        """As `Snapshot.numbers`."""
        with self._lock:
            return self._numbering.rows(slots, version.epoch)

    def release(self) -> None:
        """A snapshot was closed."""
        with self._lock:
            self._held -= 1
            if self._closing and not self._held:
                self._end()
            else:
                self._wipe()

    def close(self) -> None:
        """Let go of the rows, as soon as no snapshot is open. No new one may be taken."""
        with self._lock:
            self._closing = True
            if not self._held:
                self._end()

    @property
    def model(self) -> bytes:
        """The digest of the model that the rows are of."""
        return self._manifest.model

    @property
    def _moved(self) -> bool:
        return self._manifest.current.epoch != self._epoch

    def _look(self) -> None:
        """Read the manifest again if it was replaced; what is held may be behind it then."""
        stamp = self.files.stamp()
        if stamp != self._stamp:
            self._manifest, self._numbering = self.files.state()
            self._stamp = stamp

    def _newest(self) -> Version:
        """The newest version that is held."""
        for version in reversed(self._manifest.versions):
            if version.epoch == self._epoch and version.rows <= self._loaded:
                return version
        raise UnknownVersion("the version in memory is no longer kept, and snapshots of it are still open")

    def _settle(self, progress: Callable[[int], object] | None = None) -> None:
        """Bring what is held to the present version, as far as open snapshots let it."""
        with typed_errors(str(self.files.folder)):
            for _ in range(ATTEMPTS):
                if self._moved and self._held:
                    return
                if self._moved:
                    self._move()
                try:
                    self._load(progress)
                    break
                except FileNotFoundError as error:  # replaced since the manifest was read
                    self._read_again(error)
            else:
                raise BlocksUnavailable(f"{self.files.folder} changed {ATTEMPTS} times while it was read")
            if self._loaded >= self._manifest.current.rows:
                self._settled = self._manifest.generation
            self._wipe()

    def _read_again(self, error: FileNotFoundError) -> None:
        generation = self._manifest.generation
        self._stamp = self.files.stamp()
        self._manifest, self._numbering = self.files.state()
        if self._manifest.generation == generation:
            raise BlocksCorrupted(f"{error.filename} is missing") from None

    def _wipe(self) -> None:
        """Zero what was erased, unless an open snapshot still reads it."""
        if self._held:
            return
        erased = [row for row, state in self._manifest.dead.items() if state.erased]
        gone = [part.rows for part in self._numbering.since(self._epoch)]
        numbers: npt.NDArray[np.int64] = np.concatenate([np.array(erased, np.int64), *gone])
        slots = self._numbering.slots(numbers, self._epoch)
        new = (slots >= 0) & (slots < self._loaded) & ~np.isin(numbers, self._erased)
        self._owed = bool(new.any()) and not self._overwrite(slots[new])
        if not self._owed:
            self._erased = numbers[slots < self._loaded]  # the others may be in the middle of being read
            self.overwritten += int(new.sum())
