"""`Pool`: what waits at a node, whatever its role; thread-safe.

Where one goes: made (`admit`, `add` or `release`) -> waiting -> handed out (`take`) -> used (`spend`). `drop`,
`erase_expired` and `close` erase what waits. Used means claimed in the store, and the claim is there before all
else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from nodes.config.preparations import Preparations
from nodes.pool.entry import Entry, Waiting
from nodes.pool.errors import UnknownPreparation
from nodes.pool.files import SealedFiles, fields
from nodes.store import QueryReplayed, StorageKey, StoreError
from nodes.store.store import GalleryStore
from pets.errors import LineupError
from protocol.errors import PreparationSpent, QueryRefused
from protocol.preparation import Preparation

log = logging.getLogger("lineup.pool")

FOLDER = "pool"  # in the node's folder
STEP = "preparation"
CLOCK_SECONDS = 600  # made later than this from now: the clock was set back, and no age can be told


@dataclass(frozen=True)
class Counts:
    """Since this node was started. `expired`: grew too old; `dropped`: erased unused otherwise; `refused`: no room."""

    made: int = 0
    spent: int = 0
    expired: int = 0
    dropped: int = 0
    refused: int = 0


class Pool:
    """What waits at a node. `folder`: of sealed files, made when needed. `store`: has the claims of what was used.

    Opening it reads what an earlier run sealed; what was used, grew too old or cannot be read is deleted.
    """

    def __init__(self, folder: Path, key: StorageKey, store: GalleryStore, policy: Preparations) -> None:
        self._files = SealedFiles(folder, key)
        self._store = store
        self._policy = policy
        self._lock = threading.RLock()
        self._waiting: dict[bytes, Entry] = {}
        self._taken: dict[bytes, Entry] = {}
        self._making: dict[bytes, tuple[str, int]] = {}  # by conversation, what is being made: for whom, and bytes
        self.counts = Counts()
        self._load()

    def admit(self, conversation: bytes, requester: str, size: int, now: float) -> None:
        """Keep a place for what a conversation is about to make, of about `size` bytes; then call `add` or `release`.

        Raises `QueryRefused` (capacity) if as many wait for this requester, or are being made, as may.
        """
        with self._lock:
            self.erase_expired(now)
            waiting = self._waiting_for(requester)
            making = [size for who, size in self._making.values() if who == requester]
            number, limit = len(waiting) + len(making), self._policy.ready
            total, most = sum(item.bytes for item in waiting) + sum(making) + size, self._policy.max_bytes
            if number < limit and total <= most:
                self._making[conversation] = (requester, size)
                return
            self._count(refused=1)
            if number >= limit:
                raise QueryRefused("capacity", f"{number} preparations wait for {requester}, limit {limit}")
            raise _too_large(requester, total, most)

    def grow(self, conversation: bytes, size: int, by: str) -> None:
        """What a conversation makes will take `size` bytes, as `by` has told.

        Raises `QueryRefused` (capacity) for what does not fit beside others that wait for its requester, or are made.
        """
        with self._lock:
            requester, _ = self._making[conversation]
            waiting = sum(item.bytes for item in self._waiting_for(requester))
            others = [each for key, (who, each) in self._making.items() if who == requester and key != conversation]
            total, most = waiting + sum(others) + size, self._policy.max_bytes
            if total > most and total > size:
                self._count(refused=1)
                raise _too_large(requester, total, most, by)
            self._making[conversation] = (requester, size)

    def _waiting_for(self, requester: str) -> list[Waiting]:
        return [entry.waiting for entry in self._waiting.values() if entry.waiting.requester == requester]

    def largest(self, requester: str) -> int:
        """Bytes of the largest that waits for a requester: what the next one will take, as far as can be told."""
        with self._lock:
            return max((item.bytes for item in self._waiting_for(requester)), default=0)

    def release(self, conversation: bytes) -> None:
        """What a conversation was to make failed: its place is free again."""
        with self._lock:
            self._making.pop(conversation, None)

    def add(self, conversation: bytes, preparation: Preparation, now: float) -> None:
        """Let one wait that was just made. The pool owns it now, and frees its memory where it goes to disk.

        With a disk that is full it waits in memory. Raises `PreparationSpent` if it was used here before, and
        `StoreError` if the store does not say; it is erased then.
        """
        try:
            self._add(conversation, preparation, now)
        finally:
            self.release(conversation)  # only now: it would have no place while it is sealed

    def _add(self, conversation: bytes, preparation: Preparation, now: float) -> None:
        preparation_id = preparation.preparation_id
        expires = now + self._policy.max_age_hours * 3600
        try:
            spent = preparation.spent or self._claimed(preparation_id)
        except StoreError:
            preparation.erase()
            raise
        if spent:
            preparation.erase()
            raise PreparationSpent(f"preparation {preparation_id.hex()[:16]} was used already; it does not wait again")
        size = self._seal(conversation, preparation, now) if self._policy.on_disk else None
        entry = Entry.of(conversation, preparation, now, expires, size)
        if size is not None:
            preparation.erase()
        with self._lock:
            self.release(conversation)
            self._taken.pop(preparation_id, None)
            self._waiting[preparation_id] = entry
            self._count(made=1)

    def find(self, holders: Collection[str], dim: int, preset: str, model: bytes, now: float) -> bytes | None:
        """The oldest that serves a search of these holders; nobody else finds it any more. None: prepare one."""
        wanted = frozenset(holders)
        with self._lock:
            for entry in sorted(self._waiting.values(), key=lambda entry: entry.waiting.made):
                if not entry.reserved and _is_fresh(entry.waiting, now) and entry.serves(wanted, dim, preset, model):
                    entry.reserved = True
                    return entry.waiting.preparation_id
        return None

    def ready(self, holders: Collection[str], dim: int, preset: str, model: bytes, now: float) -> int:
        """How many `find` could give."""
        wanted = frozenset(holders)
        with self._lock:
            free = [entry for entry in self._waiting.values() if not entry.reserved and _is_fresh(entry.waiting, now)]
            return sum(entry.serves(wanted, dim, preset, model) for entry in free)

    def oldest_besides(self, holders: Collection[str], dim: int, preset: str, model: bytes) -> bytes | None:
        """The oldest that waits and does not serve such a search; None: all do."""
        wanted = frozenset(holders)
        with self._lock:
            others = [e for e in self._waiting.values() if not (e.reserved or e.serves(wanted, dim, preset, model))]
        oldest = min(others, key=lambda entry: entry.waiting.made, default=None)
        return None if oldest is None else oldest.waiting.preparation_id

    def take(self, preparation_id: bytes, now: float, requester: str | None = None) -> Preparation:
        """Hand one out: from now on only the caller has it, and must `spend` or `drop` it.

        `requester`: who names it; another's stays where it is. Raises `UnknownPreparation` for what is not here, too
        old, used before, made for somebody else, or made before a restore in which claims were lost, and `QueryRefused`
        (internal) if the store does not say: it waits on then.
        """
        with self._lock:
            entry = self._waiting.get(preparation_id)
        if entry is None:
            raise UnknownPreparation(preparation_id, "does not wait here")
        if requester is not None and requester != entry.waiting.requester:
            raise UnknownPreparation(preparation_id, f"was not made for {requester}")
        try:
            why = self._unusable(entry.waiting, now)
        except QueryRefused:
            entry.reserved = False  # else nobody would ever find it again
            raise
        with self._lock:
            if self._waiting.pop(preparation_id, None) is not entry:
                raise UnknownPreparation(preparation_id, "does not wait here any more")
            if why is not None:
                self._forget(entry)
                raise UnknownPreparation(preparation_id, why)
            self._taken[preparation_id] = entry
            # Here, too: whoever erases what is in the pool just then must not find what was handed out.
            resting, entry.preparation = entry.preparation, None
        if resting is not None:
            return resting.wake()
        try:
            return self._files.read(preparation_id)[2]
        except (OSError, LineupError) as error:
            log.warning("a sealed preparation is lost", extra=fields(preparation_id, error))
            self.drop(preparation_id)
            raise UnknownPreparation(preparation_id, "cannot be read any more") from None

    def spend(self, preparation_id: bytes) -> None:
        """Mark as used, once and for all; call it before anything that follows from it leaves.

        The mark is on disk when this returns. Raises `PreparationSpent` the second time, by any process and after any
        restart, and `QueryRefused` (internal) if the mark cannot be written: then it must not be used.
        """
        try:
            self._claim(preparation_id)
        except QueryReplayed:
            raise PreparationSpent(
                f"preparation {preparation_id.hex()[:16]} was used already; it serves one search"
            ) from None
        except StoreError as error:
            log.error("the store cannot be used", extra=fields(preparation_id, error))
            raise QueryRefused("internal", str(error)) from error
        finally:
            self._remove(preparation_id)
        with self._lock:
            self._count(spent=1)

    def drop(self, preparation_id: bytes) -> None:
        """Give up one that was not used: it never is. Nothing happens if it is not here."""
        try:
            self._claim(preparation_id)
        except QueryReplayed:
            pass
        except StoreError as error:  # whoever has a copy of its file could put it back until it is too old
            log.error("a preparation was erased, but not marked", extra=fields(preparation_id, error))
        if self._remove(preparation_id):
            with self._lock:
                self._count(dropped=1)

    def drop_where(self, gallery_root_not_in: Collection[bytes]) -> int:
        """Drop what was made for another version of the gallery; gives how many. One root a preset."""
        return self._drop_all(lambda entry: not entry.roots <= set(gallery_root_not_in))

    def retain(self, requester: str, preparation_ids: Collection[bytes]) -> int:
        """Drop what waits for a requester that says it has only these, after it lost its own; gives how many."""
        kept = frozenset(preparation_ids)
        return self._drop_all(
            lambda entry: entry.waiting.requester == requester and entry.waiting.preparation_id not in kept
        )

    def drop_with(self, peer: str | None) -> int:
        """Drop what waits for a requester, or with a holder, that is no longer a peer; None: with anybody."""
        return self._drop_all(
            lambda entry: peer is None or peer == entry.waiting.requester or peer in entry.waiting.holders
        )

    def erase_expired(self, now: float) -> int:
        """Erase what is too old; gives how many."""
        with self._lock:
            entries = (*self._waiting.values(), *self._taken.values())
            old = [entry for entry in entries if not _is_fresh(entry.waiting, now)]
            for entry in old:
                self._forget(entry)
            self._count(expired=len(old))
        return len(old)

    def standing(self) -> list[Waiting]:
        """What waits and nobody has found, the oldest first."""
        with self._lock:
            free = [entry.waiting for entry in self._waiting.values() if not entry.reserved]
        return sorted(free, key=lambda waiting: waiting.made)

    def preparation_ids(
        self, requester: str, roots: Collection[bytes] | None = None, holder: str | None = None
    ) -> frozenset[bytes]:
        """Of what waits for a requester, or was handed out and not used so far.

        With `roots`, made for one of these; with `holder`, in which it has a finished ring.
        """
        with self._lock:
            entries = (*self._waiting.values(), *self._taken.values())
            return frozenset(
                entry.waiting.preparation_id
                for entry in entries
                if entry.waiting.requester == requester
                and (roots is None or entry.roots <= frozenset(roots))
                and (holder is None or holder in entry.waiting.holders)
            )

    @property
    def roots(self) -> frozenset[bytes]:
        """Of the versions of galleries that something here, or handed out, was made for."""
        with self._lock:
            entries = (*self._waiting.values(), *self._taken.values())
            return frozenset[bytes]().union(*(entry.roots for entry in entries))

    @property
    def presets(self) -> frozenset[str]:
        """That what waits was made with."""
        with self._lock:
            return frozenset(entry.preset for entry in self._waiting.values())

    def close(self) -> None:
        """Erase what is only in memory."""
        with self._lock:
            for entry in self._waiting.values():
                if entry.preparation is not None:
                    entry.preparation.erase()
            self._waiting.clear()

    def _load(self) -> None:
        now = time.time()
        for conversation, made, preparation, size in self._files.opened():
            expires = made + self._policy.max_age_hours * 3600
            entry = Entry.of(conversation, preparation, made, expires, size)
            preparation.erase()
            why = self._unusable(entry.waiting, now)
            if why is not None:
                log.info("a sealed preparation %s and is deleted", why, extra=fields(entry.waiting.preparation_id))
                self._forget(entry)
                continue
            self._waiting[entry.waiting.preparation_id] = entry

    def _seal(self, conversation: bytes, preparation: Preparation, now: float) -> int | None:
        try:
            return self._files.write(conversation, preparation, now)
        except OSError as error:
            log.warning(
                "a preparation could not be sealed and waits in memory", extra=fields(preparation.preparation_id, error)
            )
            return None

    def _unusable(self, waiting: Waiting, now: float) -> str | None:
        """Why it must not be used; None if it may. Raises `QueryRefused` (internal) if the store does not say."""
        if not _is_fresh(waiting, now):
            return f"expired: it was made {now - waiting.made:.0f} s ago, limit {waiting.expires - waiting.made:.0f}"
        try:
            claimed, lost = self._claimed(waiting.preparation_id), self._store.claims_lost_until
        except StoreError as error:
            log.error("the store cannot be used", extra=fields(waiting.preparation_id, error))
            raise QueryRefused("internal", str(error)) from error
        if claimed:
            return "was used already"
        if lost is not None and waiting.made < lost + 1:  # the store counts whole seconds
            return "was made before a restore that lost what was used"
        return None

    def _claimed(self, preparation_id: bytes) -> bool:
        return self._store.has_claimed(preparation_id, STEP)

    def _claim(self, preparation_id: bytes) -> None:
        self._store.claim_query(preparation_id, preparation_id, datetime.now(timezone.utc), step=STEP)

    def _remove(self, preparation_id: bytes) -> bool:
        """Erase it here; whether it was here. What was handed out is its owner's to erase, but for the file."""
        with self._lock:
            entry = self._waiting.get(preparation_id) or self._taken.get(preparation_id)
            if entry is not None:
                self._forget(entry)
        if entry is None:
            self._files.remove(preparation_id)
        return entry is not None

    def _forget(self, entry: Entry) -> None:
        preparation_id = entry.waiting.preparation_id
        with self._lock:
            self._waiting.pop(preparation_id, None)
            self._taken.pop(preparation_id, None)
        if entry.preparation is not None:
            entry.preparation.erase()
        if entry.waiting.on_disk:
            self._files.remove(preparation_id)

    def _drop_all(self, which: Callable[[Entry], bool]) -> int:
        with self._lock:
            found = [entry.waiting.preparation_id for entry in self._waiting.values() if which(entry)]
        for preparation_id in found:
            self.drop(preparation_id)
        return len(found)

    def _count(self, **more: int) -> None:
        changed = {name: getattr(self.counts, name) + number for name, number in more.items()}
        self.counts = replace(self.counts, **changed)


def _is_fresh(waiting: Waiting, now: float) -> bool:
    return waiting.made - CLOCK_SECONDS <= now < waiting.expires


def _too_large(requester: str, total: int, most: int, by: str = "") -> QueryRefused:
    return QueryRefused("capacity", f"preparations for {requester} would take {total} bytes, limit {most}", by)
