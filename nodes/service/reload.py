"""What a running node reads again, now and then and when it is told: revocation list, certificate, peers, states.

A peer that is gone is cut off at once: its connections are aborted, in both directions and in the middle of whatever
they carry, the queries it takes part in are stopped, and what was prepared with it is erased. What does not hold is
not believed, and stands among the alarms until it is mended.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from nodes.config.schema import Role
from nodes.identity.peers import Peers, read_again
from nodes.identity.tls import CertificateError, reload_certificate, reload_revocations
from nodes.transport.client import HttpTransport
from pets.errors import InputError
from protocol.errors import QueryRefused

if TYPE_CHECKING:
    from nodes.service.server import NodeServer

log = logging.getLogger("lineup.serve")

RELOAD_SECONDS = 60.0


class Reload:
    """Of one running node. `node.peers` must be `Peers`."""

    def __init__(self, server: NodeServer, transport: HttpTransport) -> None:
        self._server, self._node, self._transport = server, server.node, transport
        tls = self._node.config.tls
        self._crl = tls.crl.read_bytes() if tls.crl is not None else b""
        self._certificate = tls.certificate.read_bytes()
        self._turn = asyncio.Lock()
        self._node.reread = self.peers

    async def run_for_ever(self) -> None:
        """Read everything again every `RELOAD_SECONDS`."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            self.certificates()
            try:
                await self.peers()
            except Exception as error:  # whatever it is, it is looked at again
                log.error("peers cannot be read", extra={"node": self._node.name, "error": type(error).__name__})

    def certificates(self) -> None:
        """Revocation list and certificate: every later handshake uses what the files hold now."""
        node, tls = self._node, self._node.config.tls
        try:
            reload_revocations(self._server.context, tls)
            self._transport.reload_revocations()
            if tls.crl is not None and (content := tls.crl.read_bytes()) != self._crl:
                self._crl = content
                self._server.disconnect()
        except (CertificateError, OSError):
            log.error("revocation list cannot be read", extra={"node": node.name})
        try:
            if (content := tls.certificate.read_bytes()) != self._certificate:
                reload_certificate(self._server.context, tls, node.name)
                self._transport.reload_certificate()
                self._certificate = content
                log.info("certificate renewed", extra={"node": node.name})
        except (CertificateError, OSError):
            log.error("certificate cannot be read", extra={"node": node.name})

    async def peers(self) -> None:
        """Read the peers again, and cut off who is gone. Raises `InputError` where nothing can be read."""
        async with self._turn:
            node = self._node
            assert isinstance(node.peers, Peers)
            before = dict(node.peers)
            try:
                found = await asyncio.to_thread(read_again, node.archive.folder, before)
            except (InputError, OSError) as error:
                self._tell([f"the peers were not read again: {error}"])
                raise
            node.peers.replace(found.peers)
            node.serve(found.states)
            for name in sorted(found.gone):
                log.warning("peer cut off", extra={"node": node.name, "peer": name})
                self._server.cut({name})
                node.part_with(name, QueryRefused("state", f"{name} is no peer of {node.name} any more", node.name))
            for name in sorted(found.gone):  # once all are cut off: a disk may fail here
                router = before[name].role is Role.ROUTER  # it has a part in everything
                await asyncio.to_thread(node.pool.drop_with, None if router else name)
            changed = {name for name, peer in before.items() if found.peers.get(name) != peer}
            for name in sorted(changed - {node.name}):
                await self._transport.drop(name)
            for name in sorted(found.peers.keys() - before.keys()):
                log.info("new peer", extra={"node": node.name, "peer": name})
            self._tell([f"peer refused: {file}: {why}" for file, why in sorted(found.refused.items())])

    def _tell(self, faults: list[str]) -> None:
        """Keep what does not hold for the operator, and log it when it is new."""
        node = self._node
        if faults != node.peer_faults:
            node.peer_faults = faults
            node.metrics.refused_peers(len(faults))
            if faults:
                log.error(f"{len(faults)} peers refused: see `lineup node health`", extra={"node": node.name})
