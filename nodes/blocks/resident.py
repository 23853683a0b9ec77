"""`ResidentGallery`: the rows in memory, opened once, kept up to date with the files, read by many queries at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from nodes.blocks.errors import BlocksCorrupted, BlocksUnavailable, NoRoom, UnknownVersion, typed_errors
from nodes.blocks.gallery import ATTEMPTS, BlockFiles
from nodes.blocks.manifest import Version
from nodes.blocks.memory import RowMemory
from nodes.blocks.numbering import live_slots
from nodes.blocks.plaintext import PlaintextMap
from pets.threads import default_threads, parallel_ranges

SPARE_ROWS = 2**20
_MOVED_ROWS = 65536  # at a time: numpy copies rows that overlap through memory of its own


@dataclass(eq=False)
class Snapshot:
    """One version, for as long as it is open; a context manager.

    `rows`: int8 (slots, d), a view of the gallery's own memory, which stays as it is until `close`; zeros where a row
    was erased before. `version`: number, root, rows.
    """

    gallery: ResidentGallery
    version: Version
    rows: npt.NDArray[np.int8] = field(repr=False)
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


class ResidentGallery:
    """The rows of `files` in one array.

    `threads`: that read and decrypt. `spare`: rows that can be appended while it is open. `progress` is told the
    number of rows read. `unsafe_plaintext_map`: a file in which the rows lie *unencrypted*, in the place of memory;
    opened again without reading the gallery, and larger than memory if need be. `overwritten`: rows that were erased in
    memory so far, those among them that were erased before they were read. Raises `BlocksError`.
    """

    def __init__(
        self,
        files: BlockFiles,
        *,
        threads: int | None = None,
        spare: int = SPARE_ROWS,
        unsafe_plaintext_map: Path | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.files = files
        self._threads = threads or default_threads()
        self._lock = threading.RLock()
        self._held = 0
        self.overwritten = 0
        self._settled = -1  # generation of the manifest that memory holds
        self._stamp = files.stamp()
        self._manifest, self._numbering = files.state()
        self._epoch, self._loaded = self._manifest.current.epoch, 0
        self._erased: npt.NDArray[np.int64] = np.empty(0, np.int64)
        capacity = 2 * self._manifest.current.rows + spare
        self._plaintext = None if unsafe_plaintext_map is None else PlaintextMap(unsafe_plaintext_map)
        if self._plaintext is not None and self._plaintext.holds(self._manifest):
            self._loaded = self._manifest.current.rows
        self._memory = RowMemory(capacity, self._manifest.dim, unsafe_plaintext_map)
        self._settle(progress)

    def snapshot(self, version: int | None = None) -> Snapshot:
        """The present version, or an earlier one of the same epoch that is kept.

        Raises `UnknownVersion` for one before the last compaction.
        """
        with self._lock:
            self.refresh()
            found = self._newest() if version is None else self._manifest.version(version)
            if found.epoch != self._epoch or found.rows > self._loaded:
                raise UnknownVersion(f"version {found.number} lies on the other side of a compaction")
            rows = self._memory.rows[: found.rows]
            rows.flags.writeable = False
            self._held += 1
            return Snapshot(self, found, rows)

    def snapshot_of(self, root: bytes) -> Snapshot:
        """The newest version with a root that is kept and of the epoch in memory. Raises `UnknownVersion`."""
        with self._lock:
            self._look()
            for version in reversed(self._manifest.versions):
                if version.root == root and version.epoch == self._epoch:
                    return self.snapshot(version.number)
        raise UnknownVersion("no version with this root is in memory")

    def refresh(self) -> bool:
        """Take over what changed in the files, in this process or another; gives whether anything did.

        After a compaction the rows move, for which no snapshot may be open: until then the old version is served,
        without those that were forgotten.
        """
        with self._lock:
            self._look()
            if self._settled == self._manifest.generation or (self._held and self._moved):
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
            self._wipe()

    @property
    def _moved(self) -> bool:
        return self._manifest.current.epoch != self._epoch

    def _look(self) -> None:
        """Read the manifest again if it was replaced; memory may be behind it then."""
        stamp = self.files.stamp()
        if stamp != self._stamp:
            self._manifest, self._numbering = self.files.state()
            self._stamp = stamp

    def _newest(self) -> Version:
        """The newest version that is in memory."""
        for version in reversed(self._manifest.versions):
            if version.epoch == self._epoch and version.rows <= self._loaded:
                return version
        raise UnknownVersion("the version in memory is no longer kept, and snapshots of it are still open")

    def _settle(self, progress: Callable[[int], object] | None = None) -> None:
        """Bring memory to the present version, as far as open snapshots let it."""
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
            self._settled = self._manifest.generation
            self._wipe()
            if self._plaintext is not None and not self._held:
                self._memory.flush()
                self._plaintext.note(self._manifest)

    def _read_again(self, error: FileNotFoundError) -> None:
        generation = self._manifest.generation
        self._stamp = self.files.stamp()
        self._manifest, self._numbering = self.files.state()
        if self._manifest.generation == generation:
            raise BlocksCorrupted(f"{error.filename} is missing") from None

    def _load(self, progress: Callable[[int], object] | None) -> None:
        """Read the rows that are not in memory yet. Raises FileNotFoundError if a block was replaced meanwhile."""
        manifest, start, stop = self._manifest, self._loaded, self._manifest.current.rows
        if start >= stop:
            return
        if stop > self._memory.capacity:
            raise NoRoom(f"{stop} rows, there is room for {self._memory.capacity}: restart to make more")
        self._changing()
        size, array = manifest.block_rows, self._memory.rows
        done, counter = [start], threading.Lock()

        def work(first: int, last: int) -> None:
            reader = self.files.block_reader(manifest)
            for index in range(first + start // size, last + start // size):
                rows = reader.read(manifest.blocks[index]).rows
                place = max(start, index * size)
                array[place : index * size + len(rows)] = rows[place - index * size :]
                with counter:
                    done[0] += index * size + len(rows) - place
                    if progress is not None:
                        progress(done[0])

        parallel_ranges(work, len(manifest.blocks) - start // size, self._threads, ranges=8)
        self._loaded = stop

    def _move(self) -> None:
        """Close the gaps that compactions left: the rows move down in place."""
        self._changing()
        gone = [part.rows for part in self._numbering.since(self._epoch)]
        holes = np.sort(self._numbering.slots(np.concatenate(gone), self._epoch))
        holes = holes[holes < self._loaded]
        array, target = self._memory.rows, int(holes[0]) if len(holes) else self._loaded
        ends = np.append(holes, self._loaded)[1:]
        for start, stop in zip(holes + 1, ends, strict=True):
            for source in range(int(start), int(stop), _MOVED_ROWS):
                count = min(_MOVED_ROWS, int(stop) - source)
                array[target : target + count] = array[source : source + count]
                target += count
        self._memory.release(target, self._memory.capacity)
        self._epoch, self._loaded = self._manifest.current.epoch, target

    def _wipe(self) -> None:
        """Zero what was erased, unless an open snapshot still reads it."""
        if self._held:
            return
        erased = [row for row, state in self._manifest.dead.items() if state.erased]
        gone = [part.rows for part in self._numbering.since(self._epoch)]
        numbers: npt.NDArray[np.int64] = np.concatenate([np.array(erased, np.int64), *gone])
        new = np.setdiff1d(numbers, self._erased)
        self._erased = numbers
        slots = self._numbering.slots(new, self._epoch)
        inside = (slots >= 0) & (slots < self._loaded)
        if inside.any():
            self._changing()
            self._memory.rows[slots[inside]] = 0
            self.overwritten += int(inside.sum())

    def _changing(self) -> None:
        """Before the rows of a plaintext map change: killed half-way, it must not be believed."""
        if self._plaintext is not None:
            self._plaintext.forget()
