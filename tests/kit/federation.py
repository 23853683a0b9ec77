"""Four nodes founded on disk, what they hold, and what is asked of them: what tests of nodes start from.

FR asks, ES and DE hold galleries, EU routes. `tests/kit/network.py` runs them in this process, `tests/kit/processes.py`
each as a process of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nodes.casework import impact
from nodes.casework.desk import CaseDesk
from nodes.config.schema import Role
from nodes.config.storage import holder_store, open_store
from nodes.evidence.archive import Archive
from nodes.identity.identity import init_node, load_identity
from nodes.service.operator_api import HolderAnswer, SearchRequest
from nodes.store import Category, Status
from pets.params import PRESETS
from pets.templates import Templates
from protocol.engine import PlainEngine
from protocol.release import Released
from protocol.terms import SYNTHETIC_MODEL, Terms
from tests.kit.galleries import near, unit_rows
from tests.kit.ring import RING

FR, ES, DE, EU = "FR", "ES", "DE", "EU"
HOLDERS = (ES, DE)
ROLES = {FR: Role.REQUESTER, ES: Role.HOLDER, DE: Role.HOLDER, EU: Role.ROUTER}
DIM = 128

# What must never stand in a log, a metric or an evidence file. Long enough not to occur by chance.
PLANTED = {
    "officer": "Inspectrice Planted-Officer-7f3a",
    "approver": "Juge Planted-Approver-91bc",
    "case": "PLANTED-CASE-2024-55d1",
    "offence": "planted-offence-abduction-c0de",
}

# Each worker of pytest-xdist has ports of its own.
PORTS = 2_000
FIRST_PORT = 12_000 + PORTS * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10)
_turn = itertools.count(secrets.randbelow(PORTS))  # two runs on one machine begin at different places

Answers = dict[str, HolderAnswer]

_enrolled = datetime.now(timezone.utc) + timedelta(days=30)


@dataclass(frozen=True)
class People:
    """Galleries by holder, and probes with what they find. `hit`: one row of ES; `crowd`: many rows of ES; `nobody`."""

    galleries: dict[str, Templates]
    hit: Templates
    crowd: Templates
    nobody: Templates


def people(rows: int = 300, seed: int = 7) -> People:
    """Random galleries with planted rows: one like `hit` in ES and two in DE; sixteen like `crowd` in ES."""
    rng = np.random.default_rng(seed)
    hit, crowd, nobody = unit_rows(rng, 3, DIM)
    spain, germany = unit_rows(rng, rows, DIM), unit_rows(rng, rows - 10, DIM)
    spain[17] = near(rng, hit, 1, np.array([0.8]))[0]
    germany[[5, 60]] = near(rng, hit, 2, np.array([0.7, 0.85]))
    spain[100:116] = near(rng, crowd, 16, np.linspace(0.56, 0.86, 16, dtype=np.float64))
    return People({ES: spain, DE: germany}, hit, crowd, nobody)


def request(probe: Templates, holders: Sequence[str] = HOLDERS, **changes: Any) -> SearchRequest:
    """A search as an operator would ask for it, with planted names."""
    values: dict[str, Any] = {
        "template": probe.tobytes(),
        "model": SYNTHETIC_MODEL,
        "holders": tuple(holders),
        "threshold": "0.55",
        "preset": RING.preset,
        "maximum_penalty_years": 5,
        **PLANTED,
    }
    return SearchRequest(**values | changes)


@dataclass
class Federation:
    """Four folders on disk. `references`: of each holder's rows."""

    root: Path
    people: People
    references: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def folder(self, name: str) -> Path:
        return self.root / name

    def configure(self, name: str, **values: object) -> None:
        """Change figures in a node's node.toml."""
        path = self.folder(name) / "node.toml"
        text = path.read_text()
        for key, value in values.items():
            text, changed = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
            assert changed == 1, key
        path.write_text(text)

    def expected(self, request: SearchRequest) -> dict[str, HolderAnswer]:
        """What the plaintext twin answers."""
        return {name: self._twin(name, request) for name in request.holders}

    def _twin(self, name: str, request: SearchRequest) -> HolderAnswer:
        terms = terms_of(request)
        gallery: Any = SimpleNamespace(templates=self.people.galleries[name])
        probe = np.frombuffer(request.template, np.int8)
        outcome = PlainEngine().search(gallery, probe[None], terms)[0]
        references = tuple(self.references[name][hit.row] for hit in outcome.hits)
        return answer_of(outcome.status, references, outcome.threshold_used)


