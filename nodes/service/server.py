"""Running a node: uvicorn with mutual TLS, structured logs, graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from nodes.casework import impact
from nodes.config.schema import Role
from nodes.evidence.archive import Archive
from nodes.identity.identity import load_identity, load_peers
from nodes.identity.peers import Peers
from nodes.identity.tls import CertificateError, peer_name, running_out, server_context
from nodes.service import outage
from nodes.service.app import make_app
from nodes.service.beside import keep_console
from nodes.service.json_logs import set_up_logging
from nodes.service.known_store import open_known_store
from nodes.service.node import Node
from nodes.service.reload import Reload
from nodes.service.requester import RequesterNode
from nodes.service.strict_http import StrictProtocol
from nodes.transport.client import HttpTransport
from pets.errors import LineupError

HEADER_SECONDS = 10.0  # how long a connection may take from the handshake to its first complete request head
CLOSE_SECONDS = 0.5
PREPARATION_SECONDS = 60
FOLLOW_SECONDS = 5.0  # how often the gallery's changes are looked for
SPREAD_SECONDS = 60.0  # how often copies are looked for that lie on one machine of a cluster
EXPIRY_SECONDS = 24 * 3600.0  # how often what is past its time is deleted
EXPIRY_RETRY_SECONDS = 3600.0
INSPECTION_DELAY_SECONDS = 600.0
INSPECTION_SECONDS = 24 * 3600.0  # how often the whole database is read and the self-test made

_log = logging.getLogger("lineup.serve")


class CannotListen(LineupError):
    """The node's port cannot be opened."""


