"""Erasing rows in their blocks, giving up versions that nobody needs, and leaving out slots whose rows are gone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from nodes.blocks.block import Rows
from nodes.blocks.change import Change
from nodes.blocks.manifest import Block, Dropped
from nodes.blocks.numbering import DroppedRows, Numbering, read_dropped, seal_dropped
from pets.gallery_commitment import Hashes


def erase(change: Change, slots: Sequence[int]) -> None:
    """Write the blocks of some slots again without the bytes and salts of these rows; no hash changes."""
    manifest = change.manifest
    size = manifest.block_rows
    places: dict[int, list[int]] = {}
    for slot in slots:
        places.setdefault(slot // size, []).append(slot % size)
    for index, inside in sorted(places.items()):
        block = manifest.blocks[index]
        gone = np.zeros(block.rows, bool)
        gone[inside] = True
        rows = change.reader.read(block).without(gone)
        fresh = Block(block.number, block.generation + 1, block.rows, block.hash, secrets.token_bytes(16))
        change.write_block(fresh, rows)
        manifest.blocks[index] = fresh


def retire(change: Change, oldest: int) -> int:
    """Give up the versions before `oldest`, and erase the rows that none of those kept can find."""
    manifest = change.manifest
    first = manifest.version(oldest)
    manifest.versions = [version for version in manifest.versions if version.number >= oldest]
    rows = [row for row, state in manifest.dead.items() if not state.erased and state.version <= oldest]
    numbering = Numbering.of(change.folder, change.cipher, manifest)
    erase(change, [int(slot) for slot in numbering.slots(rows, manifest.current.epoch)])
    for row in rows:
        manifest.dead[row] = msgspec.structs.replace(manifest.dead[row], erased=True)
    for place, what in enumerate(manifest.dropped):
        if what.leaves and what.epoch <= first.epoch:  # every version that is kept lies behind this compaction
            dropped = read_dropped(change.folder, change.cipher, manifest.gallery, what)
            bare = DroppedRows(dropped.epoch, dropped.rows, None)
            manifest.dropped[place] = put_dropped(change, bare, what.generation + 1)
    return len(rows)


def compact(change: Change, now: int) -> int:
    """Begin an epoch without the slots whose rows are erased; gives how many those are."""
    manifest = change.manifest
    epoch, size = manifest.current.epoch, manifest.block_rows
    rows = np.array(sorted(row for row, state in manifest.dead.items() if state.erased), np.int64)
    if not len(rows):
        return 0
    slots = Numbering.of(change.folder, change.cipher, manifest).slots(rows, epoch)
    first = int(slots[0]) // size
    old = manifest.blocks[first:]
    manifest.blocks = manifest.blocks[:first]
    leaves: list[Hashes] = []
    change.add_rows(_held(change, old, leaves))
    dropped = DroppedRows(epoch + 1, rows, np.concatenate(leaves))
    manifest.dropped.append(put_dropped(change, dropped, 0))
    for row in rows.tolist():
        del manifest.dead[row]
    change.new_version(epoch + 1, now)
    return len(rows)


def _held(change: Change, blocks: Sequence[Block], leaves: list[Hashes]) -> Iterator[Rows]:
    """The rows of some blocks that are there; the leaves of the others go to `leaves`."""
    for block in blocks:
        rows = change.reader.read(block)
        leaves.append(rows.tags[rows.erased])
        yield rows.kept()


def put_dropped(change: Change, dropped: DroppedRows, generation: int) -> Dropped:
    """Write the file of some dropped rows; gives its entry."""
    what = Dropped(dropped.epoch, generation, len(dropped.rows), dropped.leaves is not None)
    change.write(what.name, lambda: seal_dropped(change.cipher, change.manifest.gallery, what, dropped))
    return what
