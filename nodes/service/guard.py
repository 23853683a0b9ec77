"""Is the gallery sound? What a running node asks before each query, and daily; what is not sound answers nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress

from nodes.evidence.ledger import Ledger
from nodes.service.self_test import SelfTestFailed, self_test
from nodes.store import EmptyStore, StoreCorrupted, StoreLost
from nodes.store.content import Content
from nodes.store.derived import DerivedGallery
from nodes.store.store import GalleryStore
from pets.errors import LineupError

log = logging.getLogger("lineup.node")


class Guard:
    """Compares a node's database with its ledger. `faults`: what is wrong, in words, until the node starts again."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.faults: dict[str, str] = {}
        self._name = name
        self._ledger = ledger
        self._known: Content | None = None
        self._meeting = threading.Lock()

    def meet(self, store: GalleryStore) -> None:
        """Compare the database with what this node had, and note a change. Raises `StoreLost`: nothing is answered."""
        if self.faults:
            raise StoreLost(f"{self._name} answers nothing: {'; '.join(self.faults.values())}")
        if store.content == self._known:
            return
        with self._meeting:  # and read again: another thread may have noted a later state by now
            content = store.content
            try:
                self._ledger.meet(content)
            except StoreLost as error:
                self._fault("store", error)
                raise
            self._known = content

    def inspect(self, store: GalleryStore, galleries: Sequence[DerivedGallery]) -> None:
        """The daily look: the database's file, every row, and whether a subject planted in each gallery is found.

        What fails makes the node unhealthy, and it answers no query. Raises `StoreError` where it cannot look.
        """
        try:
            self.meet(store)
            store.verify(whole=True)
            for gallery in galleries:
                with suppress(EmptyStore):
                    self_test(gallery)
        except SelfTestFailed as error:
            self._fault("self-test", error)
        except (StoreCorrupted, StoreLost) as error:
            self._fault("store", error)

    def _fault(self, what: str, error: LineupError) -> None:
        log.error("the gallery is not sound", extra={"node": self._name, "error": type(error).__name__})
        self.faults.setdefault(what, str(error))
