"""Preparations for the tests of pools: every party's, made once and copied under fresh IDs."""

from __future__ import annotations

import secrets
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from nodes.config.preparations import Preparations
from nodes.pool import FOLDER, Pool
from nodes.store import StorageKey
from nodes.store.store import GalleryStore
from protocol.local import LocalPreparation
from protocol.preparation import HolderPreparation, Preparation, RequesterPreparation, RouterPreparation, pack, unpack
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.galleries import unit_rows
from tests.kit.parties import HOLDER
from tests.kit.ring import RING
from tests.kit.stores import KEY, open_store
from tests.kit.trio import Trio, hold

P = TypeVar("P", RequesterPreparation, RouterPreparation, HolderPreparation)
DIM = 8
WANTED: dict[str, Any] = {"holders": [HOLDER], "dim": DIM, "preset": RING.preset, "model": SYNTHETIC_MODEL}
HOUR = 3600.0


@lru_cache(maxsize=1)
def made() -> LocalPreparation:
    trio = Trio(hold(unit_rows(np.random.default_rng(1), 70, DIM))).prepare()
    assert trio.made is not None
    return trio.made


def fresh(kind: type[P] = HolderPreparation, requester: str | None = None) -> P:  # type: ignore[assignment]
    """One that nobody has used, with an ID of its own."""
    every: LocalPreparation = made()
    parts: list[Preparation] = [every.requester, every.router, *every.holders.values()]
    part = next(part for part in parts if isinstance(part, kind))
    copy = unpack(pack(part), kind)
    copy.preparation_id = secrets.token_bytes(32)
    if requester is not None:
        copy.requester = requester
    return copy


def secrets_of(preparation: Any) -> list[bytes]:
    """Every secret of a preparation as bytes: what a file must not hold."""
    found = [
        value for name in preparation.__struct_fields__ if "seed" in name for value in [getattr(preparation, name)]
    ]
    for ring in preparation.rings.values():
        found += [ring.own, ring.following, ring.admission.tobytes()]
        for chunk in ring.chunks:
            found += [chunk.z.tobytes(), chunk.pairs.tobytes()]
            if chunk.masked is not None:
                found.append(chunk.masked.tobytes())
    return found


class PoolAtNode:
    """A node's folder with a store and a pool, which can be restarted."""

    def __init__(self, folder: Path, key: StorageKey = KEY, **policy: Any) -> None:
        self.folder, self.key, self.policy = folder, key, Preparations(**policy)
        self.url = f"sqlite:///{folder}/store.db"
        self.start()

    def start(self) -> None:
        self.store: GalleryStore = open_store(self.url)
        self.pool = Pool(self.folder / FOLDER, self.key, self.store, self.policy)

    def stop(self) -> None:
        self.pool.close()
        self.store.close()

    def restart(self, **policy: Any) -> Pool:
        self.stop()
        self.policy = msgspec.structs.replace(self.policy, **policy)
        self.start()
        return self.pool

    def filled(self, preparation: Any = None, made: float | None = None, conversation: bytes = b"") -> bytes:
        """Let one wait; gives its ID. `conversation`: that made it, a fresh one if it is not given."""
        preparation = fresh() if preparation is None else preparation
        preparation_id: bytes = preparation.preparation_id
        self.pool.add(conversation or secrets.token_bytes(16), preparation, time.time() if made is None else made)
        return preparation_id

    @property
    def files(self) -> list[Path]:
        folder = self.folder / FOLDER
        return sorted(folder.iterdir()) if folder.is_dir() else []
