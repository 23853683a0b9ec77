"""A federation that runs in this process: over ASGI, or over real TLS sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import httpx

from nodes.config.schema import Role, load_config
from nodes.config.storage import open_store
from nodes.evidence.archive import Archive
from nodes.identity.identity import load_identity, load_peers
from nodes.identity.peers import Peers
from nodes.query.driver import QueryDriver
from nodes.service.app import make_app
from nodes.service.node import Node
from nodes.service.operator_api import SearchReport, SearchRequest
from nodes.service.requester import RequesterNode
from nodes.service.server import NodeServer
from nodes.transport.client import HttpTransport
from protocol.party import Party
from tests.kit.faults import Fault, Faults
from tests.kit.federation import FR, ROLES, Answers, Federation

CLOSING_SECONDS = 0.3

# At every request httpx's transport looks for it on the disk. Where it is not, Python is told so once.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]


async def hang_up(*writers: asyncio.StreamWriter) -> None:
    """Close connections now. A plain `close` over TLS says goodbye first, and may outlive the test's loop."""
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


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
            peers = Peers(load_peers(identity.config))
            self._transports[name] = self._transport(name, peers)
            kind = RequesterNode if ROLES[name] is Role.REQUESTER else Node
            node = kind(
                identity,
                peers,
                open_store(identity.config),
                Faults(self._transports[name], name, self),
                Archive(identity, folder),
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
        assert isinstance(node, RequesterNode)
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

        def watched(machine: Party) -> QueryDriver:
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

    async def close(self) -> None:
        await super().close()
        await asyncio.sleep(CLOSING_SECONDS)  # TLS says goodbye in turns of the loop, which would end before them
        # httpcore lets go of a connection whose handshake is cancelled without closing it; collecting it would warn.
        for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
            transport.abort()
        await asyncio.sleep(0)

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


def run_asgi(federation: Federation, body: Callable[[AsgiNetwork], Coroutine[Any, Any, None]]) -> None:
    """What a test does while all four run in this process."""

    async def everything() -> None:
        network = AsgiNetwork(federation)
        async with running(network):
            await body(network)

    asyncio.run(everything())


# What must hold after a fault.


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
