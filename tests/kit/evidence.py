"""A small preparation and search with real identities, folders and evidence: what tests of evidence start from."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from nodes.config.schema import Role
from nodes.config.storage import holder_store
from nodes.evidence.archive import Archive
from nodes.evidence.export import export_bundle
from nodes.identity.identity import NodeIdentity, NodeKeyring, init_node, load_identity, load_peers
from nodes.store import Category, Status
from nodes.store.derived import DerivedGallery, References
from nodes.store.tables import ModelRow, SubjectRow
from nodes.verify import Report
from nodes.verify.trust import Party, load_trust
from protocol.announcing import Plan
from protocol.gallery import Gallery
from protocol.local import LocalPreparation, LocalPreparing, LocalSearch
from protocol.machine import Machine
from protocol.memory import MemoryNetwork
from protocol.messages import ConfirmationAnswer
from protocol.party import Context
from protocol.preparing import PreparingHolder, PreparingRequester, PreparingRouter
from protocol.roles import Parties
from protocol.searching import SearchingHolder, SearchingRequester, SearchingRouter
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
class Made:
    """A preparation: its conversation, and what all parties keep of it, None where it came to nothing."""

    conversation: bytes
    preparation: LocalPreparation | None = None


Preparing = PreparingRequester | PreparingRouter | PreparingHolder
Prepares = Callable[[LocalPreparing], None]
Searches = Callable[[LocalSearch], None]


def _honest(_: object) -> None:
    """Changes nothing."""


def _keep_probe(archive: Archive, template: bytes, reason: Justification, machine: SearchingRequester) -> None:
    archive.keep_probe(machine, template, reason)


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

    def copy(self, root: Path) -> World:
        """The same nodes in folders of their own."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        copied = World(root, self.probe, galleries=dict(self.galleries))
        for name in ROLES:
            path = root / name / "node.toml"
            path.write_text(path.read_text().replace(str(self.root), str(root)))
            copied.identities[name] = load_identity(root / name)
        return copied

    @cached_property
    def trust(self) -> dict[str, Party]:
        return load_trust(self.root / "authority" / "peers")

    def prepare(self, holders: Sequence[str] = (ES, DE), attack: Prepares = _honest) -> Made:
        """Everything before there is a probe. `attack` changes the machines before they start."""
        made = Made(os.urandom(16))
        parties = Parties(FR, EU, tuple(holders))
        with self._archives(parties) as archives:
            contexts = self._contexts(parties, made.conversation, archives)
            preparing = LocalPreparing(
                PreparingRequester(contexts[FR], Plan(RING, DIM)),
                PreparingRouter(contexts[EU]),
                {name: PreparingHolder(contexts[name], self.galleries[name]) for name in holders},
            )
            attack(preparing)
            self._run(preparing.machines)
            ready = []
            machines: list[Preparing] = [preparing.requester, preparing.router, *preparing.holders.values()]
            for machine in machines:
                archives[machine.name].end(machine)
                if machine.preparation is not None and machine.preparation.rings:
                    archives[machine.name].keep_preparation(machine)
                    ready.append(machine.name)
        if len(ready) == len(contexts):
            made.preparation = preparing.result
        return made

    def query(
        self,
        holders: Sequence[str] = (ES, DE),
        template: Any = None,
        attack: Searches = _honest,
        made: Made | None = None,
        cap: int = 10,
        threshold: str = "0.7",
        unchecked: bool = False,
    ) -> bytes:
        """Run a search to its end, with `made` or a preparation of its own.

        `attack` changes the machines between the announcement and the probe. `unchecked`: past the requester's own look
        at its template.
        """
        made = self.prepare(holders) if made is None else made
        assert made.preparation is not None
        reason, now, conversation = justification(), int(time.time()), os.urandom(16)
        probe = self.probe if template is None else template
        asked = Request(FR, f"FR-{os.urandom(8).hex()}", "INVESTIGATION", False, now, now + 3600, tuple(holders))
        warrant = issue_warrant(asked, reason, probe.tobytes())
        terms = Terms(Decimal(threshold), DIM, RING, cap, Decimal("0.1"))
        parties, ready = Parties(FR, EU, tuple(holders)), made.preparation
        with self._archives(parties) as archives:
            contexts = self._contexts(parties, conversation, archives)
            keep_probe = partial(_keep_probe, archives[FR], probe.tobytes(), reason)
            searching = LocalSearch(
                SearchingRequester(replace(contexts[FR], keep=keep_probe), terms, ready.requester, warrant),
                SearchingRouter(contexts[EU], ready.router),
                {
                    name: SearchingHolder(
                        replace(contexts[name], keep=archives[name].keep_holder),
                        self.galleries[name],
                        ready.holders[name],
                        found(self.galleries[name]),
                    )
                    for name in holders
                },
            )
            self._run(searching.machines)
            if searching.requester.ready:
                attack(searching)
                (searching.requester._submit if unchecked else searching.requester.submit)(probe)
                MemoryNetwork(searching.machines).run()
            for machine in searching.parties:
                archives[machine.name].end(machine)
        return conversation

    @contextmanager
    def _archives(self, parties: Parties) -> Iterator[dict[str, Archive]]:
        """Closed in any case: else the logs stay locked, and one test that fails takes all others with it."""
        with ExitStack() as stack:
            archives = {}
            for name in (parties.requester, parties.router, *parties.holders):
                archives[name] = Archive(self.identities[name], self.root / name)
                stack.callback(archives[name].close)
            yield archives

    def _contexts(self, parties: Parties, conversation: bytes, archives: dict[str, Archive]) -> dict[str, Context]:
        for archive in archives.values():
            archive.begin(conversation)
        return {
            name: Context(
                name,
                conversation,
                parties,
                keyring=NodeKeyring(self.identities[name], load_peers(self.identities[name].config)),
                recorder=partial(archive.record, conversation),
            )
            for name, archive in archives.items()
        }

    @staticmethod
    def _run(machines: Sequence[Machine]) -> None:
        for machine in machines:
            machine.start()
        MemoryNetwork(machines).run()

    def bundles(self, query: bytes, names: Iterable[str] = (FR, EU, ES, DE)) -> dict[str, bytes]:
        return {name: export_bundle(self.root / name, query.hex()) for name in names}


