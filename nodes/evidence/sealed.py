"""What a party keeps under its own key for an audit on site (protocol/DESIGN.md, 2.8), and shows nobody else.

The requester: the probe and all seeds of its preparation, from which the mask r, its encryption and u = q - r follow.
(r and u give the probe away too; but the probe itself lies beside them.) The holder: what opens its commitment to the
seed, the seed of s1, b2, its secrets with requester and router, and what made its confirmation block.
Together with what requester and router had, that shows what they sent; alone it says who hit, and no more of the
probe. Not the encrypted mask, 16.8 MB at d = 512, nor u: a supervisor brings both from the requester's audit.

Files lie in `sealed/CONVERSATION` of the *search*, encrypted under the node's storage key, and are written when the
preparation is used, before u leaves or anything that depends on it. Nothing is sealed while a preparation waits, so
of one that is never used nothing stays.
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
from protocol.messages import Digest
from protocol.preparation import Version
from protocol.searching import SearchingHolder, SearchingRequester
from protocol.shown import kind_only
from protocol.warrant import Justification

_COLUMN = "sealed"


class SealedProbe(msgspec.Struct, frozen=True, tag="requester", forbid_unknown_fields=True):
    """The requester's part. `template`: int8 (d,). `seed`: of mask and errors. The others: of s1 and s2."""

    template: bytes
    seed: Digest
    holder_seed: Digest
    router_seed: Digest
    justification: Justification | None = None

    __repr__ = kind_only


class SealedBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A confirmation: arrays of `protocol.confirmation_block.SealedConfirmation` as raw bytes."""

    salt: bytes
    rows: tuple[int, ...]
    factors: bytes
    block: bytes
    shares: bytes
    answers: tuple[bytes, ...] = ()

    __repr__ = kind_only


class SealedGallery(msgspec.Struct, frozen=True, tag="holder", forbid_unknown_fields=True):
    """The holder's part.

    `seed`: its own, `holder_seed`: that of s1. `public`: b2, uint32 (2, n). `rows`: of the gallery, which lie in its
    block files under the root that was signed. `versions`: of the blocks as prepared. `own`, `following`: the secrets
    with router and requester, out of which the masks come. `confirmation`: None for a query that never came to one.
    """

    seed: Digest
    holder_seed: Digest
    public: bytes
    rows: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    versions: tuple[Version, ...]
    own: Digest
    following: Digest
    confirmation: SealedBlock | None = None

    __repr__ = kind_only


Sealed = SealedProbe | SealedGallery
Part = Literal["requester", "holder"]


def keep(folder: Path, key: StorageKey, conversation: bytes, content: Sealed) -> None:
    """Write what belongs to a search, in place of what was there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = key.seal(msgspec.msgpack.encode(content), _COLUMN, conversation.hex())
    replace_private(folder / conversation.hex(), data)  # never half of it: a holder writes several times


def open_kept(folder: Path, key: StorageKey, conversation: bytes) -> Sealed:
    """Read it again. Raises `FileNotFoundError`, and the store's errors for another key or changed bytes."""
    data = key.unseal((folder / conversation.hex()).read_bytes(), _COLUMN, conversation.hex())
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
    """What a requester keeps: the hook `Context.keep` asks for it while the machine still has the seed of r.

    Raises `ValueError` when it is asked later.
    """
    made = machine.preparation
    if made.seed == bytes(32):
        raise ValueError(f"the seed of the mask of query {machine.query.hex()} is erased: nothing can be sealed of it")
    return SealedProbe(template, made.seed, made.holder_seed, made.router_seed, justification)


def of_holder(machine: SearchingHolder) -> SealedGallery:
    """What a holder keeps, each time the hook `Context.keep` is called.

    As the search begins, with its confirmation block, and when that was answered.
    """
    made, confirmed, gallery = machine.preparation, machine.sealed, machine.gallery
    ring = made.rings[machine.name]
    block = None
    if confirmed is not None:
        arrays = (confirmed.factors.tobytes(), confirmed.block.tobytes(), confirmed.shares.tobytes())
        block = SealedBlock(confirmed.salt, confirmed.rows, *arrays, confirmed.answers)
    return SealedGallery(
        seed=made.seed,
        holder_seed=made.holder_seed,
        public=made.public.tobytes(),
        rows=len(gallery.templates),
        versions=ring.versions,
        own=ring.own,
        following=ring.following,
        confirmation=block,
    )
