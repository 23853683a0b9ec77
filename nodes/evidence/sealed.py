"""What a party keeps under its own key for an audit on site (protocol/DESIGN.md, 2.8), and shows nobody else.

The requester: probe and seed, from which every ciphertext can be recomputed. The holder: the seed behind its
randomness, and what made its confirmation block. Files lie in `sealed/QUERY`, encrypted under the node's storage key.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from nodes.private_files import replace_private, write_private
from nodes.store.errors import StoreCorrupted
from nodes.store.keys import StorageKey
from protocol.searching import SearchingHolder, SearchingRequester
from protocol.shown import kind_only
from protocol.warrant import Justification

_COLUMN = "sealed"


class SealedProbe(msgspec.Struct, frozen=True, tag="requester", forbid_unknown_fields=True):
    """The requester's part. `template`: int8 (d,). `seed`: None where OpenFHE encrypted."""

    template: bytes
    seed: bytes | None
    justification: Justification | None = None

    __repr__ = kind_only


class SealedBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A confirmation: arrays of `protocol.confirmation.SealedConfirmation` as raw bytes."""

    salt: bytes
    rows: tuple[int, ...]
    factors: bytes
    block: bytes
    shares: bytes
    answers: tuple[bytes, ...] = ()

    __repr__ = kind_only


class SealedGallery(msgspec.Struct, frozen=True, tag="holder", forbid_unknown_fields=True):
    """The holder's part: what opens its commitment to gallery and seed. `seed`: empty where OpenFHE encrypted.

    `pair_secret`: what masked its inputs to the comparison; empty before the search began. `confirmation`: None for a
    query that never came to one.
    """

    seed: bytes
    gallery_salt: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    gallery_digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    pair_secret: Annotated[bytes, msgspec.Meta(max_length=32)]
    confirmation: SealedBlock | None = None

    __repr__ = kind_only


Sealed = SealedProbe | SealedGallery
Part = Literal["requester", "holder"]


def keep(folder: Path, key: StorageKey, query: bytes, content: Sealed) -> None:
    """Write what belongs to a query, in place of what was there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = key.seal(msgspec.msgpack.encode(content), _COLUMN, query.hex())
    replace_private(folder / query.hex(), data)  # never half of it: a holder writes several times


def open_kept(folder: Path, key: StorageKey, query: bytes) -> Sealed:
    """Read it again. Raises `FileNotFoundError`, and the store's errors for another key or changed bytes."""
    data = key.unseal((folder / query.hex()).read_bytes(), _COLUMN, query.hex())
    content: Sealed = msgspec.msgpack.decode(data, type=Sealed)
    return content


def reseal(folder: Path, old: StorageKey, new: StorageKey) -> int:
    """Encrypt everything kept anew; gives how many files. May be interrupted and called again.

    Times of files stay, for they say when a file is deleted. Raises `StoreCorrupted` for a file under neither key.
    """
    paths = sorted(folder.glob("[0-9a-f]*"))
    for path in paths:
        data, times = path.read_bytes(), path.stat()
        with suppress(StoreCorrupted):
            new.unseal(data, _COLUMN, path.name)
            continue
        fresh = path.with_name(f".{path.name}")
        fresh.unlink(missing_ok=True)
        write_private(fresh, new.seal(old.unseal(data, _COLUMN, path.name), _COLUMN, path.name))
        os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
        fresh.replace(path)
    return len(paths)


def of_requester(machine: SearchingRequester, template: bytes, justification: Justification) -> SealedProbe:
    """What a requester keeps."""
    return SealedProbe(template, machine.preparation.seed, justification)


def of_holder(machine: SearchingHolder) -> SealedGallery:
    """What a holder keeps: after the set-up, as the search begins, with its block, and when that was answered."""
    made, prepared, gallery = machine.sealed, machine.preparation, machine.gallery
    block = None
    if made is not None:
        arrays = (made.factors.tobytes(), made.block.tobytes(), made.shares.tobytes())
        block = SealedBlock(made.salt, made.rows, *arrays, made.answers)
    return SealedGallery(prepared.seed, gallery.salt_seed, gallery.root, prepared.rings[machine.name].own, block)