def _enrol(folder: Path, rows: Any) -> Gallery:
    """Rows in a holder's store, and the gallery that its node would search."""
    until = datetime.now(timezone.utc).date() + timedelta(days=1)
    with holder_store(folder) as store:
        store.enrol_many(
            rows, category=Category.SUSPECT, status=Status.IDENTIFIED, retain_until=until, model=SYNTHETIC_MODEL
        )
    return held(folder)


def held(folder: Path) -> Gallery:
    """The gallery that the node of a holder's folder would prepare and search; its rows are copied."""
    with holder_store(folder) as store:
        gallery = DerivedGallery(store, RING).current()
        assert isinstance(gallery.references, References)
        version, rows = gallery.references._version, gallery.references._resident.loaded
        assert rows is not None
        numbers = rows.numbers(np.arange(version.rows), version).tolist()
        columns = SubjectRow.row, func.coalesce(SubjectRow.subject, SubjectRow.reference)
        with store._database.reading() as session:
            chosen = select(*columns).join(ModelRow).where(ModelRow.digest == gallery.model)
            names = {row[0]: row[1] for row in session.execute(chosen)}
        lent = tuple(names.get(number, "nobody") for number in numbers)  # who was forgotten is nobody
        return Gallery.of(gallery.templates.copy(), RING, lent, gallery.model, root=gallery.root)


def found(gallery: Gallery) -> Any:
    """Who of it may be found, bool (rows,): nobody who was forgotten. None for one without references: everybody."""
    if gallery.references is None:
        return None
    return np.array([reference != "nobody" for reference in gallery.references], np.bool_)


@lru_cache(maxsize=1)
def _made_world() -> World:
    root = Path(tempfile.mkdtemp(prefix="lineup-evidence-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return World.make(root)


def new_world(root: Path) -> World:
    """Four nodes that wrote nothing yet. Keys and galleries are made once a process, and copied."""
    return _made_world().copy(root)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Of each file: what others wrote to the logs would be read and proved at every step."""
    return new_world(tmp_path_factory.mktemp("world"))


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


def at_seat(seat: int, part: Callable[..., Any], change: Callable[[Send], Send]) -> Callable[..., Any]:
    """The same for one seat of a ring, where all seats run `part`; its first argument is the ring or the filter."""
    lying = sends_instead(part, change)

    def chosen(first: Any, *arguments: Any) -> Any:
        ring = getattr(first, "ring", first)
        return (lying if ring.seat == seat else part)(first, *arguments)

    return chosen


def wrong_answer(effect: Send) -> Send:
    """The answer in a confirmation, shifted."""
    if not isinstance(effect.message, ConfirmationAnswer):
        return effect
    return Send(effect.to, ConfirmationAnswer(bytes([0, effect.message.data[1] ^ 64, 0, 0]) * 60))
