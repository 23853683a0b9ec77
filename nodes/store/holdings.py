"""Who is held, by the number of a row: category and last day searched in memory, three bytes a row."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np
import numpy.typing as npt

from nodes.store.lines import CATEGORY_CODES, LAST_DAY, Held
from nodes.store.store import GalleryStore
from nodes.store.subjects import Category, utc_day

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Bits:
    """A bit a row number: who may be found. Numbers behind the last are nobody's."""

    held: npt.NDArray[np.bool_] = field(repr=False)

    def of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """The bits of some rows by number."""
        found: npt.NDArray[np.bool_] = np.zeros(len(numbers), np.bool_)
        inside = numbers < len(self.held)
        found[inside] = self.held[numbers[inside]]
        return found

    def first(self, count: int) -> npt.NDArray[np.bool_]:
        """The bits of rows 0 to `count`."""
        found: npt.NDArray[np.bool_] = np.zeros(count, np.bool_)
        found[: len(self.held)] = self.held[:count]
        return found


class Holdings:
    """Of one model. After a change only who came is read from the database, and which rows are gone; thread-safe.

    Told by `see` of who a check read, it reads only who came since.
    """

    def __init__(self, store: GalleryStore, model: bytes) -> None:
        self._store, self._model = store, model
        self._lock = threading.Lock()
        self._generation, self._last = -1, 0  # of the store, and the last subject, that is known here
        self._rows = 0
        self._codes: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)  # by row number; 0: nobody
        self._days: npt.NDArray[np.uint16] = np.zeros(0, np.uint16)  # the last day searched

    def bits(self, now: datetime, categories: Collection[Category]) -> Bits:
        """Who is held now, of these categories and within retention. Raises `StoreError`."""
        with self._lock:
            self._follow()
            wanted = np.zeros(len(CATEGORY_CODES) + 1, np.bool_)
            wanted[[CATEGORY_CODES[category] for category in categories]] = True
            today = min((utc_day(now) - _EPOCH).days, LAST_DAY)
            return Bits(wanted[self._codes[: self._rows]] & (self._days[: self._rows] >= today))

    def see(self, first: int, part: Held) -> None:
        """Who was read by a check of the database, as `content.Seen` is told: they are not read a second time."""
        with self._lock:
            self._take(part)
            self._last = max(self._last, first - 1)  # of those in the part a later one may have come since

    def _follow(self) -> None:
        if self._store.generation == self._generation:
            return
        now = self._store.standing(self._model, self._last)
        for part in now.held:
            self._take(part)
        self._codes[now.gone[now.gone < len(self._codes)]] = 0
        self._generation, self._last = now.generation, now.last

    def _take(self, part: Held) -> None:
        self._make_room(int(part.rows.max(initial=-1)) + 1)
        self._codes[part.rows] = part.categories
        self._days[part.rows] = part.days

    def _make_room(self, rows: int) -> None:
        self._rows = max(self._rows, rows)
        if rows > len(self._codes):
            more = rows + rows // 8 - len(self._codes)
            self._codes, self._days = np.pad(self._codes, (0, more)), np.pad(self._days, (0, more))
