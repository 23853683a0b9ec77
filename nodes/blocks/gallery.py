"""`BlockFiles`: the gallery on disk. Appended to, corrected and forgotten from without reading the rest of it."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks import compaction
from nodes.blocks.block import BlockReader
from nodes.blocks.change import Change, begun
from nodes.blocks.checks import check_known, check_rows, note_run, salted, with_predecessors
from nodes.blocks.errors import (
    BlocksCorrupted,
    BlocksRefusal,
    BlocksUnavailable,
    UnknownRow,
    typed_errors,
)
from nodes.blocks.files import MANIFEST, link_file, locked, remove_all_but
from nodes.blocks.manifest import Line, Manifest, Run, read_manifest, write_manifest
from nodes.blocks.numbering import Numbering, read_dropped
from nodes.blocks.sealing import HEAD_BYTES
from nodes.private_files import sync_folder
from pets.params import check_dim

BLOCK_ROWS = 4096  # rows of one plaintext at the default ring
LOCK_SECONDS = 30.0
ATTEMPTS = 8  # to read files of one moment while others change them

T = TypeVar("T")


class BlockFiles:
    """A gallery in a folder of its own. Every method may raise `BlocksError`; a change that raises has not happened.

    `cipher`: AES-GCM under a key that seals nothing else. Safe to use from several threads and processes.
    `clock`: seconds since 1970, for the times of versions.
    """

    def __init__(
        self,
        folder: Path,
        cipher: AESGCM,
        *,
        lock_seconds: float = LOCK_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.cipher = folder, cipher
        self._lock_seconds, self._clock = lock_seconds, clock
        self._lock = threading.RLock()
        self.manifest()

    @classmethod
    def create(
        cls, folder: Path, cipher: AESGCM, *, dim: int, model: bytes, block_rows: int = BLOCK_ROWS
    ) -> BlockFiles:
        """A new gallery without rows, of templates of `dim` entries of one model.

        `block_rows`: rows of a file. Raises `BlocksRefusal` if a gallery is there.
        """
        check_dim(dim)
        if block_rows < 1:
            raise BlocksRefusal(f"a block has at least one row, got {block_rows}")
        with typed_errors(str(folder)):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode is that of the last one only
            folder.mkdir(mode=0o700, exist_ok=True)
            with locked(folder, LOCK_SECONDS):
                if (folder / MANIFEST).exists():
                    raise BlocksRefusal(f"{folder} holds a gallery already")
                remove_all_but(folder, frozenset())
                lines = [Line(secrets.token_bytes(16), 0)]
                manifest = Manifest(secrets.token_bytes(16), dim, block_rows, model, [], [], lines=lines)
                with begun(folder, cipher, manifest) as change:
                    change.new_version(0, int(time.time()))
                    change.commit()
            sync_folder(folder.parent)
        return cls(folder, cipher)

    def manifest(self) -> Manifest:
        """The gallery as it is now, without its rows."""
        with typed_errors(str(self.folder)):
            return read_manifest(self.folder, self.cipher)

    def stamp(self) -> bytes:
        """Something that is another after every change, cheap to look at: the nonce that the manifest is sealed with.

        Not the file's number and time: numbers are given again, and two changes may fall into one tick of the clock.
        """
        with typed_errors(str(self.folder)), (self.folder / MANIFEST).open("rb", buffering=0) as stream:
            return stream.read(HEAD_BYTES)

    def state(self) -> tuple[Manifest, Numbering]:
        """The gallery as it is now, without its rows. A file that it names may be replaced at any time after."""
        with typed_errors(str(self.folder)):
            return self._of_one_moment(lambda now: (now, Numbering.of(self.folder, self.cipher, now)))

    def block_reader(self, manifest: Manifest) -> BlockReader:
        """Opens blocks; one for each thread."""
        return BlockReader(self.folder, self.cipher, manifest.gallery, manifest.dim, manifest.block_rows)

    def append(self, rows: npt.NDArray[np.int8], *, run: Run | None = None) -> range:
        """Add rows, int8 (rows, d), and give their numbers; one version.

        `run`: the enrolment that they belong to, as it is with them; kept in the same step. Raises `TemplateError`,
        which names row, value and limit, and `RunConflict` if the run is not where the caller believes it is.
        """
        with self._changing() as change:
            manifest = change.manifest
            check_rows(rows, manifest.dim, first=0 if run is None else run.done - len(rows))
            first = manifest.next_row
            if run is not None:
                note_run(manifest, run, run.done - len(rows))
            manifest.next_row += len(rows)
            change.add_rows(salted(rows, manifest.block_rows))
            change.new_version(manifest.current.epoch, int(self._clock()))
            change.commit()
        return range(first, first + len(rows))

    def correct(self, row: int, template: npt.NDArray[np.int8]) -> int:
        """Put a template, int8 (d,), in the place of a row and give its number.

        Queries of earlier versions find the old one until `retire` says that there are no more; it is erased then.
        Raises `UnknownRow` unless the row is live, `TemplateError`.
        """
        rows = np.asarray(template)[None]
        with self._changing() as change:
            manifest = change.manifest
            check_rows(rows, manifest.dim)
            check_known(manifest, row)
            if row in manifest.dead or self._slots(manifest, [row])[0] < 0:
                raise UnknownRow(f"row {row} is forgotten or was replaced before")
            new = manifest.next_row
            manifest.next_row += 1
            change.add_rows(salted(rows, manifest.block_rows))
            change.bury([row], successor=new)
            change.new_version(manifest.current.epoch, int(self._clock()))
            change.commit()
        return new

    def forget(self, rows: Iterable[int]) -> int:
        """Erase rows, and those that they replaced; gives how many were there. Rows that are gone are passed over.

        Raises `UnknownRow` for a number that was never given.
        """
        with self._changing() as change:
            manifest = change.manifest
            wanted = sorted(set(rows))
            for row in wanted:
                check_known(manifest, row)
            wanted = with_predecessors(manifest, wanted)
            slots = self._slots(manifest, wanted)
            pairs = [(row, int(slot)) for row, slot in zip(wanted, slots, strict=True) if slot >= 0]
            new = [row for row, _ in pairs if not (row in manifest.dead and manifest.dead[row].forgotten)]
            if not new:
                return 0
            compaction.erase(change, [slot for _, slot in pairs])
            change.bury(new)
            change.new_version(manifest.current.epoch, int(self._clock()))
            change.commit()
        return len(new)

    def retire(self, oldest: int) -> int:
        """Keep no version before `oldest`: no audit and no waiting preparation needs one. Erases what only they had.

        Gives how many rows were erased. Raises `UnknownVersion`.
        """
        with self._changing() as change:
            erased = compaction.retire(change, oldest)
            change.commit()
        return erased

    def compact(self) -> int:
        """Leave out the slots whose rows are gone; gives how many. Versions that are kept can still be audited.

        Rewrites every block behind the first such slot, a block in memory at a time.
        """
        with self._changing() as change:
            dropped = compaction.compact(change, int(self._clock()))
            if dropped:
                change.commit()
        return dropped

    def branch(self, first: int) -> None:
        """Begin a new line, after a restore: numbers from `first` on that were given so far are not its rows."""
        with self._changing() as change:
            change.manifest.lines.append(Line(secrets.token_bytes(16), first))
            change.commit()

    def copy_to(self, target: Path) -> None:
        """A copy of one moment in a new folder: no bytes on the same file system, as files never change in place.

        Raises `BlocksRefusal` if the folder exists; it then or after a failure is not there.
        """
        with typed_errors(str(target)):
            if target.exists():
                raise BlocksRefusal(f"{target} exists already; a copy never overwrites a file")
            fresh = target.with_name(f".{target.name}.copying")
            manifest = self._of_one_moment(lambda now: self._copy_files(now, fresh))
            write_manifest(fresh, self.cipher, manifest)
            os.replace(fresh, target)
            sync_folder(target.parent)

    def rekey(self, cipher: AESGCM) -> None:
        """Seal every file under another key, in one step; until it ends that needs the gallery's space once more.

        Killed, everything is under the previous key, or everything under the new one. Nobody else may have it open.
        """
        with self._changing() as change:
            manifest = change.manifest
            dropped = [read_dropped(self.folder, self.cipher, manifest.gallery, what) for what in manifest.dropped]
            change.cipher = cipher  # of what is written
            for place, block in enumerate(manifest.blocks):
                fresh = msgspec.structs.replace(block, generation=block.generation + 1, mark=secrets.token_bytes(16))
                change.write_block(fresh, change.reader.read(block).copy())
                manifest.blocks[place] = fresh
            for place, rows in enumerate(dropped):
                manifest.dropped[place] = compaction.put_dropped(change, rows, manifest.dropped[place].generation + 1)
            change.commit()
            self.cipher = cipher

    def _copy_files(self, manifest: Manifest, fresh: Path) -> Manifest:
        shutil.rmtree(fresh, ignore_errors=True)  # of a copy that was interrupted, or overtaken by a change
        fresh.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.mkdir(mode=0o700)
        for name in sorted(manifest.names()):
            link_file(self.folder / name, fresh / name)
        return manifest

    def _of_one_moment(self, read: Callable[[Manifest], T]) -> T:
        """What `read` makes of the files that a manifest names; again when a change has replaced one of them."""
        for _ in range(ATTEMPTS):
            manifest = read_manifest(self.folder, self.cipher)
            try:
                return read(manifest)
            except FileNotFoundError as error:
                if read_manifest(self.folder, self.cipher).generation == manifest.generation:
                    raise BlocksCorrupted(f"{error.filename} is missing") from None
        raise BlocksUnavailable(f"{self.folder} changed {ATTEMPTS} times while it was read")

    def _slots(self, manifest: Manifest, rows: Sequence[int]) -> npt.NDArray[np.int64]:
        return Numbering.of(self.folder, self.cipher, manifest).slots(rows, manifest.current.epoch)

    @contextmanager
    def _changing(self) -> Iterator[Change]:
        with (
            typed_errors(str(self.folder)),
            self._lock,
            locked(self.folder, self._lock_seconds),
        ):
            manifest = read_manifest(self.folder, self.cipher)
            remove_all_but(self.folder, manifest.names())  # left over from a change that was killed
            with begun(self.folder, self.cipher, manifest) as change:
                yield change
