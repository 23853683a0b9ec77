"""The rows of one model in memory, or wherever else they are held, and who of them is held; shared by galleries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial

import numpy as np

from nodes.blocks import BlockFiles, HeldGallery, ResidentGallery
from nodes.blocks.manifest import Version
from nodes.store.errors import StoreError, UnknownReference
from nodes.store.holdings import Holdings
from nodes.store.lines import Held
from nodes.store.rows import as_store_errors
from nodes.store.store import GalleryStore
from nodes.store.subjects import Category
from protocol.errors import QueryRefused
from protocol.live import Liveness

Hold = Callable[[BlockFiles], HeldGallery]


class ReadingStopped(StoreError):
    """Whoever wanted the rows wants them no more."""


class Resident:
    """The rows of one model at hand, for galleries of all presets, and who of them is held.

    `threads`: that read and decrypt. `hold`: what holds the rows in the place of this process's memory, if anything.
    `watchers`: called before rows are used that may have been erased under a search (`HeldGallery.watch`). Raises as
    `GalleryStore.row_files` and `hold`, when it is first used; `ReadingStopped` after `stop`.
    """

    def __init__(
        self, store: GalleryStore, *, model: bytes | None = None, threads: int = 1, hold: Hold | None = None
    ) -> None:
        self.store, self._wanted = store, model
        self.hold = hold or partial(ResidentGallery, threads=threads, progress=self._go_on)
        self._stopped = False
        self.watchers: list[Callable[[], object]] = []
        self._lock = threading.RLock()
        self._rows: HeldGallery | None = None
        self._model = b""
        self._told = 0  # rows overwritten that were told of
        self._holdings: dict[bytes, Holdings] = {}  # by model

    def see(self, model: bytes, first: int, part: Held) -> None:
        """Keep who is held, as `GalleryStore.verify` tells it."""
        self._of(model).see(first, part)

    def stop(self) -> None:
        """Read no rows any more, and let go of those that were read."""
        self._stopped, self._rows = True, None

    def _go_on(self, _: int) -> None:
        if self._stopped:
            raise ReadingStopped("the rows are read no further")

    def _of(self, model: bytes) -> Holdings:
        return self._holdings.setdefault(model, Holdings(self.store, model))

    def rows(self, categories: Collection[Category]) -> HeldGallery:
        """The rows; read the first time. `categories`: of whom there must be some of one model only."""
        with self._lock, as_store_errors():
            model, files = self.store.row_files(categories, self._wanted)
            if self._rows is None or model != self._model:
                before, self._rows = self._rows, None
                if before is not None:
                    before.close()
                rows = self.hold(files)
                rows.watch(self._erased)
                self._model, self._rows, self._told = model, rows, rows.overwritten
            return self._rows

    def _erased(self) -> None:
        for told in list(self.watchers):
            told()

    @property
    def loaded(self) -> HeldGallery | None:
        """The rows, if they were read."""
        return self._rows

    def overwritten(self) -> int:
        """How many rows were overwritten in memory since this was last asked."""
        with self._lock:
            if self._rows is None:
                return 0
            new, self._told = self._rows.overwritten - self._told, self._rows.overwritten
            return new

    @property
    def model(self) -> bytes:
        """The model's digest."""
        return self._model

    def live(self, rows: HeldGallery, version: Version, now: datetime, categories: Collection[Category]) -> Liveness:
        """Who of a version may be found now, bool (rows,): held, of these categories, within retention.

        `rows`: that were lent, of another model than the present ones perhaps.
        """
        with as_store_errors():
            held = self._of(rows.model).bits(now, categories)  # first: who is gone from there is in the files by then
            live = rows.live(version)
            if rows.renumbered(version):
                live &= held.of(rows.numbers(np.arange(len(live)), version))
            else:
                live &= held.first(len(live))
            return live

    def reference(self, rows: HeldGallery, slot: int, version: Version) -> str:
        """The reference of the subject in a slot. Raises `QueryRefused` (internal) if it was forgotten meanwhile.

        `rows`: that were lent: a row of the same number is another person's where the model was replaced since.
        """
        (number,) = rows.numbers([slot], version).tolist()
        try:
            return self.store.reference(rows.model, number)
        except UnknownReference:
            raise QueryRefused("internal", "a subject was forgotten during the search: ask again") from None
