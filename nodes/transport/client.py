"""Units over HTTPS: the client's side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import httpx

from nodes.config.schema import TlsFiles
from nodes.identity.identity import Peer
from nodes.identity.tls import client_context, reload_revocations, server_name
from nodes.transport.outbox import PeerRefused, PeerUnreachable
from nodes.transport.units import Units, pack_units
from pets.sealing import OVERHEAD_BYTES
from protocol.documents import DOCUMENT_LIMIT
from protocol.messages import ABORT_CODES

USER_AGENT = "blind-lineup"
LARGE_BYTES = 2**16
ANSWER_LIMIT = 4096  # bytes: a status and a code
TOLD_LIMIT = 1 << 20  # bytes: a checkpoint is 3.5 KB, and a peer tells two of each log at most


class HttpTransport:
    """Implements `nodes.transport.outbox.Transport` with one connection pool.

    `delay_seconds`: added each way, for measurements. `transports`: by peer, replace the network in tests.
    """

    def __init__(
        self,
        name: str,
        peers: Mapping[str, Peer],
        tls: TlsFiles | None,
        connect_seconds: float = 10,
        read_seconds: float = 30,
        delay_seconds: float = 0,
        transports: Mapping[str, httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._name = name
        self._peers = peers
        self._delay = delay_seconds
        timeout = httpx.Timeout(read_seconds, connect=connect_seconds)
        limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
        self._tls = tls
        self._context = client_context(tls) if tls is not None else None
        self._read_seconds = read_seconds
        self._clients = {
            peer: httpx.AsyncClient(
                verify=self._context or False,
                timeout=timeout,
                limits=limits,
                trust_env=False,
                transport=None if transports is None else transports[peer],
                headers={"user-agent": USER_AGENT, "x-lineup-sender": name, "accept-encoding": "identity"},
            )
            for peer in peers
            if peer != name
        }

    async def deliver(self, peer: str, query: bytes, offset: int, units: Units) -> None:
        """POST units to a peer, in one request that lasts as long as there are any."""
        url = f"{self._peers[peer].address}/v1/queries/{query.hex()}/units?offset={offset}"
        request = self._clients[peer].build_request(
            "POST",
            url,
            content=_delayed(_packed(units), self._delay) if self._delay else _packed(units),
            headers={"content-type": "application/octet-stream"},
            extensions={"sni_hostname": server_name(peer)},
        )
        try:
            response = await self._clients[peer].send(request, stream=True)
            try:
                body = await asyncio.wait_for(_short_body(response), self._read_seconds)
            finally:
                await response.aclose()
        except (httpx.RequestError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"{peer} cannot be reached: {type(error).__name__}") from error
        if self._delay:
            await asyncio.sleep(self._delay)
        if response.status_code == 202:
            return
        if response.status_code >= 500:
            raise PeerUnreachable(f"{peer} answered {response.status_code}")
        raise PeerRefused(peer, _code(body))

    async def ask(self, peer: str, path: str) -> bytes:
        """GET what a peer tells, at most `TOLD_LIMIT` bytes."""
        return await self._exchange(peer, "GET", path, TOLD_LIMIT)

    async def tell(self, peer: str, path: str, body: bytes) -> bytes:
        """POST a document; what comes back has at most `DOCUMENT_LIMIT` bytes and the overhead of its seal."""
        return await self._exchange(peer, "POST", path, DOCUMENT_LIMIT + OVERHEAD_BYTES, body)

    async def _exchange(self, peer: str, method: str, path: str, limit: int, content: bytes | None = None) -> bytes:
        client = self._clients[peer]
        request = client.build_request(
            method, self._peers[peer].address + path, content=content, extensions={"sni_hostname": server_name(peer)}
        )
        try:
            response = await client.send(request, stream=True)
            try:
                body = await asyncio.wait_for(_short_body(response, limit), self._read_seconds)
            finally:
                await response.aclose()
        except (httpx.RequestError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"{peer} cannot be reached: {type(error).__name__}") from error
        if response.status_code >= 500:
            raise PeerUnreachable(f"{peer} answered {response.status_code}")
        if response.status_code != 200:
            raise PeerRefused(peer, _code(body))
        return body

    def reload_revocations(self) -> None:
        """Read the revocation list again, for every later handshake. Raises `CertificateError`."""
        if self._context is not None and self._tls is not None:
            reload_revocations(self._context, self._tls)

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()


async def _packed(units: Units) -> AsyncIterator[bytes]:
    async for some in units:
        small: list[bytes] = []
        for unit in some:
            small.append(unit)
            if len(unit) > LARGE_BYTES:  # alone, so that the receiver can work on it while the next one travels
                yield pack_units(small)
                small.clear()
        if small:
            yield pack_units(small)


async def _delayed(pieces: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """Each piece as much later than it came: a longer line, not a thinner one."""
    loop = asyncio.get_running_loop()
    line: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()

    async def fill() -> None:
        async for piece in pieces:
            line.put_nowait((loop.time() + seconds, piece))
        line.put_nowait((loop.time() + seconds, None))

    filling = asyncio.create_task(fill())
    try:
        while True:
            due, piece = await line.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if piece is None:
                return
            yield piece
    finally:
        filling.cancel()


async def _short_body(response: httpx.Response, limit: int = ANSWER_LIMIT) -> bytes:
    """The body as it came, never unpacked: a few bytes may unpack to gigabytes. Empty if it is too long."""
    body = b""
    async for part in response.aiter_raw():
        body += part
        if len(body) > limit:
            return b""
    return body


def _code(body: bytes) -> str:
    """The closed code in a refusal; anything else counts as `peer`."""
    try:
        code = json.loads(body).get("code")
    except (ValueError, AttributeError, RecursionError):
        code = None
    return code if code in ABORT_CODES else "peer"
