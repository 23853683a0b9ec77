"""A federation of nodes in one process or in several, and what can go wrong between them: what node tests start from.

Four nodes: FR asks, ES and DE hold galleries, EU routes. They run in this process over ASGI, in this process over real
TLS sockets, or as processes of their own. `Faults` sits between a node and the network and breaks one delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import numpy as np

from nodes.asking import AskingNode
from nodes.config import Role, load_config
from nodes.driver import QueryDriver
from nodes.http import HttpTransport
from nodes.identity import init_node, load_identity, load_peers
from nodes.keeper import Keeper
from nodes.node import Node
from nodes.operate import NodeNotRunning, holder_store, search
from nodes.operate import status as node_status
from nodes.outbox import PeerUnreachable, Transport
from nodes.search import HolderAnswer, SearchReport, SearchRequest
from nodes.serve import NodeServer, open_store
from nodes.service import make_app
from nodes.store import Category, Status
from nodes.transfer import Units
from pets.params import PRESETS
from protocol.engine import LocalQuery, PlainEngine
from protocol.gallery import Gallery
from protocol.machine import Machine
from protocol.memory import MemoryNetwork
from protocol.terms import SYNTHETIC_MODEL, Terms
from tests.galleries import Templates, near, unit_rows
from tests.ring import RING

FR, ES, DE, EU = "FR", "ES", "DE", "EU"
HOLDERS = (ES, DE)
ROLES = {FR: Role.REQUESTER, ES: Role.HOLDER, DE: Role.HOLDER, EU: Role.ROUTER}
DIM = 128
START_SECONDS = 60.0

# What must never stand in a log, a metric or an evidence file. Long enough not to occur by chance.
PLANTED = {
    "officer": "Inspectrice Planted-Officer-7f3a",
    "approver": "Juge Planted-Approver-91bc",
    "case": "PLANTED-CASE-2024-55d1",
    "offence": "planted-offence-abduction-c0de",
}

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
    spain[100:116] = near(rng, crowd, 16, np.linspace(0.56, 0.86, 16))
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
        status = {"released": "candidates", "no_hit": "no hit", "too_many_candidates": "too many candidates"}
        return HolderAnswer(status[outcome.status], references, f"{outcome.threshold_used:f}")  # type: ignore[arg-type]


def terms_of(request: SearchRequest) -> Terms:
    return Terms(
        Decimal(request.threshold), len(request.template), RING, request.cap, Decimal(request.ladder), request.model
    )


def found(root: Path, who: People | None = None, **limits: object) -> Federation:
    """Make four nodes and enrol. `limits`: figures for every node.toml."""
    federation = Federation(root, who or people())
    for name, port in zip(ROLES, free_ports(len(ROLES)), strict=True):
        init_node(
            root / name,
            name=name,
            role=ROLES[name],
            address=f"https://127.0.0.1:{port}",
            authority=root / "authority",
            states=(FR,),
        )
        many = {f"quota_{kind}_per_day": 1000 for kind in ("identified", "unidentified")}
        figures = {"read_timeout_seconds": 60, "shutdown_timeout_seconds": 10, "releases_per_reference": 1000, **many}
        federation.configure(name, **figures | limits)
        path = root / name / "node.toml"
        presets = sorted(PRESETS, key=lambda preset: preset != RING.preset)  # the first one is derived at the start
        path.write_text(re.sub(r"(?m)^presets = \[.*?\]", f"presets = {json.dumps(presets)}", path.read_text()))
    for name, templates in federation.people.galleries.items():
        with holder_store(root / name) as store:
            federation.references[name] = store.enrol_many(
                templates,
                category=Category.SUSPECT,
                status=Status.IDENTIFIED,
                retain_until=_enrolled.date(),
                model=SYNTHETIC_MODEL,
            ).references
    return federation


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


# Faults

Kind = Literal[
    "kill", "restart", "cut", "drop", "lose", "lose-answer", "delay", "duplicate", "reorder", "truncate", "corrupt"
]
KINDS: tuple[Kind, ...] = ("cut", "drop", "lose", "lose-answer", "delay", "duplicate", "reorder", "truncate", "corrupt")
# Those after which the answers must be complete: the sender notices, or nothing is lost.
HARMLESS: frozenset[Kind] = frozenset({"cut", "drop", "lose-answer", "delay", "duplicate"})


@dataclass
class Fault:
    """What happens to unit `step` from `sender` to `receiver`, counted from 0 in each query.

    drop: the connection breaks before it, and the sender is told. lose: it alone is missing. lose-answer: its body
    arrives, and the sender thinks it did not. delay: it and what follows come later. duplicate: the body comes
    twice. reorder: it comes after the next one. truncate, corrupt: it is changed. cut: just before it every connection
    of the receiver breaks, in the middle of whatever body (`TlsNetwork` only). kill, restart: the sender dies just
    before its `step`-th unit to anybody (`receiver` is None), and restart starts it again at once.
    """

    kind: Kind
    sender: str
    step: int
    receiver: str | None = None
    fired: bool = False


class Faults:
    """A `Transport` that breaks what `network.fault` says, and keeps what was said."""

    def __init__(self, inner: Transport, sender: str, network: Network) -> None:
        self._inner = inner
        self._sender = sender
        self._network = network

    async def deliver(self, peer: str, query: bytes, offset: int, units: Units) -> None:
        fault = self._network.fault
        if fault is None or fault.sender != self._sender or fault.fired or fault.receiver not in (None, peer):
            await self._inner.deliver(peer, query, offset, self._kept(peer, query, offset, units))
            return
        said: list[list[bytes]] = []
        await self._inner.deliver(peer, query, offset, self._broken(fault, offset, units, said))
        if fault.fired and fault.kind == "duplicate":
            await self._inner.deliver(peer, query, offset, in_turn(*said))
        if fault.fired and fault.kind == "lose-answer":
            raise PeerUnreachable("answer dropped")

    async def _kept(self, peer: str, query: bytes, offset: int, units: Units) -> Units:
        async for some in units:
            if self._network.keep:
                self._network.kept.append((self._sender, peer, query, offset, some))
                offset += len(some)
            yield some

    async def _broken(self, fault: Fault, offset: int, units: Units, said: list[list[bytes]]) -> Units:
        held: list[bytes] = []
        async for some in units:
            said.append(some)
            for unit in some:
                if self._due(fault, offset):
                    fault.fired = True
                    if fault.kind == "reorder":
                        held = [unit]
                    else:
                        for changed in await self._break(fault, unit):
                            yield [changed]
                else:
                    yield [unit, *held]
                    held = []
                offset += 1
        if held:
            yield held

    def _due(self, fault: Fault, number: int) -> bool:
        if fault.receiver is None:
            number = self._network.steps["units"]
            self._network.steps["units"] += 1
        return number == fault.step and not fault.fired

    async def _break(self, fault: Fault, unit: bytes) -> list[bytes]:
        """What arrives in place of a unit."""
        if fault.receiver is None:
            self._network.kill_soon(self._sender, again=fault.kind == "restart")
            await asyncio.Event().wait()
        if fault.kind == "cut":
            assert fault.receiver is not None
            self._network.cut(fault.receiver)
        if fault.kind == "drop":
            raise PeerUnreachable("dropped")
        if fault.kind == "lose":
            return []
        if fault.kind == "delay":
            await asyncio.sleep(0.3)
        if fault.kind == "truncate":
            return [unit[: len(unit) // 2]]
        if fault.kind == "corrupt":
            middle = len(unit) // 2
            return [unit[:middle] + bytes([unit[middle] ^ 1]) + unit[middle + 1 :]]
        return [unit]

    async def ask(self, peer: str, path: str) -> bytes:
        return await self._inner.ask(peer, path)


async def in_turn(*pieces: list[bytes]) -> Units:
    """Units that are all there already."""
    for piece in pieces:
        yield piece


# Networks


class Network:
    """Nodes that run in this process. `drivers`: all that ran since the last `assert_clear`."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.nodes: dict[str, Node] = {}
        self.drivers: list[tuple[str, QueryDriver]] = []
        self.fault: Fault | None = None
        self.steps: Counter[str] = Counter()
        self.keep = False
        self.kept: list[tuple[str, str, bytes, int, list[bytes]]] = []
        self._dying: set[asyncio.Task[None]] = set()
        self._transports: dict[str, HttpTransport] = {}

    async def start(self, *names: str) -> None:
        """Start nodes; a node that was killed starts again from its folder."""
        for name in names or tuple(ROLES):
            folder = self.federation.folder(name)
            identity = load_identity(folder)
            peers = load_peers(identity.config)
            self._transports[name] = self._transport(name, peers)
            kind = AskingNode if ROLES[name] is Role.REQUESTER else Node
            node = kind(
                identity,
                peers,
                open_store(identity.config),
                Faults(self._transports[name], name, self),
                Keeper(identity, folder),
            )
            self._watch(node)
            await asyncio.to_thread(node.warm)
            self.nodes[name] = node
            await self._listen(node)

    async def kill(self, name: str) -> None:
        """A node is gone in the middle of what it does."""
        await self._vanish(name)
        await self.nodes.pop(name).close()
        await self._transports.pop(name).close()

    async def restart(self, name: str) -> None:
        """A node dies and is there again at once."""
        await self.kill(name)
        await self.start(name)

    def kill_soon(self, name: str, again: bool = False) -> None:
        """`kill`, or `restart`, from a task that dies with the node."""
        task = asyncio.create_task(self.restart(name) if again else self.kill(name))
        self._dying.add(task)
        task.add_done_callback(self._dying.discard)

    async def close(self) -> None:
        while self._dying:
            await asyncio.sleep(0.01)
        for name in list(self.nodes):
            await self.kill(name)

    async def search(self, wanted: SearchRequest) -> SearchReport:
        """Have FR search."""
        node = self.nodes[FR]
        assert isinstance(node, AskingNode)
        return await node.search(wanted)

    async def settle(self, seconds: float = 15) -> None:
        """Wait until every living node is idle."""
        deadline = time.monotonic() + seconds
        while self._dying or not all(node.idle for node in self.nodes.values()):
            assert time.monotonic() < deadline, {name: len(node._live) for name, node in self.nodes.items()}
            await asyncio.sleep(0.02)

    def cut(self, name: str) -> None:
        """Every connection to a node breaks; the node lives on."""
        raise NotImplementedError

    def break_next(self, fault: Fault) -> None:
        """Arm a fault; counting starts anew."""
        self.fault = fault
        self.steps.clear()

    def _watch(self, node: Node) -> None:
        drive = node.drive

        def watched(machine: Machine) -> QueryDriver:
            driver = drive(machine)
            self.drivers.append((node.name, driver))
            return driver

        node.drive = watched  # type: ignore[method-assign]

    def _transport(self, name: str, peers: Mapping[str, Any]) -> HttpTransport:
        raise NotImplementedError

    async def _listen(self, node: Node) -> None:
        raise NotImplementedError

    async def _vanish(self, name: str) -> None:
        raise NotImplementedError


