"""Units over HTTPS: the client's side."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime

import httpx

from nodes.config.schema import TlsFiles
from nodes.identity.identity import Peer
from nodes.identity.tls import client_context, reload_certificate, reload_revocations, server_name
from nodes.transport.send_queue import PeerRefused, PeerUnreachable
from nodes.transport.units import Units, pack_units
from pets.sealing import OVERHEAD_BYTES
from protocol.documents import DOCUMENT_LIMIT
from protocol.messages import ABORT_CODES

USER_AGENT = "blind-lineup"
LARGE_BYTES = 2**16
ANSWER_LIMIT = 4096  # bytes: a status and a code
TOLD_LIMIT = 1 << 20  # bytes: a checkpoint is 3.5 KB, and a peer tells two of each log at most


class HttpTransport:
    """Implements `nodes.transport.send_queue.Transport` with one connection pool a peer.

    `peers` may change (`nodes.identity.peers`); `drop` ends what stands to one. `delay_seconds`: added each way, for
    measurements. `transports`: by peer, replace the network in tests. `heard`: told the date of each answer.
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
        self.heard: Callable[[str, float, float, float], None] = lambda *_: None
        self._name = name
        self._peers = peers
        self._delay = delay_seconds
        self._timeout = httpx.Timeout(read_seconds, connect=connect_seconds)
        self._transports = transports
        self._tls = tls
        self._context = client_context(tls) if tls is not None else None
        self._read_seconds = read_seconds
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._closed = False

    async def deliver(self, peer: str, query: bytes, offset: int, units: Units) -> None:
        """POST units to a peer, in one request that lasts as long as there are any."""
        client = self._client(peer)
        url = f"{self._peers[peer].address}/v1/queries/{query.hex()}/units?offset={offset}"
        request = client.build_request(
            "POST",
            url,
            content=_delayed(_packed(units), self._delay) if self._delay else _packed(units),
            headers={"content-type": "application/octet-stream"},
            extensions={"sni_hostname": server_name(peer)},
        )
        try:
            response = await client.send(request, stream=True)
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
        client = self._client(peer)
        request = client.build_request(
            method, self._peers[peer].address + path, content=content, extensions={"sni_hostname": server_name(peer)}
        )
        sent = time.time()
        try:
            response = await client.send(request, stream=True)
            try:
                body = await asyncio.wait_for(_short_body(response, limit), self._read_seconds)
            finally:
                await response.aclose()
        except (httpx.RequestError, asyncio.TimeoutError) as error:
            raise PeerUnreachable(f"{peer} cannot be reached: {type(error).__name__}") from error
        if (date := _date(response)) is not None:
            self.heard(peer, date, sent, time.time())
        if response.status_code >= 500:
            raise PeerUnreachable(f"{peer} answered {response.status_code}")
        if response.status_code != 200:
            raise PeerRefused(peer, _code(body))
        return body

    async def drop(self, peer: str) -> None:
        """End every connection to a former peer, or to one that has another key or address."""
        if (client := self._clients.pop(peer, None)) is not None:
            await client.aclose()

    def reload_revocations(self) -> None:
        """Read the revocation list again, for every later handshake. Raises `CertificateError`."""
        if self._context is not None and self._tls is not None:
            reload_revocations(self._context, self._tls)

    def reload_certificate(self) -> None:
        """Present this node's certificate as its file is now, in every later handshake. Raises `CertificateError`."""
        if self._context is not None and self._tls is not None:
            reload_certificate(self._context, self._tls, self._name)

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for peer in list(self._clients):
            await self.drop(peer)

    def _client(self, peer: str) -> httpx.AsyncClient:
        if self._closed or peer not in self._peers or peer == self._name:
            raise PeerUnreachable(f"{peer} is not a peer of {self._name}, or the node is shutting down")
        if peer not in self._clients:
            self._clients[peer] = httpx.AsyncClient(
                verify=self._context or False,
                timeout=self._timeout,
                limits=httpx.Limits(max_connections=512, max_keepalive_connections=64),
                trust_env=False,
                transport=None if self._transports is None else self._transports[peer],
                headers={"user-agent": USER_AGENT, "x-lineup-sender": self._name, "accept-encoding": "identity"},
            )
        return self._clients[peer]


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


def _date(response: httpx.Response) -> float | None:
    """What a peer's clock showed when it answered, seconds since 1970; None if it does not say."""
    try:
        return parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _code(body: bytes) -> str:
    """The closed code in a refusal; anything else counts as `peer`."""
    try:
        code = json.loads(body).get("code")
    except (ValueError, AttributeError, RecursionError):
        code = None
    return code if code in ABORT_CODES else "peer"
