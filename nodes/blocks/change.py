"""One change of the gallery: new files are written as they come, the manifest is replaced, old files are deleted."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks.block import BlockReader, BlockSealer, Rows, join
from nodes.blocks.files import Bytes, remove_all_but, write_file
from nodes.blocks.manifest import Block, Dead, Manifest, Version, write_manifest
from nodes.private_files import sync_folder
from pets.gallery_commitment import block_hash, gallery_root

_WRITERS = 2  # while one waits for the disk, the other encrypts
_WAITING = 6  # blocks that are held in memory until they are written


class Change:
    """`manifest` is the one that will be. Nothing has happened until `commit` returns."""

    def __init__(self, folder: Path, cipher: AESGCM, manifest: Manifest) -> None:
        self.folder, self.cipher, self.manifest = folder, cipher, manifest
        self.reader = BlockReader(folder, cipher, manifest.gallery, manifest.dim, manifest.block_rows)
        self._sealers = threading.local()
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="lineup-blocks")
        self._pending: deque[Future[None]] = deque()

    def write(self, name: str, pieces: Callable[[], Sequence[Bytes]]) -> None:
        """Write a new file in the background; `pieces` is called there."""
        while len(self._pending) >= _WAITING:
            self._pending.popleft().result()
        self._pending.append(self._writers.submit(lambda: write_file(self.folder / name, pieces())))

    def put_block(self, rows: Rows, old: Block | None = None) -> Block:
        """A new block, or the next generation of one; gives its entry. `rows` must not change any more."""
        manifest = self.manifest
        if old is None:
            number, generation = manifest.next_block, 0
            manifest.next_block += 1
        else:
            number, generation = old.number, old.generation + 1
        block = Block(number, generation, len(rows), block_hash(rows.leaves()), secrets.token_bytes(16))
        self.write_block(block, rows)
        return block

    def write_block(self, block: Block, rows: Rows) -> None:
        """Write a block's file in the background. `rows` must not change any more."""
        self.write(block.name, lambda: self._sealer().seal(block, rows))

    def _sealer(self) -> BlockSealer:
        manifest, own = self.manifest, self._sealers
        if not hasattr(own, "sealer"):
            own.sealer = BlockSealer(self.cipher, manifest.gallery, manifest.dim, manifest.block_rows)
        sealer: BlockSealer = own.sealer
        return sealer

    def add_rows(self, parts: Iterator[Rows]) -> int:
        """Put rows behind the last one, filling its block first; gives how many came. Numbers are not given here."""
        blocks, size = self.manifest.blocks, self.manifest.block_rows
        open_block = blocks.pop() if blocks and blocks[-1].rows < size else None
        waiting = [self.reader.read(open_block).copy()] if open_block is not None else []
        held, came = sum(map(len, waiting)), 0
        for part in parts:
            waiting.append(part)
            held, came = held + len(part), came + len(part)
            while held >= size:
                together = join(waiting)
                blocks.append(self.put_block(together[:size], open_block))
                open_block = None
                waiting, held = [together[size:]], held - size
        if held and (came or open_block is None):
            blocks.append(self.put_block(join(waiting), open_block))
        elif open_block is not None:
            blocks.append(open_block)
        return came

    def bury(self, rows: Sequence[int], *, successor: int | None = None) -> None:
        """Note that rows are forgotten (and erased), or replaced by `successor`, from the version that this makes."""
        number = self.manifest.current.number + 1
        for row in rows:
            before = self.manifest.dead.get(row)
            if successor is not None:
                self.manifest.dead[row] = Dead(number, successor, forgotten=False, erased=False)
            elif before is None:
                self.manifest.dead[row] = Dead(number, None, forgotten=True, erased=True)
            else:
                self.manifest.dead[row] = msgspec.structs.replace(before, forgotten=True, erased=True)

    def new_version(self, epoch: int, now: int) -> Version:
        """Add the version that the blocks make up now."""
        manifest = self.manifest
        root = gallery_root(block.hash for block in manifest.blocks)
        rows = sum(block.rows for block in manifest.blocks)
        number = manifest.versions[-1].number + 1 if manifest.versions else 0
        version = Version(number, epoch, rows, manifest.next_row, root, now)
        manifest.versions.append(version)
        return version

    def commit(self) -> None:
        """Bring everything to disk. Raises OSError; the gallery then is as it was."""
        while self._pending:
            self._pending.popleft().result()
        sync_folder(self.folder)
        self.manifest.generation += 1
        write_manifest(self.folder, self.cipher, self.manifest)
        remove_all_but(self.folder, self.manifest.names())

    def close(self) -> None:
        """Wait for the writers, whatever became of the change."""
        self._writers.shutdown(wait=True, cancel_futures=True)


@contextmanager
def begun(folder: Path, cipher: AESGCM, manifest: Manifest) -> Iterator[Change]:
    """A change that ends with the block. It has happened only if `commit` was called."""
    change = Change(folder, cipher, manifest)
    try:
        yield change
    finally:
        change.close()