class AsgiNetwork(Network):
    """Requests go straight into the applications. Who calls is what a certificate would have said."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.apps: dict[str, Any] = {}

    def client(self, caller: str | None, receiver: str) -> httpx.AsyncClient:
        """A client whose certificate says `caller`."""
        return httpx.AsyncClient(transport=_Wire(self, caller, receiver), base_url="https://node")

    def _transport(self, name: str, peers: Mapping[str, Any]) -> HttpTransport:
        return HttpTransport(name, peers, None, transports={peer: _Wire(self, name, peer) for peer in peers})

    async def _listen(self, node: Node) -> None:
        self.apps[node.name] = make_app(node)

    async def _vanish(self, name: str) -> None:
        del self.apps[name]


class _Wire(httpx.AsyncBaseTransport):
    def __init__(self, network: AsgiNetwork, caller: str | None, receiver: str) -> None:
        self._network, self._caller, self._receiver = network, caller, receiver

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        app = self._network.apps.get(self._receiver)
        if app is None:
            raise httpx.ConnectError("nobody there")

        async def stamped(scope: Any, receive: Any, send: Any) -> None:
            scope["lineup_peer"] = self._caller
            await app(scope, receive, send)

        return await httpx.ASGITransport(app=stamped).handle_async_request(request)


class TlsNetwork(Network):
    """Real sockets with mutual TLS on loopback."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self.servers: dict[str, tuple[NodeServer, asyncio.Task[None]]] = {}

    def _transport(self, name: str, peers: Mapping[str, Any]) -> HttpTransport:
        limits = load_config(self.federation.folder(name)).limits
        config = load_config(self.federation.folder(name))
        return HttpTransport(name, peers, config.tls, limits.connect_timeout_seconds, limits.read_timeout_seconds)

    async def _listen(self, node: Node) -> None:
        server = NodeServer(node)
        task = asyncio.create_task(server._serve())
        self.servers[node.name] = server, task
        while not server.started:
            assert not task.done(), "the port is taken"
            await asyncio.sleep(0.005)

    def cut(self, name: str) -> None:
        for connection in list(self.servers[name][0].server_state.connections):
            connection.transport.abort()

    async def _vanish(self, name: str) -> None:
        self.cut(name)
        server, task = self.servers.pop(name)
        server.should_exit = server.force_exit = True
        await asyncio.wait({task})


