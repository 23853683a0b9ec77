"""The galleries that a holder prepares with and searches, one for each preset, and who of them a purpose may find."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from nodes.cluster.gallery import Cluster
from nodes.config.names import Purpose
from nodes.config.schema import NodeConfig, Role
from nodes.service.guard import Guard
from nodes.store import EmptyStore
from nodes.store.derived import DerivedGallery
from nodes.store.resident import Resident
from nodes.store.store import GalleryStore
from pets.errors import LineupError
from pets.params import preset
from protocol.errors import QueryRefused
from protocol.gallery import Gallery
from protocol.live import Liveness

log = logging.getLogger("lineup.node")


class Galleries:
    """A preparation knows no purpose, so a gallery holds every row there is.

    A search is lent its rows with a bit a row: whom its purpose may find, and who is still held (Article 29). Nobody
    may be found whom no purpose served here looks for. `cluster`: where a holder's node.toml names one; its rows are
    there then, and none in this process. `folder`: of the node. `resident`: the rows, where they were read before.
    """

    def __init__(
        self,
        config: NodeConfig,
        store: GalleryStore,
        guard: Guard,
        threads: int,
        folder: Path,
        resident: Resident | None = None,
    ) -> None:
        self._policy = config.policy
        self._store, self._guard = store, guard
        used = config.cluster.used and config.role is Role.HOLDER
        self.cluster = Cluster(config.cluster, folder) if used else None
        self._resident = resident or Resident(store, threads=threads)  # the same rows for every preset
        if self.cluster is not None:
            self._resident.hold = self.cluster.hold
        self._derived: dict[str, DerivedGallery] = {}

    def current(self, name: str, dim: int, model: bytes) -> Gallery:
        """What is prepared now, for a preset. Raises `QueryRefused` (internal) if the gallery cannot be used."""
        try:
            self._guard.meet(self._store)
            return self.of(name).current()
        except EmptyStore:
            return self._nobody(name, dim, model)
        except LineupError as error:
            raise _unusable(error) from error

    def lend(
        self, name: str, root: bytes, empty: tuple[int, bytes], purpose: Purpose
    ) -> tuple[Gallery, Liveness] | None:
        """The version that was prepared, and who of it may be found, until `give_back`; None if it is not here.

        `empty`: dimension and model, for the version of a holder that held nobody. Raises `QueryRefused` (internal).
        """
        nobody = self._nobody(name, *empty)
        if root == nobody.root:
            return nobody, np.zeros(0, np.bool_)
        try:
            self._guard.meet(self._store)
            return self.of(name).lend(root, _now(), self._policy.searched(purpose))
        except LineupError as error:
            raise _unusable(error) from error

    def roots(self) -> frozenset[bytes] | None:
        """Of the galleries that would be prepared with now; None where that cannot be told."""
        try:
            self._guard.meet(self._store)
            return frozenset(derived.current().root for derived in self.all)
        except LineupError:
            return None

    def give_back(self, live: Liveness) -> None:
        """The search that was lent these bits is over."""
        for derived in self.all:
            derived.give_back(live)

    def follow(self) -> int:
        """Release subjects that were forgotten; returns how many rows were overwritten."""
        return sum(derived.erase_gone(_now()) for derived in self.all)

    def close(self) -> None:
        """Let go of what is elsewhere."""
        if self.cluster is not None:
            self.cluster.close()

    def of(self, name: str) -> DerivedGallery:
        """The gallery of a preset."""
        made = self._derived.get(name)
        if made is None:
            categories = self._policy.findable
            made = DerivedGallery(self._store, preset(name), categories=categories, resident=self._resident)
        return self._derived.setdefault(name, made)

    @property
    def all(self) -> list[DerivedGallery]:
        """Of all presets that were asked for."""
        return list(self._derived.values())

    def _nobody(self, name: str, dim: int, model: bytes) -> Gallery:
        return Gallery.of(np.empty((0, dim), np.int8), preset(name), (), model)


def _unusable(error: LineupError) -> QueryRefused:
    log.error("no gallery", extra={"error": type(error).__name__})
    return QueryRefused("internal", "the gallery cannot be used")


def _now() -> datetime:
    return datetime.now(timezone.utc)
