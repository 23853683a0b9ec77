"""Attacks on the preparations that wait at nodes, each with its control: without the defence it works."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nodes.pool import FOLDER, Pool, UnknownPreparation
from nodes.pool.files import SealedFiles
from nodes.store import StorageKey, StoreCorrupted
from nodes.store.backup import carry_over, copy_database, replace_database
from nodes.store.store import GalleryStore
from pets.templates import Templates
from protocol.difference import unpack_difference
from protocol.errors import PreparationSpent, QueryRefused
from protocol.local import LocalPreparation, LocalSearch
from protocol.memory import MemoryNetwork
from protocol.messages import Difference
from protocol.preparation import HolderPreparation, RequesterPreparation, RouterPreparation, pack, unpack
from tests.kit.galleries import near, unit_rows
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Delivery
from tests.kit.pools import HOUR, PoolAtNode, fresh, secrets_of
from tests.kit.ring import RING
from tests.kit.stores import KEY
from tests.kit.trio import Trio, hold

DIM = 64
Differences = npt.NDArray[np.int64]


def now() -> float:
    return time.time()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PoolAtNode]:
    """A node with a pool on disk."""
    node = PoolAtNode(tmp_path, on_disk=True)
    yield node
    node.stop()


# --- a stolen pool ---


def test_a_stolen_sealed_pool_shows_no_secret_without_its_key(disk: PoolAtNode) -> None:
    for kind in (RequesterPreparation, RouterPreparation, HolderPreparation):
        preparation = fresh(kind)  # type: ignore[type-var]
        looked_for = secrets_of(preparation)
        preparation_id = disk.filled(preparation)
        stolen = (disk.folder / FOLDER / preparation_id.hex()).read_bytes()
        assert len(looked_for) >= 6
        assert not [secret for secret in looked_for if secret[:16] in stolen]
        with pytest.raises(StoreCorrupted):
            SealedFiles(disk.folder / FOLDER, StorageKey(b"x" * 32)).read(preparation_id)


def test_control_with_the_key_every_secret_is_there(disk: PoolAtNode) -> None:
    for kind in (RequesterPreparation, RouterPreparation, HolderPreparation):
        preparation = fresh(kind)  # type: ignore[type-var]
        looked_for, packed = secrets_of(preparation), pack(preparation)
        assert all(secret[:16] in packed for secret in looked_for)
        opened = SealedFiles(disk.folder / FOLDER, KEY).read(disk.filled(preparation))[2]
        assert secrets_of(opened) == looked_for


# --- u twice ---


@dataclass
class Federation:
    """Every party's pool, and what the holder saw of the probes. `restored` is called with each party's node."""

    nodes: dict[str, PoolAtNode]
    galleries: dict[str, Any]
    terms: Any
    preparation_id: bytes
    seen: list[Differences]

    def search(self, probe: Templates) -> list[Exception]:
        """One search with what waits at every party; gives what anybody refused."""
        try:
            taken = {name: node.pool.take(self.preparation_id, now()) for name, node in self.nodes.items()}
        except UnknownPreparation as error:
            return [error]
        made = LocalPreparation(taken[REQUESTER], taken[ROUTER], {HOLDER: taken[HOLDER]})  # type: ignore[arg-type,dict-item]
        search = LocalSearch.start(made, self.galleries, self.terms, spend=self.nodes[REQUESTER].pool.spend)
        for machine in (search.router, *search.holders.values()):
            object.__setattr__(machine.context, "accept", self.nodes[machine.name].pool.spend)
        network = MemoryNetwork(search.machines, tap=self._tap)
        network.run()
        if search.requester.ready:
            try:
                search.requester.submit(probe)
            except PreparationSpent as error:
                return [error]
            network.run()
        return list(network.failures)

    def _tap(self, sender: str, receiver: str, frame: bytes) -> tuple[bytes, ...]:
        delivery = Delivery(sender, receiver, frame)
        if delivery.of(Difference):
            self.seen.append(unpack_difference(delivery.message, DIM, RING).astype(np.int64))  # type: ignore[arg-type]
        return (frame,)


@lru_cache(maxsize=1)
def scene() -> tuple[Templates, Templates, Trio]:
    rng = np.random.default_rng(2)
    probe, stranger = unit_rows(rng, 2, DIM)
    templates = unit_rows(rng, 70, DIM)
    templates[17] = near(rng, probe, 1, np.full(1, 0.8))[0]
    return probe, stranger, Trio(hold(templates), threshold="0.7", ladder="0").prepare()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Every party has one preparation, sealed on disk."""
    made = scene()[2].made
    assert made is not None
    parts = {
        REQUESTER: unpack(pack(made.requester), RequesterPreparation),
        ROUTER: unpack(pack(made.router), RouterPreparation),
        HOLDER: unpack(pack(made.holders[HOLDER]), HolderPreparation),
    }
    nodes: dict[str, PoolAtNode] = {}
    for name, part in parts.items():
        (tmp_path / name).mkdir()
        nodes[name] = PoolAtNode(tmp_path / name, on_disk=True)
        nodes[name].filled(part)
    trio = scene()[2]
    yield Federation(nodes, trio.galleries, trio.terms, made.requester.preparation_id, [])
    for node in nodes.values():
        node.stop()