@contextlib.asynccontextmanager
async def running(network: Network) -> AsyncIterator[Network]:
    """All four nodes, closed whatever happens."""
    try:
        await network.start()
        yield network
    finally:
        await network.close()


# The same test bodies over every transport

Answers = dict[str, HolderAnswer]
System = Callable[[SearchRequest], Answers]


def over_memory(federation: Federation) -> System:
    """`protocol.memory`: no nodes, no network."""

    def search(wanted: SearchRequest) -> Answers:
        galleries = {
            name: Gallery.enrol(federation.people.galleries[name], RING, federation.references[name])
            for name in wanted.holders
        }
        query = LocalQuery.start(FR, EU, galleries, terms_of(wanted))
        network = MemoryNetwork(query.machines)
        network.run_or_raise()
        query.requester.submit(np.frombuffer(wanted.template, np.int8))
        network.run_or_raise()
        status = {"released": "candidates", "no_hit": "no hit", "too_many_candidates": "too many candidates"}
        return {
            name: HolderAnswer(status[answer.status], answer.references, f"{answer.threshold_used:f}")  # type: ignore[arg-type]
            for name, answer in query.requester.answers.items()
        }

    return search


def over_network(kind: type[Network]) -> Callable[[Federation], System]:
    """Nodes in this process."""

    def make(federation: Federation) -> System:
        def search(wanted: SearchRequest) -> Answers:
            async def body() -> Answers:
                async with running(kind(federation)) as network:
                    report = await network.search(wanted)
                    await network.settle()
                    assert_clear(network)
                    return report.answers

            return asyncio.run(body())

        return search

    return make


