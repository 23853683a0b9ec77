"""A small query with real identities, its folders and its evidence: what tests of evidence start from."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pets.key_source import KeySource, NativeKeys
from protocol.holder import Holder
from protocol.requester import Requester
from protocol.router import Router

from nodes.config.schema import Role
from nodes.config.storage import holder_store
from nodes.evidence.export import export_bundle
from nodes.evidence.keeper import Keeper
from nodes.identity.identity import NodeIdentity, NodeNotary, init_node, load_identity, load_peers
from nodes.store import Category, Status
from nodes.verify import Report
from nodes.verify.trust import Party, load_trust
from protocol.gallery import Gallery
from protocol.memory import MemoryNetwork
from protocol.messages import ConfirmationAnswer
from protocol.steps import Send
from protocol.terms import SYNTHETIC_MODEL, Terms
from protocol.warrant import Justification, Request, issue_warrant
from tests.kit.galleries import near, unit_rows
from tests.kit.ring import RING

DIM = 128
ROWS = 3000
FR, EU, ES, DE = "FR", "EU", "ES", "DE"
ROLES = {FR: Role.REQUESTER, EU: Role.ROUTER, ES: Role.HOLDER, DE: Role.HOLDER}


def justification() -> Justification:
    return Justification(
        case="4711/26", offence="robbery", maximum_penalty_years=5.0, subject="suspect", aim="identify",
        officer="officer", approver="approver", salt=os.urandom(32),
    )  # fmt: skip


@dataclass
class World:
    """Four nodes in one process, their folders, and what they keep."""

    root: Path
    probe: Any = None
    identities: dict[str, NodeIdentity] = field(default_factory=dict)
    galleries: dict[str, Gallery] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path) -> World:
        world = cls(root)
        for port, (name, role) in enumerate(ROLES.items(), 8443):
            init_node(root / name, name=name, role=role, address=f"https://127.0.0.1:{port}",
                      authority=root / "authority", states=(FR,))  # fmt: skip
            world.identities[name] = load_identity(root / name)
        rng = np.random.default_rng(5)
        world.probe = unit_rows(rng, 1, DIM)[0]
        for name in (ES, DE):
            rows = unit_rows(rng, ROWS, DIM)
            if name == ES:  # 12 at the first rung, 2 at the second
                rows[100:110] = near(rng, world.probe, 10, np.full(10, 0.72))
                rows[200:202] = near(rng, world.probe, 2, np.full(2, 0.85))
            world.galleries[name] = _enrol(root / name, rows)
        return world

    @cached_property
    def trust(self) -> dict[str, Party]:
        return load_trust(self.root / "authority" / "peers")

    def query(
        self,
        holders: Sequence[str] = (ES, DE),
        template: Any = None,
        attack: Callable[[Requester, dict[str, Holder]], None] = lambda requester, holders: None,
        keys: Callable[[], KeySource] = NativeKeys,
        cap: int = 10,
        threshold: str = "0.7",
    ) -> bytes:
        """Run a query to its end. `attack` changes the machines between the offline and the online part."""
        notaries = {
            name: NodeNotary(identity, load_peers(identity.config)) for name, identity in self.identities.items()
        }
        reason = justification()
        now = int(time.time())
        probe = self.probe if template is None else template
        number = f"FR-{os.urandom(8).hex()}"
        asked = Request(FR, number, "INVESTIGATION", False, now, now + 3600, tuple(holders))
        warrant = issue_warrant(asked, reason, probe.tobytes())
        terms = Terms(Decimal(threshold), DIM, RING, cap, Decimal("0.1"))
        asking = Requester(FR, EU, tuple(holders), terms, None, 1, warrant, notaries[FR], keys())
        answering = {
            name: Holder(name, FR, EU, self.galleries[name], asking.query, tuple(o for o in holders if o != name), 1)
            for name in holders
        }
        machines = [Router(EU, FR, tuple(holders), asking.query), *answering.values(), asking]
        keepers = {
            machine.name: Keeper(self.identities[machine.name], self.root / machine.name) for machine in machines
        }
        try:
            for machine in machines:
                machine.notary = notaries[machine.name]
                keepers[machine.name].attach(machine)
                machine.start()
            network = MemoryNetwork(machines)
            network.run_or_raise()
            keepers[FR].keep_probe(asking, probe.tobytes(), reason)
            attack(asking, answering)
            asking.submit(probe)
            network.run()
            for machine in machines:
                keepers[machine.name].end(machine)
        finally:  # else the logs stay locked, and one test that fails takes all others with it
            for keeper in keepers.values():
                keeper.close()
        return asking.query

    def bundles(self, query: bytes, names: Iterable[str] = (FR, EU, ES, DE)) -> dict[str, bytes]:
        return {name: export_bundle(self.root / name, query.hex()) for name in names}


def _enrol(folder: Path, rows: Any) -> Gallery:
    """Rows in a holder's store, and the gallery that its node would search."""
    until = datetime.now(timezone.utc).date() + timedelta(days=1)
    with holder_store(folder) as store:
        store.enrol_many(
            rows, category=Category.SUSPECT, status=Status.IDENTIFIED, retain_until=until, model=SYNTHETIC_MODEL
        )
        snapshot = store.snapshot(datetime.now(timezone.utc))
    return Gallery.enrol(snapshot.templates, RING, snapshot.references)


@lru_cache(maxsize=1)
def shared_world() -> World:
    """One world for all modules of a test run."""
    root = Path(tempfile.mkdtemp(prefix="lineup-evidence-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return World.make(root)


@pytest.fixture(scope="module")
def world() -> World:
    return shared_world()


@pytest.fixture(scope="module")
def query(world: World) -> bytes:
    """A query of ES alone."""
    return world.query((ES,))


def failures(report: Report) -> dict[str, str]:
    return {check.id: "\n".join(check.details) for check in report.failed}


def sends_instead(part: Callable[..., Any], change: Callable[[Send], Send]) -> Callable[..., Any]:
    """A party's part of the protocol in which it sends what `change` makes of each message."""

    def lying(*arguments: Any) -> Any:
        step, value = part(*arguments), None
        while True:
            try:
                effect = step.send(value)
            except StopIteration as end:
                return end.value
            value = yield change(effect) if isinstance(effect, Send) else effect

    return lying


def wrong_answer(effect: Send) -> Send:
    """The answer in a confirmation, shifted."""
    if not isinstance(effect.message, ConfirmationAnswer):
        return effect
    return Send(effect.to, ConfirmationAnswer(bytes([0, effect.message.data[1] ^ 64, 0, 0]) * 60))
