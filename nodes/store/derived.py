"""The gallery in NTT form, derived from a store and kept fresh in memory.

The NTT form is the templates in another form, so at rest it would have to be encrypted like them, at eight times
their size. It is therefore never stored: a node derives it when it starts, and again after a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import datetime

from nodes.store.store import GalleryStore
from nodes.store.subjects import Category, Snapshot, utc_day
from pets.params import Parameters
from protocol.gallery import Gallery


class DerivedGallery:
    """`current` gives the gallery a query is answered from: never one that holds a forgotten or expired subject.

    `model`, `categories`: as in `GalleryStore.snapshot`. `threads`: for the transform.
    """

    def __init__(
        self,
        store: GalleryStore,
        params: Parameters,
        *,
        model: bytes | None = None,
        categories: Iterable[Category] | None = None,
        threads: int = 1,
    ) -> None:
        self._store = store
        self._params = params
        self._model = model
        self._categories = None if categories is None else frozenset(categories)
        self._threads = threads
        self._lock = threading.Lock()
        self._held: tuple[Snapshot, Gallery] | None = None

    def current(self, now: datetime, progress: Callable[[int], None] | None = None) -> Gallery:
        """The gallery as the store has it now; derived anew if it changed. A query keeps the one it started with.

        Raises what `GalleryStore.snapshot` raises, and `GalleryError`.
        """
        with self._lock:
            if self._held is not None and self._fresh(self._held[0], now):
                return self._held[1]
            self._held = None  # before the new one is made: two do not fit in memory
            snapshot = self._store.snapshot(now, model=self._model, categories=self._categories)
            gallery = Gallery.enrol(
                snapshot.templates, self._params, snapshot.references, snapshot.model, self._threads, progress
            )
            self._held = (snapshot, gallery)
            return gallery

    def stored(self, now: datetime) -> Snapshot:
        """The same rows, read from the store once more."""
        return self._store.snapshot(now, model=self._model, categories=self._categories)

    def _fresh(self, snapshot: Snapshot, now: datetime) -> bool:
        in_time = snapshot.valid_through is None or utc_day(now) <= snapshot.valid_through
        return in_time and snapshot.generation == self._store.generation