class PeerProtocol(StrictProtocol):
    """Tells the application who the certificate names, and cuts connections whose request head trickles."""

    peer = ""  # whom the certificate names
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection stands: its certificate was verified by the handshake."""
        super().connection_made(transport)
        connection = transport.get_extra_info("ssl_object")
        try:
            peer = self.peer = peer_name(connection.getpeercert() if connection is not None else None)
        except CertificateError:
            transport.close()
            return
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self._stop_timer()
            scope["lineup_peer"] = peer
            await inner(scope, receive, send)

        self.app = app
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Bytes came; if they are not of a request that is being answered, they must soon be a whole head."""
        super().data_received(data)
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. uvicorn closes its own end only if no error ended it; here it always does."""
        self._stop_timer()
        super().connection_lost(None)

    def shutdown(self) -> None:
        """Close when idle, without waiting long for a peer that does not answer the closing of TLS."""
        idle = self.cycle is None or self.cycle.response_complete
        super().shutdown()
        if idle:
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def build_node(folder: Path, delay_seconds: float = 0, accept_loss: bool = False) -> tuple[Node, HttpTransport]:
    """A node from its folder, with its transport. `accept_loss`: go on with the database as it is.

    Raises `InputError`, `StoreLost` for a database that is not what this node had, `StoreError`.
    """
    identity = load_identity(folder)
    config = identity.config
    peers = Peers(load_peers(config))
    limits = config.limits
    transport = HttpTransport(
        config.name, peers, config.tls, limits.connect_timeout_seconds, limits.read_timeout_seconds, delay_seconds
    )
    kind = RequesterNode if config.role is Role.REQUESTER else Node
    archive = Archive(identity, folder)
    try:
        resident = open_known_store(identity, archive, accept_loss)
    except BaseException:
        archive.close()
        raise
    node = kind(identity, peers, resident.store, transport, archive, resident)
    transport.heard = node.clocks.heard
    return node, transport


class NodeServer(uvicorn.Server):
    """Serves a node. On SIGTERM or SIGINT queries under way may end, over the same port; on the second it stops.

    uvicorn would close the port first and so cut off the peers of running queries, and raise the signal again at the
    end, so that nothing behind it ran.
    """

    def __init__(self, node: Node) -> None:
        config = node.config
        super().__init__(
            uvicorn.Config(
                make_app(node),
                host=config.listen.host,
                port=config.listen.port,
                http=PeerProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=16384,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=config.limits.shutdown_timeout_seconds,
                ssl_certfile=str(config.tls.certificate),
                ssl_keyfile=str(config.tls.key),
            )
        )
        self.config.load()
        self.config.ssl = self.context = server_context(config.tls)
        self.node = node
        self._made = time.perf_counter()
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, and say so. Raises `CannotListen`; uvicorn, which logs the reason, would end the process."""
        config = self.node.config
        try:
            await super().startup(sockets)
        except SystemExit:
            raise CannotListen(
                f"{config.name} cannot listen on {config.listen.host}:{config.listen.port}: another program has the "
                "port, or the address is not this machine's ([listen] in node.toml)"
            ) from None
        seconds = round(time.perf_counter() - self._made, 3)
        _log.info("ready", extra={"node": config.name, "seconds": seconds})

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as long as the server runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """First call: refuse new queries, and end once the others have. Second call: end."""
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._draining = asyncio.create_task(self._drain())

    def disconnect(self) -> None:
        """Close connections as soon as they are idle: peers connect again, with a handshake."""
        for connection in list(self.server_state.connections):
            connection.shutdown()

    def cut(self, peers: AbstractSet[str]) -> None:
        """Abort every connection of these peers, in the middle of whatever it carries."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, PeerProtocol) and connection.peer in peers:
                connection.transport.abort()

    async def _drain(self) -> None:
        await self.node.drain(self.node.config.limits.shutdown_timeout_seconds)
        self.should_exit = True


def serve(folder: Path, delay_seconds: float = 0, accept_loss: bool = False) -> None:
    """Serve until interrupted; then let running queries end. `accept_loss`: see `build_node`.

    Raises `NotAssessed` before anything connects, `InputError`, `StoreError`, `CannotListen`.
    """
    impact.check(load_identity(folder), folder, datetime.now(timezone.utc).date())
    # uvloop, because of asyncio's TLS a 33 MB probe costs the receiver twice the time
    uvloop.run(_serve(folder, delay_seconds, accept_loss))


async def _serve(folder: Path, delay_seconds: float, accept_loss: bool) -> None:
    set_up_logging()
    node, transport = build_node(folder, delay_seconds, accept_loss)
    server = NodeServer(node)
    _log.info("starting; the first time on a machine it compiles for a minute or more", extra={"node": node.name})
    try:
        await asyncio.to_thread(node.warm)
    except BaseException:
        await node.close()
        await transport.close()
        raise
    chores = [
        asyncio.create_task(chore)
        for chore in (
            Reload(server, transport).run_for_ever(),
            _expire_daily(node),
            _inspect_daily(node),
            _expire_preparations(node),
            _follow_gallery(node),
            _spread_copies(node),
            node.gossip.meet_for_ever(),
            outage.follow(node),
        )
    ]
    if node.follow_up is not None:
        chores.append(asyncio.create_task(node.follow_up.run_for_ever()))
    if isinstance(node, RequesterNode):
        chores.append(asyncio.create_task(node.supply.run_for_ever()))
    console = asyncio.create_task(keep_console(folder, node.name)) if node.config.console.enabled else None
    try:
        await server.serve()
    finally:
        for chore in chores:
            chore.cancel()
        if console is not None:
            console.cancel()
            await asyncio.gather(console, return_exceptions=True)
        await node.close()
        await transport.close()
        _log.info("stopped", extra={"node": node.name})


async def _inspect_daily(node: Node) -> None:
    """A first time soon after the start, which has looked at the rows already."""
    pause = INSPECTION_DELAY_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = INSPECTION_SECONDS
        try:
            await asyncio.to_thread(node.inspect)
        except Exception as error:  # a database that is locked, say, is looked at again
            _log.error("inspection failed", extra={"node": node.name, "error": type(error).__name__})
            pause = EXPIRY_RETRY_SECONDS


async def _expire_preparations(node: Node) -> None:
    """Erase what grew too old soon after, so that no secret stays longer in memory than its policy says."""
    while True:
        await asyncio.sleep(PREPARATION_SECONDS)
        await asyncio.to_thread(node.pool.erase_expired, time.time())


async def _follow_gallery(node: Node) -> None:
    """Who is forgotten, by whatever process, is let go of soon after by all that is in memory."""
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            await asyncio.to_thread(node.follow_gallery)
        except Exception as error:  # a database that is locked, say, is looked at again
            _log.error("gallery not followed", extra={"node": node.name, "error": type(error).__name__})


async def _spread_copies(node: Node) -> None:
    """In a cluster, a machine that was lost and is back gets copies of rows again."""
    cluster = node.galleries.cluster
    while cluster is not None:
        await asyncio.sleep(SPREAD_SECONDS)
        try:
            await asyncio.to_thread(cluster.spread)
        except Exception as error:  # whatever it is, searches go on
            _log.error("copies not spread", extra={"node": node.name, "error": type(error).__name__})


async def _expire_daily(node: Node) -> None:
    while True:
        try:
            for line in running_out(node.config, datetime.now(timezone.utc)):
                _log.warning(line, extra={"node": node.name})
            for one in await asyncio.to_thread(node.put_aside):
                told = f"put aside: {one}; delete it once nothing more can be got from it"
                _log.warning(told, extra={"node": node.name})
        except Exception as error:  # a folder that cannot be looked into, say, keeps nothing from expiring
            _log.error("nobody was reminded", extra={"node": node.name, "error": type(error).__name__})
        try:
            done = await asyncio.to_thread(node.delete_expired)
            _log.info(
                f"expired: {done.subjects} subjects, {done.log_entries} log entries, {done.evidence_files} evidence "
                f"files, {done.sealed_files} sealed files",
                extra={"node": node.name},
            )
            pause = EXPIRY_SECONDS
        except Exception as error:  # tried again: what is past its time may not stay for ever
            _log.error("expiry failed", extra={"node": node.name, "error": type(error).__name__})
            pause = EXPIRY_RETRY_SECONDS
        await asyncio.sleep(pause)
