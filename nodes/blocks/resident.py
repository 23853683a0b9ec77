"""`ResidentGallery`: the rows in memory, opened once, kept up to date with the files, read by many queries at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.blocks.errors import NoRoom
from nodes.blocks.gallery import BlockFiles
from nodes.blocks.held import HeldGallery, Rows
from nodes.blocks.memory import RowMemory
from nodes.blocks.plaintext import PlaintextMap
from pets.threads import default_threads, parallel_ranges

SPARE_ROWS = 2**20
_MOVED_ROWS = 65536  # at a time: numpy copies rows that overlap through memory of its own


class ResidentGallery(HeldGallery):
    """The rows of `files` in one array.

    `threads`: that read and decrypt. `spare`: rows that can be appended while it is open. `progress` is told the
    number of rows read. `unsafe_plaintext_map`: a file in which the rows lie *unencrypted*, in the place of memory;
    opened again without reading the gallery, and larger than memory if need be. Raises `BlocksError`.
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
        super().__init__(files)
        self._threads = threads or default_threads()
        capacity = 2 * self._manifest.current.rows + spare
        self._plaintext = None if unsafe_plaintext_map is None else PlaintextMap(unsafe_plaintext_map)
        if self._plaintext is not None and self._plaintext.holds(self._manifest):
            self._loaded = self._manifest.current.rows
        self._memory = RowMemory(capacity, self._manifest.dim, unsafe_plaintext_map)
        self._settle(progress)

    def _view(self, rows: int) -> Rows:
        view = self._memory.rows[:rows]
        view.flags.writeable = False
        return view

    def _load(self, progress: Callable[[int], object] | None) -> None:
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
                rows = reader.read(manifest.blocks[index], once=True).rows  # in memory once, not twice
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

    def _overwrite(self, slots: npt.NDArray[np.int64]) -> bool:
        self._changing()
        self._memory.rows[slots] = 0
        return True

    def _end(self) -> None:
        """The array goes with the last view of it."""

    def _settle(self, progress: Callable[[int], object] | None = None) -> None:
        super()._settle(progress)
        if self._plaintext is not None and not self._held:
            self._memory.flush()
            self._plaintext.note(self._manifest)

    def _changing(self) -> None:
        """Before the rows of a plaintext map change: killed half-way, it must not be believed."""
        if self._plaintext is not None:
            self._plaintext.forget()
