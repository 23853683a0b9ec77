"""The gallery as rows in memory, read from a store, and its earlier versions for as long as preparations need them.

A preparation is made for one version, whose Merkle root it holds. The gallery may change before it is used: a search
then uses the rows of that version, and a bit a row says who may still be found. Who was forgotten is not found from
that moment, and the template is overwritten as soon as no search reads it (`erase_gone`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from nodes.private_files import replace_private, write_private
from nodes.store.errors import StoreCorrupted
from nodes.store.keys import StorageKey
from nodes.store.store import GalleryStore
from nodes.store.subjects import Category, Snapshot, utc_day
from pets.params import Parameters
from pets.prf import SECRET_BYTES
from protocol.gallery import Gallery
from protocol.live import Liveness

SALT_FILE = "gallery-salt"
_COLUMN = "gallery salt"


@dataclass(eq=False)
class Version:
    """One state of the gallery. `lent`: who may be found, bool (rows,), of each search that reads its rows now.

    `zeroed`: rows that were overwritten, bool (rows,); with any of them a preparation would give a random score.
    """

    snapshot: Snapshot
    gallery: Gallery
    zeroed: Liveness = field(repr=False)
    lent: list[tuple[Liveness, frozenset[Category]]] = field(default_factory=list, repr=False)


class DerivedGallery:
    """`current` gives the gallery that is prepared: never one that holds a forgotten or expired subject.

    `model`, `categories`: as in `GalleryStore.snapshot`. `salt_seed`: 32 secret bytes behind the root (`salt_seed`
    below), fresh if not given. `threads`: for the root.
    """

    def __init__(
        self,
        store: GalleryStore,
        params: Parameters,
        *,
        model: bytes | None = None,
        categories: Iterable[Category] | None = None,
        salt_seed: bytes | None = None,
        threads: int = 1,
    ) -> None:
        self._store = store
        self._params = params
        self._model = model
        self._categories = store.categories if categories is None else frozenset(categories)
        self._salt_seed = salt_seed or secrets.token_bytes(SECRET_BYTES)
        self._threads = threads
        self._lock = threading.RLock()
        self._held: Version | None = None
        self._earlier: dict[bytes, Version] = {}  # by root
        self._replaced: list[Version] = []  # by one with the same root, while searches may still read them
        self._standing: dict[frozenset[Category], tuple[int, object, frozenset[str]]] = {}

    def current(self, now: datetime) -> Gallery:
        """The gallery as the store has it now; read anew if it changed. Raises what `GalleryStore.snapshot` raises."""
        with self._lock:
            held = self._held
            if held is not None and self._fresh(held.snapshot, now):
                return held.gallery
            snapshot = self.stored(now)
            gallery = Gallery.of(
                snapshot.templates,
                self._params,
                snapshot.references,
                snapshot.model,
                self._salt_seed,
                self._threads,
            )
            if held is not None:
                self._earlier[held.gallery.root] = held
            if (alike := self._earlier.pop(gallery.root, None)) is not None:
                self._replaced.append(alike)
            self._held = Version(snapshot, gallery, np.zeros(len(gallery.templates), np.bool_))
            return gallery

    def stored(self, now: datetime) -> Snapshot:
        """The same rows, read from the store once more."""
        return self._store.snapshot(now, model=self._model, categories=self._categories)

    def lend(self, root: bytes, now: datetime, categories: Collection[Category]) -> tuple[Gallery, Liveness] | None:
        """The version with this root, and who of it may be found: bool (rows,), True for subjects of these categories
        that are held and within retention. None if it is not here.

        The rows stay as they are until `give_back`; the bits do not: who is forgotten meanwhile is cleared.
        """
        with self._lock:
            version = self._version(root)
            if version is None:
                return None
            wanted = frozenset(categories) & self._categories
            live = self._live(version, now, wanted)
            version.lent.append((live, wanted))
            return version.gallery, live

    def give_back(self, live: Liveness) -> None:
        """The search that was lent these bits is over, and no longer reads the rows."""
        with self._lock:
            for version in self._versions:
                version.lent = [lent for lent in version.lent if lent[0] is not live]

    def erase_gone(self, now: datetime) -> int:
        """Let who was forgotten or expired go from all versions: at once from the bits that were lent, and from the
        rows; gives how many were overwritten now.

        Rows that a search reads are left for the next time: to half a search they would be others.
        """
        gone = 0
        with self._lock:
            if self._held is not None and not self._fresh(self._held.snapshot, now):
                self._earlier[self._held.gallery.root], self._held = self._held, None
            for version in (*self._earlier.values(), *self._replaced):
                for live, categories in version.lent:
                    live &= self._live(version, now, categories)
                if not version.lent:
                    left = ~self._live(version, now, self._categories)
                    version.zeroed |= left
                    gone += _overwrite(version.gallery, left)
            self._replaced = [version for version in self._replaced if version.lent]
        return gone

    def keep_only(self, roots: Collection[bytes]) -> None:
        """Give up earlier versions, but for those with these roots and those that a search reads."""
        with self._lock:
            kept = {root: version for root, version in self._earlier.items() if root in roots or version.lent}
            self._earlier = kept

    @property
    def roots(self) -> frozenset[bytes]:
        """Of all versions that are here."""
        with self._lock:
            return frozenset(version.gallery.root for version in self._versions)

    @property
    def _versions(self) -> list[Version]:
        return [*self._earlier.values(), *self._replaced, *(() if self._held is None else (self._held,))]

    def _live(self, version: Version, now: datetime, categories: frozenset[Category]) -> Liveness:
        found, references = self._references(now, categories), version.snapshot.references
        live = np.fromiter((reference in found for reference in references), np.bool_, len(references))
        return live & ~version.zeroed  # also where a clock that was set back says that somebody is held again

    def _version(self, root: bytes) -> Version | None:
        held = self._held
        return held if held is not None and held.gallery.root == root else self._earlier.get(root)

    def _references(self, now: datetime, categories: frozenset[Category]) -> frozenset[str]:
        """Read again after a change, and every day."""
        day, generation = utc_day(now), self._store.generation
        with self._lock:
            known = self._standing.get(categories)
            if known is None or known[:2] != (generation, day):
                read, references = self._store.standing(now, categories)
                known = self._standing[categories] = read, day, references
            return known[2]

    def _fresh(self, snapshot: Snapshot, now: datetime) -> bool:
        in_time = snapshot.valid_through is None or utc_day(now) <= snapshot.valid_through
        return in_time and snapshot.generation == self._store.generation


def _overwrite(gallery: Gallery, which: Liveness) -> int:
    """Zero some rows that are not zero yet; gives how many."""
    templates, rows = gallery.templates, np.flatnonzero(which)
    rows = rows[templates[rows].any(axis=1)]
    if len(rows):
        templates.flags.writeable = True  # nobody else may
        gallery.forget_rows(rows)
        templates.flags.writeable = False
    return len(rows)


def salt_seed(folder: Path, key: StorageKey) -> bytes:
    """The secret behind the roots of a node's galleries, 32 bytes: one a node, sealed, so that roots stay the same.

    Made the first time. Raises what `StorageKey.unseal` raises for another key or changed bytes.
    """
    path = folder / SALT_FILE
    if not path.exists():
        fresh = secrets.token_bytes(SECRET_BYTES)
        write_private(path, key.seal(fresh, _COLUMN, SALT_FILE))
        return fresh
    return key.unseal(path.read_bytes(), _COLUMN, SALT_FILE)


def reseal_salt(folder: Path, old: StorageKey, new: StorageKey) -> None:
    """Encrypt it anew. May be interrupted and called again. Raises `StoreCorrupted` for a file under neither key."""
    path = folder / SALT_FILE
    if path.exists():
        sealed = path.read_bytes()
        with suppress(StoreCorrupted):
            new.unseal(sealed, _COLUMN, SALT_FILE)
            return
        replace_private(path, new.seal(old.unseal(sealed, _COLUMN, SALT_FILE), _COLUMN, SALT_FILE))