def copied_away(federation: Federation) -> dict[str, Path]:
    """As a thief of disks, or a backup of the folder, has the sealed files."""
    for node in federation.nodes.values():
        shutil.copytree(node.folder / FOLDER, node.folder / "copy")
    return {name: node.folder / "copy" for name, node in federation.nodes.items()}


def put_back(federation: Federation, copies: dict[str, Path]) -> None:
    for name, node in federation.nodes.items():
        node.stop()
        shutil.copytree(copies[name], node.folder / FOLDER, dirs_exist_ok=True)
        node.start()


def gap(u: Differences, v: Differences) -> Differences:
    between = (u - v) % RING.t
    signed: Differences = np.where(between > RING.t // 2, between - RING.t, between)
    return signed


def test_sealed_files_put_back_after_use_serve_no_second_probe(federation: Federation) -> None:
    probe, stranger, _ = scene()
    copies = copied_away(federation)
    assert federation.search(probe) == []
    put_back(federation, copies)
    assert [node.files for node in federation.nodes.values()] == [[], [], []]
    assert isinstance(federation.search(stranger)[0], UnknownPreparation)
    assert len(federation.seen) == 1


@pytest.mark.parametrize("still_claimed", [REQUESTER, ROUTER, HOLDER])
def test_the_claim_of_any_one_party_stops_a_second_probe(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, still_claimed: str
) -> None:
    """The others lost theirs; whoever is left refuses before u leaves."""
    probe, stranger, _ = scene()
    copies = copied_away(federation)
    federation.search(probe)
    kept = federation.nodes[still_claimed].url
    honest = GalleryStore.has_claimed, GalleryStore.claim_query
    monkeypatch.setattr(GalleryStore, "has_claimed", lambda *_: False)
    monkeypatch.setattr(
        GalleryStore,
        "claim_query",
        lambda store, *a, **k: honest[1](store, *a, **k) if str(store._database.path) in kept else None,
    )
    put_back(federation, copies)
    failures = federation.search(stranger)
    assert any(isinstance(failure, PreparationSpent) for failure in failures)
    assert len(federation.seen) == 1


def test_control_without_claims_the_holder_gets_the_difference_of_two_probes(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, stranger, _ = scene()
    copies = copied_away(federation)
    monkeypatch.setattr(GalleryStore, "has_claimed", lambda *_: False)
    monkeypatch.setattr(GalleryStore, "claim_query", lambda *_, **__: None)
    assert federation.search(probe) == []
    put_back(federation, copies)
    assert federation.search(stranger) == []
    assert np.array_equal(gap(*federation.seen), probe.astype(np.int64) - stranger.astype(np.int64))


def restored(node: PoolAtNode, backup: Path, *, with_present: bool) -> None:
    """`lineup store restore`: with the present store its claims are carried over, without it they count as lost."""
    fresh_copy = backup.with_name("restoring.db")
    copy_database(backup, fresh_copy)
    place, moment = Path(node.url.removeprefix("sqlite:///")), datetime.now(timezone.utc)
    node.stop()
    if with_present:
        carry_over(place, fresh_copy, moment)
    replace_database(place, fresh_copy)
    node.start()
    if not with_present:
        node.store.note_loss(moment)


def searched_after_a_backup(federation: Federation, probe: Templates) -> dict[str, Path]:
    """One search, after every node's store and the files of its pool were copied; gives the files."""
    copies = copied_away(federation)
    for node in federation.nodes.values():
        node.store.backup(node.folder / "backup.db")
    federation.search(probe)
    return copies


@pytest.mark.parametrize("with_present", [True, False], ids=["claims carried over", "claims lost"])
def test_after_a_restore_of_store_and_files_nothing_made_before_serves(
    federation: Federation, with_present: bool
) -> None:
    probe, stranger, _ = scene()
    copies = searched_after_a_backup(federation, probe)
    for node in federation.nodes.values():
        restored(node, node.folder / "backup.db", with_present=with_present)
    put_back(federation, copies)
    assert isinstance(federation.search(stranger)[0], UnknownPreparation)
    assert len(federation.seen) == 1


def test_control_a_store_put_back_by_hand_that_does_not_know_of_its_loss_serves_again(federation: Federation) -> None:
    """At all parties at once. That a node meets an older copy of its store is another defence (nodes/service/guard)."""
    probe, stranger, _ = scene()
    copies = searched_after_a_backup(federation, probe)
    for node in federation.nodes.values():
        node.stop()
        replace_database(Path(node.url.removeprefix("sqlite:///")), node.folder / "backup.db")
        node.start()
    put_back(federation, copies)
    assert federation.search(stranger) == []
    assert len(federation.seen) == 2


# --- borrowed, expired ---


def test_a_preparation_of_another_state_is_not_handed_out_and_stays(disk: PoolAtNode) -> None:
    preparation_id = disk.filled(fresh(requester="FR"))
    with pytest.raises(UnknownPreparation, match="was not made for DE"):
        disk.pool.take(preparation_id, now(), "DE")
    assert disk.pool.take(preparation_id, now(), "FR").requester == "FR"


def test_control_without_the_name_it_is_handed_out_and_its_owner_has_lost_it(disk: PoolAtNode) -> None:
    """The machines refuse it to whoever borrows it (tests/attacks/test_prepared.py), but it is no longer here."""
    preparation_id = disk.filled(fresh(requester="FR"))
    disk.pool.take(preparation_id, now())
    with pytest.raises(UnknownPreparation):
        disk.pool.take(preparation_id, now(), "FR")


def test_an_expired_one_serves_nobody_and_its_file_is_gone(disk: PoolAtNode) -> None:
    preparation_id = disk.filled(made=now() - 24 * HOUR - 1)
    with pytest.raises(UnknownPreparation, match="expired"):
        disk.pool.take(preparation_id, now())
    assert disk.files == []


def test_control_a_longer_age_would_let_it_serve(disk: PoolAtNode) -> None:
    preparation_id = disk.filled(made=now() - 24 * HOUR - 1)
    pool = disk.restart(max_age_hours=25)
    assert pool.take(preparation_id, now()).preparation_id == preparation_id


# --- exhaustion ---


def fill(pool: Pool, requester: str, size: int) -> int:
    """Ask for preparations until the node refuses; gives how many it made."""
    for count in range(1000):
        try:
            pool.admit(secrets.token_bytes(16), requester, size, now())
        except QueryRefused:
            return count
    raise AssertionError("nothing bounds it")


def test_one_state_fills_its_own_pool_and_no_other(tmp_path: Path) -> None:
    node = PoolAtNode(tmp_path, ready=100, max_bytes=2**24)
    alone = fill(node.pool, "DE", 2**20)
    assert alone == 16
    assert fill(node.pool, "FR", 2**20) == 16
    node.stop()


def test_control_in_one_pool_for_all_the_second_state_gets_nothing(tmp_path: Path) -> None:
    """The same bounds, with every requester counted as the same one."""
    node = PoolAtNode(tmp_path, ready=100, max_bytes=2**24)
    assert fill(node.pool, "everybody", 2**20) == 16
    assert fill(node.pool, "everybody", 2**20) == 0
    node.stop()


def test_one_state_cannot_make_a_node_drop_what_waits_for_another(disk: PoolAtNode) -> None:
    preparation_id = disk.filled(fresh(requester="FR"))
    fill(disk.pool, "DE", 2**26)
    disk.pool.retain("DE", [])
    assert disk.pool.take(preparation_id, now(), "FR").preparation_id == preparation_id