TRANSPORTS: dict[str, Callable[[Federation], System]] = {
    "memory": over_memory,
    "asgi": over_network(AsgiNetwork),
    "tls": over_network(TlsNetwork),
}


# What must hold after a fault


def assert_clear(network: Network) -> None:
    """Every node that lives is clear: no driver, every session over, nothing that waits."""
    for name, node in network.nodes.items():
        assert not node.drivers, name
        assert not node._opening, name
    for name, driver in network.drivers:
        if name in network.nodes:
            states = {session.state for session in driver.machine.sessions.values()}
            assert all(state.over for state in states) or driver.task.cancelled(), (name, states)
    network.drivers.clear()  # a sweep would keep every probe that it ever sent


def assert_healthy(network: Network) -> None:
    """Every node says that it can work, and none found that a log showed two histories."""
    for name, node in network.nodes.items():
        assert not node.failing(), (name, node.failing())
        assert not node.gossip.accused, (name, node.gossip.accused)


def assert_named(report: SearchReport, expected: Answers) -> None:
    """Every answer is complete and right, or refused or unreachable by name: nothing half, and no false no-hit."""
    for name, answer in report.answers.items():
        if answer.status in ("refused", "unreachable"):
            assert answer.reason, name
            assert not answer.references, name
        else:
            assert answer == expected[name], name