def answer_of(status: str, references: tuple[str, ...], threshold: Decimal) -> HolderAnswer:
    """What a node answers when a search has ended so."""
    said = {"released": "candidates", "no_hit": "no hit", "too_many_candidates": "too many candidates"}
    return HolderAnswer(said[status], tuple(map(Released, references)), f"{threshold:f}")  # type: ignore[arg-type]


def terms_of(request: SearchRequest) -> Terms:
    return Terms(
        Decimal(request.threshold), len(request.template), RING, request.cap, Decimal(request.ladder), request.model
    )


def found(root: Path, who: People | None = None, **limits: object) -> Federation:
    """Make four nodes and enrol. `limits`: figures for every node.toml.

    In one process the same people come with the same keys and references: they are made once and copied.
    """
    who = who or people()
    galleries = tuple(templates.tobytes() for templates in who.galleries.values())
    if galleries not in _made:
        _made[galleries] = _make(Path(_where_made().name) / secrets.token_hex(4), who)
    made = _made[galleries]
    shutil.copytree(made.root, root, dirs_exist_ok=True)
    federation = Federation(root, who, dict(made.references))
    for name, port in zip(ROLES, free_ports(len(ROLES)), strict=True):
        path = root / name / "node.toml"
        path.write_text(path.read_text().replace(str(made.root), str(root)))
        federation.configure(name, **{"address": f'"https://127.0.0.1:{port}"', "port": port} | limits)
        identity = load_identity(root / name)
        (root / "authority" / "peers" / f"{name}.json").write_bytes(identity.peer.publish(identity.signing))
    return federation


_made: dict[tuple[bytes, ...], Federation] = {}


@cache
def _where_made() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lineup-tests-")  # until this process ends


def _make(root: Path, who: People) -> Federation:
    federation = Federation(root, who)
    for name, role in ROLES.items():
        init_node(
            root / name,
            name=name,
            role=role,
            address="https://127.0.0.1:1",  # a copy has its own
            authority=root / "authority",
            states=(FR,),
        )
        assess(root / name)
        many = {f"quota_{kind}_per_day": 1000 for kind in ("identified", "unidentified")}
        figures = {"read_timeout_seconds": 60, "shutdown_timeout_seconds": 10, "releases_per_reference": 1000, **many}
        ready = 0 if role is Role.REQUESTER else 100  # nothing is made that a test did not ask for
        federation.configure(name, **figures, ready=ready)
        path = root / name / "node.toml"
        presets = sorted(PRESETS, key=lambda preset: preset != RING.preset)  # the first one is derived at the start
        path.write_text(re.sub(r"(?m)^presets = \[.*?\]", f"presets = {json.dumps(presets)}", path.read_text()))
    for name, templates in who.galleries.items():
        with holder_store(root / name) as store:
            federation.references[name] = store.enrol_many(
                templates,
                category=Category.SUSPECT,
                status=Status.IDENTIFIED,
                retain_until=_enrolled.date(),
                model=SYNTHETIC_MODEL,
            ).references
    for name in ROLES:
        begin(root / name)
    return federation


def begin(folder: Path) -> None:
    """Make the logs and databases that a node makes when it first starts, so that they are copied."""
    identity = load_identity(folder)
    Archive(identity, folder).close()
    open_store(identity.config).close()
    if identity.config.role is not Role.ROUTER:
        CaseDesk.open(folder).close()


def assess(folder: Path) -> None:
    """Lodge an impact assessment, without which a node does not connect."""
    document = folder / "dpia.md"
    document.write_text("assessed for a test\n")
    today = datetime.now(timezone.utc).date()
    impact.lodge(load_identity(folder), folder, document, "A. Tester", today, today)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each given out once, and no other worker of this run will be given any of them.

    They lie below those that the system gives to outgoing connections, one of which could take a port in between.
    """
    found: list[int] = []
    while len(found) < count:
        port = FIRST_PORT + next(_turn) % PORTS
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            found.append(port)
    return found
