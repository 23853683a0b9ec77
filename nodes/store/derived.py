"""The gallery in memory: rows of the block files, in every version that is kept, and a bit a row for who may be found.

A preparation is made for one version, whose root it holds. The gallery may change before it is used: a search then uses
the rows of that version, which are the same memory, and a bit a row says who may still be found. Who was forgotten is
not found from that moment, and the template is overwritten as soon as no search reads the rows (`erase_gone`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import overload

from nodes.blocks import HeldGallery, UnknownVersion, VersionReader
from nodes.blocks import Snapshot as Lent
from nodes.blocks.manifest import Version
from nodes.store.resident import Resident
from nodes.store.rows import as_store_errors
from nodes.store.store import GalleryStore
from nodes.store.subjects import Category
from pets.params import Parameters
from pets.templates import Templates
from protocol.gallery import Gallery
from protocol.live import Liveness


class References(Sequence[str]):
    """References by row, looked up when they are asked for: thirty million strings do not belong in memory."""

    def __init__(self, resident: Resident, rows: HeldGallery, version: Version) -> None:
        self._resident, self._rows, self._version = resident, rows, version

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        """Raises `QueryRefused` for a row whose subject was forgotten."""
        if isinstance(row, slice):
            return tuple(self[place] for place in range(len(self))[row])
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._resident.reference(self._rows, row, self._version)

    def __len__(self) -> int:
        return self._version.rows


@dataclass(eq=False)
class _Loan:
    """The rows of a version, lent to a search. `live`: who may be found, bool (rows,)."""

    rows: Lent
    live: Liveness = field(repr=False)
    categories: frozenset[Category]


class DerivedGallery:
    """`current` gives the gallery that is prepared. It holds every row of the block files, in or out of retention, and
    of every category; who of them may be found is said when it is lent.

    `categories`: the only ones that may be found. `resident`: the rows, where galleries share them.
    """

    def __init__(
        self,
        store: GalleryStore,
        params: Parameters,
        *,
        model: bytes | None = None,
        categories: Iterable[Category] | None = None,
        resident: Resident | None = None,
        threads: int = 1,
    ) -> None:
        self._params = params
        self._categories = store.categories if categories is None else frozenset(categories)
        self._resident = resident or Resident(store, model=model, threads=threads)
        self._lock = threading.RLock()
        self._made: dict[bytes, Gallery] = {}  # by root; the newest, and those that are lent
        self._loans: list[_Loan] = []
        self._resident.watchers.append(lambda: self._clear(datetime.now(timezone.utc)))

    def current(self) -> Gallery:
        """The gallery as the store has it now. Raises what `GalleryStore.row_files` raises."""
        rows = self._refreshed()
        with self._lock, as_store_errors():
            with rows.lend() as newest:
                gallery = self._gallery(newest)
            kept = {gallery.root, *(loan.rows.version.root for loan in self._loans)}
            self._made = {root: made for root, made in self._made.items() if root in kept}
            return gallery

    def lend(self, root: bytes, now: datetime, categories: Collection[Category]) -> tuple[Gallery, Liveness] | None:
        """The version with this root, and who of it may be found: bool (rows,), True for subjects of these categories
        that are held and within retention. None if it is not here.

        The rows stay as they are until `give_back`; the bits do not: who is forgotten meanwhile is cleared.
        """
        wanted, rows = frozenset(categories) & self._categories, self._refreshed()
        with self._lock, as_store_errors():
            try:
                lent = rows.lend_of(root)
            except UnknownVersion:
                return None
            try:
                loan = _Loan(lent, self._resident.live(lent.gallery, lent.version, now, wanted), wanted)
            except BaseException:
                lent.close()
                raise
            self._loans.append(loan)
            return self._gallery(lent), loan.live

    def give_back(self, live: Liveness) -> None:
        """The search that was lent these bits is over, and no longer reads the rows."""
        with self._lock, as_store_errors():
            for loan in self._loans:
                if loan.live is live:
                    loan.rows.close()
            self._loans = [loan for loan in self._loans if loan.live is not live]

    def erase_gone(self, now: datetime) -> int:
        """Let who was forgotten or is past retention go at once from the bits that were lent, and who was forgotten
        from the rows; gives how many were overwritten now.

        While a search reads the rows they are left for the next time: to half a search they would be others.
        """
        self._clear(now)
        if (rows := self._resident.loaded) is None:
            return 0
        with as_store_errors():
            rows.refresh()
        return self._resident.overwritten()

    def _clear(self, now: datetime) -> None:
        """Let who may not be found any more go from the bits that were lent."""
        with self._lock, as_store_errors():
            rows = self._resident.loaded
            for loan in self._loans:
                if rows is not None and loan.rows.gallery is rows:
                    loan.live &= self._resident.live(rows, loan.rows.version, now, loan.categories)
                else:  # of another model, which is not served any more
                    loan.live[:] = False

    @contextmanager
    def beside_files(self) -> Iterator[tuple[list[Templates], VersionReader]]:
        """The rows at hand, every copy of them, and what reads the same rows from the block files."""
        with as_store_errors(), self._resident.rows(self._categories).snapshot() as newest:
            with self._lock:
                gallery = self._gallery(newest)
            copies = [gallery.templates, *newest.gallery.further(newest.version.rows)]
            yield copies, VersionReader(newest.gallery.files, newest.version.number)

    def _refreshed(self) -> HeldGallery:
        """The rows as they are now; without the lock, as new ones may have to be read."""
        with as_store_errors():
            rows = self._resident.rows(self._categories)
            rows.refresh()
            return rows

    @property
    def resident(self) -> Resident:
        """The rows that it is made of."""
        return self._resident

    def _gallery(self, lent: Lent) -> Gallery:
        version = lent.version
        made = self._made.get(version.root)
        if made is None:
            references = References(self._resident, lent.gallery, version)
            made = Gallery.of(lent.rows, self._params, references, lent.gallery.model, root=version.root)
            self._made[version.root] = made
        return made