class Capture(logging.Handler):
    """Everything logged, formatted as a node would."""

    def __init__(self) -> None:
        from nodes.serve import JsonFormatter

        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@contextlib.contextmanager
def captured_logs() -> Iterator[Capture]:
    """As `serve` sets logging up, but into memory."""
    handler, root, lineup = Capture(), logging.getLogger(), logging.getLogger("lineup")
    levels = root.level, lineup.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    lineup.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        lineup.setLevel(levels[1])


def secrets_of(federation: Federation, *probes: Templates) -> dict[str, bytes]:
    """What must not be found in anything but sealed files and the encrypted store, by name."""
    found = {name: text.encode() for name, text in PLANTED.items()}
    for index, probe in enumerate(probes):
        found[f"probe {index}"] = probe.tobytes()[:24]
        found[f"probe {index} as numbers"] = ", ".join(str(int(value)) for value in probe[:8]).encode()
    for name, references in federation.references.items():
        for row in (17, 5, 60, 100, 115):
            found[f"reference {name} {row}"] = references[row].encode()
            found[f"template {name} {row}"] = federation.people.galleries[name][row].tobytes()[:24]
    return found


def leaks(federation: Federation, secrets: Mapping[str, bytes], more: bytes = b"") -> list[str]:
    """Where a secret stands in clear: in a log, an evidence file, or `more`. The store keeps references in clear."""
    places = {"captured": more}
    for name in ROLES:
        folder = federation.folder(name)
        for path in [
            *folder.glob("logs/**/*"),
            *folder.glob("evidence/*"),
            *folder.glob("sealed/*"),
            *folder.glob("*.log"),
        ]:
            if path.is_file():
                places[str(path)] = path.read_bytes()
    return [
        f"{what} in {place}"
        for place, content in places.items()
        for what, secret in secrets.items()
        if secret in content or secret.hex().encode() in content
    ]


# Processes


class Processes:
    """Nodes as processes of their own."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str, before: str = "") -> None:
        """Start nodes side by side, and wait for all. `before`: Python that each runs first, to be an odd node."""
        program = f"{before}\nfrom nodes.cli import main\nmain()"
        for name in names or tuple(ROLES):
            with (self.federation.root / name / "stderr.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-c", program, "node", "serve", "--dir", str(self.federation.folder(name))],
                    stdout=log,
                    stderr=log,
                )
        for name in names or tuple(ROLES):
            self._wait(name)

    def stop(self, name: str, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and give the exit status."""
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(seconds)

    def until_busy(self, name: str) -> None:
        """Wait until a node works on a query."""
        self._until(name, lambda running: running > 0)

    def until_clear(self) -> None:
        """Wait until no node works on anything."""
        for name in self.running:
            self._until(name, lambda running: running == 0)

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.federation.folder(name) / "stderr.log").read_text(errors="replace")

    def _until(self, name: str, condition: Callable[[int], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition(node_status(self.federation.folder(name))["queries_running"]):
            assert time.monotonic() < deadline, name
            time.sleep(0.02)

    def _wait(self, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.running[name].poll() is None, self.log(name)
            try:
                node_status(self.federation.folder(name))
                return
            except NodeNotRunning:
                time.sleep(0.1)
        raise AssertionError(f"{name} did not start: {self.log(name)}")


class Searching(threading.Thread):
    """The operator of FR searches, as the command line would."""

    def __init__(self, federation: Federation) -> None:
        super().__init__()
        self._federation = federation
        self._report: SearchReport | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(NodeNotRunning):  # FR itself may be what dies
            self._report = search(self._federation.folder(FR), request(self._federation.people.hit))

    def answers(self) -> Answers | None:
        """None if FR died meanwhile."""
        self.join(90)
        assert not self.is_alive(), "the operator still waits"
        return None if self._report is None else self._report.answers


@contextlib.contextmanager
def processes(federation: Federation, *names: str) -> Iterator[Processes]:
    """Processes that are gone afterwards, whatever happens."""
    group = Processes(federation)
    try:
        group.start(*names)
        yield group
    finally:
        group.close()
